from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import SAM_CONFIG

from napari_clipsam.training.windows import Window, draw_window, may_be_cut

SHAPE = replace(SAM_CONFIG, global_attn_indexes=(), window_size=2)  # 8 x 8 tokens, 32 x 32 cells


@given(st.integers(0, 4), st.integers(0, 4))
def test_all_maps_are_cut_at_the_same_place(row: int, column: int) -> None:
    window = Window(row, column, 4, 8, 8)
    pixels = torch.arange(64 * 64).view(1, 64, 64)
    x, y = window.offset(torch.zeros(2)).int().tolist()
    assert torch.equal(window.cut(pixels), pixels[:, y : y + 32, x : x + 32])
    tokens = torch.arange(64).view(1, 8, 8, 1)
    assert torch.equal(window.cut_tokens(tokens)[..., 0], window.cut(tokens[..., 0]))
    assert window.pixels == 32


def test_the_whole_leaves_maps_as_they_are() -> None:
    maps = torch.rand(2, 3, 32, 32)
    assert torch.equal(Window.whole(SHAPE).cut(maps), maps)


@given(st.integers(0, 31), st.integers(0, 31), st.integers(0, 1 << 16))
def test_what_is_shown_is_in_the_window(y: int, x: int, seed: int) -> None:
    shown = torch.zeros(1, 32, 32)
    shown[0, max(0, y - 2) : y + 3, max(0, x - 2) : x + 3] = 1
    window = draw_window(shown, SHAPE, torch.Generator().manual_seed(seed))
    assert window.cut(shown).any()
    assert window.row % 2 == window.column % 2 == 0, "along the windows of the attention"
    assert 0 <= window.row <= 4 and 0 <= window.column <= 4


@given(st.integers(0, 31), st.integers(0, 31), st.integers(0, 1 << 16))
def test_there_is_something_to_click_on_in_the_window(y: int, x: int, seed: int) -> None:
    shown = torch.zeros(1, 32, 32)
    shown[0, 5] = 0.4  # a line too thin to click on
    shown[0, y, x] = 1
    window = draw_window(shown, SHAPE, torch.Generator().manual_seed(seed))
    assert (window.cut(shown) > 0.5).any()


def test_windows_differ_where_there_is_a_choice() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = {draw_window(torch.ones(1, 32, 32), SHAPE, generator) for _ in range(200)}
    assert len(drawn) == 9


@pytest.mark.parametrize(
    ("changes", "split", "cut"),
    [
        ({}, 1, True),
        ({"global_attn_indexes": (0,)}, 1, True),
        ({"global_attn_indexes": (1,)}, 1, False),
        ({"window_size": 3}, 1, False),
        ({"window_size": 4}, 1, False),
    ],
)
def test_only_heads_that_attend_in_windows_are_cut(changes: dict, split: int, cut: bool) -> None:
    assert may_be_cut(replace(SHAPE, **changes), split) is cut
