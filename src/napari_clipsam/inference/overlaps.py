"""Which masks overlap: one object found twice, or one object that a seam cut in two."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_clipsam.inference.masks import cut_to_box
from napari_clipsam.inference.requests import ObjectMask

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from napari_clipsam.geometry import Frame

__all__ = ["distinct", "join_instances", "union"]

# How far from the border of its tile a mask may end and still be cut by it, model pixels: one pixel
# of the low-resolution logits.
_RIM = 4
# Least IoU, where both tiles look, of two parts of one object.
_SAME = 0.5


def distinct(
    objects: Sequence[ObjectMask], max_overlap: float, ranks: Sequence[float] | None = None
) -> list[int]:
    """Choose objects greedily so that none overlaps a better one too much.

    Parameters
    ----------
    objects : sequence of ObjectMask
        Not empty, none of them.
    max_overlap : float
        Shared pixels over the smaller area; more is one object found twice.
    ranks : sequence of float, optional
        What makes an object better, greater first; the score when not given.

    Returns
    -------
    list of int
        Indices of those kept, best first; the earlier one of equals.
    """
    ranked = [o.score for o in objects] if ranks is None else list(ranks)
    areas = [o.area for o in objects]
    twins: list[list[int]] = [[] for _ in objects]
    for i, j in _touching(objects):
        shared = objects[i].shared(objects[j])
        if shared > max_overlap * min(areas[i], areas[j]):
            twins[i].append(j)
            twins[j].append(i)
    kept: list[int] = []
    gone: set[int] = set()
    for i in sorted(range(len(objects)), key=lambda k: -ranked[k]):
        if i not in gone:
            kept.append(i)
            gone.update(twins[i])
    return kept


def join_instances(
    found: Sequence[tuple[Frame, tuple[slice, slice], Sequence[ObjectMask]]],
    shape: tuple[int, int],
    max_overlap: float,
) -> list[ObjectMask]:
    """Instances of a plane out of those of its tiles, each once and whole.

    Parameters
    ----------
    found : sequence of (Frame, (slice, slice), sequence of ObjectMask)
        Of every tile: its frame, the region it answers for, what it found.
    shape : (int, int)
        Of the plane.
    max_overlap : float
        As for `distinct`.

    Returns
    -------
    list of ObjectMask
        Best first, without logits.

    Notes
    -----
    What a tile's inner border cuts is known by its neighbour, who sees it whole or sees another
    part: where both look, their masks agree. Whole ones win; parts are joined. A part that no
    neighbour agrees with counts only where its own tile answers.
    """
    frames = [frame for frame, _, objects in found for _ in objects]
    owned = [region for _, region, objects in found for _ in objects]
    masks = [one for _, _, objects in found for one in objects]
    cut = [_is_cut(one, frame, shape) for one, frame in zip(masks, frames, strict=True)]
    groups = _groups(masks, frames, cut)
    result: list[ObjectMask] = []
    whole: list[bool] = []
    for group in groups:
        uncut = [i for i in group if not cut[i]]
        if uncut:
            best = max(uncut, key=lambda i: masks[i].score)
            result.append(ObjectMask(masks[best].box, masks[best].mask, masks[best].score))
        elif len(group) > 1 or _centre_in(masks[group[0]], owned[group[0]]):
            result.append(union([masks[i] for i in group]))
        else:
            continue
        whole.append(bool(uncut))
    # A sliver decoded with confidence must not displace the object it is a part of.
    ranks = [one.score + 2 * is_whole for one, is_whole in zip(result, whole, strict=True)]
    kept = [result[i] for i in distinct(result, max_overlap, ranks)]
    return sorted(kept, key=lambda one: -one.score)


def union(parts: Sequence[ObjectMask]) -> ObjectMask:
    """One mask out of parts, none of them empty; its score is their mean by area."""
    boxes = np.array([part.box for part in parts])
    y, x = boxes[:, :2].min(axis=0)
    bottom, right = boxes[:, 2:].max(axis=0)
    joined = np.zeros((bottom - y, right - x), dtype=bool)
    for part in parts:
        rows, cols = part.slices
        joined[rows.start - y : rows.stop - y, cols.start - x : cols.stop - x] |= part.mask
    box, mask = cut_to_box(joined, (int(y), int(x)))
    areas = [part.area for part in parts]
    return ObjectMask(box, mask, float(np.average([part.score for part in parts], weights=areas)))


def _groups(
    masks: Sequence[ObjectMask], frames: Sequence[Frame], cut: Sequence[bool]
) -> list[list[int]]:
    """Indices of masks that are parts of one object, in their order."""
    root = list(range(len(masks)))

    def find(i: int) -> int:
        while root[i] != i:
            i = root[i]
        return i

    for i, j in _touching(masks):
        if frames[i] == frames[j] or not (cut[i] or cut[j]):
            continue
        if _agreement(masks[i], frames[i], masks[j], frames[j]) > _SAME:
            low, high = sorted((find(i), find(j)))
            root[high] = low
    groups: dict[int, list[int]] = {}
    for i in range(len(masks)):
        groups.setdefault(find(i), []).append(i)
    return list(groups.values())


def _agreement(a: ObjectMask, of_a: Frame, b: ObjectMask, of_b: Frame) -> float:
    """IoU of two masks in the part of the plane that both frames show."""
    y0, x0 = (max(p, q) for p, q in zip(of_a.origin, of_b.origin, strict=True))
    y1, x1 = (
        min(p + m, q + n)
        for p, m, q, n in zip(of_a.origin, of_a.shape, of_b.origin, of_b.shape, strict=True)
    )
    both = (y0, x0, y1, x1)
    shared = a.shared(b)
    total = np.count_nonzero(a.inside(both)) + np.count_nonzero(b.inside(both)) - shared
    return shared / total if total else 0.0


def _is_cut(one: ObjectMask, frame: Frame, shape: tuple[int, int]) -> bool:
    """Whether a mask ends at a border of its tile that is not one of the plane."""
    for axis in (0, 1):
        rim = _RIM * frame.shape[axis] / frame.resized[axis]
        start, stop = frame.origin[axis], frame.origin[axis] + frame.shape[axis]
        if start > 0 and one.box[axis] < start + rim:
            return True
        if stop < shape[axis] and one.box[axis + 2] > stop - rim:
            return True
    return False


def _centre_in(one: ObjectMask, region: tuple[slice, slice]) -> bool:
    y0, x0, y1, x1 = one.box
    rows, cols = region
    return rows.start <= (y0 + y1) / 2 < rows.stop and cols.start <= (x0 + x1) / 2 < cols.stop


def _touching(objects: Sequence[ObjectMask]) -> Iterator[tuple[int, int]]:
    """Pairs of objects whose boxes share pixels, found by sweeping down the plane."""
    if not objects:
        return
    boxes = np.array([one.box for one in objects])
    order = np.argsort(boxes[:, 0], kind="stable")
    boxes = boxes[order]
    # Those that begin above the lower end of a box stand before this place.
    ends = np.searchsorted(boxes[:, 0], boxes[:, 2], side="left")
    for i, end in enumerate(ends):
        below = boxes[i + 1 : end]
        meet = (below[:, 1] < boxes[i, 3]) & (below[:, 3] > boxes[i, 1])
        for j in np.flatnonzero(meet):
            yield int(order[i]), int(order[i + 1 + j])
