"""Pictures of results: what is drawn, and which planes are chosen."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from napari_clipsam.training.sheet import (
    PREDICTED,
    TRUE,
    Panel,
    contact_sheet,
    mark_point,
    outlined,
    picked,
    scaled,
    tinted,
)

GREY = np.full((40, 60, 3), 120, np.uint8)


def square() -> np.ndarray:
    labels = np.zeros((40, 60), np.uint16)
    labels[10:30, 20:40] = 5
    return labels


def is_colour(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (picture == colour).all(axis=2)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.5], {"best": [0], "median": [], "worst": []}),
        ([0.2, 0.9], {"best": [1], "median": [], "worst": [0]}),
        ([0.5, None, 0.1, 0.9], {"best": [3], "median": [0], "worst": [2]}),
        (
            [0, 9, 1, 8, 2, 7, 3, 6, 4, 5],
            {"best": [1, 3, 5], "median": [7, 9, 8], "worst": [4, 2, 0]},
        ),
        ([None], {"best": [], "median": [], "worst": []}),
    ],
)
def test_best_median_and_worst(scores: list[float | None], expected: dict[str, list[int]]) -> None:
    assert picked(scores) == expected


def test_outlines_lie_on_the_objects_border() -> None:
    drawn = outlined(GREY, square(), TRUE)
    border = np.zeros((40, 60), bool)
    border[10:30, 20:40] = True
    border[11:29, 21:39] = False
    assert_array_equal(is_colour(drawn, TRUE), border)
    assert_array_equal(drawn[11:29, 21:39], GREY[11:29, 21:39])
    assert (drawn[9, 20:40] < 60).all()
    assert (GREY == 120).all()


def test_a_dashed_line_can_be_told_without_colours() -> None:
    whole = is_colour(outlined(GREY, square(), PREDICTED), PREDICTED)
    dashed = is_colour(outlined(GREY, square(), PREDICTED, dashed=True), PREDICTED)
    assert not (dashed & ~whole).any()
    assert 0.3 < dashed.sum() / whole.sum() < 0.7
    changes = np.count_nonzero(np.diff(dashed[10, 20:40].astype(int)))
    assert changes >= 2


def test_every_object_is_tinted_in_a_colour_of_its_own() -> None:
    labels = square()
    labels[0:5, 0:5] = 6
    drawn = tinted(GREY, labels)
    assert_array_equal(drawn[labels == 0], GREY[labels == 0])
    assert len(np.unique(drawn[labels > 0], axis=0)) == 2
    assert_array_equal(tinted(GREY, np.zeros((40, 60), bool)), GREY)


def test_scaling_keeps_numbers_and_aspect() -> None:
    assert scaled(GREY, 120).shape == (80, 120, 3)
    bigger = scaled(square(), 120)
    assert bigger.shape == (80, 120)
    assert_array_equal(bigger, np.kron(square(), np.ones((2, 2), int)))
    assert scaled(square(), 30).shape == (20, 30)
    assert scaled(np.zeros((1, 900), int), 100).shape == (1, 100)


def test_a_click_is_marked_where_it_is() -> None:
    changed = (mark_point(GREY, 12, 45) != GREY).any(axis=2)
    rows, cols = np.nonzero(changed)
    assert abs(rows.mean() - 12) < 1 and abs(cols.mean() - 45) < 1


def test_panels_lie_side_by_side_below_the_title() -> None:
    red, blue = (np.zeros((30, 50, 3), np.uint8) + np.uint8(c) for c in ([255, 0, 0], [0, 0, 255]))
    sheet = np.asarray(
        contact_sheet(
            [[Panel(red, "a\nb"), Panel(blue, "a long name " * 9)], [], [Panel(blue, "c")]], "title"
        )
    )
    y, x = np.argwhere(is_colour(sheet, (255, 0, 0)))[0]
    assert_array_equal(sheet[y : y + 30, x : x + 50], red)
    assert_array_equal(sheet[y : y + 30, x + 60 : x + 110], blue)
    assert is_colour(sheet, (0, 0, 255)).sum() == 2 * 30 * 50
    assert is_colour(sheet[:y], TRUE).any() and is_colour(sheet[:y], PREDICTED).any()
    text_right_of_panels = sheet[y + 30 : y + 60, x + 112 :]
    assert (text_right_of_panels == 255).all()


def test_a_legend_is_left_out_where_there_is_no_truth() -> None:
    sheet = np.asarray(contact_sheet([[Panel(GREY, "")]], "title", legend=False))
    assert not is_colour(sheet, TRUE).any()
