"""Concepts redrawn in windows: that all of a crop is drawn, once, where it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from napari_clipsam.inference.concept_windows import ConceptMaps, redraw_concept, resized


def scene(shape: tuple[int, int]) -> tuple[np.ndarray, Tensor, np.ndarray]:
    """Pixels, logits and similarity of a crop, each with a slope of its own."""
    rows, cols = np.indices(shape)
    rgb = np.stack([rows % 256, cols % 256, (rows + cols) % 256], axis=-1).astype(np.uint8)
    logits = torch.from_numpy(rows - cols).float() / 20
    grid = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    return rgb, logits, grid


class Refiner:
    """Draws what it was told, as logits."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, rgb: Tensor, chance: Tensor, similarity: Tensor) -> Tensor:
        self.sizes.append(len(rgb))
        return torch.logit(chance, eps=1e-6)


@given(st.tuples(st.integers(1, 300), st.integers(1, 300)))
def test_small_crops_come_back_pixel_by_pixel(shape: tuple[int, int]) -> None:
    rgb, logits, grid = scene(shape)
    drawn = redraw_concept(Refiner(), ConceptMaps.of(rgb, logits, grid, longest=512))
    torch.testing.assert_close(drawn.clamp(-9, 9), logits.clamp(-9, 9), atol=0.05, rtol=0)


@pytest.mark.parametrize("shape", [(700, 1300), (90, 600)])
def test_large_crops_are_drawn_on_coarser_cells(shape: tuple[int, int]) -> None:
    rgb, logits, grid = scene(shape)
    maps = ConceptMaps.of(rgb, logits, grid, longest=256)
    assert max(maps.chance.shape) == 256 and maps.rgb.shape[:2] == maps.chance.shape
    assert maps.similarity.shape == maps.chance.shape
    drawn = resized(redraw_concept(Refiner(), maps), shape)
    assert drawn.shape == shape
    agree = (drawn > 0) == (logits > 0)
    assert agree.float().mean() > 0.99


def test_memory_does_not_grow_with_the_plane() -> None:
    refiner = Refiner()
    redraw_concept(refiner, ConceptMaps.of(*scene((500, 500)), longest=512))
    assert sum(refiner.sizes) > 30 and max(refiner.sizes) <= 8


def test_a_refiner_sees_pixels_under_their_chance() -> None:
    seen = []

    def refine(rgb: Tensor, chance: Tensor, similarity: Tensor) -> Tensor:
        seen.append(torch.stack([rgb[:, 0], chance * 255, similarity * 255], dim=1))
        return chance

    ramp = np.tile(np.linspace(10, 245, 200), (200, 1))
    rgb = np.repeat(ramp.round().astype(np.uint8)[..., None], 3, axis=-1)
    logits = torch.logit(torch.from_numpy(ramp / 255)).float()
    similarity = (ramp / 255).astype(np.float32)
    redraw_concept(refine, ConceptMaps.of(rgb, logits, similarity, longest=512))
    pixels, chance, alike = torch.cat(seen).unbind(1)
    torch.testing.assert_close(pixels, chance, atol=1, rtol=0)
    torch.testing.assert_close(pixels, alike, atol=1, rtol=0)
