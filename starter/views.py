"""Views of samples that refiners learn from: whole planes and parts of them, as users show them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from napari_clipsam import open_image
from napari_clipsam.planes import Plane
from napari_clipsam.training.concept_windows import turned
from starter.data import Sample

__all__ = ["Ask", "Row", "collect_views", "turned_alike"]

Row = tuple[np.ndarray, ...]
#: A sample, what a view shows of it, and the view's rows and columns, to what is asked there.
Ask = Callable[[Sample, Plane, tuple[slice, slice]], Iterator[Row]]

# Planes beyond the first are seen as parts of the second, and parts are as wide as the third.
_LARGE, _WINDOW, _PART = 700, 512, (96, 288)


def collect_views(
    samples: Sequence[Sample],
    shares: Sequence[float],
    views: int,
    ask: Ask,
    rng: np.random.Generator,
) -> Iterator[Tensor]:
    """Ask in some views of each sample.

    Parameters
    ----------
    samples : sequence of Sample
    shares : sequence of float
        How often each is to be drawn.
    views : int
        Of each sample: the whole plane, then parts of it; of large ones more.
    ask : callable
    rng : numpy Generator

    Returns
    -------
    iterator of Tensor
        Columns of all rows that `ask` gave, then whether the sample has no colours, and how often
        the row is to be drawn.
    """
    rows: list[Row] = []
    for sample, share in zip(samples, shares, strict=True):
        found: list[Row] = []
        for number in range(views * _windows(sample.image.shape)):
            where = _view(sample.image.shape, number, rng)
            plane = open_image(np.ascontiguousarray(sample.image[where])).plane()
            found += ask(sample, plane, where)
        grey = np.array((np.ptp(sample.image, axis=-1) == 0).all())
        each = np.array(share / max(1, len(found)), np.float32)
        rows += [(*row, grey, each) for row in found]
    return (torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True))


def _windows(shape: tuple[int, ...]) -> int:
    """How many windows it takes to show as much as a large plane has; 1 for any other."""
    large = max(shape) > _LARGE
    return -(-shape[0] * shape[1] // _WINDOW**2) if large else 1


def _view(shape: tuple[int, ...], number: int, rng: np.random.Generator) -> tuple[slice, slice]:
    """Rows and columns of a view."""
    height, width = shape[:2]
    side = max(height, width)
    if side > _LARGE:
        side = _WINDOW
    elif number:
        side = int(rng.integers(*_PART))
    y, x = (int(rng.integers(max(1, length - side + 1))) for length in (height, width))
    return slice(y, y + side), slice(x, x + side)


def turned_alike(seen: Tensor, truth: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """What a refiner sees (N, C, S, S) and what is there (N, S, S), mirrored or turned alike."""
    both = turned(torch.cat([seen, truth[:, None]], dim=1), rng)
    return both[:, :-1], both[:, -1]
