"""A convolutional stem for small SAMs: a feature pyramid in place of the patch embedding.

A plain ViT learns slowly from few images. Here the tokens of the transformer blocks come from a
small encoder-decoder of 3 x 3 convolutions that has seen the plane at strides 2 to 32 and returns
to stride 8, so fine outlines and wide context are both in every token. It stands where SAM's
``patch_embed`` stands and is part of the trunk.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

__all__ = ["PyramidStem"]


class _Residual(nn.Module):
    """Two 3 x 3 convolutions with group normalisation beside an identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.gelu(self.norm1(x)))
        return x + self.conv2(F.gelu(self.norm2(h)))


class PyramidStem(nn.Module):
    """Image to tokens at stride 8 through a convolutional feature pyramid.

    Parameters
    ----------
    embed_dim : int
        Channels of the tokens.
    widths : sequence of 5 int
        Channels at strides 2, 4, 8, 16 and 32; multiples of 8.
    blocks : sequence of 5 int
        Residual blocks at each of these strides.
    """

    stride = 8

    def __init__(self, embed_dim: int, widths: tuple[int, ...], blocks: tuple[int, ...]) -> None:
        super().__init__()
        inputs = (3, *widths[:-1])
        self.down = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, width, 3, stride=2, padding=1),
                *(_Residual(width) for _ in range(n)),
            )
            for before, width, n in zip(inputs, widths, blocks, strict=True)
        )
        self.lateral = nn.ModuleList(
            nn.Conv2d(deep, shallow, 1) for shallow, deep in pairwise(widths[2:5])
        )
        self.merge = nn.ModuleList(_Residual(width) for width in widths[2:4])
        self.to_tokens = nn.Conv2d(widths[2], embed_dim, 1)

    def forward(self, x: Tensor, check: Callable[[], None] | None = None) -> Tensor:
        """Map (B, 3, S, S) normalised pixels to (B, S / 8, S / 8, embed_dim) tokens.

        `check` is called before each layer; what it raises ends the run.
        """
        levels = []
        for stage in self.down:
            for layer in stage.children():
                if check is not None:
                    check()
                x = layer(x)
            levels.append(x)
        for level in (1, 0):
            if check is not None:
                check()
            skip = levels[2 + level]
            up = F.interpolate(
                self.lateral[level](x), size=skip.shape[-2:], mode="bilinear", align_corners=False
            )
            x = self.merge[level](skip + up)
        return self.to_tokens(x).permute(0, 2, 3, 1)
