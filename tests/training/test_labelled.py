"""Pairs of images and labels: files, folders, tables; and their planes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from numpy.testing import assert_array_equal
from PIL import Image

from napari_clipsam.errors import ConfigError, PlaneError
from napari_clipsam.training.labelled import (
    LabelledImage,
    labelled_planes,
    open_pair,
    pair_paths,
    read_index,
)

INDEX = """file,label,split,modality,style,concepts,label_type
images/a.png,labels/a_n.png,train,fluorescence,"dim, red",nuclei;nucleus,instance
images/a.png,labels/a_c.png,train,fluorescence,"dim, red",cells;whole cells,semantic
images/b.png,labels/b_n.png,test,histology,purple,nuclei;nucleus,instance
images/b.png,labels/boxes.csv,test,histology,purple,red blood cells,boxes
images/c.png,,none,histology,purple,nuclei,none
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with a table of two labelled images and one without labels."""
    (tmp_path / "index.csv").write_text(INDEX, encoding="utf-8-sig")
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for name in ("images/a", "images/b", "images/c", "labels/a_n", "labels/a_c", "labels/b_n"):
        Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "labels" / "boxes.csv").write_text("file,concept,x0,y0,x1,y1\n")
    return tmp_path


def names(pairs: list[LabelledImage]) -> list[str]:
    return [pair.labels.stem for pair in pairs]


# ---------------------------------------------------------------- files and folders


def test_two_files_are_a_pair(data: Path) -> None:
    pair = LabelledImage(data / "images" / "a.png", data / "labels" / "a_n.png")
    assert pair_paths(pair.image, pair.labels) == [pair]


def test_folders_are_paired_by_stem_whatever_the_ending(tmp_path: Path) -> None:
    images, labels = tmp_path / "i", tmp_path / "l"
    for folder, files in ((images, ["b.png", "a.ome.tif", "c.tif"]), (labels, ["a.tif", "b.tiff"])):
        folder.mkdir()
        for name in files:
            (folder / name).touch()
    zarr.create_array(labels / "c.zarr", shape=(4, 4), dtype="uint8")
    paired = [(p.image.name, p.labels.name) for p in pair_paths(images, labels)]
    assert paired == [("a.ome.tif", "a.tif"), ("b.png", "b.tiff"), ("c.tif", "c.zarr")]


def test_what_cannot_be_paired_is_refused(data: Path) -> None:
    image, labels = data / "images" / "a.png", data / "labels"
    for first, second, saying in (
        (image, labels, "a file and a folder"),
        (data / "images", labels, "No image in .* has labels of the same name"),
        (image, data / "none.png", "does not exist"),
        (data, data, "has no images"),
    ):
        with pytest.raises(PlaneError, match=saying):
            pair_paths(first, second)


# ---------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"concept": "nuclei"}, ["a_n", "b_n"]),
        ({"concept": "Nucleus "}, ["a_n", "b_n"]),
        ({"word": "nuclei"}, ["a_n", "b_n"]),
        ({"word": "nuclei", "concept": "cells"}, ["a_c"]),
        ({"word": "blobs", "concept": "whole cells"}, ["a_c"]),
        ({"word": "nuclei", "split": "test"}, ["b_n"]),
        ({"concept": "nuclei", "where": ["style=dim, red"]}, ["a_n"]),
        ({"concept": "nuclei", "where": ["style=dim, red", "style=purple"]}, ["a_n", "b_n"]),
        ({"word": "blobs", "where": ["label_type=semantic"]}, ["a_c"]),
    ],
)
def test_rows_are_chosen(data: Path, choice: dict[str, object], expected: list[str]) -> None:
    assert names(read_index(data, Path("index.csv"), **choice)) == expected


def test_rows_say_what_they_are(data: Path) -> None:
    (pair,) = read_index(data, Path("index.csv"), split="test", concept="nuclei")
    assert pair == LabelledImage(
        data / "images" / "b.png", data / "labels" / "b_n.png", "instance", "histology", "purple"
    )


def test_a_table_may_lie_elsewhere_and_labels_too(data: Path, tmp_path: Path) -> None:
    elsewhere, other = tmp_path / "elsewhere", tmp_path / "other"
    for folder in (elsewhere, other, other / "labels"):
        folder.mkdir()
    (data / "index.csv").rename(elsewhere / "mine.csv")
    (other / "labels" / "b_n.png").touch()
    (pair,) = read_index(data, elsewhere / "mine.csv", other, split="test", concept="nuclei")
    assert pair.image == data / "images" / "b.png"
    assert pair.labels == other / "labels" / "b_n.png"


@pytest.mark.parametrize(
    ("choice", "error", "saying"),
    [
        ({}, ConfigError, "several concepts: cells, nuclei, red blood cells. .* --concept"),
        ({"word": "blobs"}, ConfigError, "several concepts"),
        ({"concept": "blobs"}, ConfigError, "labelled 'blobs'. There are: cells, nuclei, red"),
        ({"split": "val"}, ConfigError, "split=val .* There are: none, test, train"),
        ({"where": ["style=green"]}, ConfigError, "There are: dim, red, purple"),
        ({"where": ["colour=green"]}, ConfigError, "columns file, label, split"),
        ({"where": ["style"]}, ConfigError, "Write COLUMN=VALUE"),
        ({"split": "none"}, ConfigError, "have no labels"),
        ({"concept": "red blood cells"}, PlaneError, "boxes, not masks"),
    ],
)
def test_choices_that_leave_nothing_to_measure(
    data: Path, choice: dict[str, object], error: type[Exception], saying: str
) -> None:
    with pytest.raises(error, match=saying):
        read_index(data, Path("index.csv"), **choice)


@pytest.mark.parametrize(
    ("content", "saying"),
    [
        ("file,mask\na.png,b.png\n", "no column label"),
        ("file,label\n", "no column file and no label, or no rows"),
        ("file,label\nimages/z.png,labels/a_n.png\n", "z.png does not exist, but the table"),
        ("file,label,label_type\nimages/a.png,labels/a_n.png,fuzzy\n", "'fuzzy' of .* unknown"),
    ],
)
def test_tables_that_cannot_be_used(data: Path, content: str, saying: str) -> None:
    (data / "index.csv").write_text(content)
    with pytest.raises((ConfigError, PlaneError), match=saying):
        read_index(data, Path("index.csv"))


def test_a_table_that_is_not_there(data: Path) -> None:
    with pytest.raises(PlaneError, match=r"no table none\.csv"):
        read_index(data, Path("none.csv"))
    with pytest.raises(PlaneError, match="is not a folder"):
        read_index(data / "index.csv", Path("index.csv"))


# ---------------------------------------------------------------- planes


def test_a_stack_counts_as_its_planes(tmp_path: Path) -> None:
    images = np.zeros((3, 2, 8, 9), np.uint8)
    images[:, 1] = np.arange(3)[:, None, None] * 50
    labels = np.arange(3 * 72, dtype=np.uint16).reshape(3, 8, 9)
    tifffile.imwrite(tmp_path / "i.tif", images, imagej=True, metadata={"axes": "ZCYX"})
    tifffile.imwrite(tmp_path / "l.tif", labels, photometric="minisblack")
    pair = LabelledImage(tmp_path / "i.tif", tmp_path / "l.tif")
    planes = list(labelled_planes([pair], channels=[1]))
    assert [p.plane.index for p in planes] == [{"Z": 0}, {"Z": 1}, {"Z": 2}]
    assert [int(p.plane.rgb[0, 0, 0]) for p in planes] == [0, 50, 100]
    assert_array_equal(planes[2].labels, labels[2])


def test_labels_of_a_colour_image_have_no_colours(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 6, 3), 9, np.uint8)).save(tmp_path / "i.png")
    tifffile.imwrite(tmp_path / "l.tif", np.ones((4, 6), np.uint16))
    (plane,) = labelled_planes([LabelledImage(tmp_path / "i.png", tmp_path / "l.tif")])
    assert plane.plane.shape == plane.labels.shape == (4, 6)


@pytest.mark.parametrize("shape", [(4, 7), (2, 4, 6)])
def test_labels_of_another_size_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    tifffile.imwrite(tmp_path / "i.tif", np.zeros((4, 6), np.uint8))
    tifffile.imwrite(tmp_path / "l.tif", np.zeros(shape, np.uint16))
    with pytest.raises(PlaneError, match="have different sizes: Y=4 x X=6 and"):
        open_pair(LabelledImage(tmp_path / "i.tif", tmp_path / "l.tif"))
