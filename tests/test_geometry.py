"""Data pixels and model pixels: there and back, tiles, zoom, and what SAM itself does."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from segment_anything.utils.transforms import ResizeLongestSide

from napari_clipsam.errors import ConfigError, PlaneError, PromptError
from napari_clipsam.geometry import Frame, tiles, whole_plane, zoom_to_box

sides = st.integers(1, 3000)
inputs = st.sampled_from([64, 256, 512, 1024])


@st.composite
def frames(draw, longest=3000, input_sizes=inputs):
    side = st.integers(1, longest)
    return Frame(
        origin=(draw(st.integers(0, 5000)), draw(st.integers(0, 5000))),
        shape=(draw(side), draw(side)),
        input_size=draw(input_sizes),
        squash=draw(st.booleans()),
    )


@given(frames(), st.data())
def test_a_data_point_comes_back_within_half_a_pixel(frame, data):
    (y0, x0), (height, width) = frame.origin, frame.shape
    yx = np.array(
        [
            y0 + data.draw(st.floats(-0.5, height - 0.5)),
            x0 + data.draw(st.floats(-0.5, width - 0.5)),
        ]
    )
    xy = frame.to_model(yx)
    assert np.abs(frame.to_data(xy) - yx).max() < 1e-6
    new_height, new_width = frame.resized
    half = 0.5 * np.array([new_width / width, new_height / height]) + 1e-6
    assert (xy >= -half).all()
    assert (xy <= np.array([new_width, new_height]) + half).all()


@settings(deadline=None, max_examples=60)
@given(frames(longest=90, input_sizes=st.sampled_from([32, 64, 100])), st.data())
def test_a_marked_pixel_is_seen_where_its_point_goes(frame, data):
    """Within half a data pixel, or within one model pixel where the picture shrinks.

    Pixels at the border are left out: resizing repeats them outwards.
    """
    height, width = frame.shape
    assume(height > 2 and width > 2)
    y = data.draw(st.integers(1, height - 2))
    x = data.draw(st.integers(1, width - 2))
    frame = Frame((3, 5), frame.shape, frame.input_size, frame.squash)
    plane = np.zeros((height + 6, width + 9, 3), np.uint8)
    plane[y + 3, x + 5] = 255
    seen = frame.image(plane)[..., 0].astype(float)
    assume(seen.max() > 0)
    brightest = np.argwhere(seen == seen.max())[:, ::-1]
    scale = np.divide(frame.resized, frame.shape)
    allowed = np.where(scale >= 1, 0.5, 1 / scale)
    distances = np.abs(frame.to_data(brightest) - (y + 3, x + 5))
    assert (distances <= allowed + 1e-6).all(axis=1).any()


def test_x_comes_first_in_model_pixels():
    frame = Frame(origin=(10, 100), shape=(50, 200), input_size=400)
    assert frame.resized == (100, 400)
    assert frame.to_model((20, 150)).tolist() == [100, 20]
    assert frame.box_to_model([(10, 100, 60, 300)]).tolist() == [[0, 0, 400, 100]]
    assert frame.box_to_model(np.zeros((0, 4))).shape == (0, 4)


def test_squashing_fills_the_square():
    frame = whole_plane((50, 200), 400, squash=True)
    assert frame.resized == (400, 400)
    assert frame.to_model((25, 100)).tolist() == [200, 200]


@given(sides, sides, inputs)
def test_sizes_are_those_of_segment_anything(height, width, size):
    expected = ResizeLongestSide.get_preprocess_shape(height, width, size)
    assert whole_plane((height, width), size).resized == tuple(max(1, side) for side in expected)


@pytest.mark.parametrize(
    "shape", [(60, 90), (90, 60), (1, 1), (3, 700), (700, 3), (64, 64), (2, 2), (200, 128)]
)
@pytest.mark.parametrize("size", [64, 128, 512])
def test_pixels_and_points_are_those_of_segment_anything(shape, size):
    rng = np.random.default_rng(0)
    plane = rng.integers(0, 256, (*shape, 3), np.uint8)
    theirs = ResizeLongestSide(size)
    frame = whole_plane(shape, size)
    if 0 in theirs.get_preprocess_shape(*shape, size):
        assert 1 in frame.image(plane).shape[:2]  # segment_anything stops here
        return
    np.testing.assert_array_equal(frame.image(plane), theirs.apply_image(plane))
    points = rng.uniform(0, shape, (5, 2))
    np.testing.assert_array_equal(
        frame.to_model(points), theirs.apply_coords(points[:, ::-1], shape)
    )
    boxes = np.concatenate([points, points + 3], axis=1)
    np.testing.assert_array_equal(
        frame.box_to_model(boxes), theirs.apply_boxes(boxes[:, [1, 0, 3, 2]], shape)
    )


def test_a_crop_shows_only_its_pixels():
    plane = np.zeros((40, 60, 3), np.uint8)
    plane[10:20, 30:50] = (7, 8, 9)
    assert (Frame((10, 30), (10, 20), 64).image(plane) == (7, 8, 9)).all()


@pytest.mark.parametrize(
    "plane",
    [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3), np.float32)],
)
def test_only_8_bit_rgb_is_shown(plane):
    with pytest.raises(PlaneError, match="open_image"):
        whole_plane((9, 9), 64).image(plane)


def test_a_crop_beyond_the_plane_is_refused():
    with pytest.raises(PlaneError, match="reaches beyond"):
        Frame((5, 0), (5, 9), 64).image(np.zeros((9, 9, 3), np.uint8))


@pytest.mark.parametrize(
    ("origin", "shape", "size", "error"),
    [
        ((0, 0), (0, 5), 64, PlaneError),
        ((0, 0), (5, 0), 64, PlaneError),
        ((-1, 0), (5, 5), 64, PlaneError),
        ((0, 0), (5, 5), 0, ConfigError),
    ],
)
def test_an_impossible_frame_is_refused(origin, shape, size, error):
    with pytest.raises(error, match="Give"):
        Frame(origin, shape, size)


def test_a_mask_of_the_prompts_own_size_is_untouched():
    mask = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    np.testing.assert_array_equal(whole_plane((64, 64), 256).mask_to_model(mask, 64), mask)


@settings(deadline=None, max_examples=60)
@given(frames(longest=200, input_sizes=st.just(256)), st.data())
def test_a_mask_lies_where_its_points_go(frame, data):
    """Half of the plane inside, half outside: the border falls where the points say it does."""
    height, width = frame.shape
    assume(height >= 4 and width >= 4 and min(frame.resized) >= 16)
    frame = Frame((2, 3), frame.shape, frame.input_size, frame.squash)
    border = data.draw(st.integers(1, width - 1))
    plane = np.full((height + 4, width + 4), -10, np.float32)
    plane[:, : border + 3] = 10
    mask = frame.mask_to_model(plane, 64)
    assert mask.shape == (64, 64) and mask.dtype == np.float32
    rows, columns = (side / 4 for side in frame.resized)
    assert (mask[int(np.ceil(rows)) :] == -10).all()
    assert (mask[:, int(np.ceil(columns)) :] == -10).all()
    seen = ((mask[0] + 10) / 20).sum()
    assert abs(seen - border * columns / width) < 0.51


@given(
    st.tuples(st.integers(1, 400), st.integers(1, 400)),
    st.integers(1, 150),
    st.integers(0, 149),
)
def test_tiles_cover_every_pixel_and_stay_inside(shape, size, overlap):
    assume(overlap < size)
    assume((size - overlap) * 40 > max(shape))
    frames = tiles(shape, size, overlap)
    covered = np.zeros(shape, bool)
    for frame in frames:
        assert frame.shape == (min(size, shape[0]), min(size, shape[1]))
        assert frame.slices[0].stop <= shape[0] and frame.slices[1].stop <= shape[1]
        covered[frame.slices] = True
    assert covered.all()
    assert len({frame.origin for frame in frames}) == len(frames)
    assert frames == tiles(shape, size, overlap)
    starts = sorted({frame.origin[1] for frame in frames})
    assert all(b - a <= size - overlap for a, b in pairwise(starts))


def test_tiles_of_a_huge_plane_are_only_numbers():
    frames = tiles((30_000, 30_000), 1024, 128, input_size=512)
    assert len(frames) == 34 * 34
    assert frames[-1].origin == (30_000 - 1024, 30_000 - 1024)
    assert frames[0].input_size == 512


@pytest.mark.parametrize(("size", "overlap"), [(0, 0), (8, 8), (8, -1)])
def test_impossible_tiles_are_refused(size, overlap):
    with pytest.raises(ConfigError, match="overlap"):
        tiles((10, 10), size, overlap)


@given(st.data(), inputs, st.floats(0, 3))
def test_zooming_keeps_the_box_and_stays_inside(data, size, margin):
    shape = (data.draw(sides), data.draw(sides))
    box = []
    for side in shape:
        low = data.draw(st.floats(-50, side - 0.01))
        box.append((low, max(low, 0) + data.draw(st.floats(0.01, side))))
    (y0, y1), (x0, x1) = box
    frame = zoom_to_box((y0, x0, y1, x1), shape, size, margin)
    rows, columns = frame.slices
    assert 0 <= rows.start <= max(y0, 0) and min(y1, shape[0]) <= rows.stop <= shape[0]
    assert 0 <= columns.start <= max(x0, 0) and min(x1, shape[1]) <= columns.stop <= shape[1]
    assert frame.input_size == size
    assert min(frame.shape[0], size) == min(shape[0], size)


def test_a_small_box_in_a_large_plane_is_seen_one_to_one():
    frame = zoom_to_box((20_000, 100, 20_020, 140), (30_000, 30_000), 1024, 0.5)
    assert frame.resized == frame.shape == (1024, 1024)
    assert frame.origin == (20_010 - 512, 0)


def test_a_large_box_gets_its_margin():
    frame = zoom_to_box((1000, 1000, 3000, 2500), (9000, 9000), 1024, 0.25)
    assert frame.shape == (3000, 3000) and frame.origin == (500, 250)


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (-9, 0, -2, 5), (10, 0, 12, 5)])
def test_a_box_without_pixels_cannot_be_zoomed_to(box):
    with pytest.raises(PromptError, match="no pixels"):
        zoom_to_box(box, (10, 10), 64)


def test_a_negative_margin_is_refused():
    with pytest.raises(ConfigError, match="margin"):
        zoom_to_box((0, 0, 1, 1), (10, 10), 64, margin=-1)
