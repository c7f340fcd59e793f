"""Scores as the evaluate command defines them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from napari_clipsam.training.metrics import (
    average_precision,
    dice,
    innermost_pixel,
    iou,
    overlap_matrix,
    tight_box,
)

LABELS = arrays(
    np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 4)
)
MASKS = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def mask(*rows: str) -> np.ndarray:
    return np.array([[c == "#" for c in row] for row in rows])


# ---------------------------------------------------------------- masks


def test_iou_and_dice_by_hand() -> None:
    predicted, true = mask("##..", "##.."), mask(".##.", ".##.")
    assert iou(predicted, true) == pytest.approx(2 / 6)
    assert dice(predicted, true) == pytest.approx(4 / 8)


def test_masks_that_miss_each_other_score_zero() -> None:
    assert iou(mask("#."), mask(".#")) == dice(mask("#."), mask(".#")) == 0.0
    assert iou(mask("#."), mask("..")) == dice(mask(".."), mask("#.")) == 0.0


def test_two_empty_masks_agree() -> None:
    assert iou(mask(".."), mask("..")) == dice(mask(".."), mask("..")) == 1.0


@given(MASKS, st.integers(0, 1000))
def test_dice_follows_from_iou(one: np.ndarray, seed: int) -> None:
    other = np.random.default_rng(seed).random(one.shape) > 0.5
    overlap = iou(one, other)
    assert dice(one, other) == pytest.approx(2 * overlap / (1 + overlap))
    assert overlap == iou(other, one)


# ---------------------------------------------------------------- instances


def test_overlap_matrix_by_hand() -> None:
    predicted = np.array([[7, 7, 0, 9], [7, 7, 0, 9]])
    true = np.array([[0, 2, 2, 5], [0, 2, 2, 0]])
    expected = [[2 / 6, 0.0], [0.0, 1 / 2]]
    np.testing.assert_allclose(overlap_matrix(predicted, true), expected)


@given(LABELS, st.integers(0, 1000))
def test_overlap_matrix_is_iou_of_every_pair(true: np.ndarray, seed: int) -> None:
    predicted = np.random.default_rng(seed).integers(0, 4, true.shape)
    found = overlap_matrix(predicted, true)
    ids = [[i for i in np.unique(x) if i] for x in (predicted, true)]
    expected = [[iou(predicted == p, true == t) for t in ids[1]] for p in ids[0]]
    np.testing.assert_allclose(found, np.reshape(expected, found.shape))


def test_average_precision_counts_hits_misses_and_false_ones() -> None:
    true = np.zeros((10, 10), int)
    true[0:4, 0:4], true[6:9, 6:9], true[0:2, 8:10] = 1, 2, 3
    predicted = np.zeros_like(true)
    predicted[0:4, 0:3] = 5  # IoU 12 / 16 with the first: a hit
    predicted[6:9, 6:7] = 6  # IoU 3 / 9 with the second: both wrong
    predicted[5, 0] = 7  # meets nothing
    # 1 hit, 2 false ones, 2 missed.
    assert average_precision(predicted, true) == pytest.approx(1 / 5)


def test_an_iou_of_exactly_the_threshold_is_no_match() -> None:
    true, predicted = np.array([[1, 1, 0]]), np.array([[1, 0, 0]])
    assert average_precision(predicted, true) == 0.0
    assert average_precision(predicted, true, threshold=0.49) == 1.0


def test_average_precision_of_nothing() -> None:
    nothing, one = np.zeros((3, 3), int), np.eye(3, dtype=int)
    assert average_precision(nothing, nothing) == 1.0
    assert average_precision(one, nothing) == average_precision(nothing, one) == 0.0


@given(LABELS, st.integers(0, 1000))
def test_average_precision_does_not_depend_on_the_ids(true: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    predicted = np.where(rng.random(true.shape) < 0.8, true, rng.integers(0, 5, true.shape))
    renamed = np.array([0, *(1 + rng.permutation(4) * 11)])
    score = average_precision(predicted, true)
    assert average_precision(renamed[predicted], true) == score
    assert average_precision(true, true) == 1.0
    assert average_precision(true, predicted) == score


def test_below_one_half_every_object_is_matched_once() -> None:
    true = np.array([[1, 1, 1, 1, 1, 1]])
    predicted = np.array([[1, 1, 1, 2, 2, 2]])
    # Both halves overlap the object by 0.5 > 0.3, and only one may have it.
    assert average_precision(predicted, true, threshold=0.3) == pytest.approx(1 / 2)


# ---------------------------------------------------------------- points and boxes


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (("#####", "#####", "#####"), (1, 1)),  # three pixels as far in; the first of them
        (("####", "####"), (0, 0)),  # all as near to the border
        ((".....", ".###.", ".###.", ".###.", "....."), (2, 2)),
        (("#....", "..###", "..###", "..###"), (2, 3)),
        ((".#.", "..#"), (0, 1)),
    ],
)
def test_innermost_pixel_by_hand(rows: tuple[str, ...], expected: tuple[int, int]) -> None:
    assert innermost_pixel(mask(*rows)) == expected


@given(MASKS.filter(np.any))
def test_innermost_pixel_is_the_first_that_is_farthest_from_the_background(
    true: np.ndarray,
) -> None:
    padded = np.pad(true, 1)
    background = np.argwhere(~padded)
    inside = np.argwhere(padded)
    squared = ((inside[:, None] - background[None]) ** 2).sum(-1).min(1)
    y, x = inside[squared.argmax()] - 1
    assert innermost_pixel(true) == (y, x)


@given(MASKS.filter(np.any))
def test_a_tight_box_holds_the_mask_and_touches_it_on_all_sides(true: np.ndarray) -> None:
    y0, x0, y1, x1 = tight_box(true)
    inside = true[y0:y1, x0:x1]
    assert inside.sum() == true.sum()
    assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
