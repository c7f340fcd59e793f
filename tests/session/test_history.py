from __future__ import annotations

import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from session.steps import ACTIONS, SHAPE, ArrayLabels, Driver

from napari_clipsam.errors import JournalError, PlaneError
from napari_clipsam.inference.requests import ObjectMask
from napari_clipsam.session.history import (
    Change,
    History,
    LabelPatch,
    Mark,
    applied,
    patches_for,
    reverted,
)
from napari_clipsam.session.objects import SessionState
from napari_clipsam.session.packing import pack_changes, unpack_changes

PLANE = (None, None)
STEPS = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 2**16)), max_size=25)


def full(label: int, box: tuple[int, int, int, int], score: float = 0.5) -> Mark:
    shape = (box[2] - box[0], box[3] - box[1])
    return Mark(label, ObjectMask(box, np.ones(shape, bool), score))


def step(name: str, box: tuple[int, int, int, int], before: int, after: int) -> Change:
    shape = (box[2] - box[0], box[3] - box[1])
    patch = LabelPatch("a", PLANE, box, np.full(shape, before), np.full(shape, after))
    return Change(name, SessionState(), SessionState(), (patch,))


def test_undo_and_redo_go_through_many_steps() -> None:
    labels = ArrayLabels(a=np.zeros((4, 6), int))
    history = History(labels)
    seen = [labels.layers["a"].copy()]
    for i in range(50):
        history.push(step(f"step {i}", (0, 0, 2, 3), i, i + 1))
        seen.append(labels.layers["a"].copy())
    assert history.undo_text == "step 49" and history.redo_text == ""
    for expected in seen[-2::-1]:
        assert history.undo() is not None
        np.testing.assert_array_equal(labels.layers["a"], expected)
    assert not history.can_undo and history.undo() is None and history.redo_text == "step 0"
    for expected in seen[1:]:
        assert history.redo() is not None
        np.testing.assert_array_equal(labels.layers["a"], expected)
    assert not history.can_redo and history.redo() is None


def test_a_new_step_ends_what_can_be_redone() -> None:
    history = History(ArrayLabels(a=np.zeros((4, 6), int)))
    history.push(step("one", (0, 0, 1, 1), 0, 1))
    history.undo()
    history.push(step("two", (0, 0, 1, 1), 0, 2))
    assert not history.can_redo and history.undo_text == "two"


@given(STEPS)
def test_undoing_everything_leaves_what_was_there_and_redoing_brings_it_back(
    steps: list[tuple[str, int]],
) -> None:
    start = np.random.default_rng(5).integers(0, 4, SHAPE).astype(np.uint16)
    driver = Driver({"cells": start.copy()})
    for action, seed in steps:
        if action not in {"paint", "undo", "redo"}:
            driver.act(action, seed)
    end = driver.labels.layers["cells"].copy()
    count = len(driver.history)
    while (change := driver.history.undo()) is not None:
        state = change.before
        assert driver.history.can_redo
    np.testing.assert_array_equal(driver.labels.layers["cells"], start)
    assert count == 0 or (not state.objects and not state.draft)
    while (change := driver.history.redo()) is not None:
        state = change.after
    np.testing.assert_array_equal(driver.labels.layers["cells"], end)
    assert count == 0 or state is driver.state


@given(STEPS, st.integers(0, 2**16), st.lists(st.sampled_from(["undo", "redo"]), max_size=12))
def test_what_is_painted_by_hand_stays_through_undo_and_redo(
    steps: list[tuple[str, int]], seed: int, moves: list[str]
) -> None:
    driver = Driver()
    for action, one in steps:
        driver.act(action, one)
    rng = np.random.default_rng(seed)
    labels = driver.labels.layers["cells"]
    # Values that no step has written, and rubbing out: both are the user's.
    painted = (rng.random(SHAPE) < 0.3) & (labels != 0)
    value = int(rng.choice([0, 1000]))
    labels[painted] = value
    if value == 0:
        moves = moves[: moves.index("redo") if "redo" in moves else None]
    for move in moves:
        driver.act(move, 0)
    if value == 1000:
        assert (labels[painted] == 1000).all()


def test_what_is_rubbed_out_by_hand_does_not_come_back_with_redo() -> None:
    labels = ArrayLabels(a=np.zeros((4, 6), int))
    history = History(labels)
    history.push(step("keep", (0, 0, 2, 3), 0, 5))
    labels.layers["a"][0, 0] = 0
    for _ in range(3):
        history.undo()
        assert not labels.layers["a"].any()
        history.redo()
        assert labels.layers["a"][0, 0] == 0
        assert np.count_nonzero(labels.layers["a"] == 5) == 5


