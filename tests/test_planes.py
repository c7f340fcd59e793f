"""Planes: any array, axis order and choice gives the right picture, or a helpful refusal."""

import tracemalloc

import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from napari_clipsam.errors import PlaneError
from napari_clipsam.geometry import Frame
from napari_clipsam.planes import (
    SAMPLE_PIXELS,
    SAMPLE_PLANES,
    open_image,
    parse_axes,
    parse_channels,
    parse_plane,
    read_labels,
)


def pixels(*shape, dtype=np.uint8, seed=0):
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(0, info.max, shape, dtype, endpoint=True)


class Counting:
    """An array that notes how many pixels were asked of it."""

    def __init__(self, array):
        self._array = array
        self.shape, self.dtype = array.shape, array.dtype
        self.asked = []

    def __getitem__(self, index):
        piece = self._array[index]
        self.asked.append((index, piece.size))
        return piece


# ------------------------------------------------------------------ axes


@settings(deadline=None)
@given(
    st.permutations("TCZYX"),
    st.sets(st.sampled_from("TCZ")),
    st.data(),
)
def test_a_pixel_is_found_whatever_the_order_of_axes_and_the_scale(order, dropped, data):
    axes = "".join(letter for letter in order if letter not in dropped)
    lengths = {"T": 2, "C": 3, "Z": 4, "Y": 5, "X": 7}
    at = {letter: data.draw(st.integers(0, lengths[letter] - 1), letter) for letter in axes}
    array = np.zeros([lengths[letter] for letter in axes], np.uint8)
    array[tuple(at[letter] for letter in axes)] = 200
    stack = open_image(array, axes=axes)
    assert stack.plane_shape == (5, 7)

    plane = stack.plane({letter: at[letter] for letter in axes if letter in "TZ"})
    position = at.get("C", 0)
    assert np.argwhere(plane.rgb[..., position]).tolist() == [[at["Y"], at["X"]]]

    top, left = data.draw(st.integers(0, at["Y"])), data.draw(st.integers(0, at["X"]))
    frame = Frame((top, left), (5 - top, 7 - left), data.draw(st.integers(1, 1024)))
    back = frame.to_data(frame.to_model((at["Y"], at["X"])))
    assert np.abs(back - (at["Y"], at["X"])).max() < 1e-6


@given(st.permutations("ZYXS"))
def test_colour_samples_may_stand_anywhere(order):
    axes = "".join(order)
    rgb = pixels(2, 5, 6, 3)
    array = rgb.transpose(["ZYXS".index(letter) for letter in axes])
    np.testing.assert_array_equal(open_image(array, axes=axes).plane({"Z": 1}).rgb, rgb[1])


@pytest.mark.parametrize(
    ("shape", "dtype", "axes"),
    [
        ((5, 6), np.float32, "YX"),
        ((1, 1), np.uint8, "YX"),
        ((5, 6, 3), np.uint8, "YXS"),
        ((5, 6, 4), np.uint16, "YXS"),
        ((5, 6, 7), np.uint8, "ZYX"),
        ((3, 6, 7), np.uint8, "ZYX"),
    ],
)
def test_plain_shapes_need_no_axes(shape, dtype, axes):
    assert open_image(np.zeros(shape, dtype)).axes == axes


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((6,), np.uint8), ((2, 3, 5, 6), np.uint8), ((5, 6, 3), np.float32), ((5, 6, 2), np.uint8)],
)
def test_other_shapes_have_to_be_told(shape, dtype):
    with pytest.raises(PlaneError, match="Give --axes"):
        open_image(np.zeros(shape, dtype))


@pytest.mark.parametrize(
    ("axes", "advice"),
    [
        ("ZZYX", "'ZZYX' name Z twice"),
        ("ZQYX", "unknown letter 'Q'"),
        ("TCZ", "lack Y or X"),
        ("YX", "name 2 dimensions but .* has 3"),
        ("CYXS", "both C and S"),
        ("", "lack Y or X"),
    ],
)
def test_wrong_axes_are_quoted(axes, advice):
    with pytest.raises(PlaneError, match=advice):
        open_image(np.zeros((4, 5, 6), np.uint8), axes=axes)


def test_axes_may_be_typed_small():
    assert parse_axes(" zyx ") == "ZYX"
    assert open_image(np.zeros((4, 5, 3), np.uint8), axes="zyx").axes == "ZYX"


