"""Files that somebody brings: looked at first, then copied into the library."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_clipsam._plugin import library_wording as words
from napari_clipsam._plugin.library_entries import key_of
from napari_clipsam._plugin.library_state import Naming
from napari_clipsam._plugin.state import Progress
from napari_clipsam._plugin.training_thread import Lesson

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from napari_clipsam._plugin.library import LibraryController
    from napari_clipsam._plugin.training_thread import Halt
    from napari_clipsam.errors import ClipSamError

__all__ = ["Imports"]

_ERRAND = "import"


class Imports:
    """Takes in one file at a time.

    Parameters
    ----------
    to : LibraryController
    """

    def __init__(self, to: LibraryController) -> None:
        self._to = to

    def look_at(self, path: Path) -> None:
        """See what a file is: an adapter is copied in at once, a model needs a name first."""
        to = self._to

        def work(_: Halt) -> Iterator[Naming | Path]:
            yield to.shelf.take_in(path)

        def done(found: list[Naming | Path]) -> None:
            if isinstance(found[-1], Naming):
                to.update(naming=found[-1], busy=None)
            else:
                to.update(hint=words.taken_in(found[-1].stem))
                to.on_renewed(key_of(found[-1]))

        to.update(naming=None, busy=Progress(f"Looking at {path.name}", can_stop=False))
        to.errands.start(_ERRAND, Lesson(work, done, self._on_end))

    def name(self, name: str) -> None:
        """Copy the model's file that needs a name; where that fails, another one may be given."""
        to, naming, name = self._to, self._to.state.naming, name.strip()
        if naming is None:
            return

        def work(_: Halt) -> Iterator[str]:
            yield to.shelf.name_model(name, naming.path)

        def done(found: list[str]) -> None:
            to.update(naming=None, hint=words.taken_in(name))
            to.on_renewed(found[-1])

        busy = Progress(f"Checking and copying {naming.path.name}", can_stop=False)
        to.update(naming=Naming(naming.path, name), busy=busy)
        to.errands.start(_ERRAND, Lesson(work, done, self._on_end))

    def _on_end(self, error: ClipSamError | None) -> None:
        self._to.update(busy=None)
        if error is not None:
            self._to.on_error(error)
