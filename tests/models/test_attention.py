"""The fused attention against `segment_anything`'s own."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import (
    Attention,
    get_rel_pos,
    window_partition,
    window_unpartition,
)
from tiny import randomise
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from napari_clipsam.models import attention_ways as ways
from napari_clipsam.models.attention import Windows, _position_terms, grid_attention

DIM, HEADS = 24, 3


def make_attention(grid: tuple[int, int], use_rel_pos: bool = True) -> Attention:
    attention = Attention(DIM, HEADS, use_rel_pos=use_rel_pos, input_size=grid)
    randomise(attention, 3)
    return attention


def tokens(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, DIM, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("grid", [(5, 5), (4, 7), (1, 6), (1, 1)])
@pytest.mark.parametrize("use_rel_pos", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_equals_the_original(grid: tuple[int, int], use_rel_pos: bool, training: bool) -> None:
    attention = make_attention(grid, use_rel_pos).requires_grad_(training)
    x = tokens(2, *grid)

    torch.testing.assert_close(grid_attention(attention, x), attention(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("entries", [1, 2 * HEADS * 28 * 5, 2 * HEADS * 28 * 28])
def test_how_much_of_the_bias_is_held_at_once_changes_nothing(
    entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways, "_MASK_ENTRIES", entries)
    attention = make_attention((4, 7)).requires_grad_(False)
    x = tokens(2, 4, 7)

    torch.testing.assert_close(grid_attention(attention, x), attention(x), atol=1e-5, rtol=0)


def test_only_some_rows_of_the_bias_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    held = []
    attend = F.scaled_dot_product_attention

    def watched(*args: torch.Tensor, attn_mask: torch.Tensor, scale: float) -> torch.Tensor:
        held.append(attn_mask.numel())
        return attend(*args, attn_mask=attn_mask, scale=scale)

    monkeypatch.setattr(ways, "_MASK_ENTRIES", limit := 2 * HEADS * 28 * 5)
    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    grid_attention(make_attention((4, 7)).requires_grad_(False), tokens(2, 4, 7))

    assert max(held) <= limit and sum(held) == 2 * HEADS * 28 * 28


@pytest.mark.parametrize("windows", [Windows(), Windows(4)])
def test_nothing_is_copied_from_the_computers_memory(windows: Windows) -> None:
    """A copy waits for the device; one without memory tells where each step takes place."""
    places = set()

    class Watched(TorchDispatchMode):
        def __torch_dispatch__(
            self, op: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            out = op(*args, **(kwargs or {}))
            places.update(one.device.type for one in tree_leaves(out) if torch.is_tensor(one))
            return out

    attention = make_attention((4, 4)).to("meta").requires_grad_(False)
    with Watched():
        grid_attention(attention, torch.empty(2, 4, 4, DIM, device="meta"), windows)

    assert places == {"meta"}


@pytest.mark.parametrize(("side", "seen"), [(4, 4), (4, 3), (6, 5)])
def test_positions_are_the_originals_to_the_bit(side: int, seen: int) -> None:
    attention = make_attention((4, 4)).requires_grad_(False)
    q = torch.randn(2, HEADS, seen, side, DIM // HEADS, generator=torch.Generator().manual_seed(0))
    tables = [get_rel_pos(side, side, t) for t in (attention.rel_pos_h, attention.rel_pos_w)]
    wanted = (
        torch.einsum("bnhwd,hkd->bnhwk", q, tables[0][:seen]).flatten(2, 3),
        torch.einsum("bnhwd,wkd->bnhwk", q, tables[1]).flatten(2, 3),
    )

    for found, one in zip(_position_terms(attention, q, (side, side)), wanted, strict=True):
        assert torch.equal(found, one)


def test_relative_positions_are_not_a_detail() -> None:
    attention = make_attention((5, 5))
    x = tokens(1, 5, 5)
    before = grid_attention(attention, x)
    torch.nn.init.zeros_(attention.rel_pos_h)

    assert (grid_attention(attention, x) - before).abs().max() > 0.01


def test_tables_of_another_length_are_interpolated_alike() -> None:
    attention = make_attention((8, 8))
    x = tokens(1, 6, 6)

    torch.testing.assert_close(grid_attention(attention, x), attention(x), atol=1e-5, rtol=0)


def test_gradients_equal_the_originals() -> None:
    attention = make_attention((4, 4))
    x = tokens(2, 4, 4)
    wanted = torch.autograd.grad(attention(x).square().sum(), list(attention.parameters()))
    found = torch.autograd.grad(
        grid_attention(attention, x).square().sum(), list(attention.parameters())
    )

    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-4)


def test_another_projection_takes_the_place_of_qkv() -> None:
    attention, other = make_attention((4, 4)), make_attention((4, 4))
    with torch.no_grad():
        other.qkv.weight += 0.1
    x = tokens(1, 4, 4)

    found = grid_attention(attention, x, qkv=other.qkv)

    torch.testing.assert_close(found, other(x), atol=1e-5, rtol=0)


# ---------------------------------------------------------------- windows

#: Nothing is left over, something at one side, at both, or there is less than one window.
GRIDS = [(4, 8), (4, 7), (9, 4), (7, 6), (3, 5), (2, 3)]


def in_windows(attention: Attention, x: torch.Tensor, filler: torch.Tensor | None) -> torch.Tensor:
    """What the original does: fill up, cut, attend, put together, cut off."""
    h, w = x.shape[1:3]
    if filler is not None:
        full = filler.expand(len(x), 12, 12, DIM).clone()
        full[:, :h, :w] = x
        x = full[:, : h + -h % 4, : w + -w % 4]
    windows, padded = window_partition(x, 4)
    return window_unpartition(attention(windows), 4, padded, (h, w))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("filled", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_windows_equal_the_originals(grid: tuple[int, int], filled: bool, training: bool) -> None:
    attention = make_attention((4, 4)).requires_grad_(training)
    x, filler = tokens(3, *grid), tokens(1)[0] if filled else None

    found = grid_attention(attention, x, Windows(4, filler))

    torch.testing.assert_close(found, in_windows(attention, x, filler), atol=1e-5, rtol=0)


def test_windows_without_relative_positions() -> None:
    attention, x = make_attention((4, 4), use_rel_pos=False), tokens(2, 7, 6)

    found = grid_attention(attention, x, Windows(4))

    torch.testing.assert_close(found, in_windows(attention, x, None), atol=1e-5, rtol=0)


def test_gradients_through_windows_equal_the_originals() -> None:
    attention, filler = make_attention((4, 4)), tokens(1)[0].requires_grad_()
    x = tokens(2, 7, 6).requires_grad_()
    inputs = [x, filler, *attention.parameters()]
    with torch.inference_mode():
        grid_attention(attention, x, Windows(4, filler))
    wanted = torch.autograd.grad(in_windows(attention, x, filler).square().sum(), inputs)
    found = torch.autograd.grad(
        grid_attention(attention, x, Windows(4, filler)).square().sum(), inputs
    )

    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("side", [7, 8])
def test_what_fills_up_windows_is_projected_once(side: int) -> None:
    attention = make_attention((4, 4))
    seen = []

    def watched(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.flatten(0, -2).shape[0])
        return attention.qkv(x)

    grid_attention(attention, tokens(2, side, side), Windows(4), watched)

    assert sum(seen) == 2 * side * side + 1
