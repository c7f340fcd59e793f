"""Long jobs by name, each on a thread of its own: downloads run beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_clipsam._plugin.training_thread import Lesson, Trainer

__all__ = ["Errands"]


class Errands:
    """Runs jobs; of one name, one at a time.

    They outlive the dock that asked for them by the moment that they need to end, so the next dock
    finds them here and waits.

    Parameters
    ----------
    make : callable
        Makes the thread for a name.
    """

    def __init__(self, make: Callable[[], Trainer]) -> None:
        self._make = make
        self._threads: dict[str, Trainer] = {}

    def start(self, name: str, job: Lesson) -> None:
        """Begin a job; it waits for the end of a former one of its name, which is dropped."""
        if name not in self._threads:
            self._threads[name] = self._make()
        self._threads[name].start(job)

    def stop(self, name: str) -> None:
        """Ask a job to end; its end is told."""
        if name in self._threads:
            self._threads[name].stop()

    def drop(self) -> None:
        """Ask all jobs to end, and hear no more of them; does not wait."""
        for thread in self._threads.values():
            thread.drop()

    def close(self) -> None:
        """Stop all, and wait for their ends, but not for ever; may be called twice."""
        self.drop()
        for thread in self._threads.values():
            thread.close()
