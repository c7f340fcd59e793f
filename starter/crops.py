"""Crops whose frozen features are computed once and used in many steps: the way to fit on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from starter.batches import Batch, BatchMaker
from starter.data import Sample
from starter.frozen import Features

__all__ = ["CropStore"]

_AT_ONCE = 4


@dataclass(frozen=True, eq=False)
class _Crop:
    """One crop: half-precision features, valid (S, S), labels and weights (C, S, S)."""

    tokens: Tensor
    dense: Tensor
    valid: Tensor
    labels: Tensor
    weights: Tensor
    names: tuple[str, ...]
    sample: Sample


class CropStore:
    """Crops drawn from a maker, with the frozen networks' features.

    Parameters
    ----------
    maker : BatchMaker
    see : callable
        What the frozen networks see of a batch.
    count : int
    """

    def __init__(self, maker: BatchMaker, see: Callable[[Batch], Features], count: int) -> None:
        self.rng = maker.rng
        self.crops: list[_Crop] = []
        while len(self.crops) < count:
            batch = maker.draw(_AT_ONCE)
            features = see(batch)
            self.crops += [_part(batch, features, i) for i in range(_AT_ONCE)]

    def draw(self, count: int) -> tuple[Batch, Features]:
        """Some of the crops as one batch (without pixels), and their features."""
        chosen = [self.crops[i] for i in self.rng.choice(len(self.crops), count, replace=False)]
        batch = Batch(
            chosen[0].tokens.new_zeros(count, 3, 0, 0, dtype=torch.float32),
            torch.stack([c.valid for c in chosen]),
            torch.cat([c.labels for c in chosen]).int(),
            torch.cat([c.weights for c in chosen]).float(),
            [(i, name) for i, c in enumerate(chosen) for name in c.names],
            [c.sample for c in chosen],
        )
        tokens = torch.stack([c.tokens for c in chosen]).float()
        return batch, Features(tokens, torch.stack([c.dense for c in chosen]).float())


def _part(batch: Batch, features: Features, crop: int) -> _Crop:
    rows = np.flatnonzero([c == crop for c, _ in batch.rows])
    return _Crop(
        features.tokens[crop].half(),
        features.dense[crop].half(),
        batch.valid[crop],
        batch.labels[rows].to(torch.int16),
        batch.weights[rows].to(torch.uint8),
        tuple(batch.rows[r][1] for r in rows),
        batch.samples[crop],
    )
