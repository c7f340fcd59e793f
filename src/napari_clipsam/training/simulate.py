"""Prompts as a user would give them, simulated from target masks.

All functions work on a batch on any device. Masks are (N, h, w) on a grid that covers the model's
input square; coordinates are (x, y) in model pixels, float32, at cell centres.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["box_prompts", "correction_points", "inner_points", "random_points"]


def random_points(
    masks: Tensor, input_size: int, generator: torch.Generator | None = None
) -> Tensor:
    """One point drawn uniformly inside each mask, (N, 2); the first cell where a mask is empty."""
    noise = torch.rand(masks.shape, generator=generator, device=masks.device)
    return _cells(noise * (masks > 0.5), input_size)


def inner_points(
    masks: Tensor, input_size: int, generator: torch.Generator | None = None
) -> Tensor:
    """One point of each mask, the likelier the farther it lies from the outline, (N, 2)."""
    depth = torch.zeros_like(masks, dtype=torch.float32)
    inside = (masks > 0.5).float()
    for _ in range(12):
        depth += inside
        inside = -torch.nn.functional.max_pool2d(-inside[:, None], 3, 1, 1)[:, 0]
    noise = torch.rand(masks.shape, generator=generator, device=masks.device)
    return _cells(depth * (0.5 + noise), input_size)


def correction_points(
    predicted: Tensor, masks: Tensor, input_size: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """A click on the error of each prediction.

    Parameters
    ----------
    predicted : Tensor of bool, shape (N, h, w)
    masks : Tensor, shape (N, h, w)

    Returns
    -------
    points : Tensor, shape (N, 2)
    labels : Tensor of int64, shape (N,)
        1 where the object was missed, 0 where too much was taken. Without any error the point is
        a positive one inside the mask.
    """
    true = masks > 0.5
    error = predicted ^ true
    perfect = ~error.flatten(1).any(dim=1)
    region = torch.where(perfect[:, None, None], true, error)
    noise = torch.rand(masks.shape, generator=generator, device=masks.device)
    flat = (noise * region).flatten(1).argmax(dim=1)
    labels = true.flatten(1).gather(1, flat[:, None])[:, 0].long()
    return _points(flat, masks.shape[-1], masks.shape[-2], input_size), labels


def box_prompts(
    masks: Tensor, input_size: int, jitter: float = 0.1, generator: torch.Generator | None = None
) -> Tensor:
    """Box of each mask with every side moved by up to `jitter` of its length.

    Returns
    -------
    Tensor, shape (N, 4)
        (x0, y0, x1, y1) in model pixels.
    """
    true = masks > 0.5
    h, w = masks.shape[-2:]
    sides = []
    for axis, length in ((1, w), (2, h)):
        line = true.any(dim=axis)
        first = line.float().argmax(dim=1)
        last = length - line.flip(1).float().argmax(dim=1)
        sides.append(torch.stack([first, last], dim=1) * (input_size / length))
    (x0, x1), (y0, y1) = sides[0].unbind(1), sides[1].unbind(1)
    boxes = torch.stack([x0, y0, x1, y1], dim=1).float()
    extent = torch.stack([x1 - x0, y1 - y0, x1 - x0, y1 - y0], dim=1)
    noise = torch.rand(boxes.shape, generator=generator, device=masks.device) * 2 - 1
    return (boxes + jitter * noise * extent).clamp(0, input_size)


def _cells(score: Tensor, input_size: int) -> Tensor:
    flat = score.flatten(1).argmax(dim=1)
    return _points(flat, score.shape[-1], score.shape[-2], input_size)


def _points(flat: Tensor, w: int, h: int, input_size: int) -> Tensor:
    x = (flat % w + 0.5) * (input_size / w) - 0.5
    y = (flat // w + 0.5) * (input_size / h) - 0.5
    return torch.stack([x, y], dim=1).float()
