"""Attention with SAM's decomposed relative positions, without holding the N x N bias.

SAM adds ``q . R_h[i_h - j_h] + q . R_w[i_w - j_w]`` to every attention logit. There are two ways:

- As extra columns. Both terms are linear in ``q``: the query carries its ``H`` row terms and ``W``
  column terms, the key the one-hot code of its row and column, and their product is the bias. So
  the fused kernels of ``scaled_dot_product_attention`` can be used.
- Written out, a part at a time that stays in the processor's cache. A CPU's fused kernel wants
  values as wide as keys and gains nothing from bfloat16, so there this is two to six times faster.
  It is used where no gradient needs the weights.
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

# Logits that are held at once; 4 MB in float32.
_LOGITS = 1 << 20
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
        in_parts = x.device.type == "cpu" and not rows.requires_grad
        attend = _in_parts if in_parts else _with_columns
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


def _in_parts(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, cols: Tensor, scale: float) -> Tensor:
    """Attention written out, for as many heads or rows of queries at a time as the limit allows."""
    b, heads, n, d = q.shape
    grid = h, w = rows.shape[-1], cols.shape[-1]
    as_columns = h + w <= d
    q = q * scale
    if as_columns:
        # Cheaper than the additions, which are slow along short rows.
        q, k = torch.cat([q, rows, cols], dim=-1), _with_one_hot(k, grid)
    q, keys, v, rows, cols = (x.flatten(0, 1) for x in (q, k.transpose(2, 3), v, rows, cols))
    together, step = max(1, _LOGITS // (n * n)), min(n, max(1, _LOGITS // n))
    out = torch.empty_like(v)
    for first in range(0, b * heads, together):
        some = slice(first, first + together)
        for start in range(0, n, step):
            part = some, slice(start, start + step)
            logits = q[part] @ keys[some]
            if not as_columns:
                on_grid = logits.unflatten(2, grid)
                on_grid += rows[part][..., :, None]
                on_grid += cols[part][..., None, :]
            out[part] = logits.softmax(dim=-1) @ v[some]
    return out.unflatten(0, (b, heads))


def _with_columns(
    q: Tensor, k: Tensor, v: Tensor, rows: Tensor, cols: Tensor, scale: float
) -> Tensor:
    """Attention with the bias as extra columns of q and one-hot ones of k."""
    # The kernel multiplies every logit by the scale; SAM does not scale the bias.
    q = torch.cat([q, rows / scale, cols / scale], dim=-1)
    k = _with_one_hot(k, (rows.shape[-1], cols.shape[-1]))
    missing = -q.shape[-1] % _ALIGNMENT
    if missing:
        q, k = F.pad(q, (0, missing)), F.pad(k, (0, missing))
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


def _with_one_hot(k: Tensor, grid: tuple[int, int]) -> Tensor:
    """Keys (B, heads, N, d) followed by the one-hot codes of their rows and columns."""
    h, w = grid
    index = torch.arange(h * w, device=k.device)
    one_hot = torch.cat([F.one_hot(index // w, h), F.one_hot(index % w, w)], dim=1).to(k.dtype)
    return torch.cat([k, one_hot.expand(*k.shape[:2], -1, -1)], dim=-1)
