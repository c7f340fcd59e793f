"""Which parts of a plane are shown to the model: whole, in tiles, or zoomed to the prompts."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from napari_clipsam.geometry import Frame, tiles, whole_plane, zoom_to_box
from napari_clipsam.prompts import Prompts

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "closer_frame",
    "closer_frames",
    "concept_frames",
    "frames_like",
    "holds",
    "is_large",
    "object_frame",
    "owned_regions",
    "quarters",
]

# Up to twice the input size a plane is shown whole, as SAM does.
_WHOLE = 2.0
_OVERLAP = 0.25
# Parts that show small objects are enlarged this often at most, and overlap by half: an object that
# takes a quarter of one then lies well inside one of them, wherever it is.
_CLOSEST = 4
_CLOSER_OVERLAP = 0.5
# A part that is wider, since prompts lie apart, shows hardly more than the whole.
_CLOSER = 0.75


def is_large(shape: tuple[int, int], input_size: int, whole: float = _WHOLE) -> bool:
    """Whether a plane is too large to be shown whole: longer than `whole` times the input."""
    return max(shape) > whole * input_size


def concept_frames(shape: tuple[int, int], input_size: int, squash: bool = False) -> list[Frame]:
    """The whole plane, or tiles at its own scale with overlap."""
    if not is_large(shape, input_size):
        return [whole_plane(shape, input_size, squash)]
    overlap = int(_OVERLAP * input_size)
    found = tiles(shape, input_size, overlap, input_size)
    return [replace(frame, squash=squash) for frame in found]


def object_frame(
    shape: tuple[int, int],
    prompts: Prompts,
    input_size: int,
    squash: bool = False,
    whole: float = _WHOLE,
) -> Frame:
    """Where an object is looked for: the whole plane, the tile that shows it best, or a zoom.

    Tiles are preferred because neighbouring clicks then share an embedding. Every frame holds all
    prompts, as far as they lie in the plane; a plane up to `whole` times the input is shown whole.
    """
    if not is_large(shape, input_size, whole):
        return whole_plane(shape, input_size, squash)
    extent = _extent(prompts, shape)
    if extent is None:
        return whole_plane(shape, input_size, squash)
    return _showing(extent, shape, input_size, _OVERLAP, input_size, squash)


def closer_frame(
    frame: Frame, shape: tuple[int, int], prompts: Prompts, box: ArrayLike, least: int
) -> Frame | None:
    """A smaller part of a plane, where an object looks small in a frame.

    Parameters
    ----------
    frame : Frame
    shape : (int, int)
        Of the plane.
    prompts : Prompts
        That the part has to show.
    box : array_like, shape (4,)
        (y0, x0, y1, x1) of the object, in data pixels, half open.
    least : int
        Model pixels that its longer side should have. Parts are a half or a quarter of the frame
        wide, so that neighbours of about its size are found in the same ones.

    Returns
    -------
    Frame or None
        None where the object is large enough, or only a part of almost the width shows all prompts.
    """
    width = max(frame.shape)
    corners = np.asarray(box, dtype=np.float64).reshape(2, 2)
    side = _closer_side(frame, float((corners[1] - corners[0]).max()), least)
    if side == width:
        return None
    boxes = [*prompts.boxes, corners.ravel()]
    extent = _extent(Prompts(points=prompts.points, boxes=boxes, mask=prompts.mask), shape)
    # A box has an extent.
    assert extent is not None
    closer = _showing(extent, shape, side, _CLOSER_OVERLAP, frame.input_size, frame.squash)
    return closer if max(closer.shape) <= _CLOSER * width else None


def closer_frames(frame: Frame, boxes: ArrayLike, least: int) -> list[Frame]:
    """Parts that cover a whole plane, where most of its objects look small.

    Parameters
    ----------
    frame : Frame
        Of the whole plane.
    boxes : array_like, shape (N, 4)
        Of the objects, N > 0.
    least : int
        See `closer_frame`, which chooses among the same parts.

    Returns
    -------
    list of Frame
        Row by row; none where the typical object is large enough.
    """
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 2, 2)
    typical = float(np.median((corners[:, 1] - corners[:, 0]).max(axis=1)))
    side = _closer_side(frame, typical, least)
    if side == max(frame.shape):
        return []
    return _parts(frame, side, _CLOSER_OVERLAP)


def quarters(frame: Frame) -> list[Frame]:
    """Parts half as wide as the frame of a whole plane, as few as cover it, row by row."""
    return _parts(frame, math.ceil(max(frame.shape) / 2), overlap=0.0)


def _parts(frame: Frame, side: int, overlap: float) -> list[Frame]:
    parts = tiles(frame.shape, side, int(overlap * side), frame.input_size)
    return [replace(part, squash=frame.squash) for part in parts]


def _closer_side(frame: Frame, extent: float, least: int) -> int:
    """Data pixels along a part in which an object so long is large enough, if there is any."""
    width = max(frame.shape)
    shown = extent * frame.input_size / width
    if not 0 < shown < least:
        return width
    return math.ceil(width / min(_CLOSEST, 2 ** math.ceil(math.log2(least / shown))))


def frames_like(frame: Frame, shape: tuple[int, int], limit: int) -> list[Frame]:
    """Other closer frames of a plane as wide as one, the nearest first; none if it is no tile."""
    side = max(frame.shape)
    centre = np.array(frame.origin) + np.array(frame.shape) / 2
    around = _tiles_around(centre, shape, side, _CLOSER_OVERLAP, frame.input_size, frame.squash)
    return [one for one in around if one != frame][:limit] if frame in around else []


def holds(frame: Frame, prompts: Prompts, shape: tuple[int, int]) -> bool:
    """Whether a frame shows all prompts, as far as they lie in the plane."""
    extent = _extent(prompts, shape)
    if extent is None:
        return True
    origin = np.array(frame.origin)
    low, high = extent
    return bool((low >= origin).all() and (high <= origin + np.array(frame.shape)).all())


def owned_regions(frames: list[Frame]) -> list[tuple[slice, slice]]:
    """Rows and columns each tile answers for: overlaps are split in the middle."""
    rows = _cuts(sorted({(f.origin[0], f.shape[0]) for f in frames}))
    cols = _cuts(sorted({(f.origin[1], f.shape[1]) for f in frames}))
    return [(rows[f.origin[0]], cols[f.origin[1]]) for f in frames]


def _cuts(spans: list[tuple[int, int]]) -> dict[int, slice]:
    edges = [spans[0][0]]
    for (start, length), (following, _) in pairwise(spans):
        edges.append((start + length + following) // 2)
    edges.append(spans[-1][0] + spans[-1][1])
    return {start: slice(edges[i], edges[i + 1]) for i, (start, _) in enumerate(spans)}


def _showing(
    extent: tuple[NDArray[np.float64], NDArray[np.float64]],
    shape: tuple[int, int],
    side: int,
    overlap: float,
    input_size: int,
    squash: bool,
) -> Frame:
    """The tile that shows an extent best, with room around it, or else a zoom to it."""
    low, high = extent
    best = _tiles_around((low + high) / 2, shape, side, overlap, input_size, squash)[0]
    origin, size = np.array(best.origin), np.array(best.shape)
    room = _OVERLAP / 4 * side
    fits = (low - room >= origin) | (origin == 0)
    fits &= (high + room <= origin + size) | (origin + size >= np.array(shape))
    if fits.all():
        return best
    box = np.concatenate([low, high])
    return replace(zoom_to_box(box, shape, input_size, min_side=side), squash=squash)


def _tiles_around(
    centre: NDArray[np.float64],
    shape: tuple[int, int],
    side: int,
    overlap: float,
    input_size: int,
    squash: bool,
) -> list[Frame]:
    """Those of the tiles of a plane, which may be thousands, around a place, the nearest first."""
    step = side - int(overlap * side)
    rows, cols = (
        _nearest_starts(middle, length, side, step)
        for middle, length in zip(centre, shape, strict=True)
    )
    size = min(side, shape[0]), min(side, shape[1])
    places = sorted(
        ((max(i, j), i + j, y, x) for i, y in enumerate(rows) for j, x in enumerate(cols))
    )
    return [Frame((y, x), size, input_size, squash) for *_, y, x in places]


def _nearest_starts(middle: float, length: int, side: int, step: int) -> list[int]:
    """First pixels of up to five tiles (see `geometry.tiles`) around a place, the nearest first."""
    last = max(0, length - side)
    at = round((middle - side / 2) / step)
    near = {min(max(0, (at + k) * step), last) for k in range(-2, 3)}
    return sorted(near, key=lambda start: abs(start + min(side, length) / 2 - middle))


def _extent(
    prompts: Prompts, shape: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Box (y, x) of the whole pixels that all prompts touch, half open; None without prompts."""
    pixels = np.floor(prompts.points + 0.5)
    corners = [pixels, pixels + 1, np.floor(prompts.boxes[:, :2]), np.ceil(prompts.boxes[:, 2:])]
    if prompts.mask is not None:
        inside = prompts.mask > 0
        rows, cols = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
        if rows.size:
            corners.append(np.array([[rows[0], cols[0]], [rows[-1] + 1, cols[-1] + 1]], float))
    stacked = np.concatenate(corners)
    if not len(stacked):
        return None
    # A point on the last edge belongs to the last pixel.
    stacked = stacked.clip(0, np.array(shape))
    low = np.minimum(stacked.min(axis=0), np.array(shape) - 1)
    return low, stacked.max(axis=0)
