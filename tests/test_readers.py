"""Readers: a file gives what its array gives, or an error that says what to do."""

import pickle
import re

import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr
from dask.callbacks import Callback
from PIL import Image

from napari_clipsam.errors import InputError, PlaneError
from napari_clipsam.planes import open_image


def pixels(*shape, dtype=np.uint8, seed=0):
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(0, info.max, shape, dtype, endpoint=True)


# ------------------------------------------------------------------ files


def write_tiff(path, array, axes, **options):
    photometric = "rgb" if "S" in axes else "minisblack"
    tifffile.imwrite(path, array, photometric=photometric, metadata={"axes": axes}, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"imagej": True, "compression": "zlib"},
        {"imagej": True},
        {"ome": True, "compression": "zlib"},
        {"ome": True, "tile": (16, 16)},
        {"compression": "zlib", "predictor": True},
        {"bigtiff": True, "byteorder": ">"},
        {"rowsperstrip": 4, "byteorder": ">", "compression": "zlib"},
    ],
)
@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ("YX", (20, 30)),
        ("ZYX", (4, 20, 30)),
        ("TZCYX", (2, 3, 2, 20, 30)),
        ("YXS", (20, 30, 3)),
        ("ZYXS", (4, 20, 30, 3)),
        ("YX", (1, 1)),
        ("ZYX", (2, 1, 7)),
    ],
)
def test_a_tiff_is_read_like_its_array(tmp_path, options, axes, shape):
    array = pixels(*shape, dtype=np.uint8 if "S" in axes else np.uint16)
    path = tmp_path / ("some.ome.tif" if "ome" in options else "some.tif")
    write_tiff(path, array, axes, **options)
    stack, expected = open_image(path), open_image(array, axes=axes)
    assert stack.name == "some"
    assert (stack.axes, stack.shape) == (expected.axes, expected.shape)
    for index in expected.planes():
        assert stack.plane(index).fingerprint == expected.plane(index).fingerprint


def test_axes_that_a_tiff_leaves_unnamed_are_slices(tmp_path):
    array = pixels(4, 20, 30)
    tifffile.imwrite(tmp_path / "a.tif", array, metadata=None, photometric="minisblack")
    assert open_image(tmp_path / "a.tif").axes == "ZYX"
    tifffile.imwrite(tmp_path / "b.tif", array, photometric="minisblack")
    assert open_image(tmp_path / "b.tif").axes == "ZYX"
    tifffile.imwrite(tmp_path / "c.tif", array[None] + pixels(2, 4, 1, 1), photometric="minisblack")
    with pytest.raises(PlaneError, match="Give --axes"):
        open_image(tmp_path / "c.tif")
    assert len(open_image(tmp_path / "c.tif", axes="TZYX")) == 8


def test_the_pixel_size_of_a_tiff_is_in_micrometres(tmp_path):
    path = tmp_path / "a.tif"
    array = pixels(4, 20, 30)
    options = {"imagej": True, "resolution": (2.0, 4.0)}
    tifffile.imwrite(path, array, metadata={"axes": "ZYX", "unit": "um", "spacing": 3}, **options)
    assert open_image(path).spacing_um == {"Z": 3.0, "Y": 0.25, "X": 0.5}
    tifffile.imwrite(path, array, metadata={"axes": "ZYX", "unit": "nm"}, **options)
    assert open_image(path).spacing_um == pytest.approx({"Y": 0.00025, "X": 0.0005})
    tifffile.imwrite(path, array, metadata={"axes": "ZYX"}, **options)
    assert open_image(path).spacing_um is None
    sizes = {"PhysicalSizeX": 500, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.25}
    tifffile.imwrite(path, array, ome=True, metadata={"axes": "ZYX", **sizes})
    assert open_image(path).spacing_um == {"Y": 0.25, "X": 0.5}


