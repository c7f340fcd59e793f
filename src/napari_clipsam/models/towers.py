"""Dense features of CLIP's vision towers: surgery on open_clip's own ViT, plain tokens of others.

Surgery runs a second path beside the last blocks: it attends from v to v, adds to its own residual
stream, skips the MLP, and always starts from the original path's normalised stream. Nothing of the
tower is replaced; its weights are read.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from napari_clipsam.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

__all__ = [
    "AttentionTuning",
    "AttentionWeights",
    "attention_weights",
    "check_vision_config",
    "fit_input_size",
    "is_open_clip_vit",
    "patch_size",
    "plain_dense",
    "surgery",
]

_ADVICE = "Choose a ViT, e.g. ViT-B-16."


class AttentionWeights(NamedTuple):
    """Weights of one vision attention layer, packed as torch packs them."""

    in_weight: Tensor
    in_bias: Tensor
    out_weight: Tensor
    out_bias: Tensor


class AttentionTuning(Protocol):
    """Replaces the attention weights of vision blocks, e.g. by a low-rank update."""

    def weights(self, block: int, frozen: AttentionWeights) -> AttentionWeights:
        """Weights to use in vision block `block`."""
        ...


def check_vision_config(name: str, config: Any) -> None:
    """Refuse an architecture whose tower gives no dense features, before any weights are fetched.

    Parameters
    ----------
    name : str
        For the message.
    config : mapping
        open_clip's ``vision_cfg``.

    Raises
    ------
    WeightsError
    """
    if isinstance(config.get("layers"), list | tuple):
        raise WeightsError(f"{name} has a convolutional tower without patch tokens. {_ADVICE}")
    if config.get("attentional_pool"):
        raise WeightsError(
            f"{name} pools its tokens by attention (CoCa), so they are not in CLIP's joint space. "
            f"{_ADVICE}"
        )


def patch_size(visual: Any) -> int:
    """Pixels per token of a vision tower.

    Raises
    ------
    WeightsError
        The tower gives no dense features.
    """
    if is_open_clip_vit(visual):
        attentions = [block.attn for block in visual.transformer.resblocks]
        if visual.attn_pool is not None or not all(map(_is_standard, attentions)):
            raise WeightsError(f"This CLIP's vision tower has attention of its own kind. {_ADVICE}")
        return int(visual.conv1.kernel_size[0])
    trunk: Any = getattr(visual, "trunk", None)
    if not hasattr(trunk, "num_prefix_tokens") or not hasattr(trunk, "patch_embed"):
        raise WeightsError(
            "This CLIP's vision tower has no patch tokens (a convolutional network?), so it gives "
            f"no dense features. {_ADVICE}"
        )
    return int(trunk.patch_embed.feat_ratio())


def fit_input_size(visual: Any, size: int) -> None:
    """Set a timm tower to a square input of `size` pixels; open_clip's ViT takes any.

    Raises
    ------
    ConfigError
        The tower cannot be set to it.
    """
    if is_open_clip_vit(visual) or tuple(visual.image_size) == (size, size):
        return
    if not hasattr(visual.trunk, "set_input_size"):
        raise ConfigError(
            f"This CLIP's vision tower takes images of {visual.image_size[0]} pixels alone. Set "
            "its input size to that."
        )
    visual.set_input_size(size)


def is_open_clip_vit(visual: Any) -> bool:
    """Whether a tower is open_clip's own VisionTransformer, the one surgery is defined for."""
    return hasattr(visual, "transformer") and hasattr(visual, "class_embedding")


def attention_weights(visual: Any) -> list[AttentionWeights]:
    """Attention weights of all blocks of open_clip's ViT, first to last; none of other towers."""
    if not is_open_clip_vit(visual):
        return []
    return [_weights_of(block.attn) for block in visual.transformer.resblocks]


def plain_dense(visual: Any, pixels: Tensor, check: Callable[[], None] | None = None) -> Tensor:
    """Projected tokens of a timm tower, its pooled image feature in front.

    Parameters
    ----------
    pixels : Tensor, shape (B, 3, S, S)
        Of the size the tower was set to.
    check : callable, optional
        Called before each block; what it raises ends the run.

    Returns
    -------
    Tensor, shape (B, 1 + grid * grid, dim)
        Not normalised.
    """
    trunk = visual.trunk
    with _called_before_blocks(trunk, check):
        tokens = trunk.forward_features(pixels)
    # Towers that pool by averaging have their norm behind the pooling, and not on the tokens.
    patches = trunk.fc_norm(tokens[:, trunk.num_prefix_tokens :])
    return torch.cat(
        [visual.head(trunk.forward_head(tokens))[:, None], visual.head(patches)], dim=1
    )