@given(st.integers(0, 2**32 - 1))
def test_patches_touch_only_pixels_that_hold_what_they_expect(seed: int) -> None:
    rng = np.random.default_rng(seed)
    before, after, current = rng.integers(0, 3, (3, 5, 4))
    patch = LabelPatch("a", PLANE, (0, 0, 5, 4), before, after)
    changed = before != after
    forth, back = applied(current, patch), reverted(current, patch)
    np.testing.assert_array_equal(forth != current, changed & (current == before))
    np.testing.assert_array_equal(back != current, changed & (current == after))
    np.testing.assert_array_equal(applied(before, patch), after)
    np.testing.assert_array_equal(reverted(after, patch), before)


def test_a_write_that_fails_leaves_labels_and_history_as_they_were() -> None:
    class Locked(ArrayLabels):
        def write(self, layer: str, *rest: Any) -> None:
            if layer == "b":
                raise PlaneError("no")
            super().write(layer, *rest)

    labels = Locked(a=np.zeros((2, 2), int), b=np.zeros((2, 2), int))
    one, two = (
        LabelPatch(n, PLANE, (0, 0, 1, 1), np.zeros((1, 1), int), np.ones((1, 1), int))
        for n in "ab"
    )
    history = History(labels)
    with pytest.raises(PlaneError):
        history.push(Change("keep", SessionState(), SessionState(), (one, two)))
    assert not history.can_undo and not labels.layers["a"].any()


def test_the_oldest_steps_are_forgotten_but_never_the_latest() -> None:
    labels = ArrayLabels(a=np.zeros((64, 64), int))
    history = History(labels, max_bytes=5_000)
    rng = np.random.default_rng(0)
    for i in range(20):
        before = labels.layers["a"].copy()
        patch = LabelPatch("a", PLANE, (0, 0, 64, 64), before, rng.integers(0, 1 << 40, (64, 64)))
        history.push(Change(str(i), SessionState(), SessionState(), (patch,)))
    assert len(history) == 1 and history.undo_text == "19"


def test_steps_of_a_layer_that_is_gone_do_nothing() -> None:
    labels = ArrayLabels(a=np.zeros((2, 2), int))
    history = History(labels)
    history.push(step("keep", (0, 0, 1, 1), 0, 3))
    layer = labels.layers.pop("a")
    assert history.undo() is not None
    assert layer[0, 0] == 3
    labels.layers["a"] = np.zeros((2, 2), int)
    assert history.redo() is not None
    assert labels.layers["a"][0, 0] == 3


# ---------------------------------------------------------------- masks into labels


@st.composite
def marks_in_labels(draw: st.DrawFn) -> tuple[np.ndarray, list[Mark]]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = rng.integers(0, 6, (11, 13)) * (rng.random((11, 13)) < draw(st.floats(0, 1)))
    marks = []
    for label in range(3, 3 + draw(st.integers(1, 5))):
        masks = []
        for _ in range(2):
            (y0, y1), (x0, x1) = (np.sort(rng.integers(0, n, 2)).tolist() for n in (11, 13))
            inside = rng.random((y1 + 1 - y0, x1 + 1 - x0)) < 0.8
            masks.append(ObjectMask((y0, x0, y1 + 1, x1 + 1), inside, float(rng.random())))
        new, former = masks
        marks.append(
            Mark(label, new if rng.random() < 0.8 else None, former if rng.integers(2) else None)
        )
    return labels.astype(np.uint8), marks


def in_plane(mask: ObjectMask | None, shape: tuple[int, int]) -> np.ndarray:
    whole = np.zeros(shape, bool)
    if mask is not None:
        whole[mask.slices] = mask.mask
    return whole


def expected(labels: np.ndarray, marks: list[Mark], overwrite: bool) -> np.ndarray:
    """The rules, a pixel at a time over whole planes."""
    after = labels.copy()
    for mark in marks:
        after[in_plane(mark.former, labels.shape) & (after == mark.label)] = 0
    taken = np.zeros(labels.shape, bool)
    for mark in sorted((m for m in marks if m.mask), key=lambda m: -m.mask.score):
        new = in_plane(mark.mask, labels.shape) & ~taken
        if not overwrite:
            new &= (after == 0) | (after == mark.label)
        after[new] = mark.label
        taken |= new
    return after


