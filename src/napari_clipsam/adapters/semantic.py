"""The semantic adapter: CLIP's signals enter beside the MLP (method section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import nn

from napari_clipsam.adapters.base import AdapterConfig, BlockLayer, register
from napari_clipsam.adapters.regular import RegularAdapter
from napari_clipsam.models.attention import grid_attention

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from napari_clipsam.models.attention import Windows
    from napari_clipsam.semantics import Signals

__all__ = ["GuidedLayer", "SemanticAdapter", "conditioning"]


def conditioning(signals: Signals) -> Tensor:
    """U = Vn + s, the similarity added to every channel, (B, 1 + N, D)."""
    return signals.vision + signals.similarity


class SemanticAdapter(nn.Module):
    """``scale * fc2(GELU(fc1(h + U_l + T_l)))`` with per-block projections of U and t."""

    def __init__(self, dim: int, clip_dim: int, config: AdapterConfig) -> None:
        super().__init__()
        self.vision_proj = nn.Linear(clip_dim, dim)
        self.text_proj = nn.Linear(clip_dim, dim)
        self.fc1 = nn.Linear(dim, dim // config.reduction)
        self.fc2 = nn.Linear(dim // config.reduction, dim)
        self.scale = config.scale
        if config.init == "zero":
            nn.init.zeros_(self.fc2.weight)
            nn.init.zeros_(self.fc2.bias)

    def injection(self, signals: Signals, grid: int) -> Tensor:
        """``fc1`` of ``U_l + T_l`` without its bias, (B, grid, grid, dim / reduction).

        fc1 is linear and commutes with bilinear resizing, so the signals are projected into the
        narrow bottleneck before they are spread over the token grid.
        """
        patches = self.vision_proj(conditioning(signals)[:, 1:])
        narrow = F.linear(patches, self.fc1.weight).unflatten(1, signals.grid).permute(0, 3, 1, 2)
        spread = F.interpolate(narrow, size=(grid, grid), mode="bilinear", align_corners=False)
        text = F.linear(F.gelu(self.text_proj(signals.text)), self.fc1.weight)
        return spread.permute(0, 2, 3, 1) + text[:, None, None, :]

    def forward(self, h: Tensor, injection: Tensor | None) -> Tensor:
        """What is added beside the MLP for its input `h`, (B, G, G, C)."""
        narrow = self.fc1(h)
        if injection is not None:
            narrow = narrow + injection
        return self.scale * self.fc2(F.gelu(narrow))


@register("clip-guided")
class GuidedLayer(BlockLayer):
    """Regular and semantic adapter of one block, as in the paper."""

    def __init__(self, dim: int, clip_dim: int, config: AdapterConfig) -> None:
        super().__init__(dim, clip_dim, config)
        self.regular = RegularAdapter(dim, config)
        self.semantic = SemanticAdapter(dim, clip_dim, config)
        self.pad_before_norm = config.pad_before_norm
        self.semantics = config.semantics

    def bind(self, signals: Signals | None, grid: int) -> _BoundGuided:
        """Project the signals once for this call; without signals nothing is injected."""
        if signals is None or not self.semantics:
            return _BoundGuided(self, None, self.pad_before_norm)
        return _BoundGuided(self, self.semantic.injection(signals, grid), self.pad_before_norm)


@dataclass(eq=False)
class _BoundGuided:
    layer: GuidedLayer
    injection: Tensor | None
    pad_before_norm: bool

    def attention(self, attn: nn.Module, x: Tensor, windows: Windows) -> Tensor:
        return self.layer.regular(grid_attention(attn, x, windows))

    def mlp(self, mlp: nn.Module, h: Tensor) -> Tensor:
        return mlp(h) + self.layer.semantic(h, self.injection)

    def part(self, cut: Callable[[Tensor], Tensor]) -> _BoundGuided:
        injection = None if self.injection is None else cut(self.injection)
        return _BoundGuided(self.layer, injection, self.pad_before_norm)
