"""Attention with SAM's decomposed relative positions, without building the N x N bias.

SAM adds ``q . R_h[i_h - j_h] + q . R_w[i_w - j_w]`` to every attention logit. Both terms are
linear in ``q``, so they ride along as extra columns: the query carries its ``H`` row terms and
``W`` column terms, the key carries the one-hot code of its row and column. Their product is the
bias, and the fused kernels of ``scaled_dot_product_attention`` apply.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import get_rel_pos

if TYPE_CHECKING:
    from collections.abc import Callable

    from segment_anything.modeling.image_encoder import Attention
    from torch import Tensor

__all__ = ["grid_attention"]


def grid_attention(
    attn: Attention, x: Tensor, qkv: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Run one of SAM's attention layers on a grid of tokens.

    Parameters
    ----------
    attn : segment_anything.modeling.image_encoder.Attention
        The layer whose weights are used.
    x : Tensor, shape (B, H, W, C)
        Tokens, already layer-normalised.
    qkv : callable, optional
        Replaces ``attn.qkv``; a low-rank update enters here.

    Returns
    -------
    Tensor, shape (B, H, W, C)
        Equal to ``attn(x)`` within rounding when `qkv` is not given.
    """
    b, h, w, c = x.shape
    heads = attn.num_heads
    packed = (qkv or attn.qkv)(x).reshape(b, h * w, 3, heads, c // heads)
    q, k, v = packed.permute(2, 0, 3, 1, 4).unbind(0)
    if attn.use_rel_pos:
        q, k = _with_positions(attn, q, k, (h, w))
    out = F.scaled_dot_product_attention(q, k, v, scale=attn.scale)
    return attn.proj(out.transpose(1, 2).reshape(b, h, w, c))


def _with_positions(
    attn: Attention, q: Tensor, k: Tensor, grid: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Append the relative-position terms to q and one-hot rows and columns to k."""
    h, w = grid
    b, heads, n, d = q.shape
    rows = get_rel_pos(h, h, attn.rel_pos_h).to(q.dtype)
    cols = get_rel_pos(w, w, attn.rel_pos_w).to(q.dtype)
    # The kernel multiplies every logit by attn.scale; SAM does not scale the bias.
    grid_q = (q / attn.scale).reshape(b, heads, h, w, d)
    bias_h = torch.einsum("bnhwd,hkd->bnhwk", grid_q, rows).reshape(b, heads, n, h)
    bias_w = torch.einsum("bnhwd,wkd->bnhwk", grid_q, cols).reshape(b, heads, n, w)
    index = torch.arange(n, device=q.device)
    one_hot = torch.cat([F.one_hot(index // w, h), F.one_hot(index % w, w)], dim=1).to(k.dtype)
    k = torch.cat([k, one_hot.expand(b, heads, n, h + w)], dim=-1)
    return torch.cat([q, bias_h, bias_w], dim=-1), k
