"""The session of a viewer: kept objects, undo, the labels layers they live in, and the journal.

Every step is in the journal before the user sees it done. A keeper stays with its viewer while
docks come and go.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from napari_clipsam._plugin import wording
from napari_clipsam._plugin.drafts import fitting
from napari_clipsam._plugin.hand_edits import HandEdits
from napari_clipsam._plugin.layers import displayed_key
from napari_clipsam._plugin.recorder import Recorder
from napari_clipsam._plugin.viewer_labels import ViewerLabels
from napari_clipsam.errors import PlaneError
from napari_clipsam.session.history import Change, History, LabelPatch, Mark, patches_for
from napari_clipsam.session.objects import SessionObject, SessionState

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from napari.components import ViewerModel

    from napari_clipsam._plugin.layers import LayerImage
    from napari_clipsam.session.objects import PlaneKey

__all__ = ["Keeper"]


class Keeper:
    """Holds a session and writes it down.

    Parameters
    ----------
    viewer : ViewerModel
    folder : Path
        Where sessions go until the user saves a project.

    Attributes
    ----------
    state : SessionState
    image : LayerImage or None
        What the session is about; set by `take_up`.
    recorder : Recorder
        Writes the journal.
    """

    def __init__(self, viewer: ViewerModel, folder: Path) -> None:
        self.viewer = viewer
        self.state = SessionState()
        self.image: LayerImage | None = None
        self.labels = ViewerLabels(viewer)
        self.recorder = Recorder(self.labels, folder)
        self._history = History(self.labels)
        self._edits = HandEdits(self.labels, self._shown, self.recorder.painted)

    @property
    def undo_text(self) -> str:
        """What would be undone, "" for nothing."""
        return self._history.undo_text

    @property
    def redo_text(self) -> str:
        """What would be redone, "" for nothing."""
        return self._history.redo_text

    def take_up(self, image: LayerImage) -> None:
        """Work on an image from now on."""
        self._edits.look()
        self.image = image
        self.recorder.image(image)
        self._edits.remember()

    def do(self, what: str, after: SessionState, patches: Sequence[LabelPatch] = ()) -> None:
        """Make one step."""
        self._edits.look()
        change = Change(what, self.state, after, tuple(patches))
        self.recorder.before(change)
        with self._edits.own_step():
            self._history.push(change)
        self.state = after
        self.recorder.done(change)
        for patch in patches:
            self._edits.watch(patch.layer)

    def keep(
        self, image: LayerImage, draft: Sequence[SessionObject], into: str, overwrite: bool
    ) -> str:
        """Put the objects of a preview into a labels layer; returns what was done, in words.

        An object that was kept before takes its own place in its own layer; where that is gone, it
        is kept anew.

        Raises
        ------
        PlaneError
            The layer cannot be written to.
        """
        fresh = [one for one in draft if not self._has_place(one)]
        name = into
        if fresh and not name:
            word = fresh[0].word or "objects"
            name = self.labels.new(word, image.shape, image.transform(), len(fresh))
        elif fresh:
            self.labels.usable(name, image.shape)
        first = 1 + max(self.labels.largest(name), self._largest_kept(name)) if fresh else 0
        kept = [replace(one, label=first + i, labels=name) for i, one in enumerate(fresh)]
        kept += [one for one in draft if self._has_place(one)]
        patches = self._patches(kept, overwrite)
        self.do("keep", self.state.with_objects(kept).with_draft(()), patches)
        layers = [self.labels.layer(one.labels or "") for one in kept]
        names = sorted({layer.name for layer in layers if layer is not None})
        return f"kept {wording.count(len(kept), 'object')} in {', '.join(names)}"

    def delete(self, key: str) -> None:
        """Take a kept object out of its layer."""
        one = self.state.objects.get(key)
        if one is None:
            return
        draft = tuple(other for other in self.state.draft if other.key != key)
        after = self.state.without([key]).with_draft(draft)
        gone = [replace(one, masks={})] if self._has_place(one) else []
        patches = self._patches(gone, overwrite=False)
        self.do(f"delete object {one.label}", after, patches)

    def open(self, key: str) -> None:
        """Make a kept object the preview, to be corrected; it stays in its layer meanwhile."""
        one = self.state.objects[key]
        self.do(f"open object {one.label}", self.state.with_draft([one]))

    def of_image(self) -> tuple[SessionObject, ...]:
        """The kept objects that lie in the image that is worked on."""
        if self.image is None:
            return ()
        others = {layer.name for layer in self.viewer.layers} - {self.image.layer.name}
        objects = (one for one in self.state.objects.values() if one.image not in others)
        return fitting(tuple(objects), self.image.shape)

    def layer_for(self, word: str) -> str:
        """The labels layer that objects of a word, or of none, were kept in last; "" for none."""
        objects = self.state.objects.values()
        kept = [one for one in objects if (one.word or "") == word and one.labels]
        names = [one.labels or "" for one in reversed(kept)]
        return next((name for name in names if self.labels.layer(name) is not None), "")

    def has_unkept(self) -> bool:
        """Whether the preview holds anything that is not kept as it is."""
        return any(self.state.objects.get(one.key) is not one for one in self.state.draft)

    def undo(self) -> None:
        """Take back the latest step."""
        self._edits.look()
        with self._edits.own_step():
            change = self._history.undo()
        if change is not None:
            self.state = change.before
            self.recorder.undone()

    def redo(self) -> None:
        """Do again what was taken back last."""
        self._edits.look()
        with self._edits.own_step():
            change = self._history.redo()
        if change is not None:
            self.state = change.after
            self.recorder.redone()

    def look(self) -> None:
        """Notice what the user painted; called when another slice is shown."""
        self._edits.look()

    def open_project(self, path: Path) -> None:
        """Go on with a recorded session: objects, undo steps, and labels byte for byte.

        Raises
        ------
        JournalError
            There is none, it is damaged, about an image of another shape, or another program works
            on it; nothing has changed then.
        """
        self._edits.look()
        restored = self.recorder.reopen(path, None if self.image is None else self.image.shape)
        self._edits.close()
        ours = {one.labels for one in self.state.objects.values()}
        self.state, self._history = restored.state, restored.history
        for name, info in restored.layers.items():
            if name in ours:
                # What this session kept there stays as it is.
                self.labels.let_go(name)
            self.labels.show(name, restored.labels[name], info.transform, restored.touched[name])
        self._history.labels = self.labels
        for name in restored.layers:
            self._edits.watch(name)
        self._edits.remember()

    def close(self) -> None:
        """End the recording; the session can be opened again."""
        self._edits.look()
        self._edits.close()
        self.recorder.close()

    def _patches(self, objects: Iterable[SessionObject], overwrite: bool) -> tuple[LabelPatch, ...]:
        """What changes in labels layers when objects become what they are to be."""
        marks: dict[tuple[str, PlaneKey], list[Mark]] = {}
        for one in objects:
            former = self.state.objects.get(one.key)
            before = former.masks if former is not None and former.labels == one.labels else {}
            for key in {**before, **one.masks}:
                mark = Mark(one.label, one.masks.get(key), before.get(key))
                marks.setdefault((one.labels or "", key), []).append(mark)
        return tuple(
            patch
            for (layer, key), of_plane in marks.items()
            for patch in patches_for(self.labels, layer, key, of_plane, overwrite)
        )

    def _has_place(self, one: SessionObject) -> bool:
        """Whether an object was kept, in a layer that is still there."""
        return bool(one.label) and self.labels.layer(one.labels or "") is not None

    def _largest_kept(self, name: str) -> int:
        return max((one.label for one in self.state.kept_in(name)), default=0)

    def _shown(self) -> PlaneKey | None:
        if self.image is None or self.image.layer not in self.viewer.layers:
            return None
        try:
            return displayed_key(self.viewer, self.image)
        except PlaneError:
            return None
