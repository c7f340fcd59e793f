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
from napari_clipsam.inference.following import largest_piece
from napari_clipsam.inference.masks import cut_to_box
from napari_clipsam.models.refiner import CELLS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_clipsam.inference.requests import ObjectMask
    from napari_clipsam.prompts import Prompts

__all__ = ["focus", "redraw"]

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
    result = list(masks)
    todo = [i for i, one in enumerate(masks) if one.area or len(prompts[i].boxes)]
    for first in range(0, len(todo), _AT_ONCE):
        some = todo[first : first + _AT_ONCE]
        places = [CloseUp.around(focus(masks[i], prompts[i], rgb.shape)) for i in some]
        seen = _seen(rgb, [masks[i] for i in some], [prompts[i] for i in some], places)
        logits, worth = refine(*seen)
        for i, place, drawn, score in zip(some, places, logits, worth.tolist(), strict=True):
            box, mask = _in_plane(drawn, place, rgb.shape[:2])
            result[i] = replace(masks[i], box=box, mask=mask, score=score)
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
