"""The Library dock's controller: what is on disk becomes a list, and buttons become jobs.

It knows neither Qt nor torch, runs on the main thread alone, and never waits: the list is read in
the viewer's `Runner`, downloads and imports run on threads of their own.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from napari_clipsam._plugin import commands, wording
from napari_clipsam._plugin import library_wording as words
from napari_clipsam._plugin.library_downloads import Downloads
from napari_clipsam._plugin.library_imports import Imports
from napari_clipsam._plugin.library_state import Answering, Entry, LibraryState
from napari_clipsam._plugin.runner import Job, Runner, Urgency
from napari_clipsam._plugin.state import Hint, Progress
from napari_clipsam._plugin.training_thread import Lesson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from napari.components import ViewerModel

    from napari_clipsam._plugin.chosen import Chosen
    from napari_clipsam._plugin.library_errands import Errands
    from napari_clipsam._plugin.library_shelf import Found, Shelf
    from napari_clipsam._plugin.settings import Settings
    from napari_clipsam._plugin.training_thread import Halt
    from napari_clipsam.errors import ClipSamError

__all__ = ["LibraryController"]


class LibraryController:
    """What there is to segment with: on this computer, and to be got.

    Parameters
    ----------
    viewer : ViewerModel
    runner : Runner
        Where the list is read.
    errands : Errands
        Where downloads, imports and deletions run.
    shelf : Shelf
        The library itself.
    chosen : Chosen
        Model, adapter and CLIP of the viewer.
    settings : callable
        Gives the user's preferences as they are now.
    everywhere : callable
        Gives what was chosen in all viewers, for what is in use is not deleted.
    reveal : callable
        Opens a folder in the system's file browser; returns whether it could.

    Attributes
    ----------
    state : LibraryState
        What a dock shows; `changed` is emitted with each new one.
    """

    changed = Signal(object)

    def __init__(
        self,
        viewer: ViewerModel,
        runner: Runner,
        errands: Errands,
        shelf: Shelf,
        chosen: Chosen,
        settings: Callable[[], Settings],
        everywhere: Callable[[], Iterable[Chosen]],
        reveal: Callable[[Path], bool],
    ) -> None:
        self.viewer, self.runner, self.errands, self.shelf = viewer, runner, errands, shelf
        self.chosen, self.settings = chosen, settings
        self._everywhere, self._reveal = everywhere, reveal
        self.state = LibraryState()
        self.entries: dict[str, Entry] = {}
        self.downloads = Downloads(self)
        self.imports = Imports(self)
        self._doomed = ""  # key of what the user was asked about
        self._used: Hint | None = None
        self._was_puzzled = False
        self._closed = False
        commands.register(viewer, self)
        chosen.changed.connect(self._on_chosen)
        chosen.renewed.connect(self.look)
        self.look()

    # -- what the dock may ask for -----------------------------------------------------------------

    def look(self) -> None:
        """See what there is now."""
        if self._closed:
            return
        if not self.entries:
            self.update(busy=Progress("Looking at what there is", can_stop=False))
        self.runner.submit(
            Job(
                "library", self._work, Urgency.WORD, on_value=self._on_found, on_error=self.on_error
            )
        )

    def set_kind(self, kind: str) -> None:
        """Narrow the list down to a kind."""
        self.update(kind=kind)
        self.render()

    def set_wanted(self, text: str) -> None:
        """Narrow the list down to what holds some words."""
        self.update(wanted=text)
        self.render()

    def select(self, key: str) -> None:
        """Show the details of one."""
        self.update(selected=key)
        self.render()

    def get(self) -> None:
        """Download what is selected; goes on where it was stopped."""
        entry = self._selected
        if entry is not None and self.state.get.enabled:
            self.update(hint=None)
            self.downloads.start(entry)

    def stop(self, key: str) -> None:
        """End a download; what has arrived is kept."""
        self.downloads.stop(key)

    def import_file(self, path: Path) -> None:
        """Take in a model's file or an adapter."""
        self.update(hint=None)
        self.imports.look_at(path)

    def import_as(self, name: str) -> None:
        """Take in the model's file that was looked at, under a name."""
        self.update(hint=None)
        self.imports.name(name)

    def drop_import(self) -> None:
        """Do not take in the file that needs a name."""
        self.update(naming=None, hint=None)

    def use(self) -> None:
        """Let what is selected answer in the Segment dock."""
        entry = self._selected
        if entry is None or not self.state.use.enabled:
            return
        former = self.answering
        sets = entry.sets.over(former)
        self._used = words.used(entry, former.adapter)
        self.update(hint=self._used)
        self.chosen.choose(sets.model, sets.adapter, sets.clip)
        if entry.kind == "word":
            commands.find_word(self.viewer, entry.name)

    def show_file(self) -> None:
        """Open the folder of what is selected in the system's file browser."""
        entry = self._selected
        if entry is None or entry.file is None:
            return
        folder = entry.file.parent
        opened = self._reveal(folder)
        failed = f"No file browser could be opened. The file is in {folder}."
        self.update(hint=None if opened else Hint(failed))

    def delete(self) -> None:
        """Ask whether to delete what is selected."""
        entry = self._selected
        if entry is not None and self.state.delete.enabled:
            self._doomed = entry.key
            self.update(hint=words.ask_delete(entry))

    def act(self, action: str) -> None:
        """Do what a button of the hint says."""
        self.update(hint=None)
        entry = self.entries.get(self._doomed)
        self._doomed = ""
        if action == "delete" and entry is not None:
            self._delete(entry)

    def close(self) -> None:
        """Let go of everything; may be called twice. Downloads end, and can be gone on with."""
        if self._closed:
            return
        self._closed = True
        self.errands.drop()
        self.runner.stop("library")
        self.chosen.changed.disconnect(self._on_chosen, missing_ok=True)
        self.chosen.renewed.disconnect(self.look, missing_ok=True)
        commands.forget(self.viewer, self)

    # -- what its parts use ------------------------------------------------------------------------

    def update(self, **changes: Any) -> None:
        """Change the state and tell the dock, if anything is new."""
        new = replace(self.state, **changes)
        if new != self.state:
            self.state = new
            self.changed.emit(new)

    def render(self) -> None:
        """Show list, details and buttons as they are now."""
        state, entry = self.state, self._selected
        now = self.answering
        shown = [e for e in self.entries.values() if words.matches(e, state.kind, state.wanted)]
        is_in_use = entry is not None and entry.answers_in(now)
        is_arriving = entry is not None and self.downloads.has(entry.key)
        self.update(
            rows=tuple(words.row(e, self.downloads.has(e.key), e.answers_in(now)) for e in shown),
            n_rows=len(self.entries),
            selected="" if entry is None else entry.key,
            details=words.details(entry, is_in_use),
            get=words.get_offer(entry, is_arriving),
            use=words.use_offer(entry, is_in_use),
            show_file=words.show_offer(entry),
            delete=words.delete_offer(entry, self._is_used(entry), is_arriving),
            downloads=self.downloads.shown,
        )

    def on_error(self, error: ClipSamError) -> None:
        """Show an error; the plugin goes on."""
        self.update(hint=wording.error_hint(error), busy=None)

    def on_renewed(self, select: str = "") -> None:
        """Something came or went: tell all docks, this one too."""
        self.update(selected=select or self.state.selected)
        self._was_puzzled = False
        self.chosen.renewed.emit()

    @property
    def answering(self) -> Answering:
        """What answers in the viewer now."""
        model = self.chosen.model or self.settings().model
        return Answering(model, self.chosen.usable_adapter(), self.chosen.clip)

    # -- reactions ---------------------------------------------------------------------------------

    def _work(self) -> Iterator[Found]:
        yield self.shelf.look()

    def _on_found(self, found: Found) -> None:
        self.entries = {entry.key: entry for entry in found.entries}
        self.update(busy=None)
        self.render()
        if found.is_puzzled and not self._was_puzzled:
            self._was_puzzled = True
            self.errands.start(
                "identify", Lesson(self._identify, lambda _: None, lambda _: self.look())
            )

    def _identify(self, halt: Halt) -> Iterator[None]:
        self.shelf.identify(halt)
        yield None

    def _on_chosen(self, _model: str, _adapter: str) -> None:
        """Something else answers: a new adapter may have come with it."""
        if self._used is not None and self.state.hint == self._used and not self._is_as_used():
            self.update(hint=None)
        self.render()
        self.look()

    def _is_as_used(self) -> bool:
        """Whether what was used last still answers; a model that does not load is put back."""
        entry = self._selected
        return entry is not None and entry.answers_in(self.answering)

    def _delete(self, entry: Entry) -> None:
        if self._is_used(entry):
            self.update(hint=Hint(words.delete_offer(entry, True, False).tip))
            return

        def work(_: Halt) -> Iterator[None]:
            self.shelf.delete(entry)
            yield None

        self.errands.start(
            f"delete {entry.key}",
            Lesson(work, lambda _: None, partial(self._on_deleted, entry)),
        )

    def _on_deleted(self, entry: Entry, error: ClipSamError | None) -> None:
        self.update(hint=words.deleted(entry.name))
        if error is not None:
            self.on_error(error)
        self.on_renewed()

    @property
    def _selected(self) -> Entry | None:
        return self.entries.get(self.state.selected)

    def _is_used(self, entry: Entry | None) -> bool:
        """Whether an entry answers in any viewer."""
        if entry is None:
            return False
        preferred = self.settings().model
        answering = (
            Answering(one.model or preferred, one.usable_adapter(), one.clip)
            for one in self._everywhere()
        )
        return any(entry.answers_in(one) for one in answering)