def test_a_level_of_a_tiff_pyramid_is_chosen(tmp_path):
    path = tmp_path / "a.ome.tif"
    array = pixels(63, 64)
    options = {"tile": (16, 16), "photometric": "minisblack"}
    with tifffile.TiffWriter(path, ome=True) as writer:
        sizes = {"PhysicalSizeY": 0.5, "PhysicalSizeX": 0.25}
        writer.write(array, subifds=1, metadata=sizes, **options)
        writer.write(array[::3, ::2], subfiletype=1, **options)
    coarse = open_image(path, level=1)
    np.testing.assert_array_equal(coarse.plane().rgb[..., 0], array[::3, ::2])
    assert coarse.spacing_um == {"Y": 1.5, "X": 0.5}
    with pytest.raises(PlaneError, match=r"from 0 .* to 1"):
        open_image(path, level=2)


def test_a_stack_from_a_file_survives_the_way_to_a_worker(tmp_path):
    array = pixels(4, 20, 30, dtype=np.uint16)
    write_tiff(tmp_path / "a.tif", array, "ZYX", compression="zlib")
    Image.fromarray(array[0]).save(tmp_path / "a.png")
    for name, index in (("a.tif", 2), ("a.png", None)):
        stack = open_image(tmp_path / name)
        plane = stack.plane(index)
        back = pickle.loads(pickle.dumps(stack))
        assert back.plane(index).fingerprint == plane.fingerprint


@pytest.mark.parametrize(
    ("array", "mode"),
    [
        (pixels(20, 30), None),
        (pixels(20, 30, dtype=np.uint16), None),
        (pixels(20, 30, 3), None),
        (pixels(20, 30, 4), None),
        (pixels(20, 30) > 128, None),
        (pixels(20, 30, 2), "LA"),
    ],
)
def test_a_png_is_read_like_its_array(tmp_path, array, mode):
    picture = Image.fromarray(array)
    assert mode is None or picture.mode == mode
    picture.save(tmp_path / "some.png")
    stack = open_image(tmp_path / "some.png")
    expected = open_image(array, axes="YX" if array.ndim == 2 else "YXS")
    assert (stack.shape, stack.dtype, stack.axes) == (array.shape, array.dtype, expected.axes)
    np.testing.assert_array_equal(stack.plane().rgb, expected.plane().rgb)


def test_colours_of_any_make_are_shown_as_rgb(tmp_path):
    rgb = np.zeros((16, 16, 3), np.uint8)
    rgb[:8] = (255, 0, 0)
    picture = Image.fromarray(rgb)
    picture.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "palette.png")
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    picture.save(tmp_path / "ycc.jpg", quality=100, subsampling=0)
    for name in ("palette.png", "cmyk.jpg", "ycc.jpg"):
        seen = open_image(tmp_path / name).plane().rgb.astype(int)
        assert np.abs(seen - rgb).max() <= 4


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_a_truncated_picture_is_refused(tmp_path, name):
    path = tmp_path / name
    Image.fromarray(pixels(60, 60, 3)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(PlaneError, match="may be incomplete"):
        open_image(path).plane()


def test_a_picture_too_large_to_decode_is_refused(tmp_path, monkeypatch):
    Image.fromarray(pixels(60, 60)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    assert open_image(tmp_path / "a.png").plane().shape == (60, 60)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(PlaneError, match="too large for a picture file"):
        open_image(tmp_path / "a.png")


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.9, 0.95, 0.999])
@pytest.mark.parametrize(
    "options",
    [
        {"imagej": True, "compression": "zlib", "metadata": {"axes": "ZYX"}},
        {"imagej": True, "metadata": {"axes": "ZYX"}},
        {"ome": True, "compression": "zlib", "metadata": {"axes": "ZYX"}},
        {"compression": "zlib"},
        {"compression": "zlib", "metadata": None},
    ],
)
def test_a_truncated_tiff_is_refused_before_any_work(tmp_path, caplog, options, kept):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels(6, 64, 64), photometric="minisblack", **options)
    with tifffile.TiffFile(path) as tif:
        ends = [page.dataoffsets[-1] + page.databytecounts[-1] for page in tif.pages]
    content = path.read_bytes()
    left = int(len(content) * kept)
    path.write_bytes(content[:left])
    if "imagej" in options and "compression" not in options and left >= ends[-1]:
        return  # ImageJ describes all pages in the first one
    with pytest.raises(
        PlaneError, match=r"a\.tif is damaged or cut off.*Copy or save it"
    ) as caught:
        open_image(path)
    named = re.search(r"at plane (\d), counted from 0", str(caught.value))
    assert named is None or int(named[1]) == sum(end <= left for end in ends)
    assert named or "compression" not in options or not ends[0] < left < ends[-1]
    assert caplog.records == []


