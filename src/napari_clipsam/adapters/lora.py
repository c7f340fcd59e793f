"""Low-rank updates: the plain PEFT baseline in SAM, and CLIP's own adaptation."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from napari_clipsam.adapters.base import AdapterConfig, BlockLayer, register
from napari_clipsam.models.attention import grid_attention
from napari_clipsam.models.clip import AttentionWeights

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from napari_clipsam.models.attention import Windows
    from napari_clipsam.semantics import Signals

__all__ = ["ClipAttentionTuning", "ClipLoraTuning", "LoraLayer", "LowRank"]


class LowRank(nn.Module):
    """A rank-r update ``up @ down`` of a weight matrix, zero at the start."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, inputs) / rank)
        self.up = nn.Parameter(torch.zeros(outputs, rank))

    def matrix(self) -> Tensor:
        """The update, (outputs, inputs)."""
        return self.up @ self.down

    def forward(self, x: Tensor) -> Tensor:
        """The update applied to (..., inputs)."""
        return (x @ self.down.T) @ self.up.T


@register("lora")
class LoraLayer(BlockLayer):
    """LoRA on q and v of one block; takes no signals."""

    def __init__(self, dim: int, clip_dim: int, config: AdapterConfig) -> None:
        super().__init__(dim, clip_dim, config)
        self.pad_before_norm = config.pad_before_norm
        self.q = LowRank(dim, dim, config.rank)
        self.v = LowRank(dim, dim, config.rank)

    def bind(self, signals: Signals | None, grid: int) -> LoraLayer:
        """The layer itself: nothing depends on the signals."""
        return self

    def attention(self, attn: nn.Module, x: Tensor, windows: Windows) -> Tensor:
        """Attention with updated q and v."""
        frozen = cast("nn.Linear", attn.qkv)

        def qkv(tokens: Tensor) -> Tensor:
            q, v = self.q(tokens), self.v(tokens)
            # In the update's precision, which need not be that of the tokens.
            return frozen(tokens) + torch.cat([q, torch.zeros_like(q), v], dim=-1)

        return grid_attention(attn, x, windows, qkv)

    def mlp(self, mlp: nn.Module, h: Tensor) -> Tensor:
        """The block's own MLP."""
        return mlp(h)

    def part(self, cut: Callable[[Tensor], Tensor]) -> LoraLayer:
        """The layer itself."""
        return self


class ClipLoraTuning(nn.Module):
    """LoRA on the packed q, k, v and the output projection of CLIP's vision attention."""

    def __init__(self, frozen: Sequence[AttentionWeights], rank: int) -> None:
        super().__init__()
        self.inner = nn.ModuleList(
            LowRank(w.in_weight.shape[1], w.in_weight.shape[0], rank) for w in frozen
        )
        self.outer = nn.ModuleList(
            LowRank(w.out_weight.shape[1], w.out_weight.shape[0], rank) for w in frozen
        )

    def weights(self, block: int, frozen: AttentionWeights) -> AttentionWeights:
        """Frozen weights of a block plus its updates."""
        return frozen._replace(
            in_weight=frozen.in_weight + cast("LowRank", self.inner[block]).matrix(),
            out_weight=frozen.out_weight + cast("LowRank", self.outer[block]).matrix(),
        )


class ClipAttentionTuning(nn.Module):
    """CLIP's vision attention weights themselves, as the paper trains them."""

    def __init__(self, frozen: Sequence[AttentionWeights]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ParameterDict(
                {name: nn.Parameter(value.detach().clone()) for name, value in w._asdict().items()}
            )
            for w in frozen
        )

    def weights(self, block: int, frozen: AttentionWeights) -> AttentionWeights:
        """The trained weights of a block."""
        own = cast("nn.ParameterDict", self.blocks[block])
        return AttentionWeights(*(own[name] for name in AttentionWeights._fields))
