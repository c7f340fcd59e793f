"""Close-ups for the refiner: what the decoder draws of training objects, and what is there.

The frozen SAM answers clicks and boxes in planes and in parts of them, as the product asks it. Each
answer is kept with the pixels around it, more than the refiner sees, so that there is room to move.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_clipsam import Prompts, Segmenter
from napari_clipsam.inference.close_ups import CHOICE_MARGIN, MARGIN, CloseUp
from napari_clipsam.inference.refining import focus
from napari_clipsam.inference.requests import ObjectMask
from napari_clipsam.models.refiner import CELLS, refiner_input
from napari_clipsam.planes import Plane
from napari_clipsam.training.concept_windows import squares
from napari_clipsam.training.metrics import innermost_pixel, tight_box
from starter.batches import blur, change_look
from starter.data import Sample
from starter.views import Row, collect_views, turned_alike

__all__ = ["CloseUps", "as_shown", "collect", "draw"]

# Side of what is kept, cells; it is wider than what a refiner sees at the same scale.
_KEPT = 3 * CELLS // 2
_LEAST_AREA = 20
# Around a click that marked nothing, data pixels.
_NOTHING = 16
# Clicks that correct a mask, at most.
_CORRECTIONS = 2


class CloseUps(NamedTuple):
    """N close-ups of S x S cells.

    ``rgb`` and ``masks`` (N, 3, S, S) and ``truth`` (N, S, S) are uint8, the latter two 255 where a
    cell is covered, ``truth`` 0 for a click on no object; ``masks`` are the three of a click, best
    first, and thrice the one of a box. ``click`` (N, 2) and ``box`` (N, 4) are cells, NaN for none;
    ``grey`` (N,) says whether the plane has no colours, ``share`` (N,) how often each is drawn.
    """

    rgb: Tensor
    masks: Tensor
    truth: Tensor
    click: Tensor
    box: Tensor
    grey: Tensor
    share: Tensor


def collect(
    segmenter: Segmenter,
    samples: Sequence[Sample],
    shares: Sequence[float],
    views: int,
    objects: int,
    rng: np.random.Generator,
) -> CloseUps:
    """Ask for objects of samples, in some views of each.

    Parameters
    ----------
    segmenter : Segmenter
        Without a refiner.
    samples, shares, views, rng
        As `collect_views` takes them.
    objects : int
        Of each view at most; of each there is a click and a box, and for four of them a click
        beside all objects.

    Returns
    -------
    CloseUps
    """

    def ask(sample: Sample, plane: Plane, where: tuple[slice, slice]) -> Iterator[Row]:
        for name, labels in sample.concepts.items():
            if sample.kinds[name] != "instance":
                continue
            asked = list(_questions(labels[where], objects, rng))
            if not asked:
                continue
            answers = segmenter.answer_objects(plane, [p for p, _ in asked], closely=False)
            for (prompts, truth), answer in zip(asked, answers, strict=True):
                found = [*answer.objects, *answer.alternatives]
                yield _close_up(plane.rgb, found * (3 // len(found)), prompts, truth)

    return CloseUps(*collect_views(samples, shares, views, ask, rng))


def _questions(
    labels: np.ndarray, objects: int, rng: np.random.Generator
) -> Iterator[tuple[Prompts, np.ndarray]]:
    """Prompts and the mask that is meant, which is empty for clicks beside all objects."""
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    ids = np.flatnonzero(areas >= _LEAST_AREA)
    chosen = rng.choice(ids, min(len(ids), objects), replace=False)
    for which in chosen:
        mask = labels == which
        pixels = np.argwhere(mask)
        at = innermost_pixel(mask) if rng.random() < 0.5 else pixels[rng.integers(len(pixels))]
        yield Prompts(points=[tuple(map(float, at))]), mask
        box = np.array(tight_box(mask), float)
        if rng.random() < 0.6:
            box += rng.normal(0, 0.04, 4) * np.tile(box[2:] - box[:2], 2)
        if (box[2:] - box[:2] > 2).all():
            yield Prompts(boxes=[tuple(box)]), mask
    free = np.argwhere(labels == 0)
    for _ in range(max(1, len(chosen) // 4) if len(chosen) and len(free) else 0):
        at = free[rng.integers(len(free))]
        yield Prompts(points=[tuple(map(float, at))]), np.zeros(labels.shape, bool)


def _close_up(rgb: np.ndarray, found: list[ObjectMask], prompts: Prompts, truth: np.ndarray) -> Row:
    click, box = np.full(2, np.nan), np.full(4, np.nan)
    if found[0].area or len(prompts.boxes):
        around = focus(found[0], prompts, rgb.shape)
    else:
        around = np.concatenate([prompts.points[0] - _NOTHING, prompts.points[0] + _NOTHING])
    place = CloseUp.around(around, MARGIN * _KEPT / CELLS)
    if len(prompts.boxes):
        box = place.box_cells(prompts.boxes[0], _KEPT)
    else:
        click = place.cells(prompts.points[0], _KEPT)
    return (
        place.image(rgb, _KEPT).transpose(2, 0, 1),
        np.stack([place.mask(one.mask, one.box[:2], _KEPT) for one in found]),
        place.mask(truth, (0, 0), _KEPT),
        click.astype(np.float32),
        box.astype(np.float32),
    )


def draw(
    known: CloseUps, chosen: Tensor, rng: np.random.Generator, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """What the refiner sees of some close-ups (N, 9, S, S), and the masks that are there (N, S, S).

    Each is moved, scaled, turned and shown in another look. Every second click shows its three
    masks, from farther away; all others show one, some of which are made of the true one or, with a
    box, left out, and some have further clicks on what is wrong.
    """
    rgb, masks, truth, click, box, grey, _ = (part[chosen] for part in known)
    masks, truth = masks.float() / 255, truth.float() / 255
    boxed = ~box[:, 0].isnan()
    open_ = ~boxed & (torch.rand(len(masks), generator=generator) < 0.5)
    one = _other_masks(masks[:, 0], truth, boxed, generator)
    masks = torch.where(open_[:, None, None, None], masks, one[:, None])
    scale = torch.where(open_, CHOICE_MARGIN / MARGIN, 1.0)
    maps, (click, box) = _moved(_stacked(rgb, masks, truth), (click, box), scale, generator)
    everywhere = torch.ones_like(truth[:, :CELLS, :CELLS], dtype=torch.bool)
    rgb = change_look(maps[:, :3], everywhere, grey.tolist(), rng, generator)
    points, labels = _clicks(click, maps[:, 3], maps[:, 6], open_, rng)
    seen = refiner_input(rgb, maps[:, 3:6], points, labels, box)
    return turned_alike(seen, maps[:, 6], rng)


def as_shown(known: CloseUps, chosen: Tensor, choice: bool = False) -> tuple[Tensor, Tensor]:
    """The same as the product shows them: their middle, as it is, with the best mask or all."""
    rgb, masks, truth, click, box, *_ = (part[chosen] for part in known)
    masks, truth = masks.float() / 255, truth.float() / 255
    if not choice:
        masks = masks[:, :1].expand(-1, 3, -1, -1)
    side = torch.full((len(masks), 1), CELLS * (CHOICE_MARGIN / MARGIN if choice else 1.0))
    first = ((_KEPT - side) / 2).expand(-1, 2)
    maps, (click, box) = _cut(_stacked(rgb, masks, truth), (click, box), first, side)
    labels = torch.where(click[:, :1].isnan(), -1, 1)
    return refiner_input(maps[:, :3], maps[:, 3:6], click[:, None], labels, box), maps[:, 6]


def _stacked(rgb: Tensor, masks: Tensor, truth: Tensor) -> Tensor:
    return torch.cat([rgb.float(), masks, truth[:, None]], dim=1)


def _other_masks(mask: Tensor, truth: Tensor, boxed: Tensor, generator: torch.Generator) -> Tensor:
    """Masks, a quarter of them the true ones gone wrong, a tenth of those with a box empty."""
    n = len(mask)
    bumps = torch.randn(n, 1, 8, 8, generator=generator)
    bumps = F.interpolate(bumps, mask.shape[1:], mode="bicubic", align_corners=False)[:, 0]
    level, kind = torch.rand(2, n, 1, 1, generator=generator)
    bumps = bumps * truth.amax(dim=(1, 2), keepdim=True)
    wrong = (blur(truth[:, None], 4.0)[:, 0] + bumps / 4 > 0.25 + level / 2).float()
    mask = torch.where(kind < 0.25, wrong, mask)
    return torch.where((kind > 0.9) & boxed[:, None, None], 0.0, mask)


def _moved(
    maps: Tensor, places: tuple[Tensor, Tensor], scale: Tensor, generator: torch.Generator
) -> tuple[Tensor, list[Tensor]]:
    """Squares out of what is kept, a little beside its middle, about `scale` times `CELLS` wide."""
    draws = torch.rand(len(maps), 3, generator=generator)
    side = CELLS * scale[:, None] * torch.exp(0.6 * draws[:, :1] - 0.25)
    first = _KEPT / 2 + (0.2 * draws[:, 1:] - 0.6) * side
    return _cut(maps, places, first, side)


def _cut(
    maps: Tensor, places: tuple[Tensor, Tensor], first: Tensor, side: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Squares of `CELLS` cells out of maps (N, C, S, S), and positions (y, x, ...) in them.

    `first` (N, 2) and `side` (N, 1) are cells of the maps.
    """
    placed = [(at - first.repeat(1, at.shape[1] // 2)) * (CELLS / side) for at in places]
    return squares(maps, first, side, CELLS), placed


def _clicks(
    click: Tensor, mask: Tensor, truth: Tensor, alone: Tensor, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Points (N, K, 2) and labels: the first click, and for some of those not alone some more."""
    n = len(click)
    points = torch.full((n, 1 + _CORRECTIONS, 2), torch.nan)
    points[:, 0] = click
    labels = torch.full((n, 1 + _CORRECTIONS), -1)
    labels[:, 0] = torch.where(click[:, 0].isnan(), -1, 1)
    for i in np.flatnonzero((rng.random(n) < 0.3) & ~alone.numpy()):
        true = truth[i] > 0.5
        # Most are on what is wrong, the others anywhere.
        where = (true != (mask[i] > 0.5)) if rng.random() < 0.6 else torch.ones_like(true)
        cells = where.nonzero()
        if not true.any() or len(cells) < 4:
            continue
        for k in range(1, 2 + int(rng.integers(_CORRECTIONS))):
            cell = cells[rng.integers(len(cells))]
            points[i, k] = cell + 0.5
            labels[i, k] = int(true[cell[0], cell[1]])
    return points, labels
