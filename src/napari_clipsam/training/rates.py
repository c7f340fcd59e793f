"""How a learning rate rises and falls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["falling"]

_WARM_STEPS, _FLOOR = 8, 0.05


def falling(
    optimizer: torch.optim.Optimizer, rates: Sequence[float], progress: float, updates: int
) -> None:
    """Set the rates of an optimiser's groups: a few steps up, then down along a cosine.

    Parameters
    ----------
    rates : sequence of float
        The highest rate of each group.
    progress : float
        Share of the budget that is used, 0..1.
    updates : int
        Steps taken so far.
    """
    fall = _FLOOR + (1 - _FLOOR) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    factor = fall * min(1.0, (updates + 1) / _WARM_STEPS)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * factor
