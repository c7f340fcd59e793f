"""Writes a session into its journal: steps, labels layers, and what the user paints."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from napari_clipsam._plugin import wording
from napari_clipsam._plugin.preview import empty_labels
from napari_clipsam.errors import ClipSamError, OutputError
from napari_clipsam.outputs import replacing
from napari_clipsam.session.database import FILE_NAME
from napari_clipsam.session.journal import ImageInfo, Journal, JournalInfo, discard, unfinished
from napari_clipsam.session.objects import slices_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from napari.layers import Labels

    from napari_clipsam._plugin.layers import LayerImage
    from napari_clipsam._plugin.viewer_labels import ViewerLabels
    from napari_clipsam.session.history import Change, LabelPatch
    from napari_clipsam.session.journal import Restored
    from napari_clipsam.session.objects import PlaneKey

__all__ = ["Recorder"]

# Sessions and projects that are remembered.
_SESSIONS = 30
_PROJECTS = "projects.json"

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
            folders = [self.folder, *self._projects()]
            found = [info for folder in folders for info in unfinished(folder)]
            self._lost = sorted(found, key=lambda info: -info.changed)
        if not self._lost:
            return ""
        last = self._lost[0]
        when = time.strftime("%d %b %H:%M", time.localtime(last.changed))
        return f"{last.images[0].name}, {wording.count(last.objects, 'object')}, {when}"

    def take_lost(self) -> Path | None:
        """Where that session is; the one before it is the last from then on."""
        return self._lost.pop(0).path if self.lost() and self._lost else None

    def discard_lost(self) -> None:
        """Delete that session; a project of the user's stays, but is offered no more."""
        path = self.take_lost()
        if path is None:
            return
        if path.is_relative_to(self.folder):
            discard(path)
        else:
            journal, _ = Journal.reopen(path, lambda info: empty_labels(info.shape, info.dtype))
            journal.close(finished=True)

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
        self._remember(folder)

    def reopen(self, path: Path, shape: tuple[int, ...] | None) -> Restored:
        """End this session and go on with a recorded one.

        Parameters
        ----------
        path : Path
            Of its folder or file.
        shape : tuple of int, optional
            Of the image that is open.

        Raises
        ------
        JournalError
            There is none, it is damaged, about an image of another shape, or another program works
            on it; nothing has changed then.
        """
        was_lost = bool(unfinished(path if path.is_dir() else path.parent))
        journal, restored = Journal.reopen(path, lambda info: empty_labels(info.shape, info.dtype))
        try:
            if shape is not None:
                restored.images[-1].check(shape)
        except ClipSamError:
            journal.close(finished=not was_lost)
            raise
        self.close()
        if not journal.path.is_relative_to(self.folder):
            self._remember(journal.path.parent)
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
            try:
                self._journal = Journal.create(self.folder / name, self._info)
                self._prune()
            except OutputError as error:
                self._journal = Journal.without_file(self._info)
                self.trouble(error)
        return self._journal

    def _prune(self) -> None:
        """Delete the oldest sessions that ended as they should."""
        kept = {info.path for info in self._lost or ()}
        ended = [path for path in self.folder.glob(f"*/{FILE_NAME}") if path not in kept]
        ended.sort(key=lambda path: path.parent.name)
        for path in ended[:-_SESSIONS]:
            with suppress(ClipSamError):
                discard(path)

    def _projects(self) -> list[Path]:
        """Folders that sessions were saved in."""
        try:
            names = json.loads((self.folder / _PROJECTS).read_text("utf-8"))
            return [Path(name) for name in names if isinstance(name, str)]
        except (OSError, ValueError, TypeError):
            return []

    def _remember(self, folder: Path) -> None:
        """Look here too for a session that a crash cuts off."""
        names = [str(folder.absolute()), *(str(path) for path in self._projects())]
        latest = list(dict.fromkeys(names))[:_SESSIONS]

        def write() -> None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(self.folder / _PROJECTS, overwrite=True) as part:
                part.write_text(json.dumps(latest), "utf-8")

        with suppress(OSError):
            self._guarded(write)

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
        layer = self.labels.layer(name)
        if layer is not None and np.any(layer.data[slices_of(plane)]):
            self._recording().base(name, plane, np.array(layer.data[slices_of(plane)]))

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
