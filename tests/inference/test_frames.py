"""Which part of a plane is shown: whole, tiles, a zoom to the prompts."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_clipsam.geometry import Frame, tiles, whole_plane
from napari_clipsam.inference.frames import (
    closer_frame,
    closer_frames,
    concept_frames,
    frames_like,
    holds,
    is_large,
    object_frame,
    owned_regions,
    quarters,
)
from napari_clipsam.prompts import Prompts

SHAPES = st.tuples(st.integers(1, 700), st.integers(1, 700))


def test_an_object_may_be_looked_for_at_the_plane_s_own_scale() -> None:
    shape, point = (100, 70), Prompts(points=[(80, 60)])
    assert object_frame(shape, point, 64) == whole_plane(shape, 64)
    own = object_frame(shape, point, 64, whole=1.0)
    assert own.shape == (64, 64) and own in tiles(shape, 64, 16, 64)
    assert object_frame((64, 50), point, 64, whole=1.0) == whole_plane((64, 50), 64)


@pytest.mark.parametrize(
    ("shape", "large"),
    [((128, 128), False), ((1, 1), False), ((129, 1), True), ((1, 30_000), True)],
)
def test_up_to_twice_the_input_a_plane_is_shown_whole(shape: tuple[int, int], large: bool) -> None:
    assert is_large(shape, 64) is large
    frames = concept_frames(shape, 64)
    assert (frames == [whole_plane(shape, 64)]) is not large


@given(SHAPES, st.booleans())
def test_every_pixel_is_answered_for_by_one_tile_that_shows_it(
    shape: tuple[int, int], squash: bool
) -> None:
    frames = concept_frames(shape, 64, squash)
    owners = np.zeros(shape, int)
    for frame, (rows, cols) in zip(frames, owned_regions(frames), strict=True):
        owners[rows, cols] += 1
        shown_rows, shown_cols = frame.slices
        assert shown_rows.start <= rows.start < rows.stop <= shown_rows.stop
        assert shown_cols.start <= cols.start < cols.stop <= shown_cols.stop
        assert frame.squash is squash and frame.input_size == 64

    assert (owners == 1).all()


@given(SHAPES)
def test_inside_a_large_plane_every_pixel_has_context(shape: tuple[int, int]) -> None:
    frames = concept_frames(shape, 64)
    for frame, owned in zip(frames, owned_regions(frames), strict=True):
        for shown, own, length in zip(frame.slices, owned, shape, strict=True):
            assert own.start - shown.start >= 8 or shown.start == 0
            assert shown.stop - own.stop >= 8 or shown.stop == length


@st.composite
def prompted(draw: st.DrawFn) -> tuple[tuple[int, int], Prompts]:
    """A plane's shape and prompts that touch it."""
    shape = draw(SHAPES)

    def inside(axis: int) -> st.SearchStrategy[float]:
        return st.floats(-0.5, shape[axis] - 0.5)

    points = draw(st.lists(st.tuples(inside(0), inside(1)), max_size=3))
    boxes = []
    for _ in range(draw(st.integers(0 if points else 1, 2))):
        y, x = draw(inside(0)), draw(inside(1))
        h, w = draw(st.floats(1, 300)), draw(st.floats(1, 300))
        boxes.append((y - draw(st.floats(0, 30)), x, y + h, x + w))
    return shape, Prompts(points=points or None, boxes=boxes or None)


@given(prompted(), st.booleans())
def test_the_frame_of_an_object_holds_all_its_prompts(
    given_: tuple[tuple[int, int], Prompts], squash: bool
) -> None:
    shape, prompts = given_
    frame = object_frame(shape, prompts, 64, squash)
    rows, cols = frame.slices

    assert rows.stop <= shape[0] and cols.stop <= shape[1]
    assert holds(frame, prompts, shape)
    assert frame.squash is squash
    low, high = np.array(frame.origin) - 0.5, np.array([rows.stop, cols.stop]) - 0.5
    assert ((prompts.points >= low) & (prompts.points <= high)).all()
    assert (frame == whole_plane(shape, 64, squash)) or is_large(shape, 64)


def test_neighbouring_clicks_share_a_tile() -> None:
    frames = {object_frame((500, 500), Prompts(points=[(y, 250)]), 64) for y in range(250, 262)}

    assert len(frames) <= 2
    assert frames <= set(concept_frames((500, 500), 64))


