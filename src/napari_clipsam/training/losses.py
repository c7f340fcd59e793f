"""Losses on mask logits: BCE, soft Dice, soft IoU, focal, each per mask.

Shapes: logits and targets (N, H, W); targets in 0..1; `weight` (N, H, W) leaves pixels out with 0.
Every loss returns (N,), so that a caller may pick the best of several masks before averaging.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from napari_clipsam.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "LossWeights",
    "bce_loss",
    "dice_loss",
    "focal_loss",
    "iou_loss",
    "mask_loss",
    "soft_iou",
]


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of `mask_loss`; the paper uses 1 : 1 : 1 and no focal term."""

    bce: float = 1.0
    dice: float = 1.0
    iou: float = 1.0
    focal: float = 0.0

    def __post_init__(self) -> None:
        values = (self.bce, self.dice, self.iou, self.focal)
        if min(values) < 0 or sum(values) == 0:
            raise ConfigError("Loss weights must not be negative and not all zero.")


def bce_loss(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy, mean over pixels."""
    values = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return _mean(values, weight)


def focal_loss(
    logits: Tensor, target: Tensor, weight: Tensor | None = None, gamma: float = 2.0
) -> Tensor:
    """Focal loss (Lin et al. 2017), balanced by alpha = 0.25 as SAM was trained."""
    probability = logits.sigmoid()
    hit = probability * target + (1 - probability) * (1 - target)
    alpha = 0.25 * target + 0.75 * (1 - target)
    values = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return _mean(alpha * (1 - hit) ** gamma * values, weight)


def dice_loss(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """1 - soft Dice; zero (with zero gradient) where the target is empty."""
    overlap, predicted, true = _sums(logits, target, weight)
    loss = 1 - (2 * overlap + 1) / (predicted + true + 1)
    return torch.where(true > 0, loss, loss.new_zeros(()))


def iou_loss(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """1 - soft IoU; zero (with zero gradient) where the target is empty."""
    overlap, predicted, true = _sums(logits, target, weight)
    loss = 1 - (overlap + 1) / (predicted + true - overlap + 1)
    return torch.where(true > 0, loss, loss.new_zeros(()))


def mask_loss(
    logits: Tensor,
    target: Tensor,
    weights: LossWeights = LossWeights(),
    pixel_weight: Tensor | None = None,
) -> Tensor:
    """Weighted sum of the terms, (N,) (method section 5)."""
    terms = (
        (weights.bce, bce_loss),
        (weights.dice, dice_loss),
        (weights.iou, iou_loss),
        (weights.focal, focal_loss),
    )
    losses = [w * f(logits, target, pixel_weight) for w, f in terms if w > 0]
    return torch.stack(losses).sum(dim=0)


def soft_iou(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """IoU of the thresholded logits with the target, (N,): what the IoU head learns.

    It has no gradient; an empty prediction of an empty target counts 0.
    """
    with torch.no_grad():
        predicted = (logits > 0).float()
        true = (target > 0.5).float()
        if weight is not None:
            predicted, true = predicted * weight, true * weight
        overlap = (predicted * true).sum(dim=(1, 2))
        union = (predicted + true - predicted * true).sum(dim=(1, 2))
        return overlap / union.clamp_min(1)


def _sums(logits: Tensor, target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    probability = logits.sigmoid()
    if weight is not None:
        probability, target = probability * weight, target * weight
    axes = (1, 2)
    return (probability * target).sum(axes), probability.sum(axes), target.sum(axes)


def _mean(values: Tensor, weight: Tensor | None) -> Tensor:
    if weight is None:
        return values.mean(dim=(1, 2))
    return (values * weight).sum(dim=(1, 2)) / weight.sum(dim=(1, 2)).clamp_min(1)
