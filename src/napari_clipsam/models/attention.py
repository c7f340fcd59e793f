"""Attention with SAM's decomposed relative positions, without holding the N x N bias.

SAM adds ``q . R_h[i_h - j_h] + q . R_w[i_w - j_w]`` to every attention logit. Two ways lead to the
fused kernels of ``scaled_dot_product_attention``:

- As extra columns. Both terms are linear in ``q``: the query carries its ``H`` row terms and ``W``
  column terms, the key the one-hot code of its row and column, and their product is the bias.
- As a mask, some rows of queries at a time. On a CPU, where the fused kernel wants values as wide
  as keys, this is two to three times faster; without a gradient no mask outlives its rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from napari_clipsam.models.stock import get_rel_pos

if TYPE_CHECKING:
    from collections.abc import Callable

    from segment_anything.modeling.image_encoder import Attention
    from torch import Tensor

__all__ = ["grid_attention"]

# Entries of a mask that are held at once; 64 MB in float32.
_MASK_ENTRIES = 1 << 24
# Kernels of GPUs take widths that are multiples of this.
_ALIGNMENT = 8


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
    if not attn.use_rel_pos:
        out = F.scaled_dot_product_attention(q, k, v, scale=attn.scale)
    else:
        rows, cols = _position_terms(attn, q, (h, w))
        by_mask = x.device.type == "cpu" and not rows.requires_grad
        attend = _with_masks if by_mask else _with_columns
        out = attend(q, k, v, rows, cols, attn.scale)
    return attn.proj(out.transpose(1, 2).reshape(b, h, w, c))


def _position_terms(attn: Attention, q: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """What every query adds for each row (B, heads, N, H) and each column (B, heads, N, W)."""
    h, w = grid
    row_table = get_rel_pos(h, h, attn.rel_pos_h).to(q.dtype)
    col_table = get_rel_pos(w, w, attn.rel_pos_w).to(q.dtype)
    on_grid = q.unflatten(2, grid)
    rows = torch.einsum("bnhwd,hkd->bnhwk", on_grid, row_table).flatten(2, 3)
    cols = torch.einsum("bnhwd,wkd->bnhwk", on_grid, col_table).flatten(2, 3)
    return rows, cols


def _with_masks(
    q: Tensor, k: Tensor, v: Tensor, rows: Tensor, cols: Tensor, scale: float
) -> Tensor:
    """Attention with the bias as a mask, as many rows of queries at a time as the limit allows."""
    b, heads, n, _ = q.shape
    step = max(1, _MASK_ENTRIES // (b * heads * n))
    parts = []
    for start in range(0, n, step):
        some = slice(start, start + step)
        bias = (rows[:, :, some, :, None] + cols[:, :, some, None, :]).flatten(3)
        parts.append(
            F.scaled_dot_product_attention(q[:, :, some], k, v, attn_mask=bias, scale=scale)
        )
    return torch.cat(parts, dim=2)


def _with_columns(
    q: Tensor, k: Tensor, v: Tensor, rows: Tensor, cols: Tensor, scale: float
) -> Tensor:
    """Attention with the bias as extra columns of q and one-hot ones of k."""
    b, heads, n, d = q.shape
    h, w = rows.shape[-1], cols.shape[-1]
    index = torch.arange(n, device=q.device)
    one_hot = torch.cat([F.one_hot(index // w, h), F.one_hot(index % w, w)], dim=1).to(k.dtype)
    # The kernel multiplies every logit by the scale; SAM does not scale the bias.
    q = torch.cat([q, rows / scale, cols / scale], dim=-1)
    k = torch.cat([k, one_hot.expand(b, heads, n, h + w)], dim=-1)
    missing = -(d + h + w) % _ALIGNMENT
    if missing:
        q, k = F.pad(q, (0, missing)), F.pad(k, (0, missing))
    return F.scaled_dot_product_attention(q, k, v, scale=scale)
