"""Undo and redo of many steps, and how masks get into labels without harm to what is there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_clipsam.errors import PlaneError
from napari_clipsam.session.packing import pack_changes, unpack_changes

if TYPE_CHECKING:
    from napari_clipsam.inference.requests import ObjectMask
    from napari_clipsam.session.objects import Box, PlaneKey, SessionObject, SessionState

__all__ = [
    "MAX_BYTES",
    "Change",
    "History",
    "LabelPatch",
    "Labels",
    "Mark",
    "applied",
    "patches_for",
    "reverted",
]

#: What the steps of a history may take in memory, patches compressed.
MAX_BYTES = 1 << 28

#: Patches end at multiples of this many pixels, so that objects far apart do not make a huge one.
_TILE = 512


@dataclass(frozen=True, eq=False)
class LabelPatch:
    """What a step changes in one box of a labels plane.

    Attributes
    ----------
    layer : str
        Name of the labels layer.
    plane : PlaneKey
    box : (int, int, int, int)
        Half-open (y0, x0, y1, x1) in data pixels of the plane.
    before, after : ndarray of int, shape (y1 - y0, x1 - x0)
        Label values; where they are equal the patch leaves the pixel alone.
    """

    layer: str
    plane: PlaneKey
    box: Box
    before: NDArray
    after: NDArray

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the box."""
        y0, x0, y1, x1 = self.box
        return y1 - y0, x1 - x0

    @cached_property
    def packed(self) -> bytes:
        """The changed pixels, compressed."""
        return pack_changes(self.before, self.after)


class Labels(Protocol):
    """The labels layers of a session, as history reads and writes them."""

    def read(self, layer: str, plane: PlaneKey, box: Box) -> NDArray | None:
        """Copy a box of a plane; None where the layer is gone, less where it is smaller now."""
        ...

    def write(self, layer: str, plane: PlaneKey, box: Box, values: NDArray) -> None:
        """Put values into a box of a plane."""
        ...


def applied(current: NDArray, patch: LabelPatch) -> NDArray:
    """The box with the patch done, save where somebody changed it since.

    Parameters
    ----------
    current : ndarray of int
        The box as it is now.
    patch : LabelPatch

    Returns
    -------
    ndarray
        A new array.
    """
    untouched = (patch.before != patch.after) & (current == patch.before)
    return np.where(untouched, patch.after, current)


def reverted(current: NDArray, patch: LabelPatch) -> NDArray:
    """The box with the patch undone, save where somebody changed it since: as for `applied`."""
    untouched = (patch.before != patch.after) & (current == patch.after)
    return np.where(untouched, patch.before, current)


@dataclass(frozen=True, eq=False)
class Change:
    """One step that can be undone.

    Attributes
    ----------
    what : str
        Words that stand behind "Undo".
    before, after : SessionState
    patches : tuple of LabelPatch
        What it does to labels, in this order.
    """

    what: str
    before: SessionState
    after: SessionState
    patches: tuple[LabelPatch, ...] = ()


@dataclass(frozen=True, eq=False)
class Mark:
    """What one object is to have in one plane of a labels layer.

    Attributes
    ----------
    label : int
        Its value, 1 or more.
    mask : ObjectMask or None
        What it covers; None takes it away.
    former : ObjectMask or None
        What it covered there before. Only these pixels are taken away, so what the user painted
        beside them with the same label stays.
    """

    label: int
    mask: ObjectMask | None
    former: ObjectMask | None = None

    @property
    def masks(self) -> tuple[ObjectMask, ...]:
        """Former and new mask, those that show something."""
        return tuple(m for m in (self.former, self.mask) if m is not None and m.mask.size)


def patches_for(
    labels: Labels, layer: str, plane: PlaneKey, marks: Sequence[Mark], overwrite: bool
) -> tuple[LabelPatch, ...]:
    """Work out how a plane changes when objects are put into it; nothing is written.

    Where new objects overlap, the one with the better score wins.

    Parameters
    ----------
    labels : Labels
        Only the boxes that can change are read.
    layer : str
    plane : PlaneKey
    marks : sequence of Mark
    overwrite : bool
        Whether pixels of other objects may be taken.

    Returns
    -------
    tuple of LabelPatch
        Boxes that do not meet; none where nothing changes.

    Raises
    ------
    PlaneError
        If the layer is gone, or its type cannot hold a label.
    """
    best_first = sorted(marks, key=lambda mark: -mark.mask.score if mark.mask else 0.0)
    patches = []
    for tile, members in _by_tile(best_first).items():
        box = _around(tile, members)
        before = labels.read(layer, plane, box)
        if before is None:
            raise PlaneError(f"The labels layer {layer!r} is gone. Choose another to keep into.")
        after = _marked(before, box, members, overwrite)
        if (before != after).any():
            patches.append(LabelPatch(layer, plane, box, before, after))
    return tuple(patches)


