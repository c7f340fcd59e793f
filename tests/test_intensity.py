"""Intensities: 8 bits from any type, alike through a stack, whatever one pixel or slice holds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_clipsam.errors import PlaneError
from napari_clipsam.planes import open_image


def pixels(*shape, dtype=np.uint8, seed=0):
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(0, info.max, shape, dtype, endpoint=True)


def test_8_bit_pixels_stay_as_they_are():
    dark = pixels(5, 6, 3) // 16
    np.testing.assert_array_equal(open_image(dark).plane().rgb, dark)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.uint32, np.int64, np.float16, ">u2"])
def test_other_pixels_are_scaled_in_order(dtype):
    ramp = np.arange(1024).reshape(32, 32).astype(dtype)
    seen = open_image(ramp).plane().rgb[..., 0].ravel()
    assert seen[0] == 0
    assert seen[-1] == 255
    assert (np.diff(seen.astype(int)) >= 0).all()
    assert abs(int(seen[512]) - 128) <= 1


def test_bool_becomes_black_and_white():
    mask = np.array([[True, False], [False, False]])
    assert open_image(mask).plane().rgb[..., 0].tolist() == [[255, 0], [0, 0]]


def test_all_planes_are_scaled_alike():
    stack = open_image(np.stack([np.full((8, 8), v) for v in range(40)]).astype(np.uint16) * 50)
    levels = [int(stack.plane(z).rgb.max()) for z in range(40)]
    assert levels[0] == 0
    assert levels[-1] == 255
    assert levels == sorted(levels)


def test_a_hot_pixel_changes_nothing_but_itself():
    array = pixels(6, 50, 60, dtype=np.uint16) // 64
    hot = array.copy()
    hot[2, 7, 9] = 65535
    for size in (slice(None), slice(0, 12)):
        plain, burnt = (open_image(a[:, size, size], axes="ZYX") for a in (array, hot))
        for z in range(6):
            change = plain.plane(z).rgb.astype(int) - burnt.plane(z).rgb
            change[7, 9] = 0
            assert np.abs(change).max() <= 1


def test_a_hot_pixel_in_a_tiny_image_changes_nothing_but_itself():
    array = np.arange(100, dtype=np.uint16).reshape(10, 10)
    hot = array.copy()
    hot[9, 9] = 65535
    assert (
        np.abs(np.diff([open_image(a).plane().rgb.astype(int) for a in (array, hot)], axis=0))[
            0
        ].max()
        <= 3
    )


@pytest.mark.parametrize("filler", [0, 65535, 700])
def test_empty_slices_change_nothing(filler):
    array = pixels(4, 50, 60, dtype=np.uint16) // 64 + 300
    padded = np.full((24, 50, 60), filler, np.uint16)
    padded[10:14] = array
    for z in range(4):
        np.testing.assert_array_equal(
            open_image(padded).plane(10 + z).rgb, open_image(array).plane(z).rgb
        )


def test_few_bright_pixels_on_black_are_not_lost():
    array = np.zeros((200, 200), np.uint16)
    array[50:54, 60:65] = np.arange(100, 120).reshape(4, 5)
    seen = open_image(array).plane().rgb[..., 0]
    assert ((seen > 200) == (array > 0)).all()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((9, 9), np.float32),
        np.full((9, 9), 7.5, np.float32),
        np.full((9, 9), 65535, np.uint16),
        np.full((9, 9), np.nan, np.float64),
        np.zeros((1, 1), np.uint8),
        np.ones((1, 1), np.float32),
    ],
)
def test_an_image_without_contrast_is_black(array):
    assert not open_image(array).plane().rgb.any()


def test_nan_and_infinity_do_not_touch_their_neighbours():
    array = np.linspace(0, 1, 900, dtype=np.float32).reshape(30, 30)
    spoilt = array.copy()
    spoilt[3, 4], spoilt[5, 6], spoilt[7, 8] = np.nan, np.inf, -np.inf
    seen = open_image(spoilt).plane().rgb[..., 0].astype(int)
    assert (seen[3, 4], seen[5, 6], seen[7, 8]) == (0, 255, 0)
    kept = np.isfinite(spoilt)
    assert np.abs(seen - open_image(array).plane().rgb[..., 0])[kept].max() <= 1


def test_nan_in_every_slice_leaves_the_rest():
    array = np.tile(np.arange(64, dtype=np.float32).reshape(8, 8), (3, 1, 1))
    array[:, 0, 0] = np.nan
    assert open_image(array).plane(1).rgb[7, 7, 0] == 255


def test_extreme_floats_are_scaled_without_overflow():
    array = np.repeat([[-1.7e308], [0.0], [1.7e308]], 5, axis=1)
    assert open_image(array).plane().rgb[:, 2, 0].tolist() == [0, 128, 255]


@settings(deadline=None)
@given(st.lists(st.floats(width=32), min_size=4, max_size=4), st.integers(1, 3))
def test_any_float_image_is_shown_in_order(values, width):
    array = np.resize(np.array(values, np.float32), (2, width))
    seen = open_image(array).plane().rgb[..., 0]
    order = np.argsort(array, axis=None)
    known = order[~np.isnan(array.ravel()[order])]
    assert (np.diff(seen.ravel()[known].astype(int)) >= 0).all()
    assert (seen[np.isnan(array)] == 0).all()


def test_channels_are_scaled_apart_and_colours_together():
    array = np.stack([pixels(40, 40, dtype=np.uint16) // 100, pixels(40, 40, dtype=np.uint16)])
    apart = open_image(array, axes="CYX").plane().rgb
    together = open_image(array, axes="SYX", channels=(0, 1)).plane().rgb
    assert apart[..., 0].max() == apart[..., 1].max() == 255
    assert together[..., 0].max() <= 4
    assert together[..., 1].max() == 255


@pytest.mark.parametrize(
    "array",
    [np.zeros((5, 6), complex), np.full((5, 6), "a"), np.zeros((5, 6), object)],
)
def test_pixels_that_are_no_intensities_are_refused(array):
    with pytest.raises(PlaneError, match="cannot be shown"):
        open_image(array)
