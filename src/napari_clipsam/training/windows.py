"""Windows: a part of every view is trained on, at a part of the cost.

Where all blocks of the head attend in windows, a part cut along those is treated as it would be
inside the whole; only the borders of the neck's convolution, and what the decoder could see
elsewhere, differ. So most steps on a CPU take a part, and the last ones the whole again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from napari_clipsam.inference.transfer import to_device

if TYPE_CHECKING:
    from torch import Tensor

    from napari_clipsam.models.sam import SamConfig

__all__ = ["Window", "draw_window", "may_be_cut"]


@dataclass(frozen=True)
class Window:
    """A square part of the token grid, the same for all views of a step.

    Attributes
    ----------
    row, column : int
        First tokens.
    side : int
        Tokens.
    grid : int
        Tokens along a side of the whole.
    patch : int
        Model pixels of a token.
    """

    row: int
    column: int
    side: int
    grid: int
    patch: int

    @classmethod
    def whole(cls, shape: SamConfig) -> Window:
        """The window that shows everything."""
        return cls(0, 0, shape.grid, shape.grid, shape.patch_size)

    @property
    def pixels(self) -> int:
        """Side in model pixels."""
        return self.side * self.patch

    def offset(self, like: Tensor) -> Tensor:
        """(x, y) of the first pixel, (2,)."""
        first = torch.tensor([self.column * self.patch, self.row * self.patch])
        return to_device(first.to(like.dtype), like.device)

    def cut(self, maps: Tensor) -> Tensor:
        """The part of maps (..., H, W); H and W any multiple of the grid."""
        scale = maps.shape[-1] // self.grid
        rows = slice(self.row * scale, (self.row + self.side) * scale)
        columns = slice(self.column * scale, (self.column + self.side) * scale)
        return maps[..., rows, columns]

    def cut_tokens(self, tokens: Tensor) -> Tensor:
        """The part of tokens (B, G, G, C)."""
        return tokens[:, self.row : self.row + self.side, self.column : self.column + self.side]


def may_be_cut(shape: SamConfig, split: int) -> bool:
    """Whether windows of a head can be trained on: all its blocks attend in windows."""
    windowed = all(index < split for index in shape.global_attn_indexes)
    return windowed and shape.grid % shape.window_size == 0 and shape.grid > 2 * shape.window_size


def draw_window(shown: Tensor, shape: SamConfig, generator: torch.Generator) -> Window:
    """Two by two windows of the attention, at random among those that show most views something.

    Parameters
    ----------
    shown : Tensor, shape (B, M, M)
        What there is to see, 0..1.
    """
    side, step = 2 * shape.window_size, shape.window_size
    scale = shown.shape[-1] // shape.grid
    # A click needs a cell that is covered by more than half.
    clear = (shown > 0.5)[:, None].float()
    seen = (F.max_pool2d(clear, side * scale, step * scale)[:, 0] > 0).sum(dim=0).flatten()
    best = (seen == seen.max()).nonzero()[:, 0]
    chosen = int(best[torch.randint(len(best), (), generator=generator)])
    row, column = divmod(chosen, (shape.grid - side) // step + 1)
    return Window(row * step, column * step, side, shape.grid, shape.patch_size)
