"""Lessons on a thread of their own: batches, stopping, errors, and clicks that go first."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from napari_clipsam._plugin.runner import Job, ThreadRunner, Urgency
from napari_clipsam._plugin.training_thread import Halt, Lesson, ThreadTrainer
from napari_clipsam.errors import ClipSamError, PlaneError, Stopped

PATIENCE = 60.0


class Main:
    """A main thread that answers when asked to."""

    def __init__(self) -> None:
        self.calls: queue.Queue[Callable[[], None]] = queue.Queue()
        self.events: list[Any] = []
        self.batches = 0
        self.ends: list[ClipSamError | None] = []

    def lesson(self, work: Callable[[Halt], Iterator[Any]]) -> Lesson:
        return Lesson(work, self._take, self.ends.append)

    def _take(self, events: list[Any]) -> None:
        self.batches += 1
        self.events += events

    def until(self, done: Callable[[], bool]) -> None:
        while not done():
            self.calls.get(timeout=PATIENCE)()


@pytest.fixture
def main() -> Main:
    return Main()


@pytest.fixture
def trainer(main: Main) -> Iterator[ThreadTrainer]:
    trainer = ThreadTrainer(main.calls.put)
    yield trainer
    trainer.close()


def test_many_events_come_in_few_batches_and_in_order(main: Main, trainer: ThreadTrainer) -> None:
    trainer.start(main.lesson(lambda halt: iter(range(5000))))
    main.until(lambda: bool(main.ends))
    assert main.events == list(range(5000))
    assert main.batches < 20
    assert main.ends == [None]


def test_a_slow_main_thread_gets_one_batch(main: Main, trainer: ThreadTrainer) -> None:
    def work(halt: Halt) -> Iterator[int]:
        for number in range(4):
            time.sleep(0.2)
            yield number

    trainer.start(main.lesson(work))
    trainer._course.thread.join(PATIENCE)
    main.until(lambda: bool(main.ends))
    assert main.events == [0, 1, 2, 3] and main.batches == 1


def test_stop_lets_it_end_by_itself_and_is_heard(main: Main, trainer: ThreadTrainer) -> None:
    def work(halt: Halt) -> Iterator[Any]:
        yield "begun"
        while not halt():
            time.sleep(0.001)
        yield "best"

    trainer.start(main.lesson(work))
    main.until(lambda: bool(main.events))
    trainer.stop()
    main.until(lambda: bool(main.ends))
    assert main.events == ["begun", "best"]
    assert not trainer.is_busy


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (Stopped("Stopped."), None),
        (PlaneError("Nothing is labelled."), "Nothing is labelled."),
        (RuntimeError("CUDA is gone"), "Something went wrong inside the plugin."),
    ],
)
def test_whatever_happens_the_end_is_told(
    main: Main, trainer: ThreadTrainer, raised: Exception, said: str | None
) -> None:
    def work(halt: Halt) -> Iterator[Any]:
        yield "begun"
        raise raised

    trainer.start(main.lesson(work))
    main.until(lambda: bool(main.ends))
    (end,) = main.ends
    assert main.events == ["begun"]
    assert (end is None) if said is None else str(end).startswith(said)


def test_a_dropped_lesson_runs_to_its_end_unheard(main: Main, trainer: ThreadTrainer) -> None:
    done: list[bool] = []

    def work(halt: Halt) -> Iterator[Any]:
        try:
            while not halt():
                yield "step"
                time.sleep(0.001)
            yield "best"
        finally:
            done.append(halt.is_dropped)

    trainer.start(main.lesson(work))
    main.until(lambda: bool(main.events))
    trainer.drop()
    after: list[str] = []
    trainer.after(lambda: after.append("idle"))
    main.until(lambda: bool(after))
    assert done == [True] and "best" not in main.events and main.ends == []
    trainer.start(main.lesson(lambda halt: iter(["next"])))
    main.until(lambda: bool(main.ends))
    assert main.events[-1] == "next"


def test_a_new_lesson_waits_for_the_former(main: Main, trainer: ThreadTrainer) -> None:
    running: list[str] = []
    most: list[int] = []

    def work(name: str) -> Callable[[Halt], Iterator[Any]]:
        def steps(halt: Halt) -> Iterator[Any]:
            running.append(name)
            most.append(len(running))
            yield name
            while name == "first" and not halt():
                time.sleep(0.001)
            time.sleep(0.05)
            running.remove(name)

        return steps

    trainer.start(main.lesson(work("first")))
    main.until(lambda: bool(main.events))
    trainer.start(main.lesson(work("second")))
    main.until(lambda: bool(main.ends))
    assert main.events == ["first", "second"] and most == [1, 1]


def test_closing_waits_for_the_end_and_hears_no_more(main: Main, trainer: ThreadTrainer) -> None:
    ended = threading.Event()

    def work(halt: Halt) -> Iterator[Any]:
        yield "begun"
        while not halt():
            time.sleep(0.001)
        time.sleep(0.1)
        ended.set()

    trainer.start(main.lesson(work))
    main.until(lambda: bool(main.events))
    trainer.close()
    assert ended.is_set()
    trainer.close()
    trainer.start(main.lesson(work))
    assert main.calls.empty() and not trainer.is_busy


def test_a_lesson_lets_clicks_pass_and_nothing_else() -> None:
    runner = ThreadRunner(lambda call: call())
    order: list[str] = []
    go, clicked = threading.Event(), threading.Event()

    def click() -> Iterator[Any]:
        order.append("click begins")
        clicked.set()
        go.wait(PATIENCE)
        order.append("click ends")
        yield

    def stack() -> Iterator[Any]:
        while not go.is_set():
            time.sleep(0.001)
            yield

    def lesson() -> None:
        clicked.wait(PATIENCE)
        runner.let_pass(Urgency.WORD, lambda: False)
        order.append("lesson goes on")

    runner.submit(Job("stack", stack, Urgency.STACK))
    runner.let_pass(Urgency.WORD, lambda: False)  # the stack alone is not waited for
    runner.submit(Job("answer", click, Urgency.CLICK))
    thread = threading.Thread(target=lesson)
    thread.start()
    clicked.wait(PATIENCE)
    runner.let_pass(Urgency.WORD, lambda: True)  # stopping goes before all
    go.set()
    thread.join(PATIENCE)
    runner.close()
    assert order == ["click begins", "click ends", "lesson goes on"]
