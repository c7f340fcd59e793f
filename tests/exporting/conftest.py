"""A Segmenter of tiny networks with an adapter that finds part of a plane of noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tiny import randomise, tiny_clip, tiny_sam

from napari_clipsam.adapters.base import AdapterConfig
from napari_clipsam.adapters.inject import build_adapter
from napari_clipsam.inference.segmenter import Segmenter
from napari_clipsam.models.registry import LoadedModel
from napari_clipsam.planes import Plane, open_image

MakeSegmenter = Callable[..., Segmenter]


@pytest.fixture
def make_segmenter() -> MakeSegmenter:
    """Segmenters with a random adapter; keywords go to its configuration or its info."""

    def make(seed: int = 0, **changes: object) -> Segmenter:
        names = ("words", "threshold", "provenance", "scores")
        info = {name: changes.pop(name) for name in names if name in changes}
        model = LoadedModel("tiny", tiny_sam(), tiny_clip(), None)
        config = AdapterConfig(**{"n_conditioned": 1, **changes})
        adapter = build_adapter(config, model.sam, model.clip, seed=0)
        randomise(adapter, seed, spread=0.3)
        return Segmenter(model, adapter.with_info(**info), device="cpu")

    return make


@pytest.fixture(scope="session")
def make_plane() -> Callable[..., Plane]:
    """Planes of noise, the same for a seed."""

    def make(shape: tuple[int, int] = (48, 64), seed: int = 0) -> Plane:
        rng = np.random.default_rng(seed)
        return open_image(rng.integers(0, 255, (*shape, 3), dtype=np.uint8)).plane()

    return make
