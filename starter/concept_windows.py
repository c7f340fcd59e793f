"""Windows for the concept refiner: where the adapter thinks a word is, and where it is.

The frozen networks answer every labelled word of an image, in the whole plane and in parts of it,
as the product asks them. More is kept than the refiner sees, so that there is room to move.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from napari_clipsam import Segmenter
from napari_clipsam.models.refiner import WINDOW, concept_input
from napari_clipsam.planes import Plane
from napari_clipsam.training.concept_windows import KEPT, doubted, moved, with_room
from starter.batches import change_look
from starter.data import Sample
from starter.views import Row, collect_views, turned_alike

__all__ = ["ConceptWindows", "as_shown", "collect", "draw"]


class ConceptWindows(NamedTuple):
    """N windows of S x S cells.

    ``rgb`` (N, 3, S, S), ``chance``, ``similarity`` and ``truth`` (N, S, S) are uint8, 255 for all;
    ``grey`` (N,) says whether the plane has no colours, ``share`` (N,) how often each is drawn.
    """

    rgb: Tensor
    chance: Tensor
    similarity: Tensor
    truth: Tensor
    grey: Tensor
    share: Tensor


def collect(
    segmenter: Segmenter,
    samples: Sequence[Sample],
    shares: Sequence[float],
    views: int,
    windows: int,
    rng: np.random.Generator,
) -> ConceptWindows:
    """Ask for the labelled words of samples, in some views of each.

    Parameters
    ----------
    segmenter : Segmenter
        Without a concept refiner.
    samples, shares, views, rng
        As `collect_views` takes them.
    windows : int
        Of each word in a view.

    Returns
    -------
    ConceptWindows
    """

    def ask(sample: Sample, plane: Plane, where: tuple[slice, slice]) -> Iterator[Row]:
        for word, labels in sample.concepts.items():
            whole = _maps(segmenter, plane, word, labels[where])
            for _ in range(windows if whole is not None else 0):
                yield _window(whole, rng)

    return ConceptWindows(*collect_views(samples, shares, views, ask, rng))


def _maps(segmenter: Segmenter, plane: Plane, word: str, labels: np.ndarray) -> np.ndarray | None:
    """What is known of a word in a plane, see `with_room`; None where it is not known."""
    # Views are too small for tiles, and looking at a second scale would take four times as long.
    found = next(segmenter.concept_maps(plane, word, lambda frame: True), None)
    if found is None:
        return None
    return with_room(found[1], [torch.from_numpy((labels > 0).astype(np.float32))])


def _window(whole: np.ndarray, rng: np.random.Generator) -> Row:
    """A part of all maps: every second one around a cell that is wrong, or else in the concept."""
    height, width = whole.shape[1:]
    at = rng.integers(height), rng.integers(width)
    if rng.random() < 0.5:
        wrong = np.argwhere((whole[3] > 127) != (whole[5] > 127))
        cells = wrong if len(wrong) and rng.random() < 0.7 else np.argwhere(whole[5] > 127)
        if len(cells):
            at = cells[rng.integers(len(cells))]
    y, x = (
        int(np.clip(middle - KEPT // 2, 0, length - KEPT))
        for middle, length in zip(at, (height, width), strict=True)
    )
    part = whole[:, y : y + KEPT, x : x + KEPT].copy()
    return part[:3], *part[3:]


def draw(
    known: ConceptWindows, chosen: Tensor, rng: np.random.Generator, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """What the refiner sees of some windows (N, 5, S, S), and where the concept is (N, S, S).

    Each is moved, scaled, turned and shown in another look; the chance is less or more certain
    than it was.
    """
    rgb, chance, similarity, truth, grey, _ = (part[chosen] for part in known)
    soft = torch.stack([chance, similarity, truth], dim=1).float() / 255
    maps = moved(torch.cat([rgb.float(), soft], dim=1), generator)
    everywhere = torch.ones_like(maps[:, 0], dtype=torch.bool)
    rgb = change_look(maps[:, :3], everywhere, grey.tolist(), rng, generator)
    seen = concept_input(rgb, doubted(maps[:, 3], generator), maps[:, 4])
    return turned_alike(seen, maps[:, 5], rng)


def as_shown(known: ConceptWindows, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """The same as the product shows them: their middle, as it is."""
    rgb, chance, similarity, truth, *_ = (part[chosen] for part in known)
    edge = (KEPT - WINDOW) // 2
    inside = slice(edge, edge + WINDOW)
    chance, similarity, truth = (
        part[:, inside, inside].float() / 255 for part in (chance, similarity, truth)
    )
    return concept_input(rgb[:, :, inside, inside].float(), chance, similarity), truth
