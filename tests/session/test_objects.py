from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_clipsam.errors import PlaneError
from napari_clipsam.inference.requests import ObjectMask
from napari_clipsam.session.objects import (
    PlaneKey,
    SessionObject,
    SessionState,
    plane_axes,
    slices_of,
)


def thing(key: str, scores: dict[PlaneKey, float], labels: str | None = "L") -> SessionObject:
    masks = {
        plane: ObjectMask((0, 0, 2, i + 1), np.ones((2, i + 1), bool), score)
        for i, (plane, score) in enumerate(scores.items())
    }
    return SessionObject(key, 1, "im", labels, None, "object", {}, masks, "starter", "none", "now")


@st.composite
def planes_of_data(draw: st.DrawFn) -> tuple[np.ndarray, PlaneKey, tuple[int, int]]:
    shape = draw(st.lists(st.integers(1, 5), min_size=2, max_size=5))
    y, x = sorted(draw(st.permutations(range(len(shape))))[:2])
    key = tuple(
        None if axis in (y, x) else draw(st.integers(0, size - 1))
        for axis, size in enumerate(shape)
    )
    return np.arange(np.prod(shape)).reshape(shape), key, (y, x)


@given(planes_of_data(), st.data())
def test_a_key_indexes_the_plane_that_it_names(
    case: tuple[np.ndarray, PlaneKey, tuple[int, int]], data: st.DataObject
) -> None:
    array, key, (y, x) = case
    plane = array[slices_of(key)]
    assert plane_axes(key) == (y, x)
    assert plane.shape == (array.shape[y], array.shape[x])
    row = data.draw(st.integers(0, plane.shape[0] - 1))
    col = data.draw(st.integers(0, plane.shape[1] - 1))
    full = [held if held is not None else 0 for held in key]
    full[y], full[x] = row, col
    assert plane[row, col] == array[tuple(full)]
    assert array[slices_of(key, (row, col, row + 1, col + 1))].tolist() == [[plane[row, col]]]


@pytest.mark.parametrize("key", [(), (None,), (1, None), (None, None, None), (1, 2)])
def test_a_key_without_two_open_axes_is_refused(key: PlaneKey) -> None:
    with pytest.raises(PlaneError, match="exactly two axes"):
        slices_of(key)


def test_score_weakest_and_pixels_are_over_all_slices() -> None:
    one = thing("a", {(0, None, None): 0.75, (1, None, None): 0.25, (2, None, None): 0.5})
    assert one.score == 0.5
    assert one.weakest == (1, None, None)
    assert one.pixels == 2 * (1 + 2 + 3)


def test_an_object_without_masks_says_what_to_do() -> None:
    one = thing("a", {})
    assert one.score == 0 and one.pixels == 0
    with pytest.raises(PlaneError, match="Click it"):
        _ = one.weakest


def test_states_are_new_values_and_keep_their_order() -> None:
    first = SessionState()
    both = first.with_objects([thing("a", {}), thing("b", {}, "M")])
    again = both.with_objects([thing("a", {}, "M")]).with_draft([thing("c", {}, None)])
    assert not first.objects
    assert list(again.objects) == ["a", "b"]
    assert [one.key for one in again.kept_in("M")] == ["a", "b"]
    assert [one.key for one in both.kept_in("M")] == ["b"]
    left = again.without(["a", "unknown"])
    assert list(left.objects) == ["b"] and left.draft == again.draft
    with pytest.raises(TypeError):
        again.objects["d"] = thing("d", {})  # type: ignore[index]
