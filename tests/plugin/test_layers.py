"""A napari layer seen as planes: any axes, transforms, channels and kinds of array."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from napari.components import ViewerModel
from napari.utils.transforms import Affine

from napari_clipsam import _machine
from napari_clipsam._plugin.layers import channel_choices, displayed_key, open_layer
from napari_clipsam._plugin.prompt_layers import PromptLayers
from napari_clipsam.errors import PlaneError
from napari_clipsam.planes import open_image
from napari_clipsam.session.objects import plane_axes, slices_of

if TYPE_CHECKING:
    from napari.layers import Image
    from numpy.typing import NDArray


def numbered(*shape: int, dtype: Any = np.uint16) -> NDArray:
    """Every pixel another value."""
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def layer_of(data: Any, **options: Any) -> tuple[ViewerModel, Image]:
    viewer = ViewerModel()
    return viewer, viewer.add_image(data, **options)


# ---------------------------------------------------------------- world and pixels


@st.composite
def placed_layers(draw: st.DrawFn) -> tuple[NDArray, dict[str, Any], tuple[int, ...], list[int]]:
    """An image, its transform, an order of axes, and a pixel; the slices shown are planes of it."""
    ndim = draw(st.integers(2, 5))
    shape = [draw(st.integers(3, 6)) for _ in range(ndim)]
    order = draw(st.permutations(range(ndim)))
    groups = [sorted(order[-2:]), sorted(order[:-2])]
    number = st.floats(-50, 50)
    shear, rotate = np.eye(ndim), np.eye(ndim)
    for group in groups:
        for first, second in itertools.pairwise(group):
            shear[first, second] = draw(st.floats(-1, 1))
            angle = draw(st.floats(-np.pi, np.pi))
            turn = np.eye(ndim)
            turn[first, first] = turn[second, second] = np.cos(angle)
            turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
            rotate = rotate @ turn
    transform = {
        "scale": [draw(st.floats(0.05, 20)) * draw(st.sampled_from((1, -1))) for _ in order],
        "translate": [draw(number) for _ in range(ndim)],
        "rotate": rotate,
        "shear": shear,
        "affine": Affine(
            scale=[draw(st.floats(0.5, 2)) for _ in range(ndim)],
            translate=[draw(number) for _ in range(ndim)],
        ),
    }
    pixel = [draw(st.integers(0, length - 1)) for length in shape]
    return numbered(*shape, dtype=np.uint8), transform, tuple(order), pixel


# Before the order of the axes is set napari shows the layer in another one.
@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")
@settings(max_examples=40)
@given(placed_layers())
def test_a_world_click_at_the_centre_of_a_pixel_is_that_pixel_on_that_plane(
    example: tuple[NDArray, dict[str, Any], tuple[int, ...], list[int]],
) -> None:
    data, transform, order, pixel = example
    viewer, layer = layer_of(data, **transform)
    viewer.dims.order = order
    image = open_layer(layer)
    prompts = PromptLayers(viewer, image)
    heard: list[Any] = []
    prompts.changed.connect(heard.append)
    world = layer.data_to_world(pixel)
    for axis in viewer.dims.not_displayed:
        viewer.dims.set_point(axis, world[axis])
    expected = tuple(None if axis in order[-2:] else pixel[axis] for axis in range(data.ndim))

    prompts.points.add(prompts.points.world_to_data(world))

    assert displayed_key(viewer, image) == expected
    assert heard == [expected]
    found = prompts.prompts(expected)
    assert found is not None
    (yx,) = found.points
    assert yx == pytest.approx([pixel[axis] for axis in plane_axes(expected)], abs=1e-6)
    y, x = np.rint(yx).astype(int)
    np.testing.assert_array_equal(image.plane(expected).rgb[y, x], data[tuple(pixel)])
    # and back
    position = image.plane_to_data(expected, found.points)
    np.testing.assert_allclose(prompts.points.data_to_world(position[0]), world, atol=1e-4)
    np.testing.assert_allclose(image.data_to_plane(expected, position), found.points)
    prompts.set({expected: found})
    np.testing.assert_allclose(
        prompts.points.data_to_world(prompts.points.data[0]), world, atol=1e-4
    )
    held = list(viewer.dims.not_displayed)
    np.testing.assert_allclose(np.take(image.point_of(expected), held), np.take(world, held))


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0), (1, 2, 0)])
def test_planes_lie_along_what_is_displayed_with_ascending_axes(order: tuple[int, ...]) -> None:
    data = numbered(4, 5, 6, dtype=np.uint8)
    viewer, layer = layer_of(data)
    viewer.dims.order = order
    viewer.dims.set_point(order[0], 3)
    image = open_layer(layer)
    key = displayed_key(viewer, image)
    assert key == tuple(3 if axis == order[0] else None for axis in range(3))
    np.testing.assert_array_equal(image.plane(key).rgb[..., 0], data[slices_of(key)])


def test_spacing_counts_rotation_and_affine_and_knows_units() -> None:
    _, layer = layer_of(
        numbered(3, 4, 5),
        scale=(2000, 0.5, 0.5),
        rotate=30,
        affine=np.diag([1, 2, 2, 1]),
        units=("nm", "um", "um"),
    )
    image = open_layer(layer)
    assert image.spacing == pytest.approx((2.0, 1.0, 1.0))
    assert image.unit == "micrometer"
    assert open_layer(layer_of(numbered(4, 5))[1]).unit == "pixel"


def test_an_upright_layer_far_away_gives_its_numbers_to_the_last_digit() -> None:
    _, layer = layer_of(numbered(3, 4, 5), scale=(2.1, 0.1, 0.3), translate=(1e7, -3e6, 0.7))
    image = open_layer(layer)
    assert image.transform()["scale"].tolist() == [2.1, 0.1, 0.3]
    assert image.transform()["translate"].tolist() == [1e7, -3e6, 0.7]
    assert image.spacing == (2.1, 0.1, 0.3)


def test_slices_follow_the_units_of_the_viewer() -> None:
    viewer, layer = layer_of(numbered(9, 4, 5), scale=(2000, 500, 500), units=("nm",) * 3)
    viewer.add_image(numbered(9, 4, 5), scale=(2, 0.5, 0.5), units=("um",) * 3)
    image = open_layer(layer)
    for step in range(9):
        viewer.dims.set_current_step(0, step)
        shown = layer._slicing_state.data_slice.point[0]
        assert displayed_key(viewer, image) == (round(shown), None, None)


def test_a_layer_with_fewer_axes_than_the_viewer_has_its_own_planes() -> None:
    viewer, layer = layer_of(numbered(4, 5, 6))
    viewer.add_image(numbered(2, 3, 4, 5, 6))
    viewer.dims.set_point(2, 3)
    assert displayed_key(viewer, open_layer(layer)) == (3, None, None)


# ---------------------------------------------------------------- views that show no plane


def test_the_3d_view_is_refused_with_the_way_out() -> None:
    viewer, layer = layer_of(numbered(4, 5, 6))
    viewer.dims.ndisplay = 3
    with pytest.raises(PlaneError, match=r"one slice at a time\. Leave the 3D view"):
        displayed_key(viewer, open_layer(layer))


def test_two_axes_of_which_one_is_not_the_layers_are_refused() -> None:
    viewer, layer = layer_of(numbered(5, 6))
    viewer.add_image(numbered(4, 5, 6))
    viewer.dims.order = (1, 0, 2)
    with pytest.raises(PlaneError, match=r"Roll the axes"):
        displayed_key(viewer, open_layer(layer))


def test_a_slice_outside_the_layer_is_refused_with_its_range() -> None:
    viewer, layer = layer_of(numbered(4, 5, 6))
    viewer.add_image(numbered(20, 5, 6))
    viewer.dims.set_point(0, 12)
    with pytest.raises(PlaneError, match=r"no slice 12 along axis 0\. Move that slider to 0 to 3"):
        displayed_key(viewer, open_layer(layer))


def test_a_slice_that_memory_cannot_hold_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    viewer, layer = layer_of(numbered(400, 500))
    image = open_layer(layer)
    key = displayed_key(viewer, image)
    monkeypatch.setattr(_machine, "memory", lambda: _machine.Memory(1000, 1000))
    with pytest.raises(PlaneError, match="400 x 500 pixels, which take about"):
        image.reader()(key)


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")
def test_a_layer_turned_out_of_the_view_is_refused() -> None:
    viewer, layer = layer_of(numbered(4, 5, 6), rotate=(0, 30, 0))
    with pytest.raises(PlaneError, match=r"turned or sheared out of the view"):
        displayed_key(viewer, open_layer(layer))


def test_channels_shown_as_rows_are_refused() -> None:
    viewer, layer = layer_of(numbered(3, 5, 6), axis_labels=("c", "y", "x"))
    viewer.dims.order = (1, 0, 2)
    with pytest.raises(PlaneError, match=r"holds channels"):
        displayed_key(viewer, open_layer(layer))


@pytest.mark.parametrize("key", [(9, None, None), (-1, None, None), (None, None), (1, 1, None)])
def test_keys_of_no_plane_are_refused(key: Any) -> None:
    image = open_layer(layer_of(numbered(4, 5, 6))[1])
    with pytest.raises(PlaneError):
        image.plane(key)


# ---------------------------------------------------------------- kinds of layers


def kinds() -> dict[str, tuple[Any, dict[str, Any], NDArray, str, tuple[int, ...], Any]]:
    """Data as napari gets them, options, the same as an array with axes, channels, a key."""
    rng = np.random.default_rng(0)
    grey, stack = (rng.integers(0, 5000, s).astype(np.uint16) for s in ((40, 50), (6, 40, 50)))
    time = rng.integers(0, 5000, (3, 6, 40, 50)).astype(np.uint16)
    rgb = rng.integers(0, 255, (6, 40, 50, 3)).astype(np.uint8)
    rgba = rng.integers(0, 255, (40, 50, 4)).astype(np.uint8)
    channels = {"axis_labels": ("c", "z", "y", "x")}
    chunks = zarr.create_array(
        zarr.storage.MemoryStore(), shape=stack.shape, dtype="u2", chunks=(1, 40, 50)
    )
    chunks[:] = stack
    at = (4, None, None)
    return {
        "2d": (grey, {}, grey, "YX", (0,), (None, None)),
        "z-stack": (stack, {}, stack, "ZYX", (0,), at),
        "float": (stack / 7, {}, stack / 7, "ZYX", (0,), at),
        "bool": (stack > 2000, {}, stack > 2000, "ZYX", (0,), at),
        "time series": (time, {}, time, "TZYX", (0,), (2, 4, None, None)),
        "rgb stack": (rgb, {"rgb": True}, rgb, "ZYXS", (0, 1, 2), at),
        "rgba": (rgba, {"rgb": True}, rgba, "YXS", (0, 1, 2), (None, None)),
        "channels first": (time, channels, time, "CZYX", (0, 1, 2), at),
        "dask": (da.from_array(stack, chunks=(1, 20, 25)), {}, stack, "ZYX", (0,), at),
        "zarr": (chunks, {}, stack, "ZYX", (0,), at),
        "multiscale": (
            [stack, stack[:, ::2, ::2]],
            {"multiscale": True},
            stack,
            "ZYX",
            (0,),
            at,
        ),
    }


@pytest.mark.parametrize("kind", kinds())
def test_planes_are_those_of_open_image(kind: str) -> None:
    data, options, array, axes, channels, key = kinds()[kind]
    viewer, layer = layer_of(data, **options)
    image = open_layer(layer)
    for axis, at in enumerate(key):
        if at is not None:
            viewer.dims.set_point(axis + layer.ndim - image.ndim, at)
    assert displayed_key(viewer, image) == key
    held = (number for number in key if number is not None)
    number = dict(zip((letter for letter in axes if letter in "TZ"), held, strict=True))
    expected = open_image(array, axes, channels).plane(number)
    plane = image.plane(key)
    np.testing.assert_array_equal(plane.rgb, expected.rgb)
    assert plane.fingerprint == expected.fingerprint
    assert image.shape == tuple(n for n, a in zip(array.shape, axes, strict=True) if a not in "SC")


def test_five_leading_axes_are_read_and_normalised_alike() -> None:
    data = np.random.default_rng(0).integers(0, 900, (2, 3, 2, 2, 8, 9)).astype(np.uint16)
    image = open_layer(layer_of(data)[1])
    key = (1, 2, 0, 1, None, None)
    low, high = image.reader().normalisation.limits[0]  # type: ignore[index]
    expected = np.clip((data[1, 2, 0, 1] - low) / (high - low) * 255, 0, 255)
    np.testing.assert_allclose(image.plane(key).rgb[..., 1], expected, atol=0.51)
    across = (None, 2, 0, 1, 5, None)
    expected = np.clip((data[:, 2, 0, 1, 5] - low) / (high - low) * 255, 0, 255)
    np.testing.assert_allclose(image.plane(across).rgb[..., 1], expected, atol=0.51)


def test_a_reader_works_on_another_thread_after_the_layer_is_gone() -> None:
    data = numbered(4, 5, 6, dtype=np.uint8)
    viewer, layer = layer_of(data)
    reader = open_layer(layer).reader()
    viewer.layers.clear()
    found: list[Any] = []
    worker = threading.Thread(target=lambda: found.append(reader((2, None, None))))
    worker.start()
    worker.join()
    np.testing.assert_array_equal(found[0].rgb[..., 0], data[2])
    assert found[0].name == "data 0=2"


def test_contrast_limits_set_the_brightness_if_asked_to() -> None:
    data = np.random.default_rng(0).integers(0, 5000, (3, 8, 9)).astype(np.uint16)
    _, layer = layer_of(data, contrast_limits=(1000, 2000))
    rgb = open_layer(layer, normalisation="shown").plane((0, None, None)).rgb[..., 0]
    np.testing.assert_array_equal(rgb == 0, data[0] <= 1001)
    np.testing.assert_array_equal(rgb == 255, data[0] >= 1999)


# ---------------------------------------------------------------- nothing is read as a whole


class Counted:
    """A lazy array that counts the pixels read from it."""

    def __init__(self, array: NDArray) -> None:
        self.array, self.pixels = array, 0
        self.shape, self.dtype = array.shape, array.dtype
        self.ndim, self.size = array.ndim, array.size

    def __getitem__(self, index: Any) -> NDArray:
        piece = self.array[index]
        self.pixels += piece.size
        return piece

    def __array__(self, *_: Any, **__: Any) -> NDArray:
        raise AssertionError("the whole array was asked for")


def test_a_stack_is_read_plane_by_plane() -> None:
    data = Counted(np.random.default_rng(0).integers(0, 9, (500, 60, 70)).astype(np.uint16))
    _, layer = layer_of(data, contrast_limits=(0, 9))
    data.pixels = 0
    image = open_layer(layer)
    assert data.pixels == 0
    image.plane((7, None, None))
    sample, plane = 32 * 60 * 70, 60 * 70
    assert data.pixels <= sample + plane
    data.pixels = 0
    image.plane((8, None, None))
    image.plane((7, None, None))
    assert data.pixels == plane


def test_large_lazy_planes_are_sampled_in_patches() -> None:
    data = Counted(np.broadcast_to(np.arange(2000, dtype=np.uint16), (40, 3000, 2000)))
    _, layer = layer_of(data, contrast_limits=(0, 2000))
    data.pixels = 0
    image = open_layer(layer)
    limits = image.reader().normalisation.limits
    assert data.pixels < 0.03 * data.array.size
    assert limits is not None
    low, high = limits[0]
    assert low < 400 and high > 1600


def test_a_pyramid_is_sampled_at_a_coarse_level() -> None:
    full = Counted(np.broadcast_to(np.arange(2000, dtype=np.uint16), (40, 3000, 2000)))
    levels = [full, full.array[:, ::2, ::2], np.array(full.array[:, ::8, ::8])]
    _, layer = layer_of(levels, multiscale=True, contrast_limits=(0, 2000))
    full.pixels = 0
    limits = open_layer(layer).reader().normalisation.limits
    assert full.pixels == 0
    assert limits is not None and limits[0] == pytest.approx((0, 1992), abs=16)


@pytest.mark.parametrize("length", [1, 90, 128, 200, 767, 5000])
def test_patches_stay_inside(length: int) -> None:
    data = np.random.default_rng(0).integers(0, 900, (length, 9000)).astype(np.uint16)
    _, layer = layer_of(Counted(data), contrast_limits=(0, 900))
    limits = open_layer(layer).reader().normalisation.limits
    assert limits is not None and limits[0] == pytest.approx((0, 899), abs=30)


# ---------------------------------------------------------------- channels


def labels_of(viewer: ViewerModel, layer: Image) -> list[str]:
    return [choice.label for choice in channel_choices(viewer, layer)]


def test_a_plain_image_is_grey_and_a_short_axis_is_offered() -> None:
    viewer, layer = layer_of(numbered(2, 9, 20, 30))
    assert labels_of(viewer, layer) == [
        "grey",
        "axis 0: channels 0, 1 as colours",
        "axis 0: channel 0",
        "axis 0: channel 1",
    ]
    assert labels_of(*layer_of(numbered(20, 30))) == ["grey"]
    assert labels_of(*layer_of(numbered(9, 20, 30))) == ["grey"]


@pytest.mark.parametrize(("length", "first"), [(2, "channels 0, 1 as colours"), (4, "channel 0")])
def test_a_named_axis_of_channels_is_used_at_once(length: int, first: str) -> None:
    viewer, layer = layer_of(numbered(length, 20, 30), axis_labels=("channel", "y", "x"))
    assert labels_of(viewer, layer)[0] == first
    assert len(labels_of(viewer, layer)) == length + 1
    assert open_layer(layer).shape == (20, 30)


def test_single_colours_can_be_chosen() -> None:
    data = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    viewer, layer = layer_of(data, rgb=True)
    choice = next(c for c in channel_choices(viewer, layer) if c.label == "green only")
    plane = open_layer(layer, choice).plane((None, None))
    np.testing.assert_array_equal(plane.rgb, data[..., [1, 1, 1]])


def test_layers_of_one_shape_and_place_can_be_joined_as_colours() -> None:
    viewer = ViewerModel()
    data = np.random.default_rng(0).integers(0, 255, (3, 20, 30)).astype(np.uint8)
    red, green, blue = viewer.add_image(data, channel_axis=0, name=["r", "g", "b"])
    viewer.add_image(data[0], name="moved", translate=(5, 0))
    viewer.add_image(data[0, :9], name="small")
    viewer.add_labels(np.ones((20, 30), int))
    assert labels_of(viewer, green)[1:] == [
        "r + g + b as colours",
        "r + g as colours",
        "g + b as colours",
    ]
    choice = channel_choices(viewer, green)[1]
    assert choice.layers == (red, green, blue)
    plane = open_layer(green, choice).plane((None, None))
    np.testing.assert_array_equal(plane.rgb, np.moveaxis(data, 0, -1))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_new_layers_lie_on_the_image_wherever_its_channels_are(axis: int) -> None:
    """What lies in the image's planes is shown with every channel."""
    names = ["t", "z", "y", "x"]
    names.insert(axis, "c")
    shape = [3, 4, 20, 30]
    shape.insert(axis, 3)
    data = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    scale = [{"t": 1, "c": 1, "z": 3.0, "y": 0.5, "x": 0.5}[name] for name in names]
    viewer, layer = layer_of(data, axis_labels=names, scale=scale, translate=[5] * 5)
    image = open_layer(layer)
    labels = viewer.add_labels(np.zeros(image.shape, np.uint8), **image.transform())
    at = dict(zip(names, [2, 2, 3, 0, 0], strict=True))
    for channel in range(3):
        for position, name in enumerate(names):
            number = channel if name == "c" else at[name]
            viewer.dims.set_point(position, 5 + scale[position] * number)
        key = displayed_key(viewer, image)
        held = [at[name] for name in names if name in "tz"]
        labels.data[...] = 0
        labels.data[slices_of(key)][4, 7] = 9
        labels.refresh()
        world = list(viewer.dims.point)
        world[-2:] = 5 + 4 * 0.5, 5 + 7 * 0.5
        assert labels.get_value(world, world=True) == 9
        expected = np.stack(
            [np.take(data, c, axis)[(*held, slice(None), slice(None))] for c in range(3)], -1
        )
        np.testing.assert_array_equal(image.plane(key).rgb, expected)
