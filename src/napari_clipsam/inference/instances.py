"""From a concept to its instances: seeds inside the concept mask, decoded as objects.

Every mask comes from the decoder. The concept mask only says where to look: seeds are its innermost
points; what the accepted objects leave uncovered is seeded again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage

from napari_clipsam.inference.masks import cut_to_box
from napari_clipsam.inference.overlaps import distinct
from napari_clipsam.inference.requests import ObjectMask

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["InstanceSettings", "find_instances", "seeds_in", "stability"]


@dataclass(frozen=True)
class InstanceSettings:
    """How instances are found and told apart; distances in pixels of the low-resolution logits.

    Attributes
    ----------
    rounds : int
        How often uncovered parts of the concept are seeded again.
    seed_distance : int
        Two seeds are farther apart than this.
    min_score : float
        Least predicted quality times stability.
    min_drawn_score, min_worth : float
        Where a refiner redraws objects: the same of those it is given, and the least quality it
        expects of one.
    min_inside : float
        Least share of an object inside the concept mask.
    max_overlap : float
        Two objects overlapping more (share of the smaller one) are one object.
    min_area : int
        Least number of low-resolution pixels.
    max_seeds : int
        Of one round.
    """

    rounds: int = 3
    seed_distance: int = 3
    min_score: float = 0.4
    min_drawn_score: float = 0.2
    min_worth: float = 0.4
    min_inside: float = 0.5
    max_overlap: float = 0.5
    min_area: int = 6
    max_seeds: int = 600


def find_instances(
    concept: Tensor,
    decode_points: Callable[[Tensor], tuple[Tensor, Tensor]],
    input_size: int,
    settings: InstanceSettings = InstanceSettings(),
    shown: tuple[int, int] | None = None,
    searched: NDArray[np.bool_] | None = None,
) -> tuple[Tensor, Tensor]:
    """Decode the objects inside a concept mask.

    Parameters
    ----------
    concept : Tensor, shape (M, M)
        Logits of the concept.
    decode_points : callable
        Points (N, 2), (x, y) in model pixels, to logits (N, K, M, M) of K masks each and predicted
        quality (N,). The first of the masks counts, the others stay with it.
    input_size : int
        Side of the model's input.
    settings : InstanceSettings
    shown : (int, int), optional
        Rows and columns of the logits that show the plane; the rest is padding, and nothing in it
        counts. All when not given.

    Returns
    -------
    logits : Tensor, shape (N, K, M, M)
    scores : Tensor, shape (N,)
        Best first.
    """
    size = concept.shape[-1]
    rows, cols = shown or (size, size)
    region = concept[:rows, :cols] > 0
    kept: list[tuple[Tensor, ObjectMask]] = []
    left = region.cpu().numpy()
    if searched is not None:
        left = left & searched[:rows, :cols]
    for _ in range(settings.rounds):
        seeds = seeds_in(left, settings.seed_distance, settings.max_seeds)
        if not len(seeds):
            break
        xy = (torch.as_tensor(seeds[:, ::-1].copy()) + 0.5) * (input_size / size) - 0.5
        logits, quality = decode_points(xy.to(concept.device, torch.float32))
        visible = logits[:, 0, :rows, :cols]
        scores = quality.clamp(0, 1) * stability(visible)
        good = _plausible(visible, scores, region, settings).nonzero()[:, 0].tolist()
        # Copies, so that those that were dropped do not live on in the same memory.
        kept += [(logits[i].clone(), _cut(visible[i], float(scores[i]))) for i in good]
        kept = [kept[i] for i in distinct([one for _, one in kept], settings.max_overlap)]
        covered = np.zeros_like(left)
        for _, one in kept:
            covered[one.slices] |= one.mask
        # A thin rim that no object took is no object of its own.
        left = ndimage.binary_opening(left & ~covered, iterations=2)
    if not kept:
        return concept.new_zeros((0, 1, size, size)), concept.new_zeros(0)
    found = torch.stack([logits for logits, _ in kept])
    return found, found.new_tensor([one.score for _, one in kept])


def seeds_in(region: NDArray[np.bool_], distance: int, limit: int) -> NDArray[np.int64]:
    """Innermost points (y, x) of a mask, deepest first, farther apart than `distance`."""
    if not region.any():
        return np.zeros((0, 2), dtype=np.int64)
    depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    # Smoothing joins the plateaus of a flat ridge into one peak.
    smooth = ndimage.gaussian_filter(depth, 1.0) * region
    peaks = (smooth == ndimage.maximum_filter(smooth, size=2 * distance + 1)) & region
    labels, count = ndimage.label(peaks, structure=np.ones((3, 3)))
    if count == 0:
        return np.zeros((0, 2), dtype=np.int64)
    first = ndimage.maximum_position(smooth, labels, np.arange(1, count + 1))
    points = np.array(first, dtype=np.int64)
    order = np.argsort(-smooth[points[:, 0], points[:, 1]], kind="stable")
    return points[order][:limit]


def stability(logits: Tensor, offset: float = 1.0) -> Tensor:
    """Area where the logits are above `offset` over the area where they are above -`offset`."""
    inner = (logits > offset).flatten(1).sum(dim=1)
    outer = (logits > -offset).flatten(1).sum(dim=1)
    return inner / outer.clamp_min(1)


def _plausible(
    logits: Tensor, scores: Tensor, region: Tensor, settings: InstanceSettings
) -> Tensor:
    masks = logits > 0
    area = masks.flatten(1).sum(dim=1)
    inside = (masks & region).flatten(1).sum(dim=1)
    return (
        (area >= settings.min_area)
        & (scores >= settings.min_score)
        & (inside >= settings.min_inside * area)
    )


def _cut(logits: Tensor, score: float) -> ObjectMask:
    """A mask at the resolution of the logits."""
    box, mask = cut_to_box((logits > 0).cpu().numpy(), (0, 0))
    return ObjectMask(box, mask, score)
