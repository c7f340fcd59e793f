from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from napari_clipsam.training.augment import Crop, draw_crop, relight

seeds = st.integers(0, 1 << 20)


@given(st.integers(1, 90), st.integers(1, 90), seeds, st.floats(8, 200))
def test_a_crop_lies_in_its_plane(height: int, width: int, seed: int, side: float) -> None:
    shown = np.ones((height, width), bool)
    crop = draw_crop(shown, np.random.default_rng(seed), side)
    part = crop.of(np.arange(height * width).reshape(height, width))
    assert part.size and len(np.unique(part)) == part.size
    assert 0 <= crop.rows.start < crop.rows.stop <= height
    assert 0 <= crop.columns.start < crop.columns.stop <= width


@given(seeds)
def test_pixels_and_labels_are_turned_alike(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, (70, 50))
    crop = draw_crop(labels > 0, rng, 60)
    rgb = np.repeat(labels[..., None], 3, axis=2)
    np.testing.assert_array_equal(crop.of(rgb)[..., 1], crop.of(labels))


@given(st.integers(0, 380), st.integers(0, 380), seeds)
def test_a_crop_shows_the_structure_where_it_can(y: int, x: int, seed: int) -> None:
    shown = np.zeros((400, 400), bool)
    shown[y : y + 20, x : x + 20] = True
    crop = draw_crop(shown, np.random.default_rng(seed), 400)
    assert crop.of(shown).any()


def test_turns_and_mirrors() -> None:
    pixels = np.array([[1, 2], [3, 4]])
    whole = slice(0, 2), slice(0, 2)
    np.testing.assert_array_equal(Crop(*whole, turns=1).of(pixels), [[2, 4], [1, 3]])
    np.testing.assert_array_equal(Crop(*whole, mirrored=True).of(pixels), [[2, 1], [4, 3]])


@given(seeds)
def test_light_changes_but_a_grey_image_stays_grey(seed: int) -> None:
    rng = np.random.default_rng(seed)
    grey = np.repeat(rng.integers(30, 220, (24, 24, 1), np.uint8), 3, axis=2)
    changed = relight(grey, rng)
    assert changed.dtype == np.uint8 and changed.shape == grey.shape
    assert (changed == changed[..., :1]).all()
    coloured = rng.integers(30, 220, (4, 4, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    lit = relight(coloured, rng).astype(int)
    assert (lit != coloured).any()
    # Bright stays brighter than dark.
    assert np.corrcoef(lit.ravel(), coloured.ravel())[0, 1] > 0.9
