"""Which prompts go together."""

from __future__ import annotations

import numpy as np
import pytest

from napari_clipsam.errors import PromptError
from napari_clipsam.geometry import whole_plane
from napari_clipsam.inference.checks import check_prompts, split_boxes
from napari_clipsam.inference.requests import ObjectMask
from napari_clipsam.prompts import Prompts

SHAPE = (40, 60)
POINT = Prompts(points=[(3, 4)])
BOX = Prompts(boxes=[(1, 2, 30, 40)])
BOXES = Prompts(boxes=[(1, 2, 30, 40), (5, 5, 9, 9)])
MASK = Prompts(mask=np.ones(SHAPE, bool))
BOX_MASK = Prompts(boxes=BOX.boxes, mask=MASK.mask)
LOGITS = np.zeros((16, 16), np.float32)
EARLIER = ObjectMask((1, 1, 3, 3), np.ones((2, 2), bool), 0.5, LOGITS, whole_plane(SHAPE, 64))
PIXELS = ObjectMask((1, 1, 3, 3), np.ones((2, 2), bool), 0.5)
NOTHING = ObjectMask((0, 0, 0, 0), np.zeros((0, 0), bool), 0.5)
UNSURE = ObjectMask(NOTHING.box, NOTHING.mask, 0.5, LOGITS, whole_plane(SHAPE, 64))
LARGER = ObjectMask((1, 1, 3, 3), np.ones((2, 2), bool), 0.5, LOGITS, whole_plane((41, 60), 64))
BEYOND = ObjectMask((1, 50, 3, 61), np.ones((2, 11), bool), 0.5)


@pytest.mark.parametrize(
    ("prompts", "target", "previous"),
    [
        (POINT, "object", None),
        (BOXES, "object", None),
        (BOX_MASK, "object", None),
        (POINT, "object", EARLIER),
        (BOX, "object", PIXELS),
        (Prompts(), "object", UNSURE),
        (Prompts(), "concept", None),
        (POINT, "concept", None),
        (POINT, "instances", None),
    ],
)
def test_what_goes_together_passes(
    prompts: Prompts, target: str, previous: ObjectMask | None
) -> None:
    check_prompts(prompts, target, previous, SHAPE)


@pytest.mark.parametrize(
    ("prompts", "target", "previous", "match"),
    [
        (POINT, "things", None, "no target 'things'. Use concept, object or instances"),
        (BOX, "concept", None, "box or mask points at one object and cannot guide concept"),
        (MASK, "instances", None, "cannot guide instances. Use target object"),
        (Prompts(), "concept", EARLIER, "cannot guide concept"),
        (Prompts(), "object", None, "nothing to go by. Give a point, a box or a mask"),
        (MASK, "object", EARLIER, "Give one mask, and one box at most"),
        (Prompts(boxes=BOXES.boxes, mask=MASK.mask), "object", None, "one box at most"),
        (BOXES, "object", EARLIER, "one box at most"),
        (POINT, "object", NOTHING, "earlier mask is empty. Leave it out"),
        (POINT, "object", LARGER, "reaches to row 41, column 60, beyond this image of 40 x 60"),
        (POINT, "object", BEYOND, "reaches to row 3, column 61"),
    ],
)
def test_what_does_not_go_together_is_refused(
    prompts: Prompts, target: str, previous: ObjectMask | None, match: str
) -> None:
    with pytest.raises(PromptError, match=match):
        check_prompts(prompts, target, previous, SHAPE)


# ---------------------------------------------------------------- several boxes


@pytest.mark.parametrize("prompts", [POINT, BOX, BOX_MASK, Prompts("nuclei")])
def test_one_box_at_most_is_one_object(prompts: Prompts) -> None:
    assert split_boxes(prompts) == [prompts]


def test_several_boxes_are_several_objects_with_the_points_in_them() -> None:
    points = [(5, 5), (9.5, 9), (20, 20), (-0.5, 9)]
    boxes = [(0, 0, 10, 10), (5, 5, 30, 30)]
    parts = split_boxes(Prompts("nuclei", points, [1, 0, 1, 0], boxes))

    assert [part.boxes.tolist() for part in parts] == [[list(map(float, b))] for b in boxes]
    assert parts[0].points.tolist() == [[5, 5], [9.5, 9], [-0.5, 9]]
    assert parts[0].labels.tolist() == [1, 0, 0]
    assert parts[1].points.tolist() == [[5, 5], [9.5, 9], [20, 20]]
    assert {part.text for part in parts} == {"nuclei"}


def test_a_point_in_none_of_several_boxes_is_refused() -> None:
    boxes = [(0, 0, 11, 11), (20, 20, 30, 30)]
    with pytest.raises(PromptError, match=r"y=10\.6, x=3 lies in none of the boxes"):
        split_boxes(Prompts(points=[(10.6, 3)], boxes=boxes))

    assert len(split_boxes(Prompts(points=[(10.4, 3)], boxes=boxes))[0].points) == 1
