from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lessons import example, tiny_model
from tiny import tiny_sam

from napari_clipsam.adapters.base import AdapterConfig
from napari_clipsam.adapters.inject import Adapter, build_adapter
from napari_clipsam.errors import Stopped
from napari_clipsam.inference.objects import ObjectFinder
from napari_clipsam.models.registry import LoadedModel
from napari_clipsam.training.metrics import dice
from napari_clipsam.training.scoring import (
    Scorer,
    _objects,
    choose_threshold,
    held_out_scores,
)

shares = st.lists(st.floats(0.001, 0.999), min_size=1, max_size=8)


@given(shares, shares)
def test_no_plane_that_was_seen_with_the_word_is_refused(
    present: list[float], absent: list[float]
) -> None:
    threshold = choose_threshold(present, absent)
    assert 0 < threshold < min(present)
    assert threshold <= 0.5


def test_planes_that_can_be_told_apart_are() -> None:
    assert 0.1 < choose_threshold([0.6, 0.9], [0.01, 0.1]) < 0.6


def test_without_absent_words_there_is_room_below() -> None:
    assert choose_threshold([0.4, 0.8], []) == pytest.approx(0.2)
    assert choose_threshold([], [0.1]) == 0.5


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny_model()


@pytest.fixture(scope="module")
def adapter(model: LoadedModel) -> Adapter:
    made = build_adapter(AdapterConfig(n_conditioned=1), model.sam, model.clip, seed=0)
    return made.with_info(words=("blobs",), threshold=0.999)


def test_the_threshold_is_left_aside_but_not_for_those_who_ask_meanwhile(
    model: LoadedModel, adapter: Adapter
) -> None:
    seen: list[float | None] = []
    scorer = Scorer(
        model, [example(0), example(1)], "concept", lambda: seen.append(adapter.info.threshold)
    )
    scores = scorer.measure(adapter)
    scorer.presences(adapter, ["cars"])
    assert seen and set(seen) == {0.999}
    assert len(scores.presence) == 2 and max(scores.presence) < 0.999
    assert scores.preview.mask.any(), "nothing is refused"
    assert scores.preview.example.plane.name == "stack Z=0"


def test_dice_is_that_of_the_known_pixels(model: LoadedModel, adapter: Adapter) -> None:
    whole = example(0)
    known = np.zeros(whole.labels.shape, bool)
    known[20:] = True
    scorer = Scorer(model, [replace(whole, known=known)], "concept")
    scores = scorer.measure(adapter)
    mask = scores.preview.mask
    assert scores.dice == pytest.approx(dice(mask & known, (whole.labels > 0) & known))


def test_objects_are_clicked_where_labels_tell_them_apart(
    model: LoadedModel, adapter: Adapter
) -> None:
    both = held_out_scores(model, adapter, [example(0)], "both")
    assert set(both) == {"dice", "iou"}
    assert set(held_out_scores(model, adapter, [example(0)], "object")) == {"iou"}
    semantic = [example(0, objects=False)]
    assert set(held_out_scores(model, adapter, semantic, "both")) == {"dice"}


def test_objects_that_were_learnt_from_in_part_are_not_measured() -> None:
    whole = example(0)
    assert len(_objects(whole)) == 2
    known = np.zeros(whole.labels.shape, bool)
    known[:, 32:] = True  # the second object, and none of the first
    assert len(_objects(replace(whole, known=known))) == 1
    known[: np.argwhere(whole.labels == 2)[:, 0].min() + 3] = False
    assert not _objects(replace(whole, known=known))


def test_presences_end_in_time(model: LoadedModel, adapter: Adapter) -> None:
    scorer = Scorer(model, [example(0), example(1)], "concept")
    assert len(scorer.presences(adapter, ["cars", "trees"])) == 4
    assert len(scorer.presences(adapter, ["cars", "trees"], seconds=0.0)) == 1


def test_a_stop_ends_presences_with_what_was_found(model: LoadedModel, adapter: Adapter) -> None:
    calls: list[int] = []
    most = 10**6

    def check() -> None:
        calls.append(1)
        if len(calls) > most:
            raise Stopped("Stopped.")

    def asked() -> int:
        calls.clear()
        scorer = Scorer(model, [example(0), example(1)], "concept", check)
        return len(scorer.presences(adapter, ["cars", "trees"]))

    assert asked() == 4 and calls, "others go first"
    most = 3 * len(calls) // 4
    assert 0 < asked() < 4
    most = 0
    assert asked() == 0


def test_objects_are_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sam = tiny_sam(stem_widths=(8,) * 5, stem_blocks=(0,) * 5)
    monkeypatch.setattr(ObjectFinder, "closer", lambda *_: pytest.fail("it was taught otherwise"))
    scores = Scorer(replace(tiny_model(), sam=sam), [example(0)], "object").measure(None)
    assert scores.iou is not None
