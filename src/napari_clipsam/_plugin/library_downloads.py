"""Downloads of the Library dock: each on a thread of its own, by the key of its entry."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from napari_clipsam._plugin import library_wording as words
from napari_clipsam._plugin.library_state import Download, Entry
from napari_clipsam._plugin.state import Hint, Progress
from napari_clipsam._plugin.training_thread import Lesson

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_clipsam._plugin.library import LibraryController
    from napari_clipsam._plugin.training_thread import Halt
    from napari_clipsam.errors import ClipSamError
    from napari_clipsam.models.download import DownloadProgress

__all__ = ["Downloads"]


class Downloads:
    """What is on its way here.

    Parameters
    ----------
    to : LibraryController
    """

    def __init__(self, to: LibraryController) -> None:
        self._to = to
        self._running: dict[str, Progress] = {}
        self._stopped: set[str] = set()

    @property
    def shown(self) -> tuple[Download, ...]:
        """All of them, the first that was asked for first."""
        return tuple(Download(key, progress) for key, progress in self._running.items())

    def has(self, key: str) -> bool:
        """Whether something is on its way."""
        return key in self._running

    def start(self, entry: Entry) -> None:
        """Begin a download, or go on with one that was stopped."""
        if entry.key in self._running:
            return
        self._running[entry.key] = Progress(f"{entry.name}: asking for it")
        self._stopped.discard(entry.key)

        def work(halt: Halt) -> Iterator[DownloadProgress]:
            return self._to.shelf.get(entry.name, halt)

        job = Lesson(work, partial(self._on_progress, entry), partial(self._on_end, entry))
        self._to.render()
        self._to.errands.start(_errand(entry.key), job)

    def stop(self, key: str) -> None:
        """End a download; what has arrived is kept."""
        if key in self._running and key not in self._stopped:
            self._stopped.add(key)
            progress, text = self._running[key], f"{self._to.entries[key].name}: stopping"
            self._running[key] = Progress(text, progress.done, progress.total, can_stop=False)
            self._to.render()
            self._to.errands.stop(_errand(key))

    def _on_progress(self, entry: Entry, events: list[DownloadProgress]) -> None:
        if entry.key in self._running and entry.key not in self._stopped:
            for event in events:
                self._running[entry.key] = words.arriving(
                    entry.name,
                    event.done,
                    event.total,
                    event.seconds_left,
                    self._running[entry.key],
                )
            self._to.update(downloads=self.shown)

    def _on_end(self, entry: Entry, error: ClipSamError | None) -> None:
        self._running.pop(entry.key, None)
        if error is not None:
            self._to.on_error(error)
        elif entry.key in self._stopped:
            self._to.update(hint=Hint(f"{entry.name} was stopped. Get goes on from there."))
        else:
            self._to.update(hint=words.arrived(entry.name))
        self._stopped.discard(entry.key)
        self._to.render()
        self._to.on_renewed()


def _errand(key: str) -> str:
    return f"get {key}"
