"""Objects found twice, and objects that a seam cuts."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_clipsam.geometry import Frame
from napari_clipsam.inference.frames import concept_frames, owned_regions
from napari_clipsam.inference.masks import cut_to_box
from napari_clipsam.inference.overlaps import distinct, join_instances, union
from napari_clipsam.inference.requests import ObjectMask


def rectangle(y0: int, x0: int, y1: int, x1: int, score: float = 0.5) -> ObjectMask:
    return ObjectMask((y0, x0, y1, x1), np.ones((y1 - y0, x1 - x0), bool), score)


def ellipse(shape: tuple[int, int], y: float, x: float, ry: float, rx: float) -> np.ndarray:
    yy, xx = np.indices(shape)
    return ((yy - y) / ry) ** 2 + ((xx - x) / rx) ** 2 <= 1


def seen_in(mask: np.ndarray, frame: Frame, score: float) -> ObjectMask | None:
    """What a tile shows of an object."""
    box, part = cut_to_box(mask[frame.slices], frame.origin)
    return ObjectMask(box, part, score) if part.size else None


def tiled(truth: list[np.ndarray], size: int = 64) -> tuple[list, tuple[int, int]]:
    """What a perfect model finds in the tiles of a plane; every object scores higher when cut."""
    shape = truth[0].shape
    frames = concept_frames(shape, size)
    found = []
    for frame, owned in zip(frames, owned_regions(frames), strict=True):
        seen = [seen_in(mask, frame, 1 - mask[frame.slices].sum() / mask.size) for mask in truth]
        found.append((frame, owned, [one for one in seen if one is not None and one.area >= 6]))
    return found, shape


def as_sets(objects: list[ObjectMask], shape: tuple[int, int]) -> set[bytes]:
    whole = []
    for one in objects:
        plane = np.zeros(shape, bool)
        plane[one.slices] = one.mask
        whole.append(np.packbits(plane).tobytes())
    assert len(set(whole)) == len(whole)
    return set(whole)


# ---------------------------------------------------------------- one object found twice


def test_the_better_one_of_two_that_overlap_is_kept() -> None:
    objects = [rectangle(0, 0, 10, 10, 0.5), rectangle(0, 3, 10, 13, 0.9), rectangle(0, 40, 5, 45)]

    assert distinct(objects, 0.5) == [1, 2]
    assert distinct(objects, 0.7) == [1, 0, 2]
    assert distinct(objects, 0.5, ranks=[9, 1, 0]) == [0, 2]
    assert distinct([], 0.5) == []


def test_overlap_is_a_share_of_the_smaller_one() -> None:
    objects = [rectangle(0, 0, 40, 40, 0.9), rectangle(10, 10, 14, 14, 0.8)]

    assert distinct(objects, 0.5) == [0]


def test_what_a_dropped_one_overlaps_may_stay() -> None:
    chain = [rectangle(0, x, 10, x + 10, s) for x, s in ((0, 0.9), (4, 0.8), (8, 0.7))]

    assert distinct(chain, 0.5) == [0, 2]


def test_the_earlier_of_equals_is_kept() -> None:
    assert distinct([rectangle(0, 0, 4, 4), rectangle(0, 0, 4, 4)], 0.5) == [0]


BOXES = st.tuples(*[st.integers(0, 30)] * 2, *[st.integers(1, 12)] * 2, st.floats(0, 1))


@settings(max_examples=60)
@given(st.lists(BOXES, max_size=12), st.floats(0.1, 0.9))
def test_the_choice_is_that_of_comparing_all_pairs(boxes: list, limit: float) -> None:
    rng = np.random.default_rng(0)
    objects = []
    for y, x, h, w, score in boxes:
        mask = rng.random((h, w)) < 0.8
        mask[0, 0] = mask[-1, -1] = True
        objects.append(ObjectMask((y, x, y + h, x + w), mask, score))

    def overlap(a: ObjectMask, b: ObjectMask) -> float:
        planes = np.zeros((2, 50, 50), bool)
        planes[0][a.slices], planes[1][b.slices] = a.mask, b.mask
        return (planes[0] & planes[1]).sum() / min(a.area, b.area)

    wanted: list[int] = []
    for i in sorted(range(len(objects)), key=lambda k: -objects[k].score):
        if all(overlap(objects[i], objects[j]) <= limit for j in wanted):
            wanted.append(i)
    assert distinct(objects, limit) == wanted


# ---------------------------------------------------------------- parts of one object


def test_parts_join_to_their_union() -> None:
    parts = [rectangle(0, 0, 10, 10, 0.9), rectangle(5, 10, 8, 20, 0.5)]
    joined = union(parts)

    assert joined.box == (0, 0, 10, 20) and joined.area == 130
    assert joined.score == pytest.approx((100 * 0.9 + 30 * 0.5) / 130)
    assert joined.mask[:, :10].all() and joined.mask[5:8, 10:].all()
    assert union(parts[:1]).box == parts[0].box


@pytest.mark.parametrize(
    "radii",
    [(4, 4), (7, 7), (20, 6), (6, 45), (70, 80)],
    ids=["dot", "disc", "tall", "wide", "across tiles"],
)
def test_an_object_anywhere_is_found_once_and_whole(radii: tuple[int, int]) -> None:
    shape = (200, 170)
    for y in range(10, 190, 23):
        mask = ellipse(shape, y, 0.85 * y, *radii)
        found, _ = tiled([mask])

        assert as_sets(join_instances(found, shape, 0.5), shape) == as_sets(
            [ObjectMask(*cut_to_box(mask, (0, 0)), 1.0)], shape
        )


def test_many_objects_keep_apart() -> None:
    shape, rng = (260, 230), np.random.default_rng(1)
    truth: list[np.ndarray] = []
    while len(truth) < 60:
        mask = ellipse(shape, *rng.uniform(0, 230, 2), *rng.uniform(3, 12, 2))
        if mask.sum() > 20 and not any((mask & other).any() for other in truth):
            truth.append(mask)
    found, _ = tiled(truth)
    joined = join_instances(found, shape, 0.5)

    whole = [ObjectMask(*cut_to_box(mask, (0, 0)), 1.0) for mask in truth]
    assert as_sets(joined, shape) == as_sets(whole, shape)
    scores = [one.score for one in joined]
    assert scores == sorted(scores, reverse=True)
    assert all(one.logits is None and one.frame is None for one in joined)


LEFT, RIGHT = Frame((0, 0), (64, 64), 64), Frame((0, 48), (64, 64), 64)
HOMES = (slice(0, 64), slice(0, 56)), (slice(0, 64), slice(56, 112))


@pytest.mark.parametrize(
    "part",
    [
        rectangle(18, 56, 40, 64, 0.99),  # more of it than there is
        rectangle(20, 46, 24, 64, 0.99),  # too little, and where its own tile answers
        rectangle(20, 58, 23, 64, 0.99),  # too little, and where the neighbour does
    ],
    ids=["more", "at home", "away"],
)
def test_a_confident_part_does_not_displace_the_whole(part: ObjectMask) -> None:
    whole = rectangle(20, 52, 35, 90, 0.4)
    found = [(LEFT, HOMES[0], [part]), (RIGHT, HOMES[1], [whole])]

    (kept,) = join_instances(found, (64, 112), 0.5)
    assert (kept.box, kept.score) == (whole.box, whole.score)


def test_parts_that_agree_in_the_main_are_one_object() -> None:
    parts = rectangle(20, 10, 41, 64, 0.6), rectangle(22, 48, 40, 100, 0.9)
    found = [(LEFT, HOMES[0], [parts[0]]), (RIGHT, HOMES[1], [parts[1]])]

    (joined,) = join_instances(found, (64, 112), 0.5)
    assert joined.box == (20, 10, 41, 100)
    assert joined.area == 21 * 54 + 18 * 36
    assert 0.6 < joined.score < 0.9


def test_parts_that_disagree_are_two() -> None:
    parts = rectangle(10, 10, 30, 64), rectangle(24, 48, 50, 100)
    found = [(LEFT, HOMES[0], [parts[0]]), (RIGHT, HOMES[1], [parts[1]])]

    assert len(join_instances(found, (64, 112), 0.5)) == 2


def test_a_part_no_neighbour_agrees_with_counts_only_at_home() -> None:
    away, home = rectangle(0, 58, 5, 64), rectangle(30, 40, 50, 64)
    uncut = rectangle(10, 50, 20, 55)

    found = [(LEFT, HOMES[0], [away, home, uncut]), (RIGHT, HOMES[1], [])]
    kept = join_instances(found, (64, 112), 0.5)

    assert {one.box for one in kept} == {home.box, uncut.box}


def test_touching_objects_on_a_seam_are_two() -> None:
    shape = (100, 150)
    truth = [ellipse(shape, 50, x, 12, 8) for x in (48, 64.5)]
    truth[1] &= ~truth[0]
    found, _ = tiled(truth)

    assert len(join_instances(found, shape, 0.5)) == 2


def test_every_pair_of_tiles_is_compared_only_where_boxes_meet() -> None:
    corners = range(0, 1200, 20)
    grid = [rectangle(y, x, y + 15, x + 15) for y in corners for x in corners]

    assert len(distinct(grid, 0.5)) == 3600


def test_a_plane_without_objects_has_none() -> None:
    found, shape = tiled([np.zeros((150, 150), bool)])

    assert join_instances(found, shape, 0.5) == []


def test_the_perfect_model_of_these_tests_cuts_objects() -> None:
    found, _ = tiled([ellipse((200, 170), 100, 85, 20, 20)])
    areas = [one.area for _, _, objects in found for one in objects]

    assert len(areas) > 2 and all(a != b for a, b in combinations(sorted(areas)[-2:], 2))
