from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st

from napari_clipsam.errors import OutputError
from napari_clipsam.inference.requests import ObjectMask
from napari_clipsam.planes import open_image, read_labels
from napari_clipsam.prompts import Prompts
from napari_clipsam.session.export import (
    Grid,
    as_painted,
    write_coco,
    write_ome_zarr,
    write_table,
    write_tiff,
)
from napari_clipsam.session.objects import PlaneKey, SessionObject, slices_of

STACK = Grid((4, 9, 8), (2.0, 0.5, 0.25), "micrometer", ("z", "y", "x"))


def thing(label: int, masks: dict[PlaneKey, ObjectMask], **changes: Any) -> SessionObject:
    plain = SessionObject(
        f"{label:032x}",
        label,
        "cells.tif",
        "cells",
        "nuclei",
        "object",
        {},
        masks,
        "starter",
        "none",
        "2026-01-02T03:04:05+00:00",
        "ViT-B-16:openai",
    )
    return replace(plain, **changes)


def filled(box: tuple[int, int, int, int], score: float = 0.5) -> ObjectMask:
    return ObjectMask(box, np.ones((box[2] - box[0], box[3] - box[1]), bool), score)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# ---------------------------------------------------------------- axes and sizes


@pytest.mark.parametrize(
    ("shape", "names", "letters"),
    [
        ((5, 6), (), "YX"),
        ((4, 5, 6), (), "ZYX"),
        ((3, 4, 5, 6), (), "TZYX"),
        ((2, 3, 4, 5, 6), (), "TCZYX"),
        ((4, 5, 6), ("t", "y", "x"), "TYX"),
        ((4, 5, 6), ("x", "z", "y"), "XZY"),
        ((4, 5, 6), ("-3", "-2", "-1"), "ZYX"),
        ((4, 5, 6), ("time", "y", "x"), "ZYX"),
        ((4, 5, 6), ("y", "y", "x"), "ZYX"),
        ((4, 5, 6), ("z", "t", "x"), "ZYX"),
        ((4, 5, 6), ("zy", "x", ""), "ZYX"),
    ],
)
def test_axes_are_named_by_the_layer_or_by_their_number(
    shape: tuple[int, ...], names: tuple[str, ...], letters: str
) -> None:
    assert Grid(shape, names=names).letters == letters


def test_sizes_are_in_micrometres_where_the_unit_is_a_length() -> None:
    nano = Grid((4, 9, 8), (2000.0, 500.0, -250.0), "nanometer")
    assert nano.spacing_um == pytest.approx({"Z": 2, "Y": 0.5, "X": 0.25})
    assert nano.area_um2((1, None, None), 10) == pytest.approx(10 * 0.125)
    assert nano.area_um2((None, 1, None), 10) == pytest.approx(10 * 0.5)
    assert nano.volume_um3(10) == pytest.approx(10 * 0.25)
    for unknown in (Grid((4, 9, 8), (1.0, 1.0, 1.0)), Grid((4, 9, 8), (), "micrometer")):
        assert unknown.spacing_um == {}
        assert unknown.area_um2((1, None, None), 10) is unknown.volume_um3(10) is None
    time = Grid((4, 9, 8), (1.0, 0.5, 0.5), "micrometer", ("t", "y", "x"))
    assert time.area_um2((None, 1, None), 10) is time.volume_um3(10) is None


# ---------------------------------------------------------------- what labels show now


@given(st.integers(0, 2**32 - 1))
def test_painted_objects_have_exactly_the_pixels_of_their_label(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, STACK.shape) * (rng.random(STACK.shape) < 0.4)
    objects = [thing(label, {(0, None, None): filled((0, 0, 3, 3), 0.9)}) for label in (1, 2, 7)]
    other = thing(1, {(0, None, None): filled((0, 0, 3, 3))}, labels="elsewhere")
    *painted, same = as_painted([*objects, other], {"cells": labels})
    assert same is other
    for one in painted:
        back = np.zeros(labels.shape, bool)
        for plane, mask in one.masks.items():
            back[slices_of(plane, mask.box)] = mask.mask
            assert mask.mask.any(axis=0)[[0, -1]].all() and mask.mask.any(axis=1)[[0, -1]].all()
        np.testing.assert_array_equal(back, labels == one.label)
        assert all(mask.score == 0.9 for mask in one.masks.values())