def test_a_click_has_context_on_all_sides() -> None:
    for y in range(0, 500, 7):
        frame = object_frame((500, 500), Prompts(points=[(y, y)]), 64)
        assert frame.shape == (64, 64)
        assert y - frame.origin[0] >= 4 or frame.origin[0] == 0
        assert frame.origin[0] + 64 - y >= 4 or frame.origin[0] + 64 == 500


@given(prompted(), st.booleans())
def test_a_closer_frame_holds_the_object_and_its_prompts_and_enlarges_both(
    given_: tuple[tuple[int, int], Prompts], squash: bool
) -> None:
    shape, prompts = given_
    frame = object_frame(shape, prompts, 64, squash)
    y, x = (prompts.points if len(prompts.points) else prompts.boxes)[0, :2].clip(0)
    box = (y, x, y + 3, x + 2)
    closer = closer_frame(frame, shape, prompts, box, 32)

    side = 3 * 64 / max(frame.shape)
    if closer is None:
        wide = not prompts.boxes.size or np.ptp(prompts.boxes.reshape(-1, 2), axis=0).max() > 3
        assert side >= 32 or len(prompts.points) > 1 or wide
        return
    assert side < 32
    assert holds(closer, prompts, shape)
    assert holds(closer, Prompts(boxes=[box]), shape)
    assert closer.squash is squash and closer.input_size == 64
    assert max(frame.shape) / 4 <= max(closer.shape) < max(frame.shape)


