"""Many clicks at once, and what the decoder is given."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from napari_clipsam.adapters.inject import Adapter
from napari_clipsam.geometry import whole_plane
from napari_clipsam.inference.decoding import ObjectPrompt, PromptDecoder
from napari_clipsam.inference.encoding import PlaneEncoder, View
from napari_clipsam.inference.segmenter import Segmenter
from napari_clipsam.models.registry import LoadedModel
from napari_clipsam.planes import Plane

SHAPE = (48, 64)
NONE = np.zeros((0, 2)), np.zeros(0, np.int64)


@pytest.fixture
def decoder(segmenter: Segmenter) -> PromptDecoder:
    return segmenter._decoder


@pytest.fixture
def encoder(segmenter: Segmenter) -> PlaneEncoder:
    return segmenter._encoder


@pytest.fixture
def view(make_plane: Callable[..., Plane]) -> View:
    return View(make_plane(SHAPE), whole_plane(SHAPE, 64))


@pytest.mark.parametrize("count", [1, 4, 11])
@torch.inference_mode()
def test_many_clicks_are_as_many_single_ones(
    decoder: PromptDecoder, encoder: PlaneEncoder, view: View, count: int
) -> None:
    embedding = encoder.embedding(view, None)
    points = np.random.default_rng(0).uniform(0, 47, (count, 2))
    xy = torch.as_tensor(view.frame.to_model(points), dtype=torch.float32)
    logits, quality = decoder.points(embedding, xy)

    assert logits.shape == (count, 32, 32) and quality.shape == (count,)
    for i, point in enumerate(points):
        one = decoder.object(embedding, ObjectPrompt(point[None], np.ones(1, int)), view.frame)
        best = one.iou[0].argmax()
        torch.testing.assert_close(logits[i], one.logits[0, best], atol=1e-5, rtol=0)
        torch.testing.assert_close(quality[i], one.iou[0, best], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_clicks_of_an_adapter_carry_its_target(
    segmenter: Segmenter, make_adapter: Callable[..., Adapter], view: View
) -> None:
    adapter = make_adapter()
    segmenter.set_adapter(adapter)
    embedding = segmenter._encoder.embedding(view, "nuclei")
    xy = torch.tensor([[20.0, 30.0]])
    before, _ = segmenter._decoder.points(embedding, xy)
    adapter.target_token.weight[0] += 1  # concept
    same, _ = segmenter._decoder.points(embedding, xy)
    adapter.target_token.weight[1] += 1  # object
    other, _ = segmenter._decoder.points(embedding, xy)

    assert torch.equal(before, same)
    assert (before - other).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("prompt", "masks"),
    [
        (ObjectPrompt(np.ones((1, 2)), np.ones(1, int)), 3),
        (ObjectPrompt(np.ones((2, 2)), np.ones(2, int)), 1),
        (ObjectPrompt(np.ones((1, 2)), np.ones(1, int), np.array([0, 0, 9, 9.0])), 1),
        (ObjectPrompt(*NONE, np.array([0, 0, 9, 9.0])), 1),
        (ObjectPrompt(np.ones((1, 2)), np.ones(1, int), None, np.zeros((32, 32), np.float32)), 1),
        (ObjectPrompt(*NONE, None, np.zeros((32, 32), np.float32)), 1),
    ],
    ids=["click", "points", "click in box", "box", "click on mask", "mask"],
)
@torch.inference_mode()
def test_only_a_single_click_is_ambiguous(
    decoder: PromptDecoder, encoder: PlaneEncoder, view: View, prompt: ObjectPrompt, masks: int
) -> None:
    found = decoder.object(encoder.embedding(view, None), prompt, view.frame)

    assert found.logits.shape == (1, masks, 32, 32) and found.iou.shape == (1, masks)


@torch.inference_mode()
def test_places_are_made_once_and_exact(
    model: LoadedModel, make_adapter: Callable[..., Adapter], view: View
) -> None:
    segmenter = Segmenter(model, None, "cpu", "bf16")
    decoder, xy = segmenter._decoder, torch.tensor([[20.0, 30.0]])
    decoder.points(segmenter._encoder.embedding(view, None), xy)
    places = decoder._grid[1]
    decoder.points(segmenter._encoder.embedding(view, None), xy)

    assert decoder._grid[1] is places
    assert torch.equal(places, model.sam.prompt_encoder.get_dense_pe())
    adapter = make_adapter()
    segmenter.set_adapter(adapter)
    decoder.points(segmenter._encoder.embedding(view, "nuclei"), xy)
    assert torch.equal(decoder._grid[1], adapter.prompt_encoder.get_dense_pe())
    assert not torch.equal(decoder._grid[1], places)
