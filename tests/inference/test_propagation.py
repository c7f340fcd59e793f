"""Where objects are followed to, from which slice, and where they end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from slices import Asked, FakeSegmenter, disc, planes_of
from tiny import tiny_sam

from napari_clipsam.errors import ConfigError, PromptError, Stopped
from napari_clipsam.inference.masks import cut_to_box
from napari_clipsam.inference.propagation import (
    PropagationSettings,
    PropagationStep,
    propagate,
)
from napari_clipsam.inference.requests import ObjectMask
from napari_clipsam.inference.segmenter import Segmenter
from napari_clipsam.models.clip import Clip
from napari_clipsam.models.registry import LoadedModel
from napari_clipsam.planes import Plane
from napari_clipsam.prompts import Prompts

SHAPE = (40, 48)
LENIENT = PropagationSettings(min_score=0, min_overlap=0, min_contrast=0)


def column(extent: Iterable[int], depth: int = 20, x: float = 20, label: int = 1) -> NDArray:
    """An object that is the same disc in each slice of its extent."""
    labels = np.zeros((depth, *SHAPE), np.uint8)
    labels[list(extent)] = disc(SHAPE, 20, x, 6) * label
    return labels


def seed(labels: NDArray, z: int, label: int = 1, score: float = 0.9) -> ObjectMask:
    """The true mask of an object in a slice."""
    box, mask = cut_to_box(labels[z] == label, (0, 0))
    return ObjectMask(box, mask, score)


def follow(
    fake: FakeSegmenter,
    seeds: Mapping[str, Mapping[int, ObjectMask]],
    z_range: tuple[int, int] = (0, 19),
    **kwargs: object,
) -> list[PropagationStep]:
    return list(propagate(fake, planes_of(fake.labels), seeds, {}, z_range, **kwargs))


def found(steps: Iterable[PropagationStep], key: str = "a") -> list[int]:
    return sorted(step.z for step in steps if step.key == key and step.found is not None)


def whole(one: ObjectMask) -> NDArray[np.bool_]:
    full = np.zeros(SHAPE, bool)
    full[one.slices] = one.mask
    return full


# ---------------------------------------------------------------- how far


def test_an_object_is_followed_both_ways_to_its_ends() -> None:
    labels = column(range(4, 15))
    fake = FakeSegmenter(labels)
    steps = follow(fake, {"a": {9: seed(labels, 9)}})

    assert found(steps) == [4, 5, 6, 7, 8, 10, 11, 12, 13, 14]
    assert all(
        np.array_equal(whole(s.found), labels[s.z] == 1) for s in steps if s.found is not None
    )
    ended = {step.z: step.reason for step in steps if step.found is None}
    assert sorted(ended) == [3, 15] and all("Nothing of it is left" in r for r in ended.values())
    assert sorted(fake.slices) == [*range(3, 9), *range(10, 16)]


@given(
    data=st.data(),
    first=st.integers(0, 19),
    extent=st.tuples(st.integers(0, 19), st.integers(0, 19)).map(sorted),
)
def test_nothing_outside_the_range_is_touched(
    data: st.DataObject, first: int, extent: list[int]
) -> None:
    last = data.draw(st.integers(first, 19))
    present = range(extent[0], extent[1] + 1)
    labels = column(present)
    zs = data.draw(st.sets(st.sampled_from(present), min_size=1, max_size=3))
    inside = {z for z in zs if first <= z <= last}
    fake = FakeSegmenter(labels)
    seeds = {"a": {z: seed(labels, z) for z in zs}}
    if not inside:
        with pytest.raises(PromptError, match="Click one there, or widen the range"):
            follow(fake, seeds, (first, last))
        return
    steps = follow(fake, seeds, (first, last))

    assert all(first <= z <= last for z in [*fake.slices, *(s.z for s in steps)])
    assert not inside & set(fake.slices)
    assert found(steps) == sorted(set(present) & set(range(first, last + 1)) - inside)
    assert [step.done for step in steps] == list(range(1, len(steps) + 1))
    assert all(step.done <= step.total for step in steps)
    assert not steps or steps[-1].done == steps[-1].total


def test_two_prompted_slices_are_joined_from_both_sides() -> None:
    labels = column(range(20))
    fake = FakeSegmenter(labels)
    # Masks tell by their score from which side they come.
    fake.score = lambda asked: asked.previous.score
    steps = follow(
        fake, {"a": {4: seed(labels, 4, score=0.8), 13: seed(labels, 13, score=0.6)}}, (4, 13)
    )

    assert sorted(fake.slices) == list(range(5, 13))
    sides = {step.z: step.found.score for step in steps if step.found is not None}
    assert sides == {**dict.fromkeys(range(5, 9), 0.8), **dict.fromkeys(range(9, 13), 0.6)}


def test_an_object_lost_from_one_side_is_reached_from_the_other() -> None:
    labels = column(range(20))

    def score(asked: Asked) -> float:
        return 0.1 if asked.z == 6 and asked.previous.score > 0.85 else asked.previous.score

    steps = follow(
        FakeSegmenter(labels, score),
        {"a": {4: seed(labels, 4, score=0.9), 13: seed(labels, 13, score=0.8)}},
        (4, 13),
    )

    assert found(steps) == [*range(5, 13)]
    at_6 = [step.found is not None for step in steps if step.z == 6]
    assert at_6 == [False, True]


def test_an_object_that_is_gone_between_two_prompted_slices_stays_gone() -> None:
    labels = column([*range(7), *range(11, 20)])
    steps = follow(FakeSegmenter(labels), {"a": {2: seed(labels, 2), 15: seed(labels, 15)}})

    assert found(steps) == [0, 1, 3, 4, 5, 6, 11, 12, 13, 14, 16, 17, 18, 19]
    assert sorted(step.z for step in steps if step.found is None) == [7, 10]
    assert steps[-1].done == steps[-1].total == len(steps)


def test_nothing_goes_past_a_slice_that_is_said_to_be_empty() -> None:
    labels = column(range(20))
    nothing = ObjectMask((0, 0, 0, 0), np.zeros((0, 0), bool), 0.0)
    steps = follow(FakeSegmenter(labels), {"a": {5: seed(labels, 5), 8: nothing}})

    assert found(steps) == [0, 1, 2, 3, 4, 6, 7]


def test_a_correction_runs_again_only_beyond_it() -> None:
    labels = column(range(20))
    fake = FakeSegmenter(labels)
    corrected = seed(labels, 12, score=0.7)
    fake.score = lambda asked: asked.previous.score
    steps = follow(fake, {"a": {5: seed(labels, 5), 12: corrected}}, (12, 19))

    assert found(steps) == list(range(13, 20)) and min(fake.slices) == 13
    assert {step.found.score for step in steps if step.found is not None} == {0.7}


# ---------------------------------------------------------------- when it ends


def dim(labels: NDArray, faded: Iterable[int]) -> Callable[[int], Plane]:
    """Slices in some of which nothing stands out."""
    shown = labels.copy()
    shown[list(faded)] = 0
    return planes_of(shown)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("min_score", "The score fell from 0.90 to 0.30"),
        ("min_contrast", "It fades: 0% of its contrast is left"),
        ("min_overlap", "It shares only 3% with the slice before"),
    ],
)
def test_an_object_ends_where_it_drops_below_a_setting(setting: str, reason: str) -> None:
    labels = column(range(20))
    planes = planes_of(labels)
    score: Callable[[Asked], float] = lambda asked: 0.9  # noqa: E731
    if setting == "min_score":
        score = lambda asked: 0.3 if asked.z == 13 else 0.9  # noqa: E731
    elif setting == "min_contrast":
        planes = dim(labels, [13])
    else:
        labels[13] = disc(SHAPE, 20, 26, 1.5)
        planes = planes_of(labels)

    def steps(settings: PropagationSettings) -> list[PropagationStep]:
        fake = FakeSegmenter(labels, score)
        return list(
            propagate(fake, planes, {"a": {10: seed(labels, 10)}}, {}, (10, 19), 1, settings)
        )

    ended = steps(PropagationSettings())
    assert found(ended) == [11, 12]
    assert ended[-1].z == 13 and ended[-1].reason.startswith(reason)
    others = [name for name in ("min_score", "min_contrast", "min_overlap") if name != setting]
    assert found(steps(PropagationSettings(**dict.fromkeys(others, 0.0)))) == [11, 12]
    assert 13 in found(steps(PropagationSettings(**{setting: 0.0})))


def test_a_network_that_dreams_on_is_stopped_where_nothing_is_to_be_seen() -> None:
    labels = column(range(5, 12))
    steps = follow(FakeSegmenter(labels, dreams=True), {"a": {8: seed(labels, 8)}})
    assert found(steps) == [5, 6, 7, 9, 10, 11]


def test_the_contrast_is_measured_against_the_greatest_on_the_way() -> None:
    labels = column(range(20))
    bright = np.full(labels.shape, 50.0)
    for z in range(20):
        bright[z][labels[z] > 0] += np.interp(z, [5, 9, 19], [40, 200, 30])
    shown = bright.astype(np.uint8)
    fake = FakeSegmenter(labels)
    planes = {z: planes_of(labels)(z) for z in range(20)}
    planes = {z: Plane(np.repeat(shown[z, ..., None], 3, 2), str(z), {"Z": z}, "") for z in planes}
    steps = list(propagate(fake, planes.__getitem__, {"a": {5: seed(labels, 5)}}, {}, (5, 19)))
    # From 40 to 200 and down to below 0.4 of that, while 0.4 of the first 40 is never reached.
    assert found(steps) == list(range(6, 17))


def test_specks_apart_from_the_object_are_left_out() -> None:
    labels = column(range(20))
    labels[:, 2:4, 40:44] = 1
    start = cut_to_box(disc(SHAPE, 20, 20, 6), (0, 0))
    steps = follow(FakeSegmenter(labels), {"a": {5: ObjectMask(*start, 0.9)}})

    assert len(found(steps)) == 19
    assert all(s.found.box == start[0] for s in steps if s.found is not None)


def test_a_speck_of_the_seed_is_not_followed() -> None:
    labels = column(range(20))
    labels[:, 2:4, 40:44] = 1
    steps = follow(FakeSegmenter(labels), {"a": {5: seed(labels, 5)}})

    assert len(found(steps)) == 19
    assert all(s.found.box == (14, 14, 27, 27) for s in steps if s.found is not None)


def test_an_object_may_lean_the_more_the_farther_apart_slices_are() -> None:
    labels = np.zeros((6, *SHAPE), np.uint8)
    for z in range(6):
        labels[z] = disc(SHAPE, 20, 10 + 5 * z, 4)
    at = {"a": {0: seed(labels, 0)}}

    assert found(follow(FakeSegmenter(labels), at, (0, 5), spacing=5.0)) == [1, 2, 3, 4, 5]
    assert found(follow(FakeSegmenter(labels), at, (0, 5), spacing=1.0)) == []


# ---------------------------------------------------------------- many objects, and prompts


def test_a_slice_is_visited_once_for_all_objects_that_start_together() -> None:
    labels = sum(column(range(4, 16), x=x, label=i) for i, x in ((1, 8), (2, 24), (3, 40)))
    fake = FakeSegmenter(labels)
    keys = "abc"
    steps = follow(fake, {key: {10: seed(labels, 10, i + 1)} for i, key in enumerate(keys)})

    visits = [z for z, _ in groupby(fake.slices)]
    assert len(visits) == len(set(visits)) == 13
    for i, key in enumerate(keys):
        assert found(steps, key) == [4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15]
        masks = [whole(s.found) for s in steps if s.key == key and s.found is not None]
        assert all(np.array_equal(mask, labels[10] == i + 1) for mask in masks)


def test_prompts_without_a_mask_are_answered_first() -> None:
    labels = column(range(5, 15))
    fake = FakeSegmenter(labels)
    steps = list(
        propagate(
            fake,
            planes_of(labels),
            {"b": {6: seed(labels, 6)}},
            {"a": {10: Prompts(points=[(20, 20)])}, "b": {6: Prompts(points=[(20, 20)])}},
            (0, 19),
            words={"a": "nuclei"},
        )
    )
    assert (steps[0].key, steps[0].z) == ("a", 10) and steps[0].found is not None
    assert fake.slices[0] == 10 and fake.asked[0].previous is None
    assert found(steps, "a") == list(range(5, 15))
    assert found(steps, "b") == [z for z in range(5, 15) if z != 6]
    assert {asked.text for asked in fake.asked} == {"nuclei", None}
    # Two objects in 20 slices, but for the one that was known.
    assert steps[0].total == 39 and steps[-1].done == steps[-1].total == len(steps)


def test_the_word_of_an_object_stays_when_others_ask_for_another() -> None:
    fake = FakeSegmenter(column(range(20)), last_word="nuclei")
    at = {"a": {3: seed(fake.labels, 3)}}
    for _ in propagate(fake, planes_of(fake.labels), at, {}, (3, 9)):
        fake.last_word = "cells"
    assert [asked.text for asked in fake.asked] == [None, *["nuclei"] * 5]


def test_a_word_alone_marks_no_object() -> None:
    labels = column(range(20))
    with pytest.raises(PromptError, match="No object is marked"):
        propagate(
            FakeSegmenter(labels), planes_of(labels), {}, {"a": {3: Prompts("nuclei")}}, (0, 9)
        )


# ---------------------------------------------------------------- what is refused, and stops


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"z_range": (5, 4)}, "5..4 is empty"),
        ({"spacing": 0.0}, "slice distance of 0"),
        ({"spacing": float("nan")}, "slice distance of nan"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(change: dict, match: str) -> None:
    labels = column(range(20))
    fake = FakeSegmenter(labels)
    arguments = {"z_range": (0, 19), **change}
    with pytest.raises(ConfigError, match=match):
        propagate(fake, planes_of(labels), {"a": {3: seed(labels, 3)}}, {}, **arguments)
    assert not fake.asked


@pytest.mark.parametrize(
    "change", [{"min_score": 1.1}, {"min_overlap": -0.1}, {"min_contrast": 2}, {"lean": -1}]
)
def test_settings_outside_their_range_are_refused(change: dict) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(change))} is .*Give"):
        PropagationSettings(**change)


def test_closing_ends_the_work() -> None:
    labels = column(range(20))
    fake = FakeSegmenter(labels)
    steps = propagate(fake, planes_of(labels), {"a": {5: seed(labels, 5)}}, {}, (0, 19))
    next(steps)
    steps.close()
    assert len(fake.asked) == 1


def test_it_ends_when_the_adapter_is_changed() -> None:
    labels = column(range(20))
    fake = FakeSegmenter(labels)
    steps = propagate(fake, planes_of(labels), {"a": {5: seed(labels, 5)}}, {}, (0, 19))
    next(steps)
    fake.adapter = object()
    with pytest.raises(Stopped, match="Follow them again"):
        next(steps)


# ---------------------------------------------------------------- with a real network


@pytest.fixture
def model(clip: Clip) -> LoadedModel:
    """A network that finds something wherever it is asked."""
    return LoadedModel("tiny", tiny_sam(seed=4), clip, None)


def test_real_masks_are_followed_and_each_slice_is_encoded_once(
    segmenter: Segmenter, make_plane: Callable[..., Plane]
) -> None:
    planes = [make_plane(seed=z) for z in range(5)]
    clicks = {key: {2: Prompts(points=[at])} for key, at in (("a", (10, 10)), ("b", (30, 40)))}
    steps = list(propagate(segmenter, planes.__getitem__, {}, clicks, (0, 4), 2.0, LENIENT))

    assert {step.z for step in steps} == set(range(5))
    assert segmenter.calls["trunk"] == segmenter.calls["head"] == 5
    assert found(steps, "a") == found(steps, "b") == list(range(5))
    assert not any(step.found.logits is not None for step in steps if step.z != 2)
    again = list(propagate(segmenter, planes.__getitem__, {}, clicks, (0, 4), 2.0, LENIENT))
    assert [(s.key, s.z, s.overlap) for s in again] == [(s.key, s.z, s.overlap) for s in steps]
    assert segmenter.calls["trunk"] == 5


def test_a_stop_inside_a_slice_leaves_the_segmenter_usable(
    segmenter: Segmenter, make_plane: Callable[..., Plane]
) -> None:
    planes = [make_plane(seed=z) for z in range(5)]
    clicks = {"a": {2: Prompts(points=[(10, 10)])}}
    wanted = list(propagate(segmenter, planes.__getitem__, {}, clicks, (0, 4), 1.0, LENIENT))
    fresh = Segmenter(segmenter.model, device="cpu")
    steps = propagate(fresh, planes.__getitem__, {}, clicks, (0, 4), 1.0, LENIENT)
    next(steps)

    def stop() -> None:
        raise Stopped("Stopped.")

    fresh.check = stop
    with pytest.raises(Stopped):
        next(steps)
    fresh.check = None
    found_again = list(propagate(fresh, planes.__getitem__, {}, clicks, (0, 4), 1.0, LENIENT))
    assert [(s.z, s.overlap) for s in found_again] == [(s.z, s.overlap) for s in wanted]
