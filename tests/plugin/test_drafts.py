"""How answers change the preview."""

from __future__ import annotations

import numpy as np
import pytest

from napari_clipsam._plugin import drafts
from napari_clipsam._plugin.drafts import Origin
from napari_clipsam.inference.requests import ObjectMask, Prediction, Target
from napari_clipsam.prompts import Prompts

ORIGIN = Origin("cells", "starter", "default", "ViT-B-16:openai")
HERE, THERE = (3, None, None), (4, None, None)
BOXES = [(0, 0, 8, 8), (20, 20, 30, 30)]


def square(y: int, x: int, side: int = 6, score: float = 0.9) -> ObjectMask:
    return ObjectMask((y, x, y + side, x + side), np.ones((side, side), bool), score)


def answer(*masks: ObjectMask, target: Target = "object") -> Prediction:
    return Prediction((64, 64), target, masks, match=bool(masks))


def test_a_click_makes_an_object_and_another_changes_it() -> None:
    one = Prompts("nuclei", points=[(3, 3)])
    two = Prompts("nuclei", points=[(3, 3), (9, 9)], labels=[1, 0])
    first = drafts.with_object((), ORIGIN, HERE, one, answer(square(0, 0)))
    second = drafts.with_object(first, ORIGIN, HERE, two, answer(square(0, 0, 4)))
    third = drafts.with_object(second, ORIGIN, THERE, one, answer(square(1, 1)))

    (found,) = third
    assert found.key == first[0].key
    assert (found.word, found.target, found.label) == ("nuclei", "object", 0)
    assert found.prompts == {HERE: two, THERE: one}
    assert found.masks[HERE].area == 16
    assert (found.model, found.adapter, found.clip) == ("starter", "default", "ViT-B-16:openai")
    assert set(first[0].masks) == {HERE}, "former drafts stay as they were"


def test_each_box_is_an_object() -> None:
    both, one = Prompts(boxes=BOXES), Prompts(boxes=BOXES[:1])
    two = drafts.with_object((), ORIGIN, HERE, both, answer(square(1, 1), square(22, 22)))
    assert [o.masks[HERE].box[0] for o in two] == [1, 22]
    assert [o.prompts[HERE].boxes.tolist() for o in two] == [[list(box)] for box in BOXES]

    left = drafts.with_object(two, ORIGIN, HERE, one, answer(square(1, 1)))
    assert [o.key for o in left] == [two[0].key]


def test_a_word_adds_planes_and_another_word_starts_anew() -> None:
    nuclei, cells = Prompts("nuclei"), Prompts("cells")
    found = answer(square(0, 0), target="concept")
    draft = drafts.with_concept((), ORIGIN, HERE, nuclei, found)
    draft = drafts.with_concept(draft, ORIGIN, THERE, nuclei, found)
    assert [set(one.masks) for one in draft] == [{HERE, THERE}]

    nothing = answer(target="concept")
    assert [set(o.masks) for o in drafts.with_concept(draft, ORIGIN, HERE, nuclei, nothing)] == [
        {THERE}
    ]
    (other,) = drafts.with_concept(draft, ORIGIN, HERE, cells, found)
    assert (other.word, set(other.masks)) == ("cells", {HERE})


def test_every_one_replaces_those_of_its_plane_only() -> None:
    word = Prompts("nuclei")
    many = answer(square(0, 0), square(20, 0), target="instances")
    draft = drafts.with_instances((), ORIGIN, HERE, word, many)
    draft = drafts.with_instances(draft, ORIGIN, THERE, word, many)
    draft = drafts.with_instances(draft, ORIGIN, HERE, word, answer(square(9, 9)))

    assert sorted((next(iter(o.masks)), o.masks[next(iter(o.masks))].box[0]) for o in draft) == [
        (HERE, 9),
        (THERE, 0),
        (THERE, 20),
    ]