def test_a_header_that_is_cut_off_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels(6, 64, 64), photometric="minisblack")
    path.write_bytes(path.read_bytes()[:25])
    with pytest.raises(PlaneError, match=r"a\.tif .*incomplete"):
        open_image(path)


@pytest.mark.parametrize("bytes_there", ["zeros", "others"])
def test_a_plane_that_does_not_decode_is_named(tmp_path, bytes_there):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels(6, 64, 64), photometric="minisblack", compression="zlib")
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tif:
        start, size = tif.pages[2].dataoffsets[0], tif.pages[2].databytecounts[0]
    if bytes_there == "zeros":  # as a copy that was cut off on some file systems
        content[start + size // 2 : start + size] = bytes(size - size // 2)
    else:
        content[start : start + 20] = bytes(range(1, 21))
    path.write_bytes(content)
    stack = open_image(path, axes="ZYX")
    assert stack.plane({"Z": 1}).shape == (64, 64)
    with pytest.raises(
        PlaneError, match=r"a\.tif is damaged or cut off at plane 2, counted from 0"
    ):
        stack.plane({"Z": 2})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.tif", b"these are my notes"),
        ("empty.tif", b""),
        ("table.csv", b"a,b\n1,2\n"),
        ("half.tif", b"II*\0"),
        ("odd.tif", b"II*\0" + bytes(range(256)) * 4),
    ],
)
def test_a_foreign_file_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PlaneError, match=r"Give TIFF|save it as TIFF|Copy or save") as caught:
        open_image(tmp_path / name)
    assert name in str(caught.value)


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        open_image(tmp_path / "nothing.tif")
    with pytest.raises(PlaneError, match="is a folder, not an image"):
        open_image(str(tmp_path))


@pytest.mark.parametrize("thing", [None, 5, [[1, 2], [3, 4]], {"a": 1}])
def test_what_is_no_image_is_refused(thing):
    with pytest.raises(PlaneError, match="is not an image"):
        open_image(thing)


def test_a_tensor_is_refused_with_the_way_out():
    class Tensor:
        shape, dtype = (4, 5), "torch.float32"

        def __getitem__(self, index):
            raise AssertionError

    with pytest.raises(PlaneError, match=r"tensor\.numpy\(\)"):
        open_image(Tensor())


def test_levels_are_for_pyramids(tmp_path):
    Image.fromarray(pixels(6, 6)).save(tmp_path / "a.png")
    for image in (np.zeros((4, 5)), tmp_path / "a.png"):
        with pytest.raises(PlaneError, match="no resolution levels"):
            open_image(image, level=1)


# ------------------------------------------------------------------ Zarr


