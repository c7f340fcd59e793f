"""Jobs on one worker: urgency, replacing, stopping, errors."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from napari_clipsam._plugin.runner import Job, SyncRunner, ThreadRunner, Urgency
from napari_clipsam.errors import ClipSamError, PromptError, Stopped

PATIENCE = 120.0


class Main:
    """A main thread that answers when asked to."""

    def __init__(self) -> None:
        self.calls: queue.Queue[Callable[[], None]] = queue.Queue()
        self.seen: list[Any] = []

    def until(self, wanted: object) -> list[Any]:
        """Call what was delivered until `wanted` was seen."""
        while wanted not in self.seen:
            self.calls.get(timeout=PATIENCE)()
        return self.seen

    def job(
        self, kind: str, work: Callable[[], Iterator[Any]], urgency: Urgency = Urgency.WORD
    ) -> Job:
        note = self.seen.append
        return Job(
            kind,
            work,
            urgency,
            on_value=note,
            on_done=lambda: note(f"{kind} done"),
            on_error=note,
            on_stop=lambda: note(f"{kind} stopped"),
        )


@pytest.fixture
def main() -> Main:
    return Main()


@pytest.fixture
def runner(main: Main) -> Iterator[ThreadRunner]:
    runner = ThreadRunner(main.calls.put)
    yield runner
    runner.close()


def counting(*values: object) -> Callable[[], Iterator[Any]]:
    return lambda: iter(values)


class Gate:
    """Work that waits inside for a sign, and then asks whether to go on."""

    def __init__(self, runner: ThreadRunner, *values: object) -> None:
        self.runner, self.values = runner, values
        self.inside, self.open = threading.Event(), threading.Event()
        self.closed = False

    def __call__(self) -> Iterator[Any]:
        try:
            self.inside.set()
            assert self.open.wait(PATIENCE)
            self.runner.check()
            yield from self.values
        finally:
            self.closed = True


def test_values_arrive_in_order_and_then_the_end(main: Main, runner: ThreadRunner) -> None:
    runner.submit(main.job("word", counting(1, 2, 3)))
    assert main.until("word done") == [1, 2, 3, "word done"]


def test_work_runs_on_one_other_thread(main: Main, runner: ThreadRunner) -> None:
    def where() -> Iterator[Any]:
        yield threading.current_thread().name

    for kind in "ab":
        runner.submit(main.job(kind, where))
    assert main.until("b done") == ["clipsam", "a done", "clipsam", "b done"]


def test_jobs_wait_until_the_runner_begins(main: Main) -> None:
    runner = ThreadRunner(main.calls.put, begun=False)
    try:
        for kind, value in (("word", "old"), ("word", "new"), ("stack", "plane")):
            runner.submit(main.job(kind, counting(value), Urgency[kind.upper()]))
        runner.stop("stack")
        assert main.until("stack stopped") == ["stack stopped"]
        assert runner._thread is None

        runner.begin()
        assert main.until("word done") == ["stack stopped", "new", "word done"]
        runner.begin()
    finally:
        runner.close()


def test_a_click_is_answered_inside_a_long_job(main: Main, runner: ThreadRunner) -> None:
    stack = Gate(runner, "plane")
    runner.submit(main.job("stack", stack, Urgency.STACK))
    assert stack.inside.wait(PATIENCE)
    runner.submit(main.job("click", counting("mask"), Urgency.CLICK))
    runner.submit(main.job("prefetch", counting("trunk"), Urgency.PREFETCH))
    stack.open.set()

    assert main.until("prefetch done") == [
        *("mask", "click done"),
        *("plane", "stack done"),
        *("trunk", "prefetch done"),
    ]


@pytest.mark.parametrize(("plane", "first"), [(3, "trunk"), (4, "mask")])
def test_a_click_lets_go_on_what_it_needs_itself(
    plane: int, first: str, main: Main, runner: ThreadRunner
) -> None:
    ahead = Gate(runner, "trunk")
    job = main.job("prefetch", ahead, Urgency.PREFETCH)
    runner.submit(replace(job, doing=lambda: None if main.seen else 3))
    assert ahead.inside.wait(PATIENCE)
    runner.submit(replace(main.job("click", counting("mask"), Urgency.CLICK), need=plane))
    ahead.open.set()

    main.until("click done")
    assert main.until("prefetch done")[0] == first


def test_the_latest_of_a_kind_wins(main: Main, runner: ThreadRunner) -> None:
    first = Gate(runner, "old mask")
    runner.submit(main.job("click", first, Urgency.CLICK))
    assert first.inside.wait(PATIENCE)
    runner.submit(main.job("click", counting("never"), Urgency.CLICK))
    runner.submit(main.job("click", counting("new mask"), Urgency.CLICK))
    first.open.set()

    assert main.until("click done") == ["new mask", "click done"]
    assert first.closed


def test_an_answer_on_its_way_is_dropped_too(main: Main, runner: ThreadRunner) -> None:
    runner.submit(main.job("click", counting("old mask"), Urgency.CLICK))
    stale = [main.calls.get(timeout=PATIENCE), main.calls.get(timeout=PATIENCE)]
    done = Gate(runner)
    # The old task left the worker, but its answers wait on the main thread.
    runner.submit(main.job("click", done, Urgency.CLICK))
    done.open.set()
    main.until("click done")
    for call in stale:
        call()

    assert main.seen == ["click done"]


@pytest.mark.parametrize("kind", ["stack", "waiting"])
def test_a_stopped_job_says_so(main: Main, runner: ThreadRunner, kind: str) -> None:
    stack = Gate(runner, "plane")
    runner.submit(main.job("stack", stack, Urgency.STACK))
    assert stack.inside.wait(PATIENCE)
    runner.submit(main.job("waiting", counting("later"), Urgency.STACK))
    runner.stop(kind)
    stack.open.set()
    last = "waiting done" if kind == "stack" else "stack done"

    seen = main.until(last)
    assert f"{kind} stopped" in seen
    assert ("plane" in seen) == (kind != "stack")


def test_errors_reach_the_main_thread_and_the_worker_lives_on(
    main: Main, runner: ThreadRunner
) -> None:
    def refused() -> Iterator[Any]:
        yield 1
        raise PromptError("Give a point.")

    def broken() -> Iterator[Any]:
        # superqt's workers swallow this one
        raise RuntimeError("out of cheese")
        yield

    runner.submit(main.job("a", refused))
    runner.submit(main.job("b", broken))
    runner.submit(main.job("c", counting()))
    first, told, unexpected, _ = main.until("c done")

    assert (first, str(told)) == (1, "Give a point.")
    assert isinstance(unexpected, ClipSamError)
    assert "out of cheese" in repr(unexpected.__cause__)


def test_a_closed_runner_takes_nothing(main: Main, runner: ThreadRunner) -> None:
    gate = Gate(runner, "late")
    runner.submit(main.job("a", gate))
    assert gate.inside.wait(PATIENCE)
    threading.Timer(0.2, gate.open.set).start()
    runner.close()
    assert runner._thread is not None and not runner._thread.is_alive(), "it was waited for"
    runner.close()
    runner.submit(main.job("b", counting("never")))

    while not main.calls.empty():
        main.calls.get()()
    assert main.seen == []


def test_checks_elsewhere_do_nothing(runner: ThreadRunner) -> None:
    runner.check()


def test_a_synchronous_runner_gives_the_same_answers(main: Main) -> None:
    runner = SyncRunner()

    def stopping() -> Iterator[Any]:
        yield 1
        runner.stop("b")
        yield 2

    def failing() -> Iterator[Any]:
        raise PromptError("Give a point.")
        yield

    runner.submit(main.job("a", counting(1)))
    runner.submit(main.job("b", stopping))
    runner.submit(main.job("c", failing))

    assert main.seen[:-1] == [1, "a done", 1, 2, "b stopped"]
    assert isinstance(main.seen[-1], PromptError)
    with pytest.raises(Stopped):
        _stop_inside(runner)


def _stop_inside(runner: SyncRunner) -> None:
    caught: list[Stopped] = []

    def work() -> Iterator[Any]:
        runner.stop("d")
        try:
            runner.check()
        except Stopped as error:
            caught.append(error)
            raise
        yield

    runner.submit(Job("d", work, Urgency.CLICK))
    raise caught[0]
