"""A concept redrawn from the pixels of its plane, window by window, where a SAM can.

The decoder sees tokens of eight pixels, as for objects; see `models.refiner.ConceptRefiner`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from napari_clipsam.models.refiner import WINDOW

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["ConceptMaps", "redraw_concept", "resized"]

# What `concept_input` takes to logits.
RefineConcept = Callable[..., "Tensor"]

# Windows overlap, and count less towards their edges; so many are redrawn at once.
_OVERLAP, _AT_ONCE = 24, 8


class ConceptMaps(NamedTuple):
    """What is known of a concept in a crop of a plane, on cells of at least a data pixel.

    Attributes
    ----------
    rgb : ndarray of uint8, shape (R, C, 3)
    chance, similarity : Tensor, shape (R, C)
        Of the concept being there, and of image and word; 0..1, on the CPU.
    """

    rgb: NDArray[np.uint8]
    chance: Tensor
    similarity: Tensor

    @classmethod
    def of(
        cls, rgb: NDArray[np.uint8], logits: Tensor, similarity: NDArray[np.float32], longest: int
    ) -> ConceptMaps:
        """Maps of a crop.

        Parameters
        ----------
        rgb : ndarray of uint8, shape (h, w, 3)
        logits : Tensor, shape (h, w)
        similarity : ndarray of float32, shape (gh, gw)
            Of the same crop.
        longest : int
            Cells along its longer side at most.
        """
        scale = min(1.0, longest / max(rgb.shape))
        rows, cols = (max(1, round(side * scale)) for side in rgb.shape[:2])
        image = Image.fromarray(np.ascontiguousarray(rgb)).resize(
            (cols, rows), Image.Resampling.BILINEAR
        )
        # Not every device resizes without aliasing.
        chance = resized(torch.sigmoid(logits.float().cpu()), (rows, cols))
        alike = resized(torch.from_numpy(similarity), (rows, cols))
        return cls(np.array(image), chance, alike)


def redraw_concept(refine: RefineConcept, maps: ConceptMaps) -> Tensor:
    """Redraw a concept in a crop of a plane.

    Parameters
    ----------
    refine : callable
        `PromptDecoder.refine_concept`.
    maps : ConceptMaps

    Returns
    -------
    Tensor, shape (R, C)
        Logits, on the CPU.
    """
    rows, cols = maps.chance.shape
    seen = torch.cat(
        [
            torch.from_numpy(maps.rgb).permute(2, 0, 1).float(),
            torch.stack([maps.chance, maps.similarity]),
        ]
    )
    below, beside = max(0, WINDOW - rows), max(0, WINDOW - cols)
    seen = F.pad(seen[None], (0, beside, 0, below), mode="replicate")[0]
    height, width = seen.shape[1:]
    places = [(y, x) for y in _starts(height) for x in _starts(width)]
    near = _nearness()
    total, weight = torch.zeros(height, width), torch.zeros(height, width)
    for first in range(0, len(places), _AT_ONCE):
        some = places[first : first + _AT_ONCE]
        windows = torch.stack([seen[:, y : y + WINDOW, x : x + WINDOW] for y, x in some])
        drawn = refine(windows[:, :3], windows[:, 3], windows[:, 4])
        for (y, x), values in zip(some, drawn, strict=True):
            total[y : y + WINDOW, x : x + WINDOW] += near * values
            weight[y : y + WINDOW, x : x + WINDOW] += near
    return (total / weight)[:rows, :cols]


def _starts(length: int) -> NDArray[np.int64]:
    """First cells of windows that cover a length, evenly apart."""
    count = 1 + max(0, -(-(length - WINDOW) // (WINDOW - _OVERLAP)))
    return np.linspace(0, length - WINDOW, count).round().astype(np.int64)


def _nearness() -> Tensor:
    """How near a cell (WINDOW, WINDOW) is to the middle of its window."""
    line = torch.minimum(torch.arange(1, WINDOW + 1), torch.arange(WINDOW, 0, -1))
    line = line.clamp(max=_OVERLAP).float()
    return line[:, None] * line


def resized(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Values (h, w) on another grid."""
    antialias = shape[0] < values.shape[0] or shape[1] < values.shape[1]
    return F.interpolate(
        values[None, None],
        tuple(shape[:2]),
        mode="bilinear",
        align_corners=False,
        antialias=antialias,
    )[0, 0]