def write_ome_zarr(path, array, version, axes, scale, unit="micrometer"):
    kinds = {"T": "time", "C": "channel"}
    described = [
        {"name": letter.lower(), "type": kinds.get(letter, "space")}
        | ({"unit": unit} if letter in "ZYX" else {})
        for letter in axes
    ]
    halved = tuple(slice(None, None, 2 if letter in "YX" else 1) for letter in axes)
    coarser = [s * (2 if letter in "YX" else 1) for s, letter in zip(scale, axes, strict=True)]
    datasets = [
        {"path": name, "coordinateTransformations": [{"type": "scale", "scale": list(factors)}]}
        for name, factors in (("s0", scale), ("s1", coarser))
    ]
    multiscales = [{"axes": described, "datasets": datasets, "version": version}]
    group = zarr.create_group(path, zarr_format=2 if version == "0.4" else 3)
    if version == "0.4":
        group.attrs["multiscales"] = multiscales
    else:
        group.attrs["ome"] = {"version": version, "multiscales": multiscales}
    for name, level in (("s0", array), ("s1", array[halved])):
        group.create_array(name, data=np.ascontiguousarray(level))
    return group


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_ome_zarr_is_read_like_its_array(tmp_path, version):
    array = pixels(2, 3, 4, 10, 12, dtype=np.uint16)
    path = tmp_path / "some.ome.zarr"
    group = write_ome_zarr(path, array, version, "TCZYX", (1, 1, 2.0, 0.5, 0.25))
    expected = open_image(array, axes="TCZYX")
    for image in (path, str(path), group):
        stack = open_image(image)
        assert stack.axes == "TCZYX"
        assert stack.spacing_um == {"Z": 2.0, "Y": 0.5, "X": 0.25}
        index = {"T": 1, "Z": 3}
        assert stack.plane(index).fingerprint == expected.plane(index).fingerprint
    assert open_image(path).name == "some"


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_level_of_an_ome_zarr_is_chosen(tmp_path, version):
    array = pixels(4, 10, 12)
    write_ome_zarr(tmp_path / "a", array, version, "ZYX", (2000, 500, 500), unit="nanometer")
    stack = open_image(tmp_path / "a", level=1)
    np.testing.assert_array_equal(stack.plane(1).rgb[..., 0], array[1, ::2, ::2])
    assert stack.spacing_um == pytest.approx({"Z": 2.0, "Y": 1.0, "X": 1.0})
    with pytest.raises(PlaneError, match=r"from 0 .* to 1"):
        open_image(tmp_path / "a", level=2)


def test_the_first_image_of_a_converted_file_is_read(tmp_path):
    root = zarr.create_group(tmp_path / "a.zarr", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    array = pixels(10, 12)
    write_ome_zarr(tmp_path / "a.zarr" / "0", array, "0.4", "YX", (1, 1))
    np.testing.assert_array_equal(open_image(tmp_path / "a.zarr").plane().rgb[..., 0], array)


def test_the_only_array_of_a_group_is_read(tmp_path):
    group = zarr.create_group(tmp_path / "a.zarr")
    with pytest.raises(PlaneError, match="holds nothing"):
        open_image(group)
    array = pixels(4, 5, 6)
    group.create_array("raw", data=array, dimension_names=["t", "y", "x"])
    stack = open_image(tmp_path / "a.zarr")
    assert stack.axes == "TYX"
    np.testing.assert_array_equal(stack.plane(2).rgb[..., 0], array[2])
    group.create_array("other", data=array)
    with pytest.raises(PlaneError, match="holds other, raw"):
        open_image(group)
    assert open_image(tmp_path / "a.zarr" / "other").axes == "ZYX"


def test_broken_zarr_metadata_is_refused(tmp_path):
    (tmp_path / "zarr.json").write_text("{")
    with pytest.raises(PlaneError, match="cannot be read"):
        open_image(tmp_path)
    group = write_ome_zarr(tmp_path / "a", pixels(4, 5, 6), "0.5", "ZYX", (1, 1, 1))
    del group["s0"]
    with pytest.raises(PlaneError, match="a is incomplete: its array s0 is missing"):
        open_image(tmp_path / "a")


def test_dask_is_read_past_callbacks_that_belong_to_other_threads() -> None:
    # napari's dask cache is one; two computations at once put it out of step.
    told = []
    stack = open_image(da.ones((3, 8, 8), dtype=np.uint8, chunks=1))
    with Callback(pretask=lambda *_: told.append(1)):
        assert stack.plane(1).shape == (8, 8)
    assert not told
