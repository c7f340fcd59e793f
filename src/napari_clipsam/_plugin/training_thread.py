"""A thread for teaching, apart from the worker that answers clicks.

Its events come faster than anybody can look at them, so they are handed over in batches.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from napari_clipsam._plugin.runner import unexpected
from napari_clipsam.errors import ClipSamError, Stopped

__all__ = ["Halt", "Lesson", "SyncTrainer", "ThreadTrainer", "Trainer"]

# Batches come no faster than this, but for the last one. Seconds.
_PACE = 0.15
# How long the end of a lesson is waited for. Seconds.
_PATIENCE = 10.0


class Halt:
    """Whether a lesson is to stop; called by it, on its own thread.

    Attributes
    ----------
    is_dropped : bool
        Whether nobody waits for what it finds any more.
    """

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self.is_dropped = False

    def __call__(self) -> bool:
        return self._stopped.is_set()

    def stop(self) -> None:
        """Let the lesson end."""
        self._stopped.set()

    def drop(self) -> None:
        """Let the lesson end, and its answers be lost."""
        self.is_dropped = True
        self._stopped.set()


@dataclass(frozen=True, eq=False)
class Lesson:
    """Something that takes minutes.

    Attributes
    ----------
    work : callable
        Takes what says whether to stop, and makes the generator, which is run to its end whatever
        happens; called and run off the main thread.
    on_events : callable
        Called on the main thread with a list of what was yielded since the last call.
    on_end : callable
        Called on the main thread at the very end: with the error that ended it, or None.
    """

    work: Callable[[Halt], Iterator[Any]]
    on_events: Callable[[list[Any]], None]
    on_end: Callable[[ClipSamError | None], None]


class Trainer(Protocol):
    """Runs one lesson at a time."""

    @property
    def is_busy(self) -> bool:
        """Whether a lesson has not ended yet, be it that nobody waits for it any more."""
        ...

    def start(self, lesson: Lesson) -> None:
        """Begin a lesson; it waits for the end of a former one, which is dropped."""
        ...

    def stop(self) -> None:
        """Ask the lesson to end; what it still yields is handed over."""
        ...

    def drop(self) -> None:
        """Ask the lesson to end, and hear no more of it."""
        ...

    def after(self, call: Callable[[], None]) -> None:
        """Call something on the main thread once no lesson runs: at once, or when it has ended."""
        ...

    def close(self) -> None:
        """Stop, and wait for the end, but not for ever; may be called twice."""
        ...


class SyncTrainer:
    """Runs each lesson at once, on the thread that starts it; for scripts and tests."""

    def __init__(self) -> None:
        self.is_busy = False
        self._halt = Halt()

    def start(self, lesson: Lesson) -> None:
        """Run a lesson to its end."""
        self.is_busy = True
        self._halt = halt = Halt()
        error = None
        try:
            for event in lesson.work(halt):
                if not halt.is_dropped:
                    lesson.on_events([event])
        except Stopped:
            pass
        except ClipSamError as problem:
            error = problem
        self.is_busy = False
        if not halt.is_dropped:
            lesson.on_end(error)

    def stop(self) -> None:
        """Ask the lesson to end, from within one of its events."""
        self._halt.stop()

    def drop(self) -> None:
        """Ask the lesson to end, and hear no more of it."""
        self._halt.drop()

    def after(self, call: Callable[[], None]) -> None:
        """Call at once."""
        call()

    def close(self) -> None:
        """Nothing is left to end."""


class _Course:
    """A lesson on its way."""

    def __init__(self, lesson: Lesson, former: _Course | None) -> None:
        self.lesson, self.former = lesson, former
        self.halt = Halt()
        self.thread: threading.Thread | None = None
        self.waiting: list[Any] = []
        self.is_posted = False
        self.posted_at = 0.0


class ThreadTrainer:
    """Runs a lesson on a thread of its own.

    Parameters
    ----------
    deliver : callable
        Takes a function and calls it on the main thread, in order.
    """

    def __init__(self, deliver: Callable[[Callable[[], None]], None]) -> None:
        self._deliver = deliver
        self._lock = threading.Lock()
        self._course: _Course | None = None
        self._closed = False

    @property
    def is_busy(self) -> bool:
        """Whether a lesson has not ended yet."""
        course = self._course
        return course is not None and course.thread is not None and course.thread.is_alive()

    def start(self, lesson: Lesson) -> None:
        """Begin a lesson; it waits for the end of a former one, which is dropped."""
        if self._closed:
            return
        self.drop()
        course = _Course(lesson, self._course if self.is_busy else None)
        course.thread = threading.Thread(
            target=self._run, args=(course,), name="clipsam teaching", daemon=True
        )
        self._course = course
        course.thread.start()

    def stop(self) -> None:
        """Ask the lesson to end; what it still yields is handed over."""
        if self._course is not None:
            self._course.halt.stop()

    def drop(self) -> None:
        """Ask the lesson to end, and hear no more of it."""
        if self._course is not None:
            self._course.halt.drop()

    def after(self, call: Callable[[], None]) -> None:
        """Call something on the main thread once no lesson runs."""
        course = self._course
        if course is None or course.thread is None or not course.thread.is_alive():
            call()
            return

        def wait(thread: threading.Thread) -> None:
            thread.join()
            if not self._closed:
                self._deliver(call)

        threading.Thread(target=wait, args=(course.thread,), daemon=True).start()

    def close(self) -> None:
        """Stop, and wait for the end, but not for ever."""
        self._closed = True
        self.drop()
        thread = None if self._course is None else self._course.thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_PATIENCE)

    def _run(self, course: _Course) -> None:
        if course.former is not None and course.former.thread is not None:
            course.former.thread.join()
            course.former = None
        error: ClipSamError | None = None
        try:
            for event in course.lesson.work(course.halt):
                self._take(course, event)
        except Stopped:
            pass
        except ClipSamError as problem:
            error = problem
        except Exception as problem:  # noqa: BLE001 - whatever it is, the user is told
            error = unexpected(problem)
        self._send(course)
        self._call(course, lambda: course.lesson.on_end(error))

    def _take(self, course: _Course, event: Any) -> None:
        with self._lock:
            course.waiting.append(event)
            is_due = time.monotonic() - course.posted_at >= _PACE
        if is_due:
            self._send(course)

    def _send(self, course: _Course) -> None:
        """Have all that waits handed over, unless that is on its way already."""
        with self._lock:
            if course.is_posted or not course.waiting:
                return
            course.is_posted, course.posted_at = True, time.monotonic()
        self._call(course, lambda: self._hand_over(course))

    def _hand_over(self, course: _Course) -> None:
        with self._lock:
            events, course.waiting, course.is_posted = course.waiting, [], False
        if events:
            course.lesson.on_events(events)

    def _call(self, course: _Course, call: Callable[[], None]) -> None:
        def still_wanted() -> None:
            if not course.halt.is_dropped:
                call()

        if not (self._closed or course.halt.is_dropped):
            self._deliver(still_wanted)
