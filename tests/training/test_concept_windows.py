"""Windows on labelled planes: what a refiner is shown, and that all of it fits together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lessons import example, tiny_model

from napari_clipsam import Prompts, Segmenter
from napari_clipsam.adapters.base import AdapterConfig
from napari_clipsam.adapters.inject import build_adapter
from napari_clipsam.inference.concept_windows import ConceptMaps
from napari_clipsam.inference.encoding import PlaneEncoder
from napari_clipsam.inference.requests import PredictRequest
from napari_clipsam.models.refiner import WINDOW
from napari_clipsam.training.concept_windows import (
    KEPT,
    ConceptWindows,
    doubted,
    labelled_maps,
    moved,
    squares,
    turned,
    with_room,
)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    model = tiny_model()
    adapter = build_adapter(AdapterConfig(n_conditioned=1), model.sam, model.clip, seed=0)
    adapter.teach("blobs")
    return Segmenter(model, adapter, "cpu")


def windows(seed: int = 0, batch: int = 8) -> ConceptWindows:
    """Windows on a map whose structure is what the adapter says, is alike, bright and known."""
    rows, cols = np.indices((KEPT, KEPT + 30))
    there = ((rows // 24 + cols // 24) % 2 * 255).astype(np.uint8)
    return ConceptWindows([np.stack([there] * 7)], batch, seed, torch.device("cpu"))


def test_a_small_plane_is_one_map_with_room_around_it(segmenter: Segmenter) -> None:
    shown = example(1)
    (maps,) = labelled_maps(segmenter, shown)
    assert maps.shape == (7, KEPT, KEPT) and maps.dtype == np.uint8
    edge = (KEPT - 64) // 2
    inside = maps[:, edge : edge + 64, edge : edge + 64]
    assert np.array_equal(inside[:3], shown.plane.rgb.transpose(2, 0, 1))
    assert np.array_equal(inside[5] > 127, shown.labels > 0)
    assert (maps[6] == 255).all(), "all is known"


def test_a_plane_that_is_looked_at_at_two_scales_is_shown_at_both(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PlaneEncoder, "sees_two_scales", True)
    once, twice = labelled_maps(segmenter, example(1))
    assert not np.array_equal(once[3], twice[3]), "the chance"
    for channel in (0, 1, 2, 4, 5, 6):
        assert np.array_equal(once[channel], twice[channel])
    word = Prompts("blobs")
    segmenter.adapter.with_info(threshold=0.0)
    answer = segmenter.answer(PredictRequest(example(1).plane, word, "concept")).mask()
    edge = (KEPT - 64) // 2
    assert np.array_equal(twice[3, edge : edge + 64, edge : edge + 64] > 127, answer)


def test_what_is_not_known_is_said(segmenter: Segmenter) -> None:
    known = np.zeros((64, 64), bool)
    known[:, :40] = True
    (maps,) = labelled_maps(segmenter, replace(example(1), known=known))
    edge = (KEPT - 64) // 2
    assert np.array_equal(maps[6, edge : edge + 64, edge : edge + 64] > 127, known)


def test_planes_that_show_nothing_of_it_are_left_out(segmenter: Segmenter) -> None:
    empty = example(1)
    nothing = replace(empty, labels=np.zeros_like(empty.labels))
    assert not list(labelled_maps(segmenter, nothing))
    assert not list(labelled_maps(segmenter, replace(empty, known=empty.labels == 0)))


def test_of_a_large_plane_a_few_tiles_are_shown(segmenter: Segmenter) -> None:
    shown = example(1, side=900)
    assert 1 < len(list(labelled_maps(segmenter, shown))) <= 4


@given(st.integers(1, 200), st.integers(1, 200))
def test_room_is_made_evenly(rows: int, cols: int) -> None:
    value = torch.full((rows, cols), 0.5)
    rgb = np.full((rows, cols, 3), 7, np.uint8)
    maps = with_room(ConceptMaps(rgb, value, value), [value])
    assert maps.shape == (6, max(rows, KEPT), max(cols, KEPT))
    assert (maps[:3] == 7).all() and (maps[3:] == 128).all()


def test_all_maps_of_a_window_move_and_turn_together() -> None:
    drawn = torch.stack(windows().draw())
    assert drawn.shape == (8, 7, WINDOW, WINDOW)
    truth = drawn[:, 5] > 0.5
    assert torch.equal(truth, drawn[:, 4] > 0.5) and torch.equal(truth, drawn[:, 6] > 0.5)
    bright = drawn[:, 0] > drawn[:, 0].mean(dim=(1, 2), keepdim=True)
    assert (bright == truth).float().mean() > 0.9


def test_the_same_seed_draws_the_same_windows_and_no_two_steps_alike() -> None:
    one, other = windows(3), windows(3)
    first = one.draw()
    assert all(torch.equal(a, b) for a, b in zip(first, other.draw(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, one.draw(), strict=True))


def test_chances_become_less_or_more_certain_and_stay_in_order() -> None:
    chance = torch.linspace(0.01, 0.99, 16).view(1, 4, 4).expand(64, 4, 4)
    shown = doubted(chance, torch.Generator().manual_seed(0))
    assert ((shown > 0) & (shown < 1)).all()
    assert (shown.flatten(1).diff(dim=1) > 0).all()
    assert shown[:, 0, 0].std() > 0.001 and shown[:, 1, 3].std() > 0.05


def test_squares_are_cut_where_they_were_asked_for() -> None:
    maps = torch.arange(100.0).view(1, 1, 10, 10)
    cut = squares(maps, torch.tensor([[2.0, 3.0]]), torch.tensor([[4.0]]), 4)
    torch.testing.assert_close(cut[0, 0], maps[0, 0, 2:6, 3:7])


def test_squares_move_within_what_is_kept() -> None:
    rows, cols = torch.meshgrid(torch.arange(KEPT), torch.arange(KEPT), indexing="ij")
    maps = torch.stack([rows, cols]).float().expand(32, 2, KEPT, KEPT)
    cut = moved(maps, torch.Generator().manual_seed(0))
    widths = cut[:, 0, -1, 0] - cut[:, 0, 0, 0]
    assert widths.min() < 0.8 * WINDOW and widths.max() > 1.2 * WINDOW
    assert cut.min() >= 0 and cut.max() <= KEPT - 1


def test_a_turn_keeps_what_is_seen() -> None:
    maps = torch.arange(32.0).view(1, 2, 4, 4)
    ways = {
        tuple(turned(maps, np.random.default_rng(seed)).flatten().tolist()) for seed in range(60)
    }
    assert len(ways) == 8
    assert all(sorted(way) == list(range(32)) for way in ways)
