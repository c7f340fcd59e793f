"""Windows of the model's square: a part of every canvas is trained on, at a part of the cost.

The head attends in fixed windows and the decoder's positions are those of the canvas, so a part cut
along those windows is treated as it would be inside the whole: only the borders of the
neck's convolution differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_clipsam.models.sam import SamConfig

__all__ = ["Windows", "place"]

_LEAST = 2.0


@dataclass(frozen=True, eq=False)
class Windows:
    """One square part of each of B canvases.

    Attributes
    ----------
    origin : Tensor of int64, shape (B, 2)
        First row and column, tokens.
    side : int
        Tokens.
    grid : int
        Tokens along one side of the canvas.
    stride : int
        Pixels of a token.
    """

    origin: Tensor
    side: int
    grid: int
    stride: int

    @classmethod
    def whole(cls, count: int, grid: int, stride: int, device: torch.device) -> Windows:
        """Windows that show everything."""
        return cls(torch.zeros(count, 2, dtype=torch.long, device=device), grid, grid, stride)

    @property
    def pixels(self) -> int:
        """Side in pixels."""
        return self.side * self.stride

    def offset(self, index: Tensor) -> Tensor:
        """(x, y) of the first pixel of chosen windows, (N, 2), float32."""
        return self.origin[index].flip(1).float() * self.stride

    def cut(self, maps: Tensor, index: Tensor | None = None) -> Tensor:
        """Cut maps (N, ..., H, W) of whole canvases, each to the window at its index.

        H and W are any multiple of `grid`; without an index the maps are those of all windows.
        """
        if self.side == self.grid:
            return maps
        scale = maps.shape[-1] // self.grid
        origin = (self.origin if index is None else self.origin[index]) * scale
        size = self.side * scale
        parts = [
            m[..., y : y + size, x : x + size]
            for m, (y, x) in zip(maps, origin.tolist(), strict=True)
        ]
        return torch.stack(parts) if parts else maps[..., :size, :size]

    def cut_last(self, maps: Tensor) -> Tensor:
        """As `cut`, for channels-last maps (B, H, W, C)."""
        return self.cut(maps.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def place(shown: Tensor, side: int, shape: SamConfig, rng: np.random.Generator) -> Windows:
    """Windows along those of the attention, at random where each map shows something.

    Parameters
    ----------
    shown : Tensor, shape (B, H, H)
        What there is to see in each canvas, 0..1, at any multiple of the grid.
    side : int
        Tokens; the whole grid gives whole canvases.
    shape : SamConfig
    rng : numpy Generator

    Returns
    -------
    Windows
        On at least two tokens' worth, or else on the most there is.
    """
    if side == shape.grid:
        return Windows.whole(len(shown), side, shape.patch_size, shown.device)
    scale, step = shown.shape[-1] // shape.grid, shape.window_size
    amounts = F.avg_pool2d(shown[:, None].float(), side * scale, step * scale) * side**2
    per_row = amounts.shape[-1]
    chosen = []
    for amount in amounts.flatten(1).cpu().numpy():
        good = np.flatnonzero(amount > _LEAST)
        best = int(rng.choice(good)) if len(good) else int(amount.argmax())
        chosen.append([step * i for i in divmod(best, per_row)])
    origin = torch.tensor(chosen, device=shown.device)
    return Windows(origin, side, shape.grid, shape.patch_size)
