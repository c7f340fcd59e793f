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

from napari_clipsam.inference.close_ups import CloseUp
from napari_clipsam.inference.following import largest_piece, overlap
from napari_clipsam.inference.masks import cut_to_box
from napari_clipsam.models.refiner import CELLS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_clipsam.inference.requests import ObjectMask
    from napari_clipsam.prompts import Prompts

__all__ = ["focus", "redraw", "redraw_click"]

# What `refiner_input` takes to logits and worth.
Refine = Callable[..., tuple["Tensor", "Tensor"]]

_AT_ONCE = 16
# Of what a click means, beside the mask it gave.
_SCALES = (0.5, 0.75, 1.1, 1.65)
# Masks of one click that overlap more, IoU, are one.
_ALIKE = 0.8


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
    result = list(masks)
    todo = [i for i, one in enumerate(masks) if one.area or len(prompts[i].boxes)]
    places = [CloseUp.around(focus(masks[i], prompts[i])) for i in todo]
    drawn = _drawn(refine, rgb, [masks[i] for i in todo], [prompts[i] for i in todo], places)
    for i, one in zip(todo, drawn, strict=True):
        result[i] = one
    return result


def redraw_click(
    refine: Refine, rgb: NDArray[np.uint8], masks: Sequence[ObjectMask], click: Prompts
) -> list[ObjectMask]:
    """Redraw the masks of one click, and draw what lies under it at several scales.

    Where all masks mean more or less than the object, a close-up of the click alone may show it.

    Parameters
    ----------
    refine : callable
        `PromptDecoder.refine`.
    rgb : ndarray of uint8, shape (H, W, 3)
    masks : sequence of ObjectMask
        Best first.
    click : Prompts

    Returns
    -------
    list of ObjectMask
        The best first, and at most as many others, no two of them alike, as there were.
    """
    marked = [one for one in masks if one.area]
    if not marked:
        return list(masks)
    y0, x0, y1, x1 = largest_piece(marked[0]).box
    (y, x), half = click.points[0], max(y1 - y0, x1 - x0) / 2
    places = [
        *(CloseUp.around(focus(one, click)) for one in marked),
        *(CloseUp.around((y - r, x - r, y + r, x + r)) for r in half * np.array(_SCALES)),
    ]
    nothing = replace(marked[0], box=(0, 0, 0, 0), mask=np.zeros((0, 0), dtype=bool))
    shown = [*marked, *[nothing] * len(_SCALES)]
    drawn = _drawn(refine, rgb, shown, [click] * len(shown), places)
    drawn.sort(key=lambda one: (one.area > 0, one.score), reverse=True)
    kept = drawn[:1]
    for one in drawn[1:]:
        if len(kept) < len(masks) and all(overlap(one, other) < _ALIKE for other in kept):
            kept.append(one)
    return kept


def focus(mask: ObjectMask, prompts: Prompts) -> NDArray[np.float64]:
    """The box (y0, x0, y1, x1) of what is to be redrawn: the prompted one, or of mask and clicks.

    Only the largest piece of the mask counts, which is not empty.
    """
    if len(prompts.boxes):
        return prompts.boxes[0]
    box = np.array(largest_piece(mask).box, dtype=np.float64)
    clicks = prompts.points[prompts.labels == 1]
    corners = np.concatenate([box.reshape(2, 2), clicks, clicks + 1])
    return np.concatenate([corners.min(axis=0), corners.max(axis=0)])


def _drawn(
    refine: Refine,
    rgb: NDArray[np.uint8],
    masks: Sequence[ObjectMask],
    prompts: Sequence[Prompts],
    places: Sequence[CloseUp],
) -> list[ObjectMask]:
    """What the refiner draws in close-ups, of masks with the prompts they were found with."""
    found: list[ObjectMask] = []
    for first in range(0, len(masks), _AT_ONCE):
        some = slice(first, first + _AT_ONCE)
        seen = _seen(rgb, masks[some], prompts[some], places[some])
        logits, worth = refine(*seen)
        rows = zip(masks[some], places[some], logits, worth.tolist(), strict=True)
        for before, place, drawn, score in rows:
            box, mask = _in_plane(drawn, place, rgb.shape[:2])
            found.append(replace(before, box=box, mask=mask, score=score))
    return found


def _seen(
    rgb: NDArray[np.uint8],
    masks: Sequence[ObjectMask],
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
        place.mask(mask.mask, mask.box[:2], CELLS)
        for mask, place in zip(masks, places, strict=True)
    ]
    return (
        torch.from_numpy(pictures).permute(0, 3, 1, 2).float(),
        torch.from_numpy(np.stack(covers)).float() / 255,
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
