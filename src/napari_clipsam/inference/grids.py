"""What of a plane the cells of the decoder's logits show, which are fewer than its pixels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch.nn.functional as F

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from napari_clipsam.geometry import Frame

__all__ = ["cells_of", "on_grid", "shown_cells", "within"]


def shown_cells(frame: Frame, size: int) -> tuple[int, int]:
    """Rows and columns of logits (size, size) that show a frame; the rest is padding."""
    rows, cols = (max(1, round(side * size / frame.input_size)) for side in frame.resized)
    return rows, cols


def on_grid(values: Tensor, frame: Frame, size: int) -> Tensor:
    """Values at the pixels (h, w) of a frame, on the grid (size, size) of its logits."""
    rows, cols = shown_cells(frame, size)
    cells = F.interpolate(values[None, None], (rows, cols), mode="bilinear", align_corners=False)
    return F.pad(cells[0, 0], (0, size - cols, 0, size - rows))


def cells_of(region: tuple[slice, slice], frame: Frame, size: int) -> NDArray[np.bool_]:
    """The cells (size, size) of a frame's logits that show a region of the plane."""
    mask = np.zeros((size, size), dtype=bool)
    cells = []
    for part, start, length, shown in zip(
        region, frame.origin, frame.shape, shown_cells(frame, size), strict=True
    ):
        scale = shown / length
        first, last = (part.start - start) * scale, (part.stop - start) * scale
        cells.append(slice(math.floor(first), math.ceil(last)))
    mask[tuple(cells)] = True
    return mask


def within(values: Tensor, frame: Frame, region: tuple[slice, slice]) -> Tensor:
    """Of values at the pixels (h, w) of a frame those in a region of the plane."""
    rows, cols = (
        slice(part.start - start, part.stop - start)
        for part, start in zip(region, frame.origin, strict=True)
    )
    return values[rows, cols]