@pytest.mark.parametrize("shape", [(0, 5), (3, 0, 5), (5, 5, 0)])
def test_an_empty_image_is_refused(shape):
    with pytest.raises(PlaneError, match="no pixels"):
        open_image(np.zeros(shape, np.uint8), axes="ZYX"[-len(shape) :])


# ------------------------------------------------------------------ choosing a plane


def test_planes_are_counted_and_named():
    stack = open_image(np.zeros((2, 3, 4, 5, 6), np.uint8), axes="TCZYX")
    assert len(stack) == 8
    assert stack.plane_axes == "TZ"
    indices = list(stack.planes())
    assert indices[0] == {"T": 0, "Z": 0}
    assert indices[1] == {"T": 0, "Z": 1}
    assert indices[-1] == {"T": 1, "Z": 3}
    assert stack.plane(indices[1]).name == "image T=0 Z=1"
    assert stack.plane(indices[1]).index == {"T": 0, "Z": 1}


def test_a_number_will_do_for_one_axis_and_nothing_for_one_plane():
    array = pixels(4, 5, 6)
    np.testing.assert_array_equal(open_image(array).plane(2).rgb[..., 0], array[2])
    np.testing.assert_array_equal(open_image(array[0]).plane().rgb[..., 0], array[0])
    np.testing.assert_array_equal(open_image(array[:1]).plane().rgb[..., 0], array[0])
    assert open_image(array[0]).plane({"Z": 0}).index == {}


@pytest.mark.parametrize(
    ("shape", "index", "advice"),
    [
        ((4, 5, 6), None, "Choose Z from 0 to 3, for example --plane Z=1"),
        ((4, 5, 6), {"Z": 0, "T": 1}, "no axis 'T'"),
        ((4, 5, 6), {"Z": 0, "C": 0}, "no axis 'C'"),
        ((4, 5, 6), {"Z": 4}, "Z=4 does not exist"),
        ((4, 5, 6), {"Z": -1}, "Z=-1 does not exist"),
        ((5, 6), {"Z": 1}, "leave --plane out"),
        ((5, 6), 0, "leave --plane out"),
        ((2, 4, 5, 6), 1, "ambiguous"),
        ((2, 4, 5, 6), {"Z": 1}, "T from 0 to 1 and Z from 0 to 3"),
    ],
)
def test_a_wrong_choice_of_plane_says_what_there_is(shape, index, advice):
    stack = open_image(np.zeros(shape, np.uint8), axes="TZYX"[-len(shape) :])
    with pytest.raises(PlaneError, match=advice):
        stack.plane(index)


def test_the_choice_of_a_plane_is_read_from_text():
    assert parse_plane("Z=12") == {"Z": 12}
    assert parse_plane(" z=12 , T=3 ") == {"Z": 12, "T": 3}


@pytest.mark.parametrize("text", ["", "12", "Z", "Z=", "Z=-1", "Z=1.5", "C=1", "Z=1,", "Z=1,Z=2"])
def test_a_wrong_choice_in_text_is_refused(text):
    with pytest.raises(PlaneError, match=r"Write it as Z=12|names Z twice"):
        parse_plane(text)


# ------------------------------------------------------------------ channels


@pytest.mark.parametrize(
    ("count", "channels", "shown"),
    [
        (1, None, (0, 0, 0)),
        (2, None, (0, 1, None)),
        (3, None, (0, 1, 2)),
        (5, (2,), (2, 2, 2)),
        (5, (4, 1), (4, 1, None)),
        (5, (3, 3, 0), (3, 3, 0)),
    ],
)
def test_channels_become_grey_or_colours(count, channels, shown):
    array = pixels(count, 5, 6)
    rgb = open_image(array, axes="CYX", channels=channels).plane().rgb
    for position, channel in enumerate(shown):
        expected = 0 if channel is None else array[channel]
        assert (rgb[..., position] == expected).all()


@pytest.mark.parametrize(
    ("samples", "channels", "shown"),
    [
        (1, None, (0, 0, 0)),
        (2, None, (0, 0, 0)),
        (3, None, (0, 1, 2)),
        (4, None, (0, 1, 2)),
        (3, (1,), (1, 1, 1)),
        (4, (3,), (3, 3, 3)),
        (3, (2, 0), (2, 0, None)),
    ],
)
def test_colour_samples_lose_alpha_or_are_chosen(samples, channels, shown):
    array = pixels(5, 6, samples)
    rgb = open_image(array, axes="YXS", channels=channels).plane().rgb
    for position, sample in enumerate(shown):
        expected = 0 if sample is None else array[..., sample]
        assert (rgb[..., position] == expected).all()


