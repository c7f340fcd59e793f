"""Writes a session into its journal: steps, labels layers, and what the user paints."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from napari_clipsam._plugin import wording
from napari_clipsam.errors import ClipSamError
from napari_clipsam.session.journal import ImageInfo, Journal, JournalInfo, discard, unfinished

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from napari.layers import Labels

    from napari_clipsam._plugin.layers import LayerImage
    from napari_clipsam._plugin.viewer_labels import ViewerLabels
    from napari_clipsam.session.history import Change, LabelPatch
    from napari_clipsam.session.journal import Restored
    from napari_clipsam.session.objects import PlaneKey

__all__ = ["Recorder"]

_Kind = tuple[tuple[int, ...], np.dtype]


class Recorder:
    """The journal of a viewer's session; it begins with the first step.

    Parameters
    ----------
    labels : ViewerLabels
    folder : Path
        Where sessions go that belong to no project.

    Attributes
    ----------
    trouble : callable
        Called with an error where a step was done but could not be recorded.
    """

    def __init__(self, labels: ViewerLabels, folder: Path) -> None:
        self.labels, self.folder = labels, folder
        self.trouble: Callable[[ClipSamError], None] = lambda error: None
        self._journal: Journal | None = None
        self._image: ImageInfo | None = None
        # Shape and type of each labels layer, and the planes of it that are in the journal.
        self._layers: dict[str, tuple[_Kind, set[PlaneKey]]] = {}
        self._lost: list[JournalInfo] | None = None

    # -- what happens ------------------------------------------------------------------------------

    def image(self, image: LayerImage) -> None:
        """Record that an image is worked on."""
        source = str(image.layer.source.path or "")
        info = ImageInfo(image.layer.name, image.shape, image.spacing, image.unit, source)
        journal = self._journal
        if journal is not None and info != self._image:
            self._guarded(lambda: journal.image(info))
        self._image = info

    def before(self, change: Change) -> None:
        """Record the planes a step is about to touch, as they are."""
        self._guarded(lambda: self._record_planes(change.patches))

    def done(self, change: Change) -> None:
        """Record a step."""
        self._guarded(lambda: self._recording().append(change))

    def undone(self) -> None:
        """Record that the latest step was taken back."""
        self._guarded(lambda: self._recording().append_undo())

    def redone(self) -> None:
        """Record that it was done again."""
        self._guarded(lambda: self._recording().append_redo())

    def painted(self, patch: LabelPatch) -> None:
        """Record what the user painted."""
        known = self._layers.get(patch.layer)
        is_known = known is not None and patch.plane in known[1]

        def record() -> None:
            # Of a plane that is new, this records all that it holds, the paint with it.
            self._record_planes([patch])
            if is_known:
                self._recording().painted(patch)

        self._guarded(record)

    # -- sessions ----------------------------------------------------------------------------------

    def lost(self) -> str:
        """The session that a crash cut off last, in words; "" for none."""
        if self._lost is None:
            self._lost = unfinished(self.folder)
        if not self._lost:
            return ""
        last = self._lost[0]
        when = time.strftime("%d %b %H:%M", time.localtime(last.changed))
        return f"{last.images[0].name}, {wording.count(last.objects, 'object')}, {when}"

    def take_lost(self) -> Path | None:
        """Where that session is; the one before it is the last from then on."""
        return self._lost.pop(0).path if self.lost() and self._lost else None

    def discard_lost(self) -> None:
        """Delete the sessions that crashes cut off."""
        for info in self._lost or ():
            discard(info.path)
        self._lost = []

    def save_as(self, folder: Path) -> None:
        """Go on recording in a folder of the user's.

        Raises
        ------
        OutputError
            The folder has a session already, or cannot be written to.
        """
        if self._journal is None:
            self._journal = Journal.create(folder, self._info)
        else:
            ours = self._journal.path.is_relative_to(self.folder)
            self._journal.save_as(folder, keep_former=not ours)

    def reopen(self, path: Path) -> Restored:
        """End this session and go on with a recorded one.

        Raises
        ------
        JournalError
            There is none, it is damaged, or another program works on it; nothing has changed then.
        """
        journal, restored = Journal.reopen(path)
        self.close()
        self._journal, self._image = journal, restored.images[-1]
        for name, info in restored.layers.items():
            self._layers[name] = (info.shape, info.dtype), set(restored.touched[name])
        return restored

    def close(self) -> None:
        """End the recording; the session can be opened again."""
        self._layers.clear()
        if self._journal is not None:
            journal, self._journal = self._journal, None
            self._guarded(lambda: journal.close(finished=True))

    # -- writing -----------------------------------------------------------------------------------

    def _recording(self) -> Journal:
        if self._journal is None:
            name = f"{time.strftime('%Y-%m-%d-%H%M%S')}-{uuid4().hex[:6]}"
            self._journal = Journal.create(self.folder / name, self._info)
        return self._journal

    @property
    def _info(self) -> ImageInfo:
        return self._image or ImageInfo("", ())

    def _record_planes(self, patches: Iterable[LabelPatch]) -> None:
        """Record labels layers, and their planes as they are before they are first touched."""
        for patch in patches:
            layer = self.labels.layer(patch.layer)
            if layer is None:
                continue
            kind = tuple(layer.data.shape), np.dtype(layer.data.dtype)
            known = self._layers.get(patch.layer)
            if known is None or known[0] != kind:
                self._begin_layer(patch.layer, layer, kind)
            planes = self._layers[patch.layer][1]
            if patch.plane not in planes:
                self._record_base(patch.layer, patch.plane)
                planes.add(patch.plane)

    def _begin_layer(self, name: str, layer: Labels, kind: _Kind) -> None:
        """Record a layer; if only its type was changed, with all that is known of it."""
        former = self._layers.get(name)
        self._recording().layer(name, *kind, _transform(layer))
        again = former[1] if former is not None and former[0][0] == kind[0] else set()
        self._layers[name] = kind, set(again)
        for plane in again:
            self._record_base(name, plane)

    def _record_base(self, name: str, plane: PlaneKey) -> None:
        current = self.labels.read(name, plane, None)
        if current is not None and current.any():
            self._recording().base(name, plane, current)

    def _guarded(self, record: Callable[[], object]) -> None:
        try:
            record()
        except ClipSamError as error:
            self.trouble(error)


def _transform(layer: Labels) -> dict[str, Any]:
    """Where a layer lies, as JSON values that `Labels` takes."""
    values: dict[str, Any] = {
        name: np.asarray(getattr(layer, name)).tolist()
        for name in ("scale", "translate", "rotate", "shear")
    }
    values["affine"] = np.asarray(layer.affine.affine_matrix).tolist()
    values["units"] = [str(unit) for unit in layer.units]
    values["axis_labels"] = [str(label) for label in layer.axis_labels]
    return values
