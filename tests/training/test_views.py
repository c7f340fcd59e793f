from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from lessons import example, tiny_model

from napari_clipsam.adapters.base import AdapterConfig
from napari_clipsam.adapters.inject import build_adapter
from napari_clipsam.geometry import whole_plane
from napari_clipsam.inference.encoding import PlaneEncoder
from napari_clipsam.inference.encoding import View as EncodedView
from napari_clipsam.models.registry import LoadedModel
from napari_clipsam.training.samples import Example
from napari_clipsam.training.views import View, ViewMaker, gather

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny_model()


def make(
    model: LoadedModel,
    examples: Sequence[Example],
    count: int = 1,
    cache_trunk: bool = True,
    tuning: str = "none",
    dtype: torch.dtype = torch.float32,
) -> list[View]:
    config = AdapterConfig(n_conditioned=1, clip_tuning=tuning)
    adapter = build_adapter(config, model.sam, model.clip, seed=0)
    maker = ViewMaker(model, adapter, CPU, dtype, cache_trunk, lambda: None)
    return list(maker.views(examples, count, 0, False))


def test_the_plain_view_is_what_the_segmenter_sees(model: LoadedModel) -> None:
    shown = example(0, side=48)
    view = make(model, [shown])[0]
    encoder = PlaneEncoder(model.sam, model.clip, CPU, torch.float32, 1 << 20)
    encoder.split = model.sam.config.depth - 1
    seen = EncodedView(shown.plane, whole_plane(shown.plane.shape, 64))
    assert view.tokens is not None and view.dense is not None
    torch.testing.assert_close(view.tokens.float(), encoder.trunk(seen)[0], atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(view.dense.float(), encoder.dense(seen)[0], atol=1e-2, rtol=1e-2)


def test_half_precision_is_about_sam_as_it_is_in_use(model: LoadedModel) -> None:
    shown = [example(0, side=48)]
    exact, rounded = make(model, shown)[0], make(model, shown, dtype=torch.bfloat16)[0]

    assert exact.dense is not None and rounded.dense is not None
    assert torch.equal(exact.dense, rounded.dense)
    assert not torch.equal(exact.tokens, rounded.tokens)


def test_targets_lie_over_the_plane_and_not_over_the_padding(model: LoadedModel) -> None:
    wide = example(0)
    cut = replace(
        wide,
        plane=replace(wide.plane, rgb=wide.plane.rgb[:32].copy()),
        labels=np.ones((32, 64), np.uint8),
    )
    view = make(model, [cut])[0]
    assert view.resized == (32, 64)
    assert view.concept[:16].eq(1).all() and view.concept[16:].eq(0).all()
    assert view.known[:16].eq(1).all() and view.known[16:].eq(0).all()


def test_objects_keep_their_numbers_and_shares_are_soft(model: LoadedModel) -> None:
    shown = example(3)
    view = make(model, [shown])[0]
    assert set(view.ids.unique().tolist()) == {0, 1, 2}
    area = float(view.concept.float().mean())
    assert area == pytest.approx((shown.labels > 0).mean(), abs=0.01)
    assert not make(model, [replace(shown, objects=False)])[0].ids.any()


def test_unknown_pixels_are_not_known(model: LoadedModel) -> None:
    known = np.ones((64, 64), bool)
    known[:, 40:] = False
    view = make(model, [replace(example(0), known=known)])[0]
    assert not view.known[:, 20:].any() and view.known[:, :20].all()
    assert not view.is_known and make(model, [example(0)])[0].is_known


def test_plain_views_come_first_and_a_seed_repeats_the_others(model: LoadedModel) -> None:
    examples = [example(0), example(1)]
    first, again = (make(model, examples, count=3) for _ in range(2))
    assert [view.example for view in first] == [0, 1, 0, 1, 0, 1]
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.tokens, other.tokens) and torch.equal(one.concept, other.concept)
    assert not torch.equal(first[0].concept, first[2].concept)


def test_a_large_plane_is_seen_in_a_few_tiles_that_show_something(model: LoadedModel) -> None:
    side = 320
    labels = np.zeros((side, side), np.uint8)
    labels[:40, :40] = 1
    rgb = np.repeat((60 + 100 * labels)[..., None], 3, axis=2).astype(np.uint8)
    large = example(0)
    large = replace(large, plane=replace(large.plane, rgb=rgb), labels=labels)
    views = make(model, [large], count=1)
    assert 1 <= len(views) <= 4
    assert all(view.shows for view in views)


def test_what_is_run_again_keeps_its_pixels(model: LoadedModel) -> None:
    cached = make(model, [example(0)])[0]
    assert cached.pixels is None and cached.tokens is not None
    again = make(model, [example(0)], cache_trunk=False)[0]
    assert again.tokens is None and again.pixels is not None
    tuned = make(model, [example(0)], tuning="lora")[0]
    assert tuned.dense is None and tuned.pixels is not None and tuned.tokens is not None
    batch = gather([again])
    tokens = model.sam.trunk(batch.pixels, model.sam.config.depth - 1)
    torch.testing.assert_close(tokens[0], cached.tokens.float(), atol=1e-2, rtol=1e-2)