# ---------------------------------------------------------------- table


def test_the_table_holds_what_was_asked_and_found(tmp_path: Path) -> None:
    prompts = {
        (1, None, None): Prompts("nuclei", [[2, 3]], [1], [[0, 0, 4.5, 4]]),
        (2, None, None): Prompts(mask=np.eye(9, 8) > 0),
    }
    masks = {(z, None, None): filled((0, 0, 2, z + 1), 0.25 * (z + 1)) for z in (1, 2, 3)}
    alone = {(0, None, None): filled((0, 0, 1, 1))}
    objects = [thing(17, masks, prompts=prompts), thing(18, alone, word=None, target="concept")]
    first, second = rows_of(write_table(tmp_path / "a.csv", objects, {"cells.tif": STACK}))
    assert first["id"] == "17" and first["word"] == "nuclei" and first["target"] == "object"
    assert float(first["score"]) == 0.75 and first["slices"] == "1-3" and first["pixels"] == "18"
    assert float(first["area_um2"]) == 8 * 0.125 and float(first["volume_um3"]) == 18 * 0.25
    assert json.loads(first["prompts"]) == {
        "1,:,:": {
            "text": "nuclei",
            "points_y_x_sign": [[2.0, 3.0, 1.0]],
            "boxes_y0_x0_y1_x1": [[0.0, 0.0, 4.5, 4.0]],
        },
        "2,:,:": {"mask_pixels": 8},
    }
    origin = ("model", "adapter", "clip", "image")
    assert [first[name] for name in origin] == ["starter", "none", "ViT-B-16:openai", "cells.tif"]
    assert first["created"].startswith("2026-01-02") and first["key"].endswith("11")
    assert second["word"] == "" and second["target"] == "concept" and second["slices"] == "0"


@pytest.mark.parametrize(
    ("planes", "text"),
    [
        ([(None, None)], ""),
        ([(3, None, None), (7, None, None), (8, None, None)], "3, 7-8"),
        ([(1, 4, None, None), (0, 2, None, None), (0, 3, None, None)], "0/2-3, 1/4"),
    ],
)
def test_slices_are_told_in_short(tmp_path: Path, planes: list[PlaneKey], text: str) -> None:
    one = thing(1, {plane: filled((0, 0, 1, 1)) for plane in planes})
    (row,) = rows_of(write_table(tmp_path / "a.csv", [one], {}))
    assert row["slices"] == text and row["area_um2"] == row["volume_um3"] == ""


def test_the_volume_in_a_time_series_is_that_at_one_time(tmp_path: Path) -> None:
    grid = Grid((2, 4, 9, 8), (1.0, 2.0, 0.5, 0.5), "micrometer", ("t", "z", "y", "x"))
    masks = {(t, z, None, None): filled((0, 0, 1, t + 1)) for t in (0, 1) for z in (0, 1)}
    (row,) = rows_of(write_table(tmp_path / "a.csv", [thing(1, masks)], {"cells.tif": grid}))
    assert float(row["volume_um3"]) == 4 * 0.5 and row["pixels"] == "6"


def test_a_word_is_not_computed_by_a_spreadsheet(tmp_path: Path) -> None:
    (row,) = rows_of(write_table(tmp_path / "a.csv", [thing(1, {}, word="=cmd|'x'!A1")], {}))
    assert row["word"] == "'=cmd|'x'!A1"


# ---------------------------------------------------------------- COCO


def decoded(segmentation: dict[str, Any]) -> np.ndarray:
    """Run lengths as the COCO format defines them."""
    height, width = segmentation["size"]
    counts = segmentation["counts"]
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    assert flat.size == height * width
    return flat.reshape(width, height).T


