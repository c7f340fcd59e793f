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
from napari_clipsam.models.refiner import ConceptRefiner, concept_input
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

    assert logits.shape == (count, 1, 32, 32) and quality.shape == (count,)
    for i, point in enumerate(points):
        one = decoder.object(embedding, ObjectPrompt(point[None], np.ones(1, int)), view.frame)
        best = one.iou[0].argmax()
        torch.testing.assert_close(logits[i, 0], one.logits[0, best], atol=1e-5, rtol=0)
        torch.testing.assert_close(quality[i], one.iou[0, best], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_clicks_to_redraw_bring_all_they_may_mean(
    segmenter: Segmenter, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, embedding = segmenter._decoder, segmenter._encoder.embedding(view, None)
    xy = torch.tensor([[20.0, 30.0], [5.0, 8.0], [40.0, 40.0]])
    best, quality = decoder.points(embedding, xy)
    monkeypatch.setattr(type(decoder), "refines", True)
    logits, same = decoder.points(embedding, xy)
    assert logits.shape == (3, 3, 32, 32)
    assert torch.equal(logits[:, :1], best) and torch.equal(quality, same)
    assert not torch.equal(logits[:, 1], logits[:, 2])


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


def test_concepts_are_redrawn_for_adapters_whose_concepts_the_refiner_knows(
    segmenter: Segmenter, make_adapter: Callable[..., Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, sam = segmenter._decoder, segmenter.model.sam
    monkeypatch.setattr(sam, "concept_refiner", ConceptRefiner((8, 16)).eval())
    assert not decoder.refines_concepts, "without an adapter"
    segmenter.set_adapter(make_adapter())
    assert not decoder.refines_concepts
    segmenter.set_adapter(make_adapter(redrawn_concepts=True))
    assert decoder.refines_concepts
    windows = torch.rand(2, 5, 96, 96)
    logits = decoder.refine_concept(windows[:, :3] * 255, windows[:, 3], windows[:, 4])
    assert logits.shape == (2, 96, 96)
    monkeypatch.setattr(sam, "concept_refiner", None)
    assert not decoder.refines_concepts


def test_an_adapters_own_refiner_goes_before_the_bases(
    segmenter: Segmenter, make_adapter: Callable[..., Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, own = segmenter._decoder, ConceptRefiner((8, 16)).eval()
    monkeypatch.setattr(segmenter.model.sam, "concept_refiner", ConceptRefiner((8, 16)).eval())
    segmenter.set_adapter(make_adapter().with_refiner(own))
    rgb, chance, alike = (
        torch.rand(1, 3, 96, 96) * 255,
        torch.rand(1, 96, 96),
        torch.rand(1, 96, 96),
    )
    drawn = decoder.refine_concept(rgb, chance, alike)
    assert torch.equal(drawn, own(concept_input(rgb, chance, alike)))
