"""Which parts of a plane are shown to the model: whole, in tiles, or zoomed to the prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_clipsam.geometry import Frame, tiles, whole_plane, zoom_to_box

if TYPE_CHECKING:
    from napari_clipsam.prompts import Prompts

__all__ = ["concept_frames", "is_large", "object_frame", "owned_regions"]

# Up to twice the input size a plane is shown whole, as SAM does.
_LARGE = 2
_OVERLAP = 0.25


def is_large(shape: tuple[int, int], input_size: int) -> bool:
    """Whether a plane is too large to be shown whole without losing its small objects."""
    return max(shape) > _LARGE * input_size


def concept_frames(shape: tuple[int, int], input_size: int, squash: bool = False) -> list[Frame]:
    """The whole plane, or tiles at its own scale with overlap."""
    if not is_large(shape, input_size):
        return [whole_plane(shape, input_size, squash)]
    return tiles(shape, input_size, int(_OVERLAP * input_size), input_size)


def object_frame(
    shape: tuple[int, int], prompts: Prompts, input_size: int, squash: bool = False
) -> Frame:
    """Where an object is looked for in a large plane: the tile that shows it best, or a zoom.

    Tiles are preferred because neighbouring clicks then share an embedding.
    """
    low, high = _extent(prompts)
    if not np.isfinite(low).all():
        return whole_plane(shape, input_size, squash)
    centre = (low + high) / 2
    frames = concept_frames(shape, input_size, squash)
    best = min(frames, key=lambda f: float(np.abs(_centre(f) - centre).max()))
    origin, size = np.array(best.origin), np.array(best.shape)
    room = _OVERLAP / 4 * input_size
    fits = (low - room >= origin) | (origin == 0)
    fits &= (high + room <= origin + size) | (origin + size >= np.array(shape))
    if fits.all():
        return best
    box = np.concatenate([np.floor(low), np.ceil(high) + 1])
    return zoom_to_box(box, shape, input_size)


def owned_regions(frames: list[Frame]) -> list[tuple[slice, slice]]:
    """Rows and columns each tile answers for: overlaps are split in the middle."""
    rows = _cuts(sorted({(f.origin[0], f.shape[0]) for f in frames}))
    cols = _cuts(sorted({(f.origin[1], f.shape[1]) for f in frames}))
    return [(rows[f.origin[0]], cols[f.origin[1]]) for f in frames]


def _cuts(spans: list[tuple[int, int]]) -> dict[int, slice]:
    edges = [spans[0][0]]
    for (start, length), (following, _) in zip(spans, spans[1:], strict=False):
        edges.append((start + length + following) // 2)
    edges.append(spans[-1][0] + spans[-1][1])
    return {start: slice(edges[i], edges[i + 1]) for i, (start, _) in enumerate(spans)}


def _centre(frame: Frame) -> np.ndarray:
    return np.array(frame.origin) + np.array(frame.shape) / 2


def _extent(prompts: Prompts) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest (y, x) of all prompts; infinite when there are none."""
    corners = [prompts.points, prompts.boxes[:, :2], prompts.boxes[:, 2:]]
    if prompts.mask is not None:
        corners.append(np.argwhere(prompts.mask > 0).astype(float))
    stacked = np.concatenate(corners)
    if not len(stacked):
        return np.full(2, np.inf), np.full(2, np.inf)
    return stacked.min(axis=0), stacked.max(axis=0)