@given(st.integers(0, 2**32 - 1))
def test_coco_masks_are_the_masks(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    rng = np.random.default_rng(seed)
    y0, x0 = int(rng.integers(9)), int(rng.integers(8))
    box = (y0, x0, int(rng.integers(y0, 9)) + 1, int(rng.integers(x0, 8)) + 1)
    shape = (box[2] - y0, box[3] - x0)
    mask = ObjectMask(box, rng.random(shape) < rng.random(), 0.5)
    path = tmp_path_factory.mktemp("coco") / "a.json"
    write_coco(path, [thing(1, {(2, None, None): mask})], {"cells.tif": STACK})
    content = json.loads(path.read_text())
    expected = np.zeros((9, 8), bool)
    expected[mask.slices] = mask.mask
    found = [decoded(one["segmentation"]) for one in content["annotations"]]
    assert len(found) == expected.any()
    if found:
        np.testing.assert_array_equal(found[0], expected)


def test_coco_has_an_image_for_each_slice_and_a_category_for_each_word(tmp_path: Path) -> None:
    stack = thing(5, {(z, None, None): filled((1, 2, 4, 6), 0.75) for z in (1, 2)})
    side = thing(6, {(None, 3, None): filled((0, 0, 4, 1))}, word=None)
    lost = thing(7, {(0, 0, None, None): filled((0, 0, 1, 1))}, image="gone.tif")
    path = write_coco(tmp_path / "a.json", [stack, side, lost], {"cells.tif": STACK})
    content = json.loads(path.read_text())
    sizes = [(i["plane"], i["height"], i["width"]) for i in content["images"]]
    assert sizes == [([1, None, None], 9, 8), ([2, None, None], 9, 8), ([None, 3, None], 4, 8)]
    assert content["categories"] == [{"id": 1, "name": "nuclei"}, {"id": 2, "name": "object"}]
    first, second, third = content["annotations"]
    assert first["bbox"] == [2, 1, 4, 3] and first["area"] == 12 and first["score"] == 0.75
    assert first["object_id"] == second["object_id"] == 5 and third["category_id"] == 2
    assert [one["image_id"] for one in content["annotations"]] == [1, 2, 3]
    assert len({one["id"] for one in content["annotations"]}) == 3
    made_with = [first[name] for name in ("model", "adapter", "clip")]
    assert made_with == ["starter", "none", "ViT-B-16:openai"]


# ---------------------------------------------------------------- labels


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int32", "int64", "bool"])
def test_a_tiff_has_the_labels_their_axes_and_the_pixel_size(tmp_path: Path, dtype: str) -> None:
    labels = (np.arange(np.prod(STACK.shape)).reshape(STACK.shape) % 100).astype(dtype)
    path = write_tiff(tmp_path / "a.tif", labels, STACK)
    back = read_labels(path)
    assert back.axes == "ZYX"
    np.testing.assert_array_equal(tifffile.imread(path), labels)
    if back.dtype.itemsize < 4:
        assert back.spacing_um == pytest.approx({"Z": 2.0, "Y": 0.5, "X": 0.25})


@pytest.mark.parametrize("value", [-1, 1 << 32])
def test_labels_that_a_tiff_cannot_hold_are_refused(tmp_path: Path, value: int) -> None:
    with pytest.raises(OutputError, match="do not fit a TIFF"):
        write_tiff(tmp_path / "a.tif", np.full((2, 2), value, np.int64), Grid((2, 2)))
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ((7, 5), ()),
        ((700, 300), ()),
        ((3, 300, 270), ("t", "y", "x")),
        ((30, 20, 3), ("x", "z", "y")),
        ((2, 3, 9, 8), ()),
        ((2, 2, 2, 9, 8), ()),
    ],
)
@pytest.mark.parametrize("dtype", ["uint8", "int32", "uint64"])
def test_an_ome_zarr_has_the_labels_and_metadata_by_the_specification(
    tmp_path: Path, shape: tuple[int, ...], names: tuple[str, ...], dtype: str
) -> None:
    labels = np.random.default_rng(0).integers(0, 99, shape).astype(dtype)
    scale = tuple(0.5 * (axis + 1) for axis in range(len(shape)))
    grid = Grid(shape, scale, "micrometer", names)
    path = write_ome_zarr(tmp_path / "cells.ome.zarr", labels, grid)
    assert os.listdir(tmp_path) == ["cells.ome.zarr"]
    group = zarr.open_group(path, mode="r")
    order = [grid.letters.index(letter) for letter in "TCZYX" if letter in grid.letters]
    expected = labels.transpose(order)
    ome = group.attrs["ome"]
    assert group.metadata.zarr_format == 3 and ome["version"] == "0.5" and "image-label" in ome
    (scales,) = ome["multiscales"]
    assert scales["name"] == "cells"
    check_axes(scales["axes"], grid, order)
    for level, dataset in enumerate(scales["datasets"]):
        array = group[dataset["path"]]
        assert array.dtype == labels.dtype
        assert array.metadata.dimension_names == tuple(axis["name"] for axis in scales["axes"])
        np.testing.assert_array_equal(array[:], expected[..., :: 2**level, :: 2**level])
        (transformation,) = dataset["coordinateTransformations"]
        assert transformation["type"] == "scale"
        factors = [*(1,) * (len(shape) - 2), 2**level, 2**level]
        sizes = [scale[axis] * factor for axis, factor in zip(order, factors, strict=True)]
        assert transformation["scale"] == pytest.approx(sizes)
    assert max(array.shape[-2:]) <= 256 < 2 * max(max(shape), 129)


