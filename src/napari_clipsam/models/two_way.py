"""The arithmetic of SAM's mask decoder, arranged for few tokens and many pixels.

Same weights and, within rounding, same numbers as `segment_anything`'s modules. A decoder has
thousands of image positions and about ten tokens, so every linear map of the image that only meets
tokens is applied to the tokens instead: ``(X W) k = X (W k)``. No projection of the whole image is
built for each prompt, and the image stays (positions, channels) throughout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segment_anything.modeling.transformer import (
        Attention,
        TwoWayAttentionBlock,
        TwoWayTransformer,
    )
    from torch import Tensor, nn

__all__ = ["masks_of", "two_way", "upscale"]


def two_way(
    transformer: TwoWayTransformer, image: Tensor, image_pe: Tensor, tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """Let tokens and image attend to each other.

    Parameters
    ----------
    transformer : TwoWayTransformer
        The module whose weights are used.
    image : Tensor, shape (N, P, C) or (1, P, C)
        An image at P positions for every set of tokens, or one for all.
    image_pe : Tensor, shape (1, P, C)
        Positional encoding.
    tokens : Tensor, shape (N, T, C)

    Returns
    -------
    tokens : Tensor, shape (N, T, C)
    image : Tensor, shape (N, P, C)
    """
    queries = tokens
    for layer in transformer.layers:
        queries, image = _layer(layer, queries, image, tokens, image_pe)
    attention = transformer.final_attn_token_to_image
    queries = queries + _tokens_to_image(attention, queries + tokens, image, image + image_pe)
    return transformer.norm_final_attn(queries), image


def upscale(upscaling: nn.Sequential, image: Tensor) -> Tensor:
    """Run the decoder's upscaling, two times two, on positions.

    Parameters
    ----------
    upscaling : Sequential
        ``MaskDecoder.output_upscaling``: transposed convolution, norm, activation, transposed
        convolution, activation.
    image : Tensor, shape (N, P, C)

    Returns
    -------
    Tensor, shape (N, 16 P, C / 8)
        For each position its 2 x 2 parts, for each of these their 2 x 2 parts.
    """
    parts: Sequence[Any] = tuple(upscaling)
    first, norm, activation, second, last = parts
    n, positions, _ = image.shape
    x = _spread(first, image).view(n, 4 * positions, first.out_channels)
    x = activation(F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps))
    return last(_spread(second, x)).view(n, 16 * positions, second.out_channels)


def masks_of(weights: Tensor, upscaled: Tensor, grid: tuple[int, int]) -> Tensor:
    """Masks (N, K, 4 h, 4 w) of weights (N, K, C / 8) on what `upscale` returned for (h, w)."""
    n, k, _ = weights.shape
    h, w = grid
    logits = weights @ upscaled.transpose(1, 2)
    logits = logits.view(n, k, h, w, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5, 7)
    return logits.reshape(n, k, 4 * h, 4 * w)


def _layer(
    layer: TwoWayAttentionBlock, queries: Tensor, image: Tensor, tokens: Tensor, image_pe: Tensor
) -> tuple[Tensor, Tensor]:
    """One block: self-attention, tokens to image, MLP, image to tokens."""
    if layer.skip_first_layer_pe:
        queries = layer.self_attn(q=queries, k=queries, v=queries)
    else:
        placed = queries + tokens
        queries = queries + layer.self_attn(q=placed, k=placed, v=queries)
    queries = layer.norm1(queries)
    placed_image = image + image_pe
    attention = layer.cross_attn_token_to_image
    queries = queries + _tokens_to_image(attention, queries + tokens, image, placed_image)
    queries = layer.norm2(queries)
    queries = layer.norm3(queries + layer.mlp(queries))
    attention = layer.cross_attn_image_to_token
    image = _image_to_tokens(attention, image, placed_image, queries + tokens, queries)
    return queries, layer.norm4(image)


def _tokens_to_image(
    attn: Attention, placed: Tensor, image: Tensor, placed_image: Tensor
) -> Tensor:
    """Attention of tokens (N, T, C) over the image, (N, T, C)."""
    heads, (n, t, _) = attn.num_heads, placed.shape
    q = _heads(attn.q_proj(placed), heads)
    scores = _scores(q, attn.k_proj, placed_image)
    mixed = (scores.softmax(dim=-1) @ image).view(n, heads, t, image.shape[2])
    value_map = _by_head(attn.v_proj.weight, heads).transpose(1, 2)
    out = (mixed @ value_map).transpose(1, 2).flatten(2)
    return attn.out_proj(out + attn.v_proj.bias)


def _image_to_tokens(
    attn: Attention, image: Tensor, placed_image: Tensor, placed: Tensor, tokens: Tensor
) -> Tensor:
    """The image (N, P, C) plus its attention over the tokens (N, T, C)."""
    heads, (n, t, _) = attn.num_heads, placed.shape
    k = _heads(attn.k_proj(placed), heads)
    scores = _scores(k, attn.q_proj, placed_image)
    weights = scores.view(n, heads, t, image.shape[1]).softmax(dim=2).flatten(1, 2)
    out_map = _by_head(attn.out_proj.weight.T, heads)
    # Each head's weights add up to 1, so the bias may be shared out among the heads.
    values = _heads(attn.v_proj(tokens), heads) @ out_map + attn.out_proj.bias / heads
    return image + weights.transpose(1, 2) @ values.flatten(1, 2)


def _scores(of_tokens: Tensor, projection: nn.Linear, placed_image: Tensor) -> Tensor:
    """Scaled products (N, heads * T, P) of (N, heads, T, d) with the projected image."""
    heads, d = of_tokens.shape[1], of_tokens.shape[3]
    of_tokens = of_tokens * d**-0.5
    probes = (of_tokens @ _by_head(projection.weight, heads)).flatten(1, 2)
    # Where softmax runs over the image this adds nothing, but the bias keeps its gradient.
    offsets = (of_tokens @ projection.bias.view(heads, d, 1)).flatten(1, 2)
    image = placed_image.transpose(1, 2).expand(len(probes), -1, -1)
    return torch.baddbmm(offsets, probes, image)


def _by_head(weight: Tensor, heads: int) -> Tensor:
    """(D, C) to (heads, D / heads, C)."""
    return weight.unflatten(0, (heads, -1))


def _heads(x: Tensor, heads: int) -> Tensor:
    """(N, T, D) to (N, heads, T, D / heads)."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def _spread(convolution: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """A transposed 2 x 2 convolution of stride 2 as one linear map, (N, P, 4 outputs)."""
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)
    bias = convolution.bias
    return F.linear(x, weight, None if bias is None else bias.repeat(4))