@pytest.mark.parametrize(
    ("side", "width"), [(1, 16), (4, 16), (8, 16), (9, 32), (16, 32), (17, None), (40, None)]
)
def test_an_object_is_enlarged_as_often_as_it_needs(side: int, width: int | None) -> None:
    click = Prompts(points=[(30, 30)])
    box = (30 - side // 2, 30, 30 - side // 2 + side, 31)
    closer = closer_frame(whole_plane((64, 60), 64), (64, 60), click, box, 17)
    assert (closer and closer.shape[0]) == (None if width is None else width)


def test_objects_alike_and_near_share_a_closer_frame() -> None:
    shape = (64, 64)
    frames = {
        closer_frame(
            whole_plane(shape, 64), shape, Prompts(points=[(y, x)]), (y, x, y + 5, x + 5), 16
        )
        for y in range(20, 26)
        for x in range(20, 26)
    }
    assert len(frames) <= 4


@given(SHAPES.filter(lambda shape: max(shape) > 8), st.booleans(), st.integers(1, 7))
def test_parts_cover_a_plane_and_are_those_in_which_an_object_is_looked_for(
    shape: tuple[int, int], squash: bool, side: int
) -> None:
    whole = whole_plane(shape, 64, squash)
    boxes = [(0, 0, 1, 1), (0, 0, side, 1), (0, 0, *shape)]
    parts = closer_frames(whole, boxes, 32)
    if side * 64 / max(shape) >= 32:
        assert parts == [], "the typical object is large enough"
        return
    seen = np.zeros(shape, bool)
    for part in parts:
        seen[part.slices] = True
        assert (part.squash, part.input_size) == (squash, 64)
    assert seen.all()
    y, x = (length // 2 for length in shape)
    one = closer_frame(whole, shape, Prompts(points=[(y, x)]), (y, x, y + side, x + 1), 32)
    assert one is None or one in parts or one.origin not in [part.origin for part in parts]


@given(SHAPES, st.booleans())
def test_quarters_cover_a_plane_at_twice_its_scale(shape: tuple[int, int], squash: bool) -> None:
    whole = whole_plane(shape, 64, squash)
    parts = quarters(whole)
    seen = np.zeros(shape, bool)
    for part in parts:
        seen[part.slices] = True
        assert (part.squash, part.input_size) == (squash, 64)
    assert seen.all() and len(parts) <= 4
    assert {max(part.shape) for part in parts} == {math.ceil(max(shape) / 2)}


def test_frames_like_one_come_by_distance() -> None:
    shape = (200, 190)
    (first, *_) = tiles(shape, 32, 16, 64)
    like = frames_like(first, shape, 4)
    assert first not in like and len(like) == 4
    far = [max(f.origin) for f in like]
    assert far == sorted(far) and far[0] == 16 and max(far) <= 32
    assert {f.shape for f in like} == {(32, 32)}
    assert set(like) < set(tiles(shape, 32, 16, 64))
    assert frames_like(replace(first, origin=(1, 0)), shape, 4) == [], "a zoom of its own"


def test_a_part_that_hardly_enlarges_is_none() -> None:
    shape, box = (512, 512), (5, 5, 15, 15)
    whole = whole_plane(shape, 512)
    for away, width in ((40, 128), (150, 292), (250, None)):
        prompts = Prompts(points=[(away, away)], labels=[0], boxes=[box])
        closer = closer_frame(whole, shape, prompts, box, 48)
        assert (closer and max(closer.shape)) == width


def test_a_closer_frame_holds_a_mask_prompt() -> None:
    mask = np.zeros((512, 512), bool)
    mask[10:210, 10:210] = True
    prompts = Prompts(mask=mask, boxes=[(20, 20, 36, 36)])
    closer = closer_frame(whole_plane(mask.shape, 512), mask.shape, prompts, (20, 20, 36, 36), 48)
    assert closer is None or holds(closer, prompts, mask.shape)


@given(SHAPES, st.integers(4, 90), st.data())
def test_the_tile_nearest_to_a_click_is_chosen_without_making_all(
    shape: tuple[int, int], side: int, data: st.DataObject
) -> None:
    y, x = (data.draw(st.integers(0, length - 1)) for length in shape)
    frame = object_frame(shape, Prompts(points=[(y, x)]), side, whole=1.0)
    every = tiles(shape, side, side // 4, side)

    def away(one: Frame) -> float:
        middles = np.array(one.origin) + np.array(one.shape) / 2
        return float(np.abs(middles - (y + 0.5, x + 0.5)).max())

    if frame in every:
        assert away(frame) == min(map(away, every))


def test_of_a_huge_plane_not_all_tiles_are_made() -> None:
    begun = time.process_time()
    shape = (1_000_000, 1_000_000)
    frame = object_frame(shape, Prompts(points=[(654_321, 123_456)]), 64)
    closer = closer_frame(frame, shape, Prompts(), (654_321, 123_456, 654_323, 123_458), 6)
    assert frame.shape == (64, 64) and closer is not None and closer.shape == (16, 16)
    assert time.process_time() - begun < 1


def test_a_box_larger_than_a_tile_is_zoomed_to() -> None:
    frame = object_frame((500, 500), Prompts(boxes=[(100, 100, 200, 220)]), 64)

    # 120 pixels with half of that around them on each side.
    assert frame.shape == (240, 240)
    assert frame.slices == (slice(30, 270), slice(40, 280))


def test_a_mask_is_looked_for_where_it_is() -> None:
    mask = np.zeros((500, 400), bool)
    mask[300:310, 20:30] = True
    frame = object_frame(mask.shape, Prompts(mask=mask), 64)

    assert frame.shape == (64, 64)
    assert frame.origin[0] <= 300 and frame.origin[0] + 64 >= 310 and frame.origin[1] == 0
    whole = whole_plane(mask.shape, 64)
    assert object_frame(mask.shape, Prompts(mask=np.zeros_like(mask)), 64) == whole


def test_a_frame_holds_what_lies_in_it() -> None:
    frame = Frame((10, 20), (30, 40), 64)
    shape = (200, 200)
    for points, inside in (
        ([(10, 20)], True),
        ([(9.5, 19.5)], True),
        ([(39.4, 59.4)], True),
        ([(9.4, 20)], False),
        ([(39.6, 20)], False),
        ([(10, 20), (10, 60)], False),
    ):
        assert holds(frame, Prompts(points=points), shape) is inside, points
    assert holds(frame, Prompts(boxes=[(10, 20, 40, 60)]), shape)
    assert not holds(frame, Prompts(boxes=[(10, 20, 40, 61)]), shape)
    # Beyond the plane there is nothing to show.
    assert holds(whole_plane((40, 60), 64), Prompts(boxes=[(-5, -5, 50, 70)]), (40, 60))
    assert holds(frame, Prompts(), shape)
