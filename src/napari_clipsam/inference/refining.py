"""Masks redrawn from the pixels around them, where a SAM brings a refiner.

The decoder sees tokens of eight pixels; what lies between them is drawn here. See
`models.refiner.MaskRefiner`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from napari_clipsam.inference.close_ups import CHOICE_MARGIN, MARGIN, CloseUp
from napari_clipsam.inference.following import largest_piece
from napari_clipsam.inference.masks import cut_to_box
from napari_clipsam.models.refiner import CELLS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_clipsam.inference.requests import ObjectMask
    from napari_clipsam.prompts import Prompts

__all__ = ["focus", "meant", "redraw", "redraw_clicks"]

# What `refiner_input` takes to logits and worth.
Refine = Callable[..., tuple["Tensor", "Tensor"]]

_AT_ONCE = 16


def redraw(
    refine: Refine,
    rgb: NDArray[np.uint8],
    masks: Sequence[ObjectMask],
    prompts: Sequence[Prompts],
) -> list[ObjectMask]:
    """Redraw masks of one plane.

    Parameters
    ----------
    refine : callable
        `PromptDecoder.refine`.
    rgb : ndarray of uint8, shape (H, W, 3)
    masks : sequence of ObjectMask
    prompts : sequence of Prompts
        Points and box, if any, that each was found with.

    Returns
    -------
    list of ObjectMask
        With the quality that is expected of them now, and the logits they had. What was empty, and
        has no box, stays so.
    """
    return _drawn(refine, rgb, [[mask] for mask in masks], prompts, MARGIN)


def meant(
    refine: Refine,
    rgb: NDArray[np.uint8],
    masks: Sequence[Sequence[ObjectMask]],
    prompts: Sequence[Prompts],
) -> list[ObjectMask]:
    """Draw what single clicks mean, as it shows from farther away.

    Parameters
    ----------
    refine, rgb
        As `redraw` takes them.
    masks : sequence of sequence of ObjectMask
        The three that each click may mean, best first.
    prompts : sequence of Prompts
        A click each.

    Returns
    -------
    list of ObjectMask
        Still to be redrawn; with the logits of the first of three.
    """
    return _drawn(refine, rgb, masks, prompts, CHOICE_MARGIN)


def redraw_clicks(
    refine: Refine,
    rgb: NDArray[np.uint8],
    masks: Sequence[Sequence[ObjectMask]],
    prompts: Sequence[Prompts],
) -> list[list[ObjectMask]]:
    """Redraw the three masks of single clicks.

    Parameters
    ----------
    refine, rgb, masks, prompts
        As `meant` takes them.

    Returns
    -------
    list of list of ObjectMask
        Three of each: what is meant, in place of the one that is most like it, and the others.
    """
    first = meant(refine, rgb, masks, prompts)
    every = [one for best, others in zip(first, masks, strict=True) for one in (best, *others)]
    drawn = redraw(refine, rgb, every, [one for one in prompts for _ in range(4)])
    return [_in_place(drawn[i : i + 4]) for i in range(0, len(drawn), 4)]


def _in_place(masks: list[ObjectMask]) -> list[ObjectMask]:
    """Masks but for the one most like the first, which takes its logits."""
    best, *others = masks
    alike = [best.shared(one) / max(1, best.area + one.area) for one in others]
    twin = others.pop(int(np.argmax(alike)))
    return [replace(best, logits=twin.logits, frame=twin.frame), *others]


def _drawn(
    refine: Refine,
    rgb: NDArray[np.uint8],
    masks: Sequence[Sequence[ObjectMask]],
    prompts: Sequence[Prompts],
    margin: float,
) -> list[ObjectMask]:
    """The first of one or three masks each, redrawn; how wide a close-up is goes by it."""
    result = [best for best, *_ in masks]
    todo = [i for i, one in enumerate(result) if one.area or len(prompts[i].boxes)]
    for first in range(0, len(todo), _AT_ONCE):
        some = todo[first : first + _AT_ONCE]
        places = [CloseUp.around(focus(result[i], prompts[i], rgb.shape), margin) for i in some]
        seen = _seen(rgb, [masks[i] for i in some], [prompts[i] for i in some], places)
        logits, worth = refine(*seen)
        for i, place, one, score in zip(some, places, logits, worth.tolist(), strict=True):
            box, mask = _in_plane(one, place, rgb.shape[:2])
            result[i] = replace(result[i], box=box, mask=mask, score=score)
    return result


def focus(mask: ObjectMask, prompts: Prompts, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The box (y0, x0, y1, x1) of what is to be redrawn: the prompted one, or of mask and clicks.

    Only the largest piece of the mask counts, which is not empty; of a box what is in the plane.
    """
    if len(prompts.boxes):
        return prompts.boxes[0].clip(0, np.tile(shape[:2], 2))
    box = np.array(largest_piece(mask).box, dtype=np.float64)
    clicks = prompts.points[prompts.labels == 1]
    corners = np.concatenate([box.reshape(2, 2), clicks, clicks + 1])
    return np.concatenate([corners.min(axis=0), corners.max(axis=0)])


def _seen(
    rgb: NDArray[np.uint8],
    masks: Sequence[Sequence[ObjectMask]],
    prompts: Sequence[Prompts],
    places: Sequence[CloseUp],
) -> tuple[Tensor, ...]:
    """Close-ups as `refiner_input` takes them."""
    n, most = len(masks), max(1, *(len(p.points) for p in prompts))
    points = np.full((n, most, 2), np.nan, dtype=np.float32)
    labels = np.full((n, most), -1)
    boxes = np.full((n, 4), np.nan, dtype=np.float32)
    for i, (prompt, place) in enumerate(zip(prompts, places, strict=True)):
        count = len(prompt.points)
        points[i, :count] = place.cells(prompt.points, CELLS)
        labels[i, :count] = prompt.labels
        if len(prompt.boxes):
            boxes[i] = place.box_cells(prompt.boxes[0], CELLS)
    pictures = np.stack([place.image(rgb, CELLS) for place in places])
    covers = [
        [place.mask(one.mask, one.box[:2], CELLS) for one in some]
        for some, place in zip(masks, places, strict=True)
    ]
    return (
        torch.from_numpy(pictures).permute(0, 3, 1, 2).float(),
        torch.from_numpy(np.array(covers)).expand(-1, 3, -1, -1).float() / 255,
        torch.from_numpy(points),
        torch.from_numpy(labels),
        torch.from_numpy(boxes),
    )


def _in_plane(
    logits: Tensor, place: CloseUp, shape: tuple[int, ...]
) -> tuple[tuple[int, int, int, int], NDArray[np.bool_]]:
    """The part of a redrawn mask (S, S) that lies in the plane, cut to its box."""
    size = (place.side, place.side)
    full = F.interpolate(logits[None, None], size, mode="bilinear", align_corners=False)[0, 0] > 0
    top, left = max(0, -place.y0), max(0, -place.x0)
    inside = full[top : shape[0] - place.y0, left : shape[1] - place.x0]
    return cut_to_box(inside.numpy(), (place.y0 + top, place.x0 + left))
