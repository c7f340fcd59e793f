"""Ids that stay from slice to slice."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slices import disc

from napari_clipsam.adapters.inject import Adapter
from napari_clipsam.errors import ConfigError, PromptError, Stopped
from napari_clipsam.inference.instances import InstanceSettings
from napari_clipsam.inference.masks import cut_to_box
from napari_clipsam.inference.requests import ObjectMask, PredictRequest
from napari_clipsam.inference.segmenter import Segmenter
from napari_clipsam.inference.stacks import Linker, LinkSettings, segment_stack
from napari_clipsam.models.registry import LoadedModel
from napari_clipsam.planes import Plane
from napari_clipsam.prompts import Prompts

SHAPE = (60, 80)


def at(y: float, x: float, radius: float = 5, score: float = 0.9) -> ObjectMask:
    return ObjectMask(*cut_to_box(disc(SHAPE, y, x, radius), (0, 0)), score)


def link(slices: Sequence[Sequence[ObjectMask]], **kwargs: object) -> list[tuple[int, ...]]:
    spacing = kwargs.pop("spacing", 1.0)
    linker = Linker(spacing, LinkSettings(**kwargs))
    return [linker.link(z, objects) for z, objects in enumerate(slices)]


# ---------------------------------------------------------------- linking


@given(data=st.data())
def test_ids_stay_whatever_the_order_of_the_objects(data: st.DataObject) -> None:
    centres = [(y, x) for y in (8, 30, 52) for x in (8, 40, 72)]
    shifts = st.tuples(st.integers(-2, 2), st.integers(-2, 2))
    linker, names = Linker(), {}
    for z in range(4):
        shown = data.draw(st.permutations(range(9)))
        if z:
            # What was there once stays, so that no id has a reason to end.
            shown = [i for i in shown if i in names] + [i for i in shown if i not in names][:2]
        else:
            shown = shown[:4]
        objects = []
        for i in shown:
            dy, dx = data.draw(shifts)
            objects.append(at(centres[i][0] + dy, centres[i][1] + dx))
        ids = linker.link(z, objects)
        assert len(set(ids)) == len(ids)
        for i, found in zip(shown, ids, strict=True):
            assert names.setdefault(i, found) == found
    assert sorted(names.values()) == list(range(1, len(names) + 1))


def test_two_objects_never_share_an_id_and_the_better_fit_keeps_it() -> None:
    ids = link([[at(30, 30, 8)], [at(30, 26, 4), at(30, 33, 6)]])
    assert ids == [(1,), (2, 1)]


def test_all_links_together_are_the_best() -> None:
    # Each of the second slice fits the first of the first slice best.
    ids = link([[at(30, 30), at(30, 38)], [at(30, 33), at(30, 29)]], min_overlap=0.05)
    assert ids == [(1, 2), (2, 1)]


def test_an_object_that_comes_back_has_its_id_within_the_gap_only() -> None:
    slices = [[at(30, 30)], [], [at(30, 30)], [], [], [at(30, 30)]]
    assert link(slices, max_gap=1) == [(1,), (), (1,), (), (), (2,)]
    assert link(slices) == [(1,), (), (2,), (), (), (3,)]


def test_the_slice_before_goes_before_older_ones() -> None:
    slices = [[at(30, 30)], [at(30, 36)], [at(30, 32)]]
    assert link(slices, max_gap=1) == [(1,), (2,), (2,)]


def test_far_slices_may_share_less_and_masks_apart_are_never_linked() -> None:
    leaning = [[at(30, 30)], [at(30, 37)]]
    assert link(leaning, spacing=1.0) == [(1,), (2,)]
    assert link(leaning, spacing=7.0) == [(1,), (1,)]
    assert link([[at(30, 30)], [at(30, 60)]], spacing=1e6) == [(1,), (2,)]


def test_slices_may_be_left_out() -> None:
    linker = Linker(spacing=2.0)
    assert [linker.link(z, [at(30, 30 + z)]) for z in (0, 3, 6)] == [(1,)] * 3


def test_empty_slices_link_nothing() -> None:
    assert link([[], [at(30, 30)], []]) == [(), (1,), ()]


@pytest.mark.parametrize(
    "change", [{"min_overlap": 0}, {"min_overlap": 1.5}, {"max_gap": -1}, {"lean": -0.5}]
)
def test_settings_outside_their_range_are_refused(change: dict) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(change))} is .*Give"):
        LinkSettings(**change)


# ---------------------------------------------------------------- a word in a stack


@pytest.fixture
def finder(model: LoadedModel, make_adapter: Callable[..., Adapter]) -> Segmenter:
    """Takes whatever its tiny network decodes for an object."""
    taking_all = InstanceSettings(min_score=0, min_inside=0)
    adapter = make_adapter(0, words=("nuclei",))
    return Segmenter(model, adapter, device="cpu", instances=taking_all)


@pytest.fixture
def planes(make_plane: Callable[..., Plane]) -> list[Plane]:
    return [make_plane(seed=seed) for seed in (0, 0, 1)]


def test_answers_are_those_of_single_slices_with_ids(
    finder: Segmenter, planes: list[Plane]
) -> None:
    read: list[int] = []

    def plane(z: int) -> Plane:
        read.append(z)
        return planes[z]

    steps = list(segment_stack(finder, plane, range(3), "nuclei", "instances"))
    assert [step.z for step in steps] == read == [0, 1, 2]
    for step in steps:
        alone = finder.answer(PredictRequest(planes[step.z], Prompts("nuclei"), "instances"))
        assert step.prediction.scores == alone.scores and step.prediction.text == "nuclei"
        assert len(step.ids) == len(set(step.ids)) == len(alone.objects)
    # The same pixels are the same objects.
    assert steps[0].ids == steps[1].ids != ()


def test_a_concept_is_one_object(finder: Segmenter, planes: list[Plane]) -> None:
    steps = list(segment_stack(finder, planes.__getitem__, (2, 0), "nuclei", "concept"))
    assert [step.z for step in steps] == [2, 0]
    assert all(step.ids == (1,) * len(step.prediction.objects) for step in steps)
    assert any(step.ids for step in steps)


def test_what_cannot_work_is_refused_before_any_work(finder: Segmenter) -> None:
    def unread(z: int) -> Plane:
        raise AssertionError

    with pytest.raises(PromptError, match="use propagate"):
        segment_stack(finder, unread, range(3), "nuclei", "object")
    with pytest.raises(PromptError, match="is empty"):
        segment_stack(finder, unread, range(3), " ", "concept")
    with pytest.raises(ConfigError, match="slice distance of -1"):
        segment_stack(finder, unread, range(3), "nuclei", "concept", spacing=-1)


def test_it_ends_when_closed_or_when_the_adapter_is_changed(
    finder: Segmenter, planes: list[Plane]
) -> None:
    steps = segment_stack(finder, planes.__getitem__, range(3), "nuclei", "concept")
    next(steps)
    calls = finder.calls["decode"]
    steps.close()
    assert finder.calls["decode"] == calls

    steps = segment_stack(finder, planes.__getitem__, range(3), "nuclei", "concept")
    next(steps)
    finder.set_adapter(None)
    with pytest.raises(Stopped, match="Segment the rest again"):
        next(steps)
