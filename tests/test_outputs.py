"""Outputs: whole or not there, never over another file unless asked, readable by ImageJ."""

import numpy as np
import pytest
import tifffile

from napari_clipsam.errors import OutputError, PlaneError
from napari_clipsam.outputs import check_output, label_dtype, replacing, write_labels
from napari_clipsam.planes import read_labels


@pytest.mark.parametrize(
    ("largest", "dtype"),
    [(0, "uint16"), (65535, "uint16"), (65536, "uint32"), (2**32 - 1, "uint32")],
)
def test_instances_take_the_smallest_type_that_holds_them(largest, dtype):
    assert label_dtype(largest) == np.dtype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, bool])
@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((8, 9), "YX"),
        ((3, 8, 9), "ZYX"),
        ((2, 3, 8, 9), "TZYX"),
        ((1, 1), "YX"),
        ((5, 1), "YX"),
        ((3, 1, 5), "ZYX"),
        ((3, 5, 1), "ZYX"),
        ((2, 3, 1, 1), "TZYX"),
    ],
)
def test_labels_come_back_as_written(tmp_path, dtype, shape, axes):
    labels = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    path = write_labels(tmp_path / "out.tif", labels)
    assert [item.name for item in tmp_path.iterdir()] == ["out.tif"]
    back = read_labels(path)
    assert back.axes == axes
    assert back.dtype == (np.uint8 if dtype is bool else dtype)
    for index in back.planes():
        np.testing.assert_array_equal(back.plane(index), labels[tuple(index.values())])


def test_the_file_is_compressed_and_known_to_imagej(tmp_path):
    path = write_labels(
        tmp_path / "out.tif",
        np.zeros((3, 200, 200), np.uint16),
        axes="TYX",
        spacing_um={"Y": 0.5, "X": 0.25},
    )
    assert path.stat().st_size < 20_000
    with tifffile.TiffFile(path) as tif:
        assert tif.is_imagej
        assert tif.series[0].axes == "TYX"
        assert tif.imagej_metadata["unit"] == "um"
        assert tif.pages[0].compression == tifffile.COMPRESSION.ADOBE_DEFLATE
    assert read_labels(path).spacing_um == {"Y": 0.5, "X": 0.25}


def test_the_step_in_z_is_kept(tmp_path):
    spacing = {"Z": 2.0, "Y": 0.5, "X": 0.5}
    path = write_labels(tmp_path / "out.tif", np.zeros((3, 8, 9), np.uint8), spacing_um=spacing)
    assert read_labels(path).spacing_um == spacing


def test_the_same_labels_give_the_same_file(tmp_path):
    labels = np.arange(72, dtype=np.uint16).reshape(8, 9)
    first, second = (write_labels(tmp_path / name, labels) for name in ("a.tif", "b.tif"))
    assert first.read_bytes() == second.read_bytes()


def test_axes_in_any_order_are_put_in_imagejs(tmp_path):
    labels = np.arange(2 * 3 * 4 * 5, dtype=np.uint16).reshape(4, 2, 5, 3)
    back = read_labels(write_labels(tmp_path / "out.tif", labels, axes="YTXZ"))
    assert back.axes == "TZYX"
    np.testing.assert_array_equal(back.plane({"T": 1, "Z": 2}), labels[:, 1, :, 2])


def test_an_existing_file_is_kept_unless_asked(tmp_path):
    path = tmp_path / "out.tif"
    path.write_bytes(b"precious")
    with pytest.raises(OutputError, match="--overwrite"):
        write_labels(path, np.zeros((4, 5), np.uint8))
    assert path.read_bytes() == b"precious"
    write_labels(path, np.ones((4, 5), np.uint8), overwrite=True)
    assert (read_labels(path).plane() == 1).all()


def test_a_missing_folder_is_refused_and_not_made(tmp_path):
    with pytest.raises(OutputError, match=r"does not exist\. Make it"):
        write_labels(tmp_path / "new" / "out.tif", np.zeros((4, 5), np.uint8))
    assert not (tmp_path / "new").exists()


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "out.tif").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        check_output(tmp_path / "out.tif", overwrite=True)


def write_half(path, error):
    with replacing(path, overwrite=True) as part:
        part.write_text("half of the n")
        raise error


@pytest.mark.parametrize(
    ("error", "expected"),
    [(OSError(28, "No space left on device"), OutputError), (KeyError("a bug"), KeyError)],
)
def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path, error, expected):
    path = tmp_path / "out.json"
    path.write_text("old")
    with pytest.raises(expected):
        write_half(path, error)
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["out.json"]


def test_a_full_disk_is_explained(tmp_path):
    with pytest.raises(OutputError, match=r"No space left.*Free some space"):
        write_half(tmp_path / "out.json", OSError(28, "No space left on device"))
    assert list(tmp_path.iterdir()) == []


def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    path = write_labels(tmp_path / "out.tif", np.zeros((4, 5), np.uint8))
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    ("labels", "axes", "error", "advice"),
    [
        (np.zeros((4, 5), np.int64), None, OutputError, "astype"),
        (np.zeros((4, 5)), None, OutputError, "astype"),
        (np.zeros((4, 5), np.uint64), None, OutputError, "astype"),
        (np.zeros((2, 2, 2, 4, 5), np.uint8), None, OutputError, "one letter each"),
        (np.zeros((0, 5), np.uint8), None, OutputError, "one letter each"),
        (np.zeros((2, 4, 5), np.uint8), "CYX", OutputError, "one letter each"),
        (np.zeros((2, 4, 5), np.uint8), "YX", OutputError, "one letter each"),
        (np.zeros((2, 4, 5), np.uint8), "YYX", PlaneError, "twice"),
    ],
)
def test_labels_that_cannot_be_written_are_refused(tmp_path, labels, axes, error, advice):
    with pytest.raises(error, match=advice):
        write_labels(tmp_path / "out.tif", labels, axes=axes)
    assert list(tmp_path.iterdir()) == []


def test_the_name_has_to_be_that_of_a_tiff(tmp_path):
    with pytest.raises(OutputError, match=r"end in \.tif"):
        write_labels(tmp_path / "out.png", np.zeros((4, 5), np.uint8))
