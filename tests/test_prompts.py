"""Prompts: what is accepted, what is refused, and with which advice."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_clipsam.errors import InputError, PromptError
from napari_clipsam.prompts import Prompts, parse_box, parse_point


def test_nothing_given_is_nothing_asked():
    prompts = Prompts()
    assert prompts.text is None and prompts.mask is None
    assert prompts.points.shape == (0, 2) and prompts.boxes.shape == (0, 4)
    assert not prompts.has_object


@pytest.mark.parametrize(
    "prompts",
    [
        Prompts(points=[(1, 2)]),
        Prompts(boxes=[(0, 0, 1, 1)]),
        Prompts(mask=np.ones((2, 2), bool)),
    ],
)
def test_any_point_box_or_mask_is_an_object(prompts):
    assert prompts.has_object


def test_a_word_alone_is_no_object():
    assert not Prompts(" nuclei ").has_object
    assert Prompts(" nuclei ").text == "nuclei"


def test_points_are_positive_unless_said_otherwise():
    assert Prompts(points=[(1, 2), (3, 4)]).labels.tolist() == [1, 1]
    assert Prompts(points=[(1, 2), (3, 4)], labels=[True, False]).labels.tolist() == [1, 0]


def test_values_are_copied_and_frozen():
    points = np.array([[1.0, 2.0]])
    mask = np.zeros((2, 3), np.float32)
    prompts = Prompts(points=points, mask=mask)
    points[0, 0] = 99
    mask[0, 0] = 99
    assert prompts.points[0, 0] == 1 and prompts.mask[0, 0] == 0
    for array in (prompts.points, prompts.labels, prompts.boxes, prompts.mask):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    with pytest.raises(AttributeError):
        prompts.text = "cells"


def test_a_bool_mask_becomes_logits():
    mask = Prompts(mask=np.array([[True, False]])).mask
    assert mask.dtype == np.float32
    assert mask.tolist() == [[10.0, -10.0]]


def test_survives_the_way_to_a_worker():
    sent = Prompts("nuclei", points=[(1, 2)], labels=[0], boxes=[(0, 0, 3, 3)])
    back = pickle.loads(pickle.dumps(sent))
    assert back.text == "nuclei"
    assert back.labels.tolist() == [0] and back.boxes.tolist() == sent.boxes.tolist()


@pytest.mark.parametrize("word", ["", "   ", "\t\n"])
def test_a_blank_word_is_refused(word):
    with pytest.raises(PromptError, match="give a word, or leave it out"):
        Prompts(word)


@pytest.mark.parametrize(
    ("given_prompts", "advice"),
    [
        ({"points": [1, 2]}, "one row of"),
        ({"points": [(1, 2, 3)]}, "one row of"),
        ({"points": [("a", "b")]}, "not numbers"),
        ({"points": [(1, np.nan)]}, "finite"),
        ({"points": [(1, 2)], "labels": [1, 0]}, "one label"),
        ({"points": [(1, 2)], "labels": [2]}, "Give 1 for"),
        ({"points": [(1, 2)], "labels": [-1]}, "Give 1 for"),
        ({"boxes": [(5, 5, 5, 9)]}, "is empty"),
        ({"boxes": [(5, 9, 7, 5)]}, "is empty"),
        ({"boxes": [(0, 0, np.inf, 5)]}, "finite"),
        ({"mask": np.zeros((2, 2, 2))}, "one plane"),
        ({"mask": np.zeros((0, 5))}, "one plane"),
        ({"mask": np.zeros((2, 2), np.uint8)}, "bool"),
        ({"mask": np.full((2, 2), np.nan)}, "finite"),
    ],
)
def test_what_cannot_work_is_refused(given_prompts, advice):
    with pytest.raises(PromptError, match=advice) as caught:
        Prompts(**given_prompts)
    assert isinstance(caught.value, InputError) and caught.value.exit_code == 2


@pytest.mark.parametrize("point", [(-0.5, -0.5), (9.5, 19.5), (0, 0), (9, 19)])
def test_points_up_to_the_outer_pixel_edges_are_inside(point):
    Prompts(points=[point]).check_inside((10, 20))


@pytest.mark.parametrize("point", [(-0.6, 0), (0, -0.6), (9.6, 0), (0, 19.6), (15, 5)])
def test_a_point_outside_is_named(point):
    with pytest.raises(PromptError, match=rf"y={point[0]:g}, x={point[1]:g}.*10 x 20"):
        Prompts(points=[(1, 1), point]).check_inside((10, 20))


@pytest.mark.parametrize("box", [(-5, 0, 0, 5), (10, 0, 12, 5), (0, -5, 5, 0), (0, 20, 5, 25)])
def test_a_box_beside_the_plane_is_named(box):
    with pytest.raises(PromptError, match="misses the image"):
        Prompts(boxes=[box]).check_inside((10, 20))


def test_a_box_partly_outside_is_fine():
    Prompts(boxes=[(-5, -5, 1, 1), (9, 19, 30, 30)]).check_inside((10, 20))


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(PromptError, match="own shape"):
        Prompts(mask=np.zeros((20, 10), bool)).check_inside((10, 20))


def test_shifting_moves_everything_alike():
    mask = np.zeros((6, 7), bool)
    mask[2, 3] = True
    moved = Prompts("nuclei", [(2, 3)], [0], [(2, 3, 3, 4)], mask).shifted(1, -2)
    assert moved.text == "nuclei" and moved.labels.tolist() == [0]
    assert moved.points.tolist() == [[3, 1]]
    assert moved.boxes.tolist() == [[3, 1, 4, 2]]
    assert np.argwhere(moved.mask > 0).tolist() == [[3, 1]]


@given(dy=st.integers(-9, 9), dx=st.integers(-9, 9), y=st.integers(0, 5), x=st.integers(0, 6))
def test_a_shifted_mask_keeps_its_pixels_until_they_leave(dy, dx, y, x):
    mask = np.zeros((6, 7), bool)
    mask[y, x] = True
    moved = Prompts(mask=mask).shifted(dy, dx).mask
    stays = 0 <= y + dy < 6 and 0 <= x + dx < 7
    assert np.argwhere(moved > 0).tolist() == ([[y + dy, x + dx]] if stays else [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("120,88", (None, 120, 88, 1)),
        (" 120 , 88.5 ", (None, 120, 88.5, 1)),
        ("12,120,88", (12, 120, 88, 1)),
        ("120,88,-", (None, 120, 88, 0)),
        ("12,120,88,-", (12, 120, 88, 0)),
        ("12,120,88,+", (12, 120, 88, 1)),
        ("-0.4,3", (None, -0.4, 3, 1)),
    ],
)
def test_points_are_read_from_text(text, expected):
    assert parse_point(text) == expected


@pytest.mark.parametrize(
    "text", ["", "5", "5,-", "-", "a,b", "1,2,3,4", "nan,3", "1.5,2,3", "-1,2,3", "1;2", "1,2,,-"]
)
def test_a_wrong_point_says_how_to_write_it(text):
    with pytest.raises(PromptError, match=r"Write it as|whole number"):
        parse_point(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10,20,42,60", (None, 10, 20, 42, 60)),
        ("3,10,20,42,60", (3, 10, 20, 42, 60)),
    ],
)
def test_boxes_are_read_from_text(text, expected):
    assert parse_box(text) == expected


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("", "Write it as"),
        ("1,2,3", "Write it as"),
        ("1,2,3,x", "Write it as"),
        ("1,2,3,4,5,6", "Write it as"),
        ("0.5,1,2,3,4", "whole number"),
        ("10,20,10,60", "is empty"),
        ("10,60,20,20", "is empty"),
    ],
)
def test_a_wrong_box_is_refused(text, advice):
    with pytest.raises(PromptError, match=advice):
        parse_box(text)