def check_axes(axes: list[dict[str, str]], grid: Grid, order: list[int]) -> None:
    """2 to 5 axes; time, then channel, then space; units only where something is measured."""
    assert [axis["name"] for axis in axes] == [grid.letters[a].lower() for a in order]
    kinds = [axis["type"] for axis in axes]
    assert kinds == sorted(kinds, key=["time", "channel", "space"].index)
    assert 2 <= kinds.count("space") <= 3 and kinds.count("time") <= 1
    for axis in axes:
        assert axis.get("unit") == ("micrometer" if axis["type"] == "space" else None)


def test_an_ome_zarr_is_read_back_by_our_own_reader(tmp_path: Path) -> None:
    labels = np.arange(np.prod(STACK.shape), dtype=np.uint16).reshape(STACK.shape)
    back = read_labels(write_ome_zarr(tmp_path / "a.ome.zarr", labels, STACK))
    assert back.axes == "ZYX" and back.spacing_um == pytest.approx({"Z": 2.0, "Y": 0.5, "X": 0.25})
    np.testing.assert_array_equal(back.plane({"Z": 3}), labels[3])


def test_an_ome_zarr_is_written_plane_by_plane(tmp_path: Path) -> None:
    class Lazy:
        shape, dtype = (6, 40, 50), np.dtype(np.uint8)

        def __getitem__(self, index: tuple[Any, ...]) -> np.ndarray:
            assert isinstance(index[0], int)
            return np.full((40, 50), index[0], np.uint8)

    path = write_ome_zarr(tmp_path / "a.zarr", Lazy(), Grid(Lazy.shape))
    assert zarr.open_group(path, mode="r")["0"][4].mean() == 4


def test_data_with_too_many_axes_is_refused(tmp_path: Path) -> None:
    shape = (1,) * 6
    with pytest.raises(OutputError, match="2 to 5 axes"):
        write_ome_zarr(tmp_path / "a.zarr", np.zeros(shape, np.uint8), Grid(shape))
    assert not os.listdir(tmp_path)


# ---------------------------------------------------------------- whole or not at all

WRITERS = {
    "a.tif": lambda path, over: write_tiff(path, np.ones((4, 4), np.uint8), Grid((4, 4)), over),
    "a.zarr": lambda path, over: write_ome_zarr(
        path, np.ones((4, 4), np.uint8), Grid((4, 4)), over
    ),
    "a.csv": lambda path, over: write_table(path, [thing(1, {})], {}, over),
    "a.json": lambda path, over: write_coco(path, [thing(1, {})], {}, over),
}


@pytest.mark.parametrize("name", WRITERS)
def test_an_existing_file_is_replaced_only_when_asked(tmp_path: Path, name: str) -> None:
    path, write = tmp_path / name, WRITERS[name]
    write(path, False)
    with pytest.raises(OutputError, match="exists already"):
        write(path, False)
    write(path, True)
    assert os.listdir(tmp_path) == [name]
    with pytest.raises(OutputError, match="does not exist"):
        write(tmp_path / "nowhere" / name, False)


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_the_old_file_whole(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, write = tmp_path / name, WRITERS[name]
    write(path, False)
    before = {str(file): file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OutputError, match="No space left"):
        write(path, True)
    assert {str(f): f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()} == before


def test_another_folder_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("dear")
    with pytest.raises(OutputError, match="not an OME-Zarr"):
        WRITERS["a.zarr"](tmp_path / "mine", True)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "dear"


def test_the_exported_stack_opens_as_an_image(tmp_path: Path) -> None:
    path = write_ome_zarr(tmp_path / "a.ome.zarr", np.ones(STACK.shape, np.uint8), STACK)
    assert open_image(path).axes == "ZYX"
