"""Windows for the concept refiner: where the adapter thinks a word is, and where it is.

The frozen networks answer every labelled word of an image, in the whole plane and in parts of it,
as the product asks them. More is kept than the refiner sees, so that there is room to move.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_clipsam import Segmenter
from napari_clipsam.inference.concept_windows import ConceptMaps
from napari_clipsam.inference.masks import full_logits
from napari_clipsam.models.refiner import WINDOW, concept_input
from napari_clipsam.planes import Plane
from starter.batches import change_look
from starter.data import Sample
from starter.views import Row, collect_views, squares, turned

__all__ = ["ConceptWindows", "as_shown", "collect", "draw"]

# Side of what is kept, cells.
_KEPT = 3 * WINDOW // 2


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
    """What is known of a word in a plane, see `_bytes`; None where it is not found."""
    answer = segmenter.first_look(plane, word)
    if not answer.objects or answer.similarity is None:
        return None
    low, frame = answer.objects[0].logits, answer.objects[0].frame
    assert low is not None and frame is not None
    logits = full_logits(torch.from_numpy(low)[None], frame)[0]
    longest = segmenter.model.sam.config.input_size
    maps = ConceptMaps.of(plane.rgb, logits, answer.similarity, longest)
    truth = torch.from_numpy((labels > 0).astype(np.float32))[None, None]
    truth = F.interpolate(truth, maps.chance.shape, mode="bilinear", antialias=True)
    return _bytes(maps, truth[0, 0])


def _bytes(maps: ConceptMaps, truth: Tensor) -> np.ndarray:
    """All maps (6, R, C), uint8, with room around them."""
    soft = torch.stack([maps.chance, maps.similarity, truth]) * 255
    every = np.concatenate([maps.rgb.transpose(2, 0, 1), soft.round().byte().numpy()])
    edges = [(0, 0)]
    for length in every.shape[1:]:
        room = max(0, _KEPT - length)
        edges.append((room // 2, room - room // 2))
    return np.pad(every, edges, mode="edge")


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
        int(np.clip(middle - _KEPT // 2, 0, length - _KEPT))
        for middle, length in zip(at, (height, width), strict=True)
    )
    part = whole[:, y : y + _KEPT, x : x + _KEPT].copy()
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
    maps = _moved(torch.cat([rgb.float(), soft], dim=1), generator)
    everywhere = torch.ones_like(maps[:, 0], dtype=torch.bool)
    rgb = change_look(maps[:, :3], everywhere, grey.tolist(), rng, generator)
    draws = torch.randn(2, len(maps), 1, 1, generator=generator)
    logits = torch.logit(maps[:, 3], eps=1e-3) * torch.exp(draws[0] / 4) + draws[1] / 2
    return turned(concept_input(rgb, torch.sigmoid(logits), maps[:, 4]), maps[:, 5], rng)


def as_shown(known: ConceptWindows, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """The same as the product shows them: their middle, as it is."""
    rgb, chance, similarity, truth, *_ = (part[chosen] for part in known)
    edge = (_KEPT - WINDOW) // 2
    inside = slice(edge, edge + WINDOW)
    chance, similarity, truth = (
        part[:, inside, inside].float() / 255 for part in (chance, similarity, truth)
    )
    return concept_input(rgb[:, :, inside, inside].float(), chance, similarity), truth


def _moved(maps: Tensor, generator: torch.Generator) -> Tensor:
    """Squares of `WINDOW` cells out of what is kept, anywhere in it and scaled."""
    draws = torch.rand(len(maps), 3, generator=generator)
    side = WINDOW * torch.exp(0.8 * draws[:, :1] - 0.4).clamp(max=_KEPT / WINDOW)
    first = draws[:, 1:] * (_KEPT - side)
    return squares(maps, first, side, WINDOW)
