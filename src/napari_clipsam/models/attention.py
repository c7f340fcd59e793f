"""SAM's attention on a grid of tokens or in windows of it, without padding and without its bias.

How the bias of relative positions enters is up to `attention_ways`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
import torch.nn.functional as F

from napari_clipsam.models.attention_ways import fastest
from napari_clipsam.models.stock import get_rel_pos

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from segment_anything.modeling.image_encoder import Attention
    from torch import Tensor

__all__ = ["Windows", "grid_attention"]

T = TypeVar("T")


class Windows(NamedTuple):
    """How a grid of tokens is cut for attention.

    ``size`` is the side of a window in tokens, 0 for the whole grid. Windows that reach beyond the
    grid are filled up with ``filler`` (C,), a token after the norm; None is zeros.
    """

    size: int = 0
    filler: Tensor | None = None


def grid_attention(
    attn: Attention,
    x: Tensor,
    windows: Windows = Windows(),  # noqa: B008 - a frozen value
    qkv: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Run one of SAM's attention layers on a grid of tokens.

    Parameters
    ----------
    attn : segment_anything.modeling.image_encoder.Attention
        The layer whose weights are used.
    x : Tensor, shape (B, H, W, C)
        Tokens, already layer-normalised.
    windows : Windows
        How far a token sees.
    qkv : callable, optional
        Replaces ``attn.qkv``, token by token; a low-rank update enters here.

    Returns
    -------
    Tensor, shape (B, H, W, C)
        Equal to ``attn(x)``, or to that of the windows put together again, within rounding when
        `qkv` is not given.

    Notes
    -----
    What fills up windows is a single token to project, and asks for nothing: SAM at 1024 pixels
    pads 64 x 64 tokens to 70 x 70, a fifth more to project.
    """
    b, h, w, c = x.shape
    project = qkv or attn.qkv
    size = windows.size
    if not size:
        return attn.proj(_attend(attn, project(x), None, (h, w)).view(b, h, w, c))
    layout = _layout(b, h, w, size, x.device)
    packed = project(x.flatten(0, 2)[layout.order])
    filler = x.new_zeros(c) if windows.filler is None else windows.filler
    padding = project(filler[None])[0]
    seen = [
        _attend(attn, part.view(*shape, -1), padding, (size, size))
        for shape, part in zip(layout.shapes, packed.split(layout.counts), strict=True)
    ]
    return attn.proj(torch.cat(seen))[layout.back].view(b, h, w, c)


def _kept(make: Callable[..., T]) -> Callable[..., T]:
    """Make what depends on sizes and a device once; anew for who writes down what is computed."""
    cached = lru_cache(maxsize=16)(make)

    def get(*args: Hashable) -> T:
        # A compiler does not see a cache, and says so; in a trace it would be a constant.
        if torch.jit.is_tracing() or torch.compiler.is_compiling():  # type: ignore[attr-defined]
            return make(*args)
        return cached(*args)

    return get


class _Layout(NamedTuple):
    """Tokens of a batch in the order of windows: whole ones first, then those cut by the border.

    ``order`` takes tokens there and ``back`` again. For each kind of window ``shapes`` says how
    many there are, with how many rows and columns of tokens, and ``counts`` their tokens.
    """

    order: Tensor
    back: Tensor
    shapes: list[tuple[int, int, int]]
    counts: list[int]


@_kept
def _layout(b: int, h: int, w: int, size: int, device: torch.device) -> _Layout:
    # What inference mode makes could not be used by training later.
    with torch.inference_mode(False):
        numbers = torch.arange(b * h * w, device=device).view(b, h, w)
        kinds, shapes = [], []
        for some_rows, rows in _bands(h, size):
            for some_cols, cols in _bands(w, size):
                part = numbers[:, some_rows, some_cols]
                part = part.unflatten(2, (-1, cols)).unflatten(1, (-1, rows)).transpose(2, 3)
                kinds.append(part.flatten())
                shapes.append((part.numel() // (rows * cols), rows, cols))
        order = torch.cat(kinds)
        return _Layout(order, order.argsort(), shapes, [len(kind) for kind in kinds])


def _bands(n: int, size: int) -> Iterator[tuple[slice, int]]:
    """What whole windows cover along a side, and what is left; each with its tokens in a window."""
    covered = n - n % size
    if covered:
        yield slice(covered), size
    if n > covered:
        yield slice(covered, n), n - covered


def _attend(
    attn: Attention, packed: Tensor, padding: Tensor | None, grid: tuple[int, int]
) -> Tensor:
    """Attention in B grids of tokens, (all tokens, C), before the projection.

    Parameters
    ----------
    packed : Tensor, shape (B, h, w, 3 C)
        q, k and v of the tokens in the upper left corner of each grid.
    padding : Tensor, shape (3 C,), or None
        The same of the token that is everywhere else.
    grid : (int, int)
        Rows and columns.
    """
    packed = packed.unflatten(3, (3, attn.num_heads, -1)).permute(3, 0, 4, 1, 2, 5)
    q, k, v = packed.unbind(0)
    if padding is not None and q.shape[2:4] != grid:
        _, k_outside, v_outside = padding.unflatten(0, (3, attn.num_heads, 1, 1, -1)).unbind(0)
        k, v = _filled(k, k_outside, grid), _filled(v, v_outside, grid)
    terms = _position_terms(attn, q, grid) if attn.use_rel_pos else None
    q, k, v = q.flatten(2, 3), k.flatten(2, 3), v.flatten(2, 3)
    if terms is None:
        out = F.scaled_dot_product_attention(q, k, v, scale=attn.scale)
    else:
        call = (q, k, v, *terms, attn.scale)
        out = fastest(*call)(*call)
    return out.transpose(1, 2).flatten(2).flatten(0, 1)


def _filled(tokens: Tensor, value: Tensor, grid: tuple[int, int]) -> Tensor:
    """Grids (B, heads, H, W, d) with `tokens` in the upper left corner and `value` elsewhere."""
    b, heads, h, w, d = tokens.shape
    filled = value.expand(b, heads, *grid, d).clone()
    filled[:, :, :h, :w] = tokens
    return filled


def _position_terms(attn: Attention, q: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """What every query adds for each row (B, heads, N, H) and each column (B, heads, N, W).

    The queries (B, heads, h, w, d) lie in the upper left corner of the grid.
    """
    row_table = _positions(grid[0], attn.rel_pos_h)[: q.shape[2]].to(q.dtype)
    col_table = _positions(grid[1], attn.rel_pos_w)[: q.shape[3]].to(q.dtype)
    rows = torch.einsum("bnhwd,hkd->bnhwk", q, row_table).flatten(2, 3)
    cols = torch.einsum("bnhwd,wkd->bnhwk", q, col_table).flatten(2, 3)
    return rows, cols


def _positions(side: int, table: Tensor) -> Tensor:
    """Entries of a table (L, d) for each place along a side as seen from each, (side, side, d)."""
    if table.shape[0] != 2 * side - 1:
        return get_rel_pos(side, side, table)
    # The original's index comes from the computer's memory: in every block a GPU waits for it.
    return table[_distances(side, table.device)]


@_kept
def _distances(side: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        places = torch.arange(side, device=device)
        return places[:, None] - places + (side - 1)
