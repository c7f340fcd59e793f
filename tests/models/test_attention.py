"""The fused attention against `segment_anything`'s own."""

import pytest
import torch
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import Attention
from tiny import randomise

from napari_clipsam.models import attention as module
from napari_clipsam.models.attention import grid_attention

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
    monkeypatch.setattr(module, "_MASK_ENTRIES", entries)
    attention = make_attention((4, 7)).requires_grad_(False)
    x = tokens(2, 4, 7)

    torch.testing.assert_close(grid_attention(attention, x), attention(x), atol=1e-5, rtol=0)


def test_only_some_rows_of_the_bias_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    held = []
    attend = F.scaled_dot_product_attention

    def watched(*args: torch.Tensor, attn_mask: torch.Tensor, scale: float) -> torch.Tensor:
        held.append(attn_mask.numel())
        return attend(*args, attn_mask=attn_mask, scale=scale)

    monkeypatch.setattr(module, "_MASK_ENTRIES", limit := 2 * HEADS * 28 * 5)
    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    grid_attention(make_attention((4, 7)).requires_grad_(False), tokens(2, 4, 7))

    assert max(held) <= limit and sum(held) == 2 * HEADS * 28 * 28


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
