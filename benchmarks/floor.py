"""What the networks need at least: operations by part, and the rate of a large matrix product."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.measuring import Setting
    from napari_clipsam.models.sam import SamConfig

__all__ = ["Operations", "matrix_rates", "operations"]

#: Rows and columns of the matrices that are multiplied.
SIDES = {"cpu": 2048, "cuda": 8192}
_MLP = 4


@dataclass(frozen=True)
class Operations:
    """Multiply-adds of the encoder for one plane, without those that only fill up windows.

    Attributes
    ----------
    windowed, global_ : int
        Of one block of each kind.
    ends : int
        Patch embedding and neck.
    total : int
        Of the whole encoder.
    """

    windowed: int
    global_: int
    ends: int
    total: int


def operations(config: SamConfig) -> Operations:
    """Count them from the shapes; SAM's patch embedding is assumed, not a pyramid stem."""
    tokens, width, grid = config.grid**2, config.embed_dim, config.grid
    linear = tokens * width * width * (4 + 2 * _MLP)

    def attention(side: int) -> int:
        # Queries with keys, weights with values, and queries with two tables of positions.
        return tokens * width * (2 * side * side + 2 * side)

    windowed = linear + attention(config.window_size)
    global_ = linear + attention(grid)
    neck = tokens * config.out_chans * (width + 9 * config.out_chans)
    ends = tokens * 3 * config.patch_size**2 * width + neck
    n_global = len(config.global_attn_indexes)
    total = n_global * global_ + (config.depth - n_global) * windowed + ends
    return Operations(windowed, global_, ends, total)


def matrix_rates(
    setting: Setting, dtypes: Sequence[torch.dtype], side: int | None = None
) -> dict[torch.dtype, float]:
    """Multiply-adds a second of a large matrix product, each dtype in turn."""
    side = side or SIDES.get(setting.device.type, SIDES["cpu"])
    generator = torch.Generator().manual_seed(0)
    square = torch.randn(side, side, generator=generator).to(setting.device)
    matrices = {dtype: square.to(dtype) for dtype in dtypes}
    times = setting.race(
        {str(dtype): lambda m=m: m @ m for dtype, m in matrices.items()}, max(3, setting.turns)
    )
    return {dtype: side**3 / statistics.median(times[str(dtype)]) for dtype in dtypes}
