"""An answer can be ended, or wait for others, between any two parts of the networks."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from napari_clipsam.adapters.inject import Adapter
from napari_clipsam.errors import Stopped
from napari_clipsam.inference.requests import Prediction, PredictRequest
from napari_clipsam.inference.segmenter import Segmenter
from napari_clipsam.models.registry import LoadedModel
from napari_clipsam.planes import Plane
from napari_clipsam.prompts import Prompts

MakeAdapter = Callable[..., Adapter]
MakePlane = Callable[..., Plane]
CLICK, WORD = Prompts(points=[(20, 30)]), Prompts("nuclei")


def equal(a: Prediction, b: Prediction) -> bool:
    """Whether two answers hold the same masks and scores, to the last bit."""
    pairs = list(zip(a.objects, b.objects, strict=True))
    return a.presence == b.presence and all(
        (x.box, x.score) == (y.box, y.score) and np.array_equal(x.logits, y.logits)
        for x, y in pairs
    )


class Countdown:
    """Raises at the call of a number, and counts."""

    def __init__(self, last: int | None = None) -> None:
        self.last, self.calls = last, 0

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == self.last:
            raise Stopped("Stopped.")


@pytest.fixture
def ready(segmenter: Segmenter, make_adapter: MakeAdapter) -> Segmenter:
    # Computed once for all Segmenters of a CLIP: the first would be checked more often.
    segmenter.model.clip.redundant()
    segmenter.set_adapter(make_adapter(words=("nuclei",)))
    return segmenter


@pytest.mark.parametrize("target", ["concept", "instances"])
def test_a_stop_between_any_two_blocks_leaves_the_segmenter_whole(
    ready: Segmenter, model: LoadedModel, make_plane: MakePlane, target: str
) -> None:
    request = PredictRequest(make_plane(), WORD, target)
    counted = ready.check = Countdown()
    wanted = ready.answer(request)
    blocks = model.sam.config.depth + len(model.clip.vision_attention())
    assert counted.calls > blocks

    for last in range(1, counted.calls + 1):
        fresh = Segmenter(model, ready.adapter, device="cpu")
        fresh.check = Countdown(last)
        with pytest.raises(Stopped):
            fresh.answer(request)
        fresh.check = None
        assert equal(fresh.answer(request), wanted)
        assert max(fresh.calls[stage] for stage in ("trunk", "clip", "head")) <= 2


def test_other_answers_may_come_in_between(ready: Segmenter, make_plane: MakePlane) -> None:
    outer = PredictRequest(make_plane(seed=1), WORD, "instances")
    # On the same plane too: what both need is made twice or once, and kept once.
    inner = [PredictRequest(make_plane(seed=seed), CLICK) for seed in (1, 2)]
    alone = [ready.answer(request) for request in (outer, *inner)]
    kept = ready._encoder._trunks.bytes
    ready._encoder.clear()
    between: list[Prediction] = []

    def answer_clicks() -> None:
        ready.check = None
        between.extend(ready.answer(request) for request in inner)
        time.sleep(0.05)
        ready.check = answer_clicks

    ready.check = answer_clicks
    start = time.perf_counter()
    found = ready.answer(outer)
    waited = time.perf_counter() - start

    assert equal(found, alone[0])
    assert len(between) >= 2 * 6
    for one, wanted in zip(between, alone[1:] * (len(between) // 2), strict=True):
        assert equal(one, wanted)
    assert ready._encoder._trunks.bytes == kept
    assert sum(found.seconds.values()) < waited - 0.05 * len(between) / 2


def test_an_answer_ends_when_the_adapter_is_changed_under_it(
    ready: Segmenter, model: LoadedModel, make_adapter: MakeAdapter, make_plane: MakePlane
) -> None:
    request = PredictRequest(make_plane(), WORD, "concept")
    former, other = ready.adapter, make_adapter(4, words=("nuclei",))
    counted = ready.check = Countdown()
    wanted = ready.answer(request)

    for turn in range(1, counted.calls + 1):
        fresh = Segmenter(model, former, device="cpu")
        calls = Countdown()

        def swap(fresh: Segmenter = fresh, calls: Countdown = calls, turn: int = turn) -> None:
            calls()
            if calls.calls == turn:
                fresh.set_adapter(other)

        fresh.check = swap
        with pytest.raises(Stopped, match="Ask again"):
            fresh.answer(request)
        fresh.check = None
        by_other = fresh.answer(request)
        fresh.set_adapter(former)
        assert equal(fresh.answer(request), wanted)
        assert not equal(by_other, wanted)
