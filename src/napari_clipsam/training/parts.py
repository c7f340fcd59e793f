"""Parts of a plane: the quarter that is held out, and what surrounds painted objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["PlaneParts", "count_parts", "known_pixels", "quarter"]

#: Bounds of the ring around a painted object, pixels.
_LEAST_RING, _MOST_RING = 3, 48
#: The margin is the shorter side of the plane divided by this.
_MARGIN = 64

_Part = tuple[slice, slice]


@dataclass(frozen=True, eq=False)
class PlaneParts:
    """Two parts of one plane, and a margin between them that belongs to neither.

    Attributes
    ----------
    train, held_out : ndarray of bool, shape (H, W)
    is_quarter : bool
        Whether a quarter of the plane is held out, and not what the structure left no choice but
        to take.
    """

    train: NDArray[np.bool_]
    held_out: NDArray[np.bool_]
    is_quarter: bool


def count_parts(structure: NDArray[np.bool_]) -> int:
    """Number of parts of a structure that do not touch, not even at corners."""
    from scipy.ndimage import label

    _, count = label(structure, structure=np.ones((3, 3)))
    return int(count)


def known_pixels(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """What counts in a slice where only some of the structure was painted.

    Parameters
    ----------
    labels : ndarray of int, shape (H, W)
        0 is background, or not painted.

    Returns
    -------
    ndarray of bool, shape (H, W)
        The painted objects, and a ring around each about as wide as its radius (that of a disc of
        its area), 3 to 48 pixels: who paints an object has seen what lies beside it. All else is
        unknown.
    """
    from scipy.ndimage import distance_transform_edt, find_objects, label

    known = np.zeros(labels.shape, bool)
    ids, ranks = np.unique(labels, return_inverse=True)
    ranked = ranks.reshape(labels.shape) + (0 if ids[0] == 0 else 1)
    for rank, window in enumerate(find_objects(ranked), start=1):
        parts, count = label(ranked[window] == rank, structure=np.ones((3, 3)))
        for number, inside in enumerate(find_objects(parts, count), start=1):
            origin = [
                outer.start + inner.start for outer, inner in zip(window, inside, strict=True)
            ]
            mask = parts[inside] == number
            width = float(np.sqrt(np.count_nonzero(mask) / np.pi))
            width = min(max(width, _LEAST_RING), _MOST_RING)
            pad = int(np.ceil(width))
            near = distance_transform_edt(~np.pad(mask, pad)) <= width
            low = [max(0, start - pad) for start in origin]
            high = [
                min(length, start + pad + side)
                for length, start, side in zip(labels.shape, origin, mask.shape, strict=True)
            ]
            rows, cols = (
                slice(first - start + pad, last - start + pad)
                for first, last, start in zip(low, high, origin, strict=True)
            )
            known[low[0] : high[0], low[1] : high[1]] |= near[rows, cols]
    return known


def quarter(
    structure: NDArray[np.bool_], known: NDArray[np.bool_] | None = None, least: int = 10
) -> PlaneParts:
    """Divide one plane into three quarters to learn from and one to measure on.

    Parameters
    ----------
    structure : ndarray of bool, shape (H, W)
        Two pixels of it or more.
    known : ndarray of bool, shape (H, W), optional
        Pixels that count at all.
    least : int
        Pixels of the structure that both parts should have.

    Returns
    -------
    PlaneParts
        Held out is the quadrant or strip that has most nearly a quarter of the structure. Where
        each leaves one side without any, it is a strip from an edge through the structure.
    """
    counted = np.ones(structure.shape, bool) if known is None else known
    structure = structure & counted
    total = int(np.count_nonzero(structure))
    margin = max(1, min(structure.shape) // _MARGIN)
    best: tuple[float, PlaneParts] | None = None
    for part in _quarters(structure.shape):
        found = _divided(part, counted, margin, is_quarter=True)
        inside, outside = _shares(structure, found)
        off = abs(inside / total - 0.25)
        if min(inside, outside) >= least and (best is None or off < best[0]):
            best = off, found
    return _cut(structure, counted, margin, min(least, total // 4)) if best is None else best[1]


def _quarters(shape: tuple[int, ...]) -> Iterator[_Part]:
    """Quadrants, then strips across each axis, those at the edges first; no part is empty."""
    rows, cols = (
        [slice(k * n // 4, (k + 1) * n // 4) for k in (0, 3, 1, 2) if n >= 4] for n in shape
    )
    halves = [[slice(0, n // 2), slice(n // 2, n)] for n in shape if n >= 2]
    if len(halves) == 2:
        yield from ((r, c) for r in halves[0] for c in halves[1])
    yield from ((row, slice(None)) for row in rows)
    yield from ((slice(None), col) for col in cols)


def _divided(part: _Part, counted: NDArray[np.bool_], margin: int, is_quarter: bool) -> PlaneParts:
    held_out, train = np.zeros(counted.shape, bool), np.ones(counted.shape, bool)
    held_out[part] = True
    wider = tuple(
        slice(max(0, (side.start or 0) - margin), None if side.stop is None else side.stop + margin)
        for side in part
    )
    train[wider] = False
    return PlaneParts(train & counted, held_out & counted, is_quarter)


def _shares(structure: NDArray[np.bool_], parts: PlaneParts) -> tuple[int, int]:
    """Pixels of the structure that are held out, and that are learnt from."""
    return (
        int(np.count_nonzero(structure & parts.held_out)),
        int(np.count_nonzero(structure & parts.train)),
    )


def _cut(
    structure: NDArray[np.bool_], counted: NDArray[np.bool_], margin: int, least: int
) -> PlaneParts:
    """A strip from an edge that holds about a quarter of a structure, however small that is."""
    found: list[tuple[bool, int, PlaneParts]] = []
    for axis in (0, 1):
        for turned in (False, True):
            counts = structure.sum(1 - axis)[:: -1 if turned else 1]
            reached = int(np.searchsorted(np.cumsum(counts), counts.sum() / 4)) + 1
            depth = min(reached, int(np.flatnonzero(counts)[-1]))
            strip = slice(len(counts) - depth, None) if turned else slice(0, depth)
            part = (strip, slice(None)) if axis == 0 else (slice(None), strip)
            for gap in (margin, 0):
                parts = _divided(part, counted, gap, is_quarter=False)
                shares = _shares(structure, parts)
                if min(shares) > 0:
                    found.append((gap > 0 and min(shares) >= least, min(shares), parts))
    return max(found, key=lambda entry: entry[:2])[2]