def test_one_more_takes_the_place_of_what_it_covers() -> None:
    word, click = Prompts("nuclei"), Prompts("nuclei", points=[(22, 3)])
    draft = drafts.with_instances((), ORIGIN, HERE, word, answer(square(0, 0), square(20, 0)))
    added, said = drafts.with_one_more(draft, ORIGIN, HERE, click, answer(square(40, 40)))
    assert (len(added), said) == (3, "added 1")

    better, said = drafts.with_one_more(draft, ORIGIN, HERE, click, answer(square(20, 1)))
    assert said == "replaced 1"
    assert [o.masks[HERE].box[:2] for o in better] == [(0, 0), (20, 1)]
    assert better[1].prompts[HERE] is click

    same, said = drafts.with_one_more(draft, ORIGIN, HERE, click, answer(square(0, 0, 0)))
    assert (same, said) == (draft, "nothing there")


def test_the_object_under_a_point() -> None:
    draft = drafts.with_instances(
        (), ORIGIN, HERE, Prompts("nuclei"), answer(square(0, 0), square(3, 3))
    )
    assert drafts.object_at(draft, HERE, 4.4, 4.4) is draft[1]
    assert drafts.object_at(draft, HERE, 0, 5) is draft[0]
    assert drafts.object_at(draft, HERE, 6, 0) is None
    assert drafts.object_at(draft, THERE, 4, 4) is None


@pytest.mark.parametrize(
    ("points", "labels", "refines"),
    [
        ([(3, 3), (5, 5)], [1, 1], True),
        ([(3, 3), (5, 5)], [0, 1], False),  # a click changed its sign
        ([(5, 5)], [1], False),  # one was taken back
        ([(3, 3)], [1], False),  # nothing is new
    ],
)
def test_only_prompts_that_add_to_former_ones_refine_their_mask(
    points: list[tuple[float, float]], labels: list[int], refines: bool
) -> None:
    draft = drafts.with_object((), ORIGIN, HERE, Prompts(points=[(3, 3)]), answer(square(0, 0)))
    mask = drafts.earlier_mask(draft[0], HERE, Prompts(points=points, labels=labels))
    assert (mask is draft[0].masks[HERE]) == refines
    assert drafts.earlier_mask(draft[0], THERE, Prompts(points=points, labels=labels)) is None


def test_a_follower_leaves_what_the_user_prompted() -> None:
    draft = drafts.with_object((), ORIGIN, HERE, Prompts(points=[(3, 3)]), answer(square(0, 0)))
    name = draft[0].key
    far = drafts.with_follower(name, THERE, square(1, 1), draft)
    assert far[0].masks[THERE].box[0] == 1
    assert drafts.earlier_mask(far[0], THERE, Prompts(points=[(2, 2)])) is far[0].masks[THERE]
    assert THERE not in drafts.with_follower(name, THERE, None, far)[0].masks
    assert drafts.with_follower(name, HERE, None, far)[0].masks == far[0].masks
    assert drafts.with_follower("other", THERE, None, far)[0].masks == far[0].masks


def test_linked_objects_grow_slice_by_slice() -> None:
    draft: drafts.Draft = ()
    for key, found in (
        (HERE, {"a": square(0, 0), "b": square(9, 9)}),
        (THERE, {"b": square(8, 8)}),
    ):
        draft = drafts.with_linked(ORIGIN, key, "nuclei", found, draft)
    assert [(o.key, set(o.masks)) for o in draft] == [("a", {HERE}), ("b", {HERE, THERE})]


def test_prompt_layers_show_what_was_asked_for_objects() -> None:
    draft = drafts.with_object(
        (), ORIGIN, HERE, Prompts(boxes=BOXES), answer(square(1, 1), square(22, 22))
    )
    assert drafts.prompts_of(draft)[HERE].boxes.tolist() == [list(box) for box in BOXES]
    many = drafts.with_instances((), ORIGIN, HERE, Prompts("nuclei"), answer(square(0, 0)))
    assert drafts.prompts_of(many) == {}
