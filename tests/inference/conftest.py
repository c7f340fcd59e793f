"""Tiny networks that work together, and planes to show them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tiny import randomise, tiny_clip, tiny_sam

from napari_clipsam.adapters.base import AdapterConfig
from napari_clipsam.adapters.inject import Adapter, build_adapter
from napari_clipsam.inference.segmenter import Segmenter
from napari_clipsam.models.clip import Clip
from napari_clipsam.models.registry import LoadedModel
from napari_clipsam.planes import Plane, open_image


@pytest.fixture(scope="session")
def clip() -> Clip:
    return tiny_clip()


@pytest.fixture
def model(clip: Clip) -> LoadedModel:
    """A SAM of 64 pixels with a CLIP of an open vocabulary."""
    return LoadedModel("tiny", tiny_sam(), clip, None)


@pytest.fixture
def segmenter(model: LoadedModel) -> Segmenter:
    """On the CPU, without an adapter."""
    return Segmenter(model, device="cpu")


@pytest.fixture
def make_adapter(model: LoadedModel) -> Callable[..., Adapter]:
    """Adapters for the model with random weights; keywords go to the configuration or the info.

    Those of the seeds 0 and 4 find part of a plane of noise, whatever the word.
    """

    def make(seed: int = 0, **changes: object) -> Adapter:
        info = {k: changes.pop(k) for k in ("words", "threshold") if k in changes}
        config = AdapterConfig(**{"n_conditioned": 1, **changes})
        adapter = build_adapter(config, model.sam, model.clip, seed=0)
        randomise(adapter, seed, spread=0.3)
        return adapter.with_info(**info)

    return make


@pytest.fixture(scope="session")
def make_plane() -> Callable[..., Plane]:
    """Planes of noise, the same for a seed."""

    def make(shape: tuple[int, int] = (48, 64), seed: int = 0) -> Plane:
        rng = np.random.default_rng(seed)
        return open_image(rng.integers(0, 255, (*shape, 3), dtype=np.uint8)).plane()

    return make
