"""What comes out of a prediction."""

from __future__ import annotations

import numpy as np
import pytest

from napari_clipsam.inference.requests import ObjectMask, Prediction


def rectangle(y0: int, x0: int, y1: int, x1: int, score: float = 0.5) -> ObjectMask:
    return ObjectMask((y0, x0, y1, x1), np.ones((y1 - y0, x1 - x0), bool), score)


def instances(*objects: ObjectMask, shape: tuple[int, int] = (10, 12)) -> Prediction:
    return Prediction(shape, "instances", objects)


EMPTY = ObjectMask((0, 0, 0, 0), np.zeros((0, 0), bool), 0.3)


def test_labels_are_numbered_in_the_order_of_the_objects() -> None:
    found = instances(rectangle(0, 0, 3, 3, 0.1), rectangle(5, 5, 9, 9, 0.9))
    labels = found.labels()

    assert labels.shape == (10, 12) and labels.dtype == np.uint16
    assert (labels[:3, :3] == 1).all() and (labels[5:9, 5:9] == 2).all()
    assert (labels > 0).sum() == 9 + 16
    assert found.scores == [0.1, 0.9]


@pytest.mark.parametrize("better", [0, 1])
def test_where_two_overlap_the_better_wins(better: int) -> None:
    scores = [0.2, 0.2]
    scores[better] = 0.8
    found = instances(rectangle(0, 0, 6, 6, scores[0]), rectangle(4, 4, 9, 9, scores[1]))

    assert (found.labels()[4:6, 4:6] == better + 1).all()


def test_the_first_of_equals_wins() -> None:
    found = instances(rectangle(0, 0, 6, 6), rectangle(0, 0, 8, 8))

    assert (found.labels()[:6, :6] == 1).all() and found.labels()[7, 7] == 2


def test_many_objects_need_wider_labels() -> None:
    found = instances(*[rectangle(0, 0, 1, 1)] * 65_536)

    assert found.labels().dtype == np.uint32


def test_the_union_is_what_any_object_covers() -> None:
    found = instances(rectangle(0, 0, 6, 6), rectangle(4, 4, 9, 9), EMPTY)
    mask = found.mask()

    assert mask.dtype == bool and mask.sum() == 36 + 25 - 4
    np.testing.assert_array_equal(mask, found.labels() > 0)


def test_masks_keep_their_holes() -> None:
    ring = ObjectMask((2, 3, 5, 6), np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], bool), 0.5)
    found = instances(rectangle(3, 4, 4, 5, 0.1), ring)

    assert ring.area == 8
    assert found.labels()[3, 4] == 1 and (found.labels() == 2).sum() == 8


def test_nothing_found_is_an_empty_answer() -> None:
    for found in (instances(), instances(EMPTY)):
        assert not found.mask().any() and not found.labels().any()
        assert found.mask().shape == found.labels().shape == (10, 12)


@pytest.mark.parametrize(
    ("box", "pixels"),
    [
        ((2, 3, 6, 8), 20),
        ((4, 6, 9, 9), 4),
        ((0, 0, 3, 4), 1),
        ((6, 3, 8, 8), 0),
        ((0, 0, 0, 0), 0),
    ],
)
def test_masks_share_the_pixels_where_they_meet(
    box: tuple[int, int, int, int], pixels: int
) -> None:
    one = ObjectMask((2, 3, 6, 8), np.ones((4, 5), bool), 1.0)
    other = ObjectMask(box, np.ones((box[2] - box[0], box[3] - box[1]), bool), 1.0)
    assert one.shared(other) == other.shared(one) == pixels
