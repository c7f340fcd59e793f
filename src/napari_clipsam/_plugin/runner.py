"""One worker for a viewer: the most urgent job first, the latest of its kind only.

A job is a generator that runs off the main thread; what it yields is handed to the main thread. A
click need not wait for a long job to end: wherever a job pauses, and wherever the model asks
`Runner.check` between two parts of a network, more urgent work is done first, on the same thread.
So one thread at a time uses the model, and a long job goes on where it was.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Any, Protocol

from napari_clipsam.errors import ClipSamError, Stopped

__all__ = ["Job", "Runner", "SyncRunner", "ThreadRunner", "Urgency", "unexpected"]

# How long the end of the worker is waited for: loading a model has no checks. Seconds.
_PATIENCE = 10.0
# How often somebody who waits looks whether to go on waiting. Seconds.
_GLANCE = 0.1


class Urgency(IntEnum):
    """Which job goes first."""

    CLICK = 0
    WORD = 1
    STACK = 2
    PREFETCH = 3
    IDLE = 4


def _nothing(*_: object) -> None:
    return None


@dataclass(frozen=True, eq=False)
class Job:
    """Something to do off the main thread.

    Attributes
    ----------
    kind : str
        A job takes the place of an earlier one of its kind, whether that waits or runs.
    work : callable
        Makes the generator; called and run on the worker.
    urgency : Urgency
    on_value, on_done, on_error, on_stop : callable
        Called on the main thread: with each value, at the end, with a `ClipSamError`, after a stop.
        Nothing is called any more once another job took its place.
    need : hashable, optional
        What has to be computed for it first.
    doing : callable
        What it computes at the moment, asked on the worker. More urgent jobs that need just this
        wait for it, which is over sooner than if it began anew.
    """

    kind: str
    work: Callable[[], Iterator[Any]]
    urgency: Urgency
    on_value: Callable[[Any], None] = _nothing
    on_done: Callable[[], None] = _nothing
    on_error: Callable[[ClipSamError], None] = _nothing
    on_stop: Callable[[], None] = _nothing
    need: Hashable = None
    doing: Callable[[], Hashable] = _nothing


class Runner(Protocol):
    """Runs jobs."""

    def submit(self, job: Job) -> None:
        """Queue a job, in place of an earlier one of its kind."""
        ...

    def stop(self, kind: str) -> None:
        """End the job of a kind: between two of its steps or two blocks of the model."""
        ...

    def check(self) -> None:
        """Let more urgent work go first; called by the model, on the worker.

        Raises
        ------
        Stopped
            The running job is no longer wanted.
        """
        ...

    def tell(self, value: Any) -> None:
        """Hand over a value from inside a step; called on the worker."""
        ...

    def let_pass(self, urgency: Urgency, unless: Callable[[], bool]) -> None:
        """Wait, on another thread, while jobs of an urgency or more urgent ones wait or run.

        Parameters
        ----------
        urgency : Urgency
        unless : callable
            Ends the waiting when it says True; asked several times a second.
        """
        ...

    def close(self) -> None:
        """Drop all jobs and end; may be called twice."""
        ...


@dataclass(eq=False)
class _Task:
    """A job on its way: `dropped` says that nobody waits for it, `stopped` that it was ended."""

    job: Job
    order: int = 0
    dropped: bool = False
    stopped: bool = False


class SyncRunner:
    """Does each job at once, on the thread that submits it; for scripts and tests."""

    def __init__(self) -> None:
        self._running: list[_Task] = []

    def submit(self, job: Job) -> None:
        """Run a job to its end."""
        task = _Task(job)
        self._running.append(task)
        try:
            for value in job.work():
                job.on_value(value)
                self.check()
        except Stopped:
            job.on_stop()
        except ClipSamError as error:
            job.on_error(error)
        else:
            job.on_done()
        finally:
            self._running.remove(task)

    def stop(self, kind: str) -> None:
        """End the job of a kind that is running further out, if one is."""
        for task in self._running:
            task.stopped |= task.job.kind == kind

    def check(self) -> None:
        """Raise `Stopped` if the running job was stopped."""
        if self._running and self._running[-1].stopped:
            raise Stopped("Stopped.")

    def tell(self, value: Any) -> None:
        """Hand over a value from inside a step."""
        if self._running:
            self._running[-1].job.on_value(value)

    def let_pass(self, urgency: Urgency, unless: Callable[[], bool]) -> None:
        """Return at once: a job has ended when it was submitted."""

    def close(self) -> None:
        """Nothing is left to end."""


class ThreadRunner:
    """Runs jobs on one thread of its own.

    Parameters
    ----------
    deliver : callable
        Takes a function and calls it on the main thread, in order.
    begun : bool
        Whether jobs run from the start on, or wait until `begin`.
    """

    def __init__(
        self, deliver: Callable[[Callable[[], None]], None], *, begun: bool = True
    ) -> None:
        self._deliver, self._begun = deliver, begun
        self._changed = threading.Condition()
        self._waiting: list[_Task] = []
        self._running: list[_Task] = []
        self._latest: dict[str, _Task] = {}
        self._count = 0
        self._closed = False
        self._thread: threading.Thread | None = None

    def submit(self, job: Job) -> None:
        """Queue a job, in place of an earlier one of its kind."""
        with self._changed:
            if self._closed:
                return
            former, task = self._latest.get(job.kind), _Task(job, order=self._count)
            if former is not None:
                # Even one that has ended: its answers may not have been read yet.
                former.dropped = True
            self._waiting = [other for other in self._waiting if not other.dropped]
            self._waiting.append(task)
            self._latest[job.kind] = task
            self._count += 1
            self._go_on()

    def begin(self) -> None:
        """Run what waits, and from now on whatever comes; may be called twice."""
        with self._changed:
            self._begun = True
            if self._waiting:
                self._go_on()

    def stop(self, kind: str) -> None:
        """End the job of a kind: between two of its steps or two blocks of the model."""
        with self._changed:
            for task in self._running:
                task.stopped |= task.job.kind == kind
            ended = [task for task in self._waiting if task.job.kind == kind]
            self._waiting = [task for task in self._waiting if task not in ended]
        for task in ended:
            # On the worker, so that a generator is never closed by another thread.
            self._hand_over(task, task.job.on_stop)

    def check(self) -> None:
        """Let more urgent work go first; called by the model, on the worker."""
        if threading.current_thread() is not self._thread or not self._running:
            return
        task = self._running[-1]
        while not (task.dropped or task.stopped):
            urgent = self._take(task.job.urgency, task.job.doing())
            if urgent is None:
                return
            self._finish(urgent)
        raise Stopped("Stopped.")

    def tell(self, value: Any) -> None:
        """Hand over a value from inside a step; called on the worker."""
        if threading.current_thread() is self._thread and self._running:
            task = self._running[-1]
            self._hand_over(task, partial(task.job.on_value, value))

    def let_pass(self, urgency: Urgency, unless: Callable[[], bool]) -> None:
        """Wait, on another thread, while jobs of an urgency or more urgent ones wait or run."""

        def is_ahead(task: _Task) -> bool:
            return task.job.urgency <= urgency and not task.dropped

        with self._changed:
            while any(map(is_ahead, (*self._waiting, *self._running))):
                if self._closed or unless():
                    return
                self._changed.wait(_GLANCE)

    def close(self) -> None:
        """Drop all jobs and wait until the thread has ended, which it does at its next check."""
        with self._changed:
            self._closed = True
            for task in self._latest.values():
                task.dropped = True
            self._waiting.clear()
            self._changed.notify_all()
        # A worker that delivers into a window that is gone would take napari down with it.
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_PATIENCE)

    def _go_on(self) -> None:
        if self._thread is None and self._begun:
            self._thread = threading.Thread(target=self._loop, name="clipsam", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _loop(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
            task = self._take()
            if task is not None:
                self._finish(task)

    def _take(
        self, more_urgent_than: Urgency | None = None, doing: Hashable = None
    ) -> _Task | None:
        with self._changed:
            fit = [
                task
                for task in self._waiting
                if more_urgent_than is None
                or (
                    task.job.urgency < more_urgent_than
                    and (doing is None or task.job.need != doing)
                )
            ]
            if not fit:
                return None
            task = min(fit, key=lambda t: (t.job.urgency, t.order))
            self._waiting.remove(task)
            self._running.append(task)
            return task

    def _finish(self, task: _Task) -> None:
        """Run a task to its end; whatever happens inside becomes an answer."""
        job = task.job
        end = job.on_done
        try:
            for value in job.work():
                self._hand_over(task, partial(job.on_value, value))
                self.check()
        except Stopped:
            end = job.on_stop
        except ClipSamError as error:
            end = partial(job.on_error, error)
        except Exception as error:  # noqa: BLE001 - the worker must outlive any job
            end = partial(job.on_error, unexpected(error))
        with self._changed:
            self._running.remove(task)
            self._changed.notify_all()
        self._hand_over(task, end)

    def _hand_over(self, task: _Task, call: Callable[[], None]) -> None:
        """Call on the main thread, unless nobody waits for it by then."""

        def still_wanted() -> None:
            if not task.dropped:
                call()

        if not self._closed:
            self._deliver(still_wanted)


def unexpected(error: Exception) -> ClipSamError:
    """What to say of an error that nobody expected; the error itself is its cause."""
    found = ClipSamError(
        "Something went wrong inside the plugin. Try again; if it happens again, report it with "
        "the details."
    )
    found.__cause__ = error
    return found