def test_too_many_channels_have_to_be_chosen():
    with pytest.raises(PlaneError, match=r"4 channels.*--channels.*--axes ZYX"):
        open_image(np.zeros((4, 5, 6), np.uint8), axes="CYX")


@pytest.mark.parametrize("channels", [(), (0, 1, 2, 3), (3,), (-1,)])
def test_channels_that_are_not_there_are_refused(channels):
    with pytest.raises(PlaneError, match="do not fit"):
        open_image(np.zeros((3, 5, 6), np.uint8), axes="CYX", channels=channels)


def test_an_image_without_channels_has_one():
    assert open_image(np.zeros((5, 6), np.uint8), channels=(0,)).channels == (0,)
    with pytest.raises(PlaneError, match=r"1 channel\(s\)"):
        open_image(np.zeros((5, 6), np.uint8), channels=(1,))


def test_channels_are_read_from_text():
    assert parse_channels("2") == (2,)
    assert parse_channels(" 0, 1 ,2") == (0, 1, 2)


@pytest.mark.parametrize("text", ["", "a", "0,,1", "-1", "1.5", "0,1,2,3"])
def test_wrong_channels_in_text_are_refused(text):
    with pytest.raises(PlaneError, match="--channels 2"):
        parse_channels(text)


# ------------------------------------------------------------------ laziness and memory


def test_the_sample_is_bounded_spread_and_taken_once():
    array = Counting(np.broadcast_to(np.uint16(1), (50, 400, 2000, 3000)))
    stack = open_image(array, axes="TZYX")
    assert array.asked == []
    assert stack.normalisation is stack.normalisation
    assert len(array.asked) <= SAMPLE_PLANES
    assert max(size for _, size in array.asked) <= SAMPLE_PIXELS
    for axis in (0, 1):
        assert len({index[axis] for index, _ in array.asked}) >= 4


def test_8_bit_pixels_need_no_sample():
    array = Counting(pixels(9, 4, 5))
    open_image(array).plane(2)
    assert [size for _, size in array.asked] == [20]


@pytest.mark.parametrize("shape", [(1, 5_000_000), (5_000_000, 1), (3, 2_000_000)])
def test_the_sample_of_a_long_strip_is_bounded(shape):
    array = Counting(np.broadcast_to(np.uint16(1), shape))
    assert open_image(array).normalisation.limits == ((1.0, 1.0),)
    assert 1 << 14 <= array.asked[0][1] <= SAMPLE_PIXELS


def test_only_the_asked_plane_of_a_dask_array_is_computed():
    asked = []

    def load(block_info=None):
        z = block_info[None]["chunk-location"][0]
        asked.append(z)
        return np.full((1, 8, 9), z, np.uint8)

    array = da.map_blocks(load, chunks=((1,) * 5, (8,), (9,)), dtype=np.uint8)
    stack = open_image(array)
    assert asked == []
    assert (stack.plane(3).rgb == 3).all()
    assert asked == [3]


def test_only_the_asked_plane_of_a_zarr_array_is_read(tmp_path):
    array = zarr.create_array(tmp_path / "a.zarr", shape=(5, 8, 9), chunks=(1, 8, 9), dtype="u1")
    array[:] = np.arange(1, 6)[:, None, None]
    chunks = sorted(path for path in (tmp_path / "a.zarr").rglob("c/*/0/0"))
    assert len(chunks) == 5
    for chunk in chunks[:3] + chunks[4:]:
        chunk.write_bytes(b"not a chunk")
    stack = open_image(tmp_path / "a.zarr", axes="ZYX")
    assert (stack.plane(3).rgb == 4).all()
    with pytest.raises(PlaneError, match="cannot be read"):
        stack.plane(2)


def test_only_the_asked_plane_of_a_tiff_is_decoded(tmp_path):
    path = tmp_path / "a.tif"
    array = pixels(5, 40, 50)
    tifffile.imwrite(path, array, imagej=True, compression="zlib", metadata={"axes": "ZYX"})
    with tifffile.TiffFile(path) as tif:
        spoilt = [(page.dataoffsets[0], page.databytecounts[0]) for page in tif.pages]
    content = bytearray(path.read_bytes())
    for z in (0, 1, 2, 4):
        offset, count = spoilt[z]
        content[offset : offset + count] = bytes(count)
    path.write_bytes(content)
    stack = open_image(path)
    np.testing.assert_array_equal(stack.plane(3).rgb[..., 0], array[3])
    with pytest.raises(PlaneError, match="damaged or cut off at plane 2"):
        stack.plane(2)