@pytest.mark.parametrize("tile", [4, 512])
@given(marks_in_labels(), st.booleans())
def test_objects_are_put_in_by_the_rules_whatever_the_tiles(
    tile: int, case: tuple[np.ndarray, list[Mark]], overwrite: bool
) -> None:
    before, marks = case
    labels = ArrayLabels(a=before.copy())
    with pytest.MonkeyPatch.context() as patching:
        patching.setattr("napari_clipsam.session.history._TILE", tile)
        patches = patches_for(labels, "a", PLANE, marks, overwrite)
    np.testing.assert_array_equal(labels.layers["a"], before)
    History(labels).push(Change("keep", SessionState(), SessionState(), patches))
    np.testing.assert_array_equal(labels.layers["a"], expected(before, marks, overwrite))
    covered = np.zeros(before.shape, int)
    for patch in patches:
        covered[patch.box[0] : patch.box[2], patch.box[1] : patch.box[3]] += 1
    assert covered.max() <= 1


@given(marks_in_labels())
def test_pixels_of_other_objects_stay_unless_asked(case: tuple[np.ndarray, list[Mark]]) -> None:
    before, marks = case
    labels = ArrayLabels(a=before.copy())
    patches = patches_for(labels, "a", PLANE, marks, overwrite=False)
    History(labels).push(Change("keep", SessionState(), SessionState(), patches))
    others = (before != 0) & ~np.isin(before, [mark.label for mark in marks])
    np.testing.assert_array_equal(labels.layers["a"][others], before[others])


def test_objects_far_apart_do_not_make_a_huge_patch() -> None:
    labels = ArrayLabels(a=np.zeros((5000, 5000), np.uint8))
    marks = [full(1, (0, 0, 10, 10)), full(2, (4990, 4990, 5000, 5000))]
    patches = patches_for(labels, "a", PLANE, marks, overwrite=False)
    assert sorted(patch.box for patch in patches) == [mark.mask.box for mark in marks if mark.mask]


def test_a_correction_keeps_what_was_painted_beside_the_object() -> None:
    labels = ArrayLabels(a=np.zeros((6, 6), np.uint8))
    labels.layers["a"][0:3, 0:3] = 4
    labels.layers["a"][5, 5] = 4
    former = ObjectMask((0, 0, 3, 3), np.ones((3, 3), bool), 0.5)
    new = ObjectMask((0, 0, 2, 2), np.ones((2, 2), bool), 0.5)
    (patch,) = patches_for(labels, "a", PLANE, [Mark(4, new, former)], overwrite=False)
    assert patch.box == (0, 0, 3, 3)
    History(labels).push(Change("keep", SessionState(), SessionState(), (patch,)))
    assert np.argwhere(labels.layers["a"]).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [5, 5]]


def test_labels_that_do_not_fit_and_layers_that_are_gone_are_refused() -> None:
    labels = ArrayLabels(a=np.zeros((6, 6), np.uint8))
    with pytest.raises(PlaneError, match="goes to 255"):
        patches_for(labels, "a", PLANE, [full(256, (0, 0, 2, 2))], overwrite=True)
    with pytest.raises(PlaneError, match="is gone"):
        patches_for(labels, "b", PLANE, [full(2, (0, 0, 2, 2))], overwrite=True)


# ---------------------------------------------------------------- packing


@given(st.integers(0, 2**32 - 1), st.sampled_from(["u1", "i2", "<u4", ">i8"]))
def test_changes_come_back_where_there_are_any(seed: int, dtype: str) -> None:
    rng = np.random.default_rng(seed)
    before, after = rng.integers(0, 3, (2, 7, 5)).astype(dtype)
    back = unpack_changes(pack_changes(before, after), (7, 5), np.dtype(dtype))
    changed = before != after
    for given_array, returned in zip((before, after), back, strict=True):
        assert returned.dtype == given_array.dtype
        np.testing.assert_array_equal(returned, np.where(changed, given_array, 0))


@pytest.mark.parametrize("shape", [(7, 4), (9, 5), (1 << 20, 1 << 20)])
def test_changes_of_another_size_are_refused_before_they_fill_the_memory(
    shape: tuple[int, int],
) -> None:
    packed = pack_changes(np.zeros((7, 5), int), np.ones((7, 5), int))
    with pytest.raises(JournalError):
        unpack_changes(packed, shape, np.dtype(int))


def test_a_bomb_is_not_unpacked() -> None:
    packed = zlib.compress(bytes(50_000_000), 1)
    tracemalloc.start()
    with pytest.raises(JournalError, match="damaged"):
        unpack_changes(packed, (4, 4), np.dtype(np.int64))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000