class History:
    """The steps that can be undone and redone, newest last.

    A step writes only pixels that nobody changed since, and remembers which these were: what the
    user painted by hand stays through any number of undo and redo.

    Parameters
    ----------
    labels : Labels
        Where steps are written to; may be exchanged for other layers of the same names.
    max_bytes : int
        The oldest steps are forgotten beyond this, but never the latest.
    """

    def __init__(self, labels: Labels, max_bytes: int = MAX_BYTES) -> None:
        self.labels = labels
        self.max_bytes = max_bytes
        self._done: list[_Step] = []
        self._undone: list[_Step] = []
        self._bytes = 0  # of the steps done

    def __len__(self) -> int:
        return len(self._done)

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to undo."""
        return bool(self._done)

    @property
    def can_redo(self) -> bool:
        """Whether there is a step to redo."""
        return bool(self._undone)

    @property
    def undo_text(self) -> str:
        """What would be undone; "" where there is nothing."""
        return self._done[-1].what if self._done else ""

    @property
    def redo_text(self) -> str:
        """What would be redone; "" where there is nothing."""
        return self._undone[-1].what if self._undone else ""

    def push(self, change: Change) -> None:
        """Write a change's patches and remember it; what was undone before is forgotten.

        Raises
        ------
        Exception
            What `labels` raises; then nothing has changed.
        """
        written = self._write(change.patches, applied)
        step = _Step(change.what, change.before, change.after, written)
        self._done.append(step)
        self._bytes += step.size
        self._undone.clear()
        self.forget(self.max_bytes)

    def undo(self) -> Change | None:
        """Take back the latest step; `before` is the state that holds then.

        Returns
        -------
        Change or None
            None where there is nothing to undo.

        Raises
        ------
        Exception
            What `labels` raises; then nothing has changed.
        """
        return self._move(self._done, self._undone, reverted)

    def redo(self) -> Change | None:
        """Do again what was taken back last; `after` is the state that holds then. As `undo`."""
        return self._move(self._undone, self._done, applied)

    def _move(self, source: list[_Step], target: list[_Step], way: _Way) -> Change | None:
        if not source:
            return None
        change = source[-1].change()
        patches = change.patches if way is applied else change.patches[::-1]
        written = self._write(patches, way)
        in_order = written if way is applied else written[::-1]
        target.append(_Step(change.what, change.before, change.after, in_order))
        source.pop()
        self._bytes = sum(step.size for step in self._done)
        return change

    def _write(self, patches: Sequence[LabelPatch], way: _Way) -> tuple[LabelPatch, ...]:
        """Write patches where nobody was since; returns what is left of them, to go back."""
        left, written = [], []
        try:
            for patch in patches:
                current = self.labels.read(patch.layer, patch.plane, patch.box)
                if current is None or current.shape != patch.shape:
                    left.append(patch)
                    continue
                new = way(current, patch)
                self.labels.write(patch.layer, patch.plane, patch.box, new)
                written.append((patch, current))
                left.append(_narrowed(patch, new != current))
        except BaseException:
            for patch, current in reversed(written):
                self.labels.write(patch.layer, patch.plane, patch.box, current)
            raise
        return tuple(left)

    def forget(self, max_bytes: int) -> None:
        """Forget the oldest steps until the rest takes at most so many bytes, now and later."""
        self.max_bytes = max_bytes
        while self._bytes > max_bytes and len(self._done) > 1:
            self._bytes -= self._done.pop(0).size


class _Way(Protocol):
    def __call__(self, current: NDArray, patch: LabelPatch) -> NDArray: ...


class _Step:
    """A change with its patches compressed."""

    def __init__(
        self,
        what: str,
        before: SessionState,
        after: SessionState,
        patches: Sequence[LabelPatch],
    ) -> None:
        self.what, self.before, self.after = what, before, after
        self._patches = [(p.layer, p.plane, p.box, p.before.dtype, p.packed) for p in patches]
        self.size = sum(len(packed) for *_, packed in self._patches) + _new_bytes(before, after)

    def change(self) -> Change:
        """The change, its patches unpacked; they are 0 where they do not change anything."""
        patches = []
        for layer, plane, box, dtype, packed in self._patches:
            shape = box[2] - box[0], box[3] - box[1]
            patch = LabelPatch(layer, plane, box, *unpack_changes(packed, shape, dtype))
            patches.append(patch)
        return Change(self.what, self.before, self.after, tuple(patches))


def _narrowed(patch: LabelPatch, written: NDArray[np.bool_]) -> LabelPatch:
    """A patch that leaves alone what was not written."""
    if (written == (patch.before != patch.after)).all():
        return patch
    return LabelPatch(
        patch.layer,
        patch.plane,
        patch.box,
        patch.before,
        np.where(written, patch.after, patch.before),
    )


def _new_bytes(before: SessionState, after: SessionState) -> int:
    """Bytes of masks that only one of two states holds."""
    old, new = set(before.draft), set(after.draft)
    if before.objects is not after.objects:
        old |= set(before.objects.values())
        new |= set(after.objects.values())
    return sum(
        mask.mask.nbytes + (0 if mask.logits is None else mask.logits.nbytes)
        for mask in _masks(old - new) ^ _masks(new - old)
    )


def _masks(objects: Iterable[SessionObject]) -> set[ObjectMask]:
    return {mask for one in objects for mask in one.masks.values()}


def _by_tile(marks: Sequence[Mark]) -> dict[Box, list[Mark]]:
    """Marks by the tiles they touch; a tile is a half-open box of the plane."""
    tiles: dict[Box, list[Mark]] = {}
    for mark in marks:
        touched = {tile for mask in mark.masks for tile in _tiles(mask.box)}
        for tile in sorted(touched):
            tiles.setdefault(tile, []).append(mark)
    return tiles


def _tiles(box: Box) -> Iterator[Box]:
    y0, x0, y1, x1 = box
    for y in range(y0 // _TILE * _TILE, y1, _TILE):
        for x in range(x0 // _TILE * _TILE, x1, _TILE):
            yield y, x, y + _TILE, x + _TILE


def _around(tile: Box, marks: Sequence[Mark]) -> Box:
    """The part of a tile that marks can change."""
    boxes = np.array([_meet(mask.box, tile) for mark in marks for mask in mark.masks])
    boxes = boxes[(boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])]
    y0, x0 = boxes[:, :2].min(axis=0).tolist()
    y1, x1 = boxes[:, 2:].max(axis=0).tolist()
    return y0, x0, y1, x1


def _meet(one: Box, other: Box) -> Box:
    """Where two boxes meet; y1 <= y0 or x1 <= x0 where they do not."""
    return (
        max(one[0], other[0]),
        max(one[1], other[1]),
        min(one[2], other[2]),
        min(one[3], other[3]),
    )


def _marked(before: NDArray, box: Box, marks: Sequence[Mark], overwrite: bool) -> NDArray:
    """A window of a plane with objects taken away and put in; better ones come first."""
    after = before.copy()
    for mark in marks:
        _refuse_unfit(mark.label, before.dtype)
        if mark.former is not None:
            part, inside = _window(mark.former, after, box)
            part[inside & (part == mark.label)] = 0
    free = np.ones(before.shape, bool)
    for mark in marks:
        if mark.mask is None:
            continue
        part, inside = _window(mark.mask, after, box)
        allowed, _ = _window(mark.mask, free, box)
        new = inside & allowed
        if not overwrite:
            new &= (part == 0) | (part == mark.label)
        part[new] = mark.label
        allowed[new] = False
    return after


def _window(mask: ObjectMask, array: NDArray, box: Box) -> tuple[NDArray, NDArray[np.bool_]]:
    """A view of the part of a window that a mask's box covers, and the mask there."""
    y0, x0, y1, x1 = _meet(mask.box, box)
    rows = slice(y0 - box[0], max(y1, y0) - box[0])
    cols = slice(x0 - box[1], max(x1, x0) - box[1])
    return array[rows, cols], mask.inside(box)


def _refuse_unfit(label: int, dtype: np.dtype) -> None:
    largest = np.iinfo(dtype).max
    if not 1 <= label <= largest:
        raise PlaneError(
            f"The labels layer cannot hold the number {label}: it goes to {largest}. Convert it "
            "(right click, Convert data type), or keep into a new layer."
        )