@pytest.mark.parametrize(
    "array",
    [
        np.broadcast_to(np.uint8(0), (30_000, 30_000)),
        da.zeros((30_000, 30_000), dtype=np.uint8, chunks=4096),
        np.broadcast_to(np.uint16(0), (500, 30_000, 30_000)),
    ],
)
def test_a_huge_image_is_opened_without_reading_it(array):
    tracemalloc.start()
    stack = open_image(array)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert stack.plane_shape == (30_000, 30_000)
    assert peak < 1_000_000


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_plane_needs_little_more_memory_than_itself(dtype):
    side = 2400
    array = np.broadcast_to(np.arange(side).astype(dtype), (side, side))
    stack = open_image(array)
    assert stack.normalisation is not None
    tracemalloc.start()
    plane = stack.plane()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * plane.rgb.nbytes


# ------------------------------------------------------------------ fingerprints


def test_a_fingerprint_is_that_of_one_plane():
    array = pixels(3, 20, 20)
    stack = open_image(array)
    first = stack.plane(0)
    assert len(first.fingerprint) == 32
    assert int(first.fingerprint, 16) >= 0
    assert first.fingerprint == stack.plane(0).fingerprint
    assert first.fingerprint == open_image(array[:1]).plane(0).fingerprint
    array[1] = 0
    assert first.fingerprint == open_image(array).plane(0).fingerprint


def test_a_fingerprint_knows_pixels_shape_channels_and_normalisation():
    array = pixels(3, 20, 20)
    changed = array.copy()
    changed[0, 0, 0] ^= 1
    black = np.zeros((4, 6), np.uint8)
    prints = [
        open_image(array, axes="CYX").plane().fingerprint,
        open_image(changed, axes="CYX").plane().fingerprint,
        open_image(array, axes="CYX", channels=(2, 1, 0)).plane().fingerprint,
        open_image(black).plane().fingerprint,
        open_image(black.reshape(6, 4)).plane().fingerprint,
        open_image(black + np.float32(3)).plane().fingerprint,
    ]
    assert len(set(prints)) == len(prints)


def test_a_plane_is_frozen():
    plane = open_image(np.zeros((4, 5), np.uint8)).plane()
    assert plane.shape == (4, 5)
    with pytest.raises(ValueError, match="read-only"):
        plane.rgb[0, 0] = 1


# ------------------------------------------------------------------ labels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_labels_are_read_as_they_are(tmp_path, dtype):
    array = (pixels(3, 8, 9) % 5).astype(dtype)
    options = {"photometric": "minisblack", "compression": "zlib", "metadata": {"axes": "ZYX"}}
    tifffile.imwrite(tmp_path / "labels.tif", array, **options)
    for image in (array, tmp_path / "labels.tif", da.from_array(array)):
        labels = read_labels(image)
        assert (labels.shape, labels.axes, len(labels)) == (array.shape, "ZYX", 3)
        plane = labels.plane({"Z": 2})
        assert plane.dtype.kind in "iu"
        np.testing.assert_array_equal(plane, array[2])


def test_a_mask_is_a_label():
    plane = read_labels(np.eye(4, dtype=bool)).plane()
    assert plane.dtype == np.uint8
    np.testing.assert_array_equal(plane, np.eye(4))


def test_labels_follow_the_axes_they_are_given():
    array = pixels(8, 9, 3)
    assert read_labels(array, axes="YXZ").plane(1).tolist() == array[..., 1].tolist()
    assert read_labels(array[None], axes="CYXZ").plane(2).tolist() == array[..., 2].tolist()


def test_the_numbers_of_a_palette_are_the_labels(tmp_path):
    array = pixels(8, 9) % 5
    picture = Image.fromarray(array)
    picture.putpalette(list(range(60)))
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png").plane(), array)


@pytest.mark.parametrize(
    ("array", "axes"),
    [(pixels(8, 9, 3), None), (pixels(8, 9, 3), "YXS"), (pixels(2, 8, 9), "CYX")],
)
def test_coloured_labels_are_refused(array, axes):
    with pytest.raises(PlaneError, match="one integer a pixel"):
        read_labels(array, axes)


@pytest.mark.parametrize(
    ("array", "advice"),
    [
        (np.full((4, 5), 0.5), "not whole numbers"),
        (np.full((4, 5), np.nan), "not whole numbers"),
        (np.full((4, 5), -1), "contain -1"),
    ],
)
def test_labels_that_number_nothing_are_refused(array, advice):
    with pytest.raises(PlaneError, match=advice):
        read_labels(array).plane()