def surgery(
    visual: Any,
    pixels: Tensor,
    surgery_blocks: int,
    tuning: AttentionTuning | None = None,
    check: Callable[[], None] | None = None,
) -> Tensor:
    """Dense tokens of open_clip's VisionTransformer with the v-v path.

    Parameters
    ----------
    pixels : Tensor, shape (B, 3, S, S)
        S any multiple of the patch size; positions are interpolated to the grid.
    surgery_blocks : int
        Number of last blocks with a second path; 0 gives the plain tokens.
    tuning : AttentionTuning, optional
        Attention weights to use in place of the tower's own.
    check : callable, optional
        Called before each block; what it raises ends the run.

    Returns
    -------
    Tensor, shape (B, 1 + grid * grid, dim)
        CLS token of the original path, patch tokens of the second path; not normalised.
    """
    x = visual.conv1(pixels)
    grid = x.shape[-2:]
    x = x.flatten(2).transpose(1, 2)
    cls = visual.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
    x = torch.cat([cls, x], dim=1) + _positions(visual.positional_embedding, grid).to(x.dtype)
    x = visual.ln_pre(x)
    blocks = visual.transformer.resblocks
    first = len(blocks) - surgery_blocks
    surgical = x
    for i, block in enumerate(blocks):
        if check is not None:
            check()
        weights = _weights_of(block.attn)
        if tuning is not None:
            weights = tuning.weights(i, weights)
        if i == first:
            surgical = x
        q, k, v = _project(block.ln_1(x), weights, block.attn.num_heads)
        if i >= first:
            surgical = surgical + block.ls_1(_attend(v, v, v, weights))
        x = x + block.ls_1(_attend(q, k, v, weights))
        if i + 1 < len(blocks) or surgery_blocks == 0:
            x = x + block.ls_2(block.mlp(block.ln_2(x)))
        else:
            # Of the last block's original path only the CLS token is used.
            x = x[:, :1]
            x = x + block.ls_2(block.mlp(block.ln_2(x)))
    tokens = x if surgery_blocks == 0 else torch.cat([x[:, :1], surgical[:, 1:]], dim=1)
    return visual.ln_post(tokens) @ visual.proj


@contextmanager
def _called_before_blocks(trunk: Any, check: Callable[[], None] | None) -> Iterator[None]:
    """Have timm's own loop over the blocks call `check`."""

    def run(*_: object) -> None:
        if check is not None:
            check()

    blocks = () if check is None else getattr(trunk, "blocks", ())
    handles = [block.register_forward_pre_hook(run) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _positions(table: Tensor, grid: torch.Size) -> Tensor:
    """Positions (1 + h * w, width): the patch part resized bilinearly to the grid."""
    side = math.isqrt(table.shape[0] - 1)
    if (side, side) == tuple(grid):
        return table
    patches = table[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=tuple(grid), mode="bilinear", align_corners=False)
    return torch.cat([table[:1], patches[0].flatten(1).T])


def _weights_of(attn: nn.MultiheadAttention) -> AttentionWeights:
    return AttentionWeights(
        attn.in_proj_weight, attn.in_proj_bias, attn.out_proj.weight, attn.out_proj.bias
    )


def _project(x: Tensor, weights: AttentionWeights, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    b, n, c = x.shape
    packed = F.linear(x, weights.in_weight, weights.in_bias)
    q, k, v = packed.reshape(b, n, 3, heads, c // heads).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def _attend(q: Tensor, k: Tensor, v: Tensor, weights: AttentionWeights) -> Tensor:
    out = F.scaled_dot_product_attention(q, k, v)
    return F.linear(out.transpose(1, 2).flatten(2), weights.out_weight, weights.out_bias)


def _is_standard(attn: nn.Module) -> bool:
    return isinstance(attn, nn.MultiheadAttention) and attn.in_proj_bias is not None
