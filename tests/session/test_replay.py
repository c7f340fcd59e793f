from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from slices import FakeSegmenter, disc, planes_of

from napari_clipsam.inference.masks import cut_to_box
from napari_clipsam.inference.requests import ObjectMask, Prediction, PredictRequest
from napari_clipsam.planes import Plane
from napari_clipsam.prompts import Prompts
from napari_clipsam.session.objects import PlaneKey, SessionObject
from napari_clipsam.session.replay import replay
from napari_clipsam.session.restoring import Recipe

SHAPE = (40, 48)


class Another(FakeSegmenter):
    """Answers words, too: with everything, or with each object."""

    def answer(self, request: PredictRequest, previous: ObjectMask | None = None) -> Prediction:
        if request.target == "object" or request.prompts.has_object:
            return super().answer(request, previous)
        plane = self.labels[request.plane.index["Z"]]
        if request.target == "concept":
            masks = [plane > 0] if plane.any() else []
        else:
            masks = [plane == value for value in np.unique(plane[plane > 0])]
        found = tuple(ObjectMask(*cut_to_box(mask, (0, 0)), 0.9) for mask in masks)
        return Prediction(request.plane.shape, request.target or "concept", found)


@pytest.fixture
def world() -> np.ndarray:
    """Two columns in slices 2 to 8, the second one only to 5."""
    labels = np.zeros((12, *SHAPE), np.uint8)
    labels[2:9] = disc(SHAPE, 12, 12, 6)
    labels[2:6] += 2 * disc(SHAPE, 28, 34, 6).astype(np.uint8)
    return labels


def planes(labels: np.ndarray) -> Callable[[PlaneKey], Plane]:
    read = planes_of(labels)
    return lambda key: read(key[0] or 0)


def recipe(
    asked: dict[int, Prompts], where: range, target: str = "object", word: str | None = None
) -> Recipe:
    prompts = {(z, None, None): one for z, one in asked.items()}
    one = SessionObject(
        "k" * 32, 5, "cells", "kept", word, target, prompts, {}, "old", "old", "2020-01-01"
    )
    return Recipe(one, tuple((z, None, None) for z in where))


def whole(one: SessionObject, shape: tuple[int, ...]) -> np.ndarray:
    filled = np.zeros(shape, bool)
    for plane, mask in one.masks.items():
        filled[plane[0]][mask.slices] = mask.mask
    return filled


def test_an_object_is_found_by_its_click_and_followed_as_far_as_before(world: np.ndarray) -> None:
    click = Prompts("nuclei", [[12, 12]])
    again = [recipe({5: click}, range(3, 8))]
    (one,) = replay(again, Another(world), planes(world), "new", "none", clip="newer")
    expected = np.zeros(world.shape, bool)
    expected[3:8] = world[3:8] == 1
    np.testing.assert_array_equal(whole(one, world.shape), expected)
    assert (one.key, one.label, one.labels) == ("k" * 32, 0, None)
    assert (one.model, one.adapter, one.clip) == ("new", "none", "newer") and one.created > "2026"
    assert one.prompts[5, None, None] is click


def test_an_object_that_is_not_found_any_more_has_no_masks(world: np.ndarray) -> None:
    nothing = Prompts(points=[[2, 40]])
    (one,) = replay([recipe({5: nothing}, range(3, 8))], Another(world), planes(world), "new", "x")
    assert one.masks == {}


def test_all_of_it_is_found_again_in_the_same_slices(world: np.ndarray) -> None:
    asked = dict.fromkeys(range(1, 5), Prompts("nuclei"))
    again = recipe(asked, range(1, 5), "concept", "nuclei")
    (one,) = replay([again], Another(world), planes(world), "new", "none")
    expected = np.zeros(world.shape, bool)
    expected[1:5] = world[1:5] > 0
    np.testing.assert_array_equal(whole(one, world.shape), expected)


def test_every_one_is_looked_for_once_and_linked_through_the_slices(world: np.ndarray) -> None:
    asked = dict.fromkeys(range(2, 9), Prompts("nuclei"))
    former = [recipe(asked, range(2, 9), "instances", "nuclei") for _ in range(7)]
    found = list(replay(former, Another(world), planes(world), "new", "none"))
    assert len(found) == 2
    for one, value in zip(found, (1, 2), strict=True):
        np.testing.assert_array_equal(whole(one, world.shape), world == value)
        assert one.target == "instances" and one.word == "nuclei"
        assert set(one.prompts) == set(one.masks)
    assert found[0].key != found[1].key


def test_every_one_in_a_single_slice(world: np.ndarray) -> None:
    former = recipe({4: Prompts("nuclei")}, range(4, 5), "instances", "nuclei")
    found = list(replay([former], Another(world), planes(world), "new", "none"))
    assert [sorted(one.masks) for one in found] == [[(4, None, None)]] * 2


def test_one_added_by_a_click_among_every_one_keeps_its_click(world: np.ndarray) -> None:
    clicked = recipe({4: Prompts("nuclei", [[28, 34]])}, range(4, 5), "instances", "nuclei")
    (one,) = replay([clicked], Another(world), planes(world), "new", "none")
    assert one.key == "k" * 32
    np.testing.assert_array_equal(whole(one, world.shape)[4], world[4] == 2)


def test_in_a_time_series_of_stacks_objects_are_linked_through_each_stack() -> None:
    labels = np.zeros((4, *SHAPE), np.uint8)
    labels[:] = disc(SHAPE, 12, 12, 6)
    read = planes_of(labels)
    where = tuple((t, z, None, None) for t in (0, 1) for z in (0, 1))
    one = recipe({}, range(0), "instances", "nuclei").one
    found = list(
        replay(
            [Recipe(one, where)],
            Another(labels),
            lambda key: read(2 * (key[0] or 0) + (key[1] or 0)),
            "new",
            "none",
        )
    )
    assert [sorted(one.masks) for one in found] == [list(where[:2]), list(where[2:])]
