"""What was kept: objects that are reopened, sessions that are restored, projects and exports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_clipsam._plugin import choices, drafts, wording
from napari_clipsam._plugin.exporting import export_work
from napari_clipsam._plugin.runner import Job, Urgency
from napari_clipsam._plugin.state import Hint, Progress
from napari_clipsam.errors import PlaneError

if TYPE_CHECKING:
    from pathlib import Path

    from napari_clipsam._plugin.controller import SegmentController
    from napari_clipsam._plugin.state import ExportKind
    from napari_clipsam.session.objects import SessionObject

__all__ = ["UNKEPT", "Kept"]

UNKEPT = Hint(
    "There is something that is not kept yet. Keep it or clear it first.",
    (("keep", "Keep"), ("clear", "Clear")),
)


class Kept:
    """Kept objects and sessions of a controller."""

    def __init__(self, controller: SegmentController) -> None:
        self._to = controller

    def open(self, key: str) -> None:
        """Show an object, and reopen it for correction."""
        keeper = self._to.keeper
        one = keeper.state.objects.get(key)
        if one is None:
            return
        if self._to.state.selected != key:
            if keeper.has_unkept():
                self._to.update(hint=UNKEPT)
                return
            self._show_image_of(one)
            keeper.open(key)
            self._to.update(target="object", word=one.word or "")
            self._to.sync()
        self._to.focus.go_to(one.weakest)

    def next_weak(self) -> None:
        """Go to the weakest slice of the preview, or to the weakest object, then to the next."""
        draft = self._to.keeper.state.draft
        if len(draft) == 1 and len(draft[0].masks) > 1:
            shown = self._to.focus.shown_key()
            self._to.focus.go_to(choices.next_weak_slice(draft[0], shown))
            return
        row = choices.next_weak_object(self._to.state)
        if row:
            self.open(row)

    def open_project(self, folder: Path) -> None:
        """Go on with a session that was saved."""
        if self._to.keeper.has_unkept():
            self._to.update(hint=UNKEPT)
            return
        self._to.guarded(lambda: self._to.keeper.open_project(folder))
        self._to.sync()

    def offer_lost(self) -> None:
        """Offer a session that was cut off, as long as nothing was done in this one."""
        keeper = self._to.keeper
        lost = keeper.recorder.lost()
        if lost and not (keeper.undo_text or keeper.redo_text):
            self._to.update(hint=wording.restore_hint(lost))
        elif self._to.state.hint is None and self._to.progress is None:
            self._to.guarded(lambda: self._to.stack_file.offer() or self._to.folder.offer())

    def discard(self) -> None:
        """Delete the session that was cut off."""
        self._to.keeper.recorder.discard_lost()
        self.offer_lost()

    def restore(self) -> None:
        """Go on with the session that was cut off."""
        path = self._to.keeper.recorder.take_lost()
        if path is not None:
            self._to.keeper.open_project(path)
        self._to.images.show_layers()
        self._to.sync()
        self.offer_lost()

    def export(self, kind: ExportKind, path: Path) -> None:
        """Write labels or the table of objects to a file, off the main thread."""
        work = export_work(self._to.keeper, kind, path, self._to.state.keep_into)

        def done() -> None:
            self._to.update(busy=self._to.progress, answer=f"written: {path.name}")

        self._to.update(busy=Progress(f"Writing {path.name}", can_stop=False))
        self._to.runner.submit(
            Job("export", work, Urgency.STACK, on_done=done, on_error=self._to.on_error)
        )

    def _show_image_of(self, one: SessionObject) -> None:
        """Work on the image that an object lies in.

        Raises
        ------
        PlaneError
            It is not there.
        """
        focus = self._to.focus
        if one.image != focus.name and one.image in {c.value for c in self._to.state.images}:
            self._to.images.take_up(one.image)
        if focus.image is None or not drafts.fitting((one,), focus.image.shape):
            raise PlaneError(f"This object lies in another image. Open {one.image} first.")
