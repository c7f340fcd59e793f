"""What reduced precision may change, and what not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from napari_clipsam.geometry import whole_plane
from napari_clipsam.inference import encoding
from napari_clipsam.inference.ahead import Ahead
from napari_clipsam.inference.encoding import View
from napari_clipsam.inference.requests import PredictRequest
from napari_clipsam.inference.segmenter import Segmenter
from napari_clipsam.prompts import Prompts

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_clipsam.adapters.inject import Adapter
    from napari_clipsam.models.registry import LoadedModel
    from napari_clipsam.planes import Plane


@torch.inference_mode()
def test_clips_features_keep_full_precision(
    model: LoadedModel, make_plane: Callable[..., Plane]
) -> None:
    view = View(make_plane((40, 60)), whole_plane((40, 60), 64))
    full, half = (Segmenter(model, None, "cpu", name)._encoder for name in ("fp32", "bf16"))

    assert torch.equal(half.dense(view), full.dense(view).half().float())
    assert not torch.equal(half.trunk(view), full.trunk(view).half().float())


def test_on_a_gpu_the_head_runs_once_for_all_words_in_all_planes(
    segmenter: Segmenter,
    make_adapter: Callable[..., Adapter],
    make_plane: Callable[..., Plane],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    segmenter.set_adapter(make_adapter(words=("nuclei",)))
    planes, words = [make_plane(seed=seed) for seed in (0, 1)], ["nuclei", "cells", "Nuclei"]
    requests = [PredictRequest(plane, Prompts(word)) for plane in planes for word in words]
    one_by_one = [segmenter.answer(request) for request in requests]
    segmenter._encoder.clear()
    segmenter.calls.clear()
    monkeypatch.setattr(Ahead, "heads_together", True)
    segmenter.ahead.encode_planes(planes, words)
    assert segmenter.calls == {"trunk": 1, "clip": 1, "text": 2, "head": 1}

    together = [segmenter.answer(request) for request in requests]
    assert segmenter.calls["head"] == 1
    assert together[0].seconds["trunk"] > 0 == together[1].seconds["trunk"]
    for mine, other in zip(together, one_by_one, strict=True):
        assert (mine.match, mine.note) == (other.match, other.note)
        assert mine.presence == pytest.approx(other.presence, abs=1e-5)
        for a, b in zip(mine.objects, other.objects, strict=True):
            np.testing.assert_allclose(a.logits, b.logits, atol=1e-4)


def test_on_a_cpu_words_go_one_by_one(
    segmenter: Segmenter, make_adapter: Callable[..., Adapter], make_plane: Callable[..., Plane]
) -> None:
    segmenter.set_adapter(make_adapter())
    segmenter.ahead.encode_planes([make_plane()], ["nuclei", "cells"])
    assert "head" not in segmenter.calls and segmenter.calls["trunk"] == 1


def test_a_batch_that_the_caches_hold_is_computed_once(
    model: LoadedModel,
    make_adapter: Callable[..., Adapter],
    make_plane: Callable[..., Plane],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words, adapter = ["nuclei", "cells"], make_adapter(own_objects=False, conditioned_objects=False)
    segmenter = Segmenter(model, adapter, "cpu", cache_bytes=170_000)
    monkeypatch.setattr(Ahead, "heads_together", True)
    most = segmenter.ahead.most_planes(len(words))
    planes = [make_plane(seed=seed) for seed in range(most)]
    segmenter.ahead.encode_planes(planes, words)
    segmenter.calls.clear()
    for plane in planes:
        for word in words:
            segmenter.answer(PredictRequest(plane, Prompts(word), "instances"))

    assert most == 3
    assert segmenter.calls["trunk"] == segmenter.calls["clip"] == 0
    # The base's embeddings, from which objects are decoded.
    assert segmenter.calls["head"] == most


@pytest.mark.parametrize("count", [1, 3])
def test_pixels_go_to_the_device_once_for_trunk_and_clip(
    segmenter: Segmenter,
    make_plane: Callable[..., Plane],
    monkeypatch: pytest.MonkeyPatch,
    count: int,
) -> None:
    sent = []
    monkeypatch.setattr(encoding, "to_device", lambda pixels, device: sent.append(1) or pixels)
    segmenter.ahead.encode_planes([make_plane(seed=seed) for seed in range(count)])

    assert segmenter.calls["trunk"] == segmenter.calls["clip"] == 1
    assert len(sent) == count
