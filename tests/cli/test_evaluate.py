"""``evaluate``: which planes are measured, what is printed and what is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from bright import BrightSegmenter, Run, squares
from PIL import Image

IMAGE, LABELS = squares()


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three images; of the second only half is seen; the third has no labels."""
    images, labels = tmp_path / "images", tmp_path / "labels"
    for folder in (images, labels):
        folder.mkdir()
    for name in ("a", "b", "c"):
        seen = IMAGE.copy()
        if name == "b":
            seen[:, 40:] = 0
        tifffile.imwrite(images / f"{name}.tif", seen)
        if name != "c":
            Image.fromarray(LABELS.astype(np.uint8)).save(labels / f"{name}.png")
    return images, labels


@pytest.fixture
def data(folders: tuple[Path, Path], tmp_path: Path) -> Path:
    """The same with a table."""
    rows = [
        "images/a.tif,labels/a.png,test,fluorescence,dim,nuclei;nucleus,instance",
        "images/b.tif,labels/b.png,test,histology,pale,nuclei;nucleus,instance",
        "images/a.tif,labels/a.png,train,fluorescence,dim,membranes,semantic",
        "images/c.tif,labels/boxes.csv,test,histology,pale,platelets,boxes",
    ]
    head = "file,label,split,modality,style,concepts,label_type"
    (tmp_path / "index.csv").write_text("\n".join([head, *rows]))
    return tmp_path


def test_two_folders_by_text(
    run: Run, bright: BrightSegmenter, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    report = tmp_path / "r.json"
    done = run("evaluate", *folders, "--text", "nuclei", "--prompts", "text", "--json", report)
    assert done.status == 0, done.err
    assert "1 image without labels" in done.out
    areas = np.bincount(LABELS.ravel())[1:]
    half = (areas[0] + areas[2]) / areas.sum()
    found = json.loads(report.read_text())
    assert found["mean_iou"] == pytest.approx((1 + half) / 2, abs=1e-6)
    assert found["dice"] == pytest.approx((1 + 2 * half / (1 + half)) / 2, abs=1e-6)
    assert (found["n_planes"], found["n_objects"]) == (2, 8)
    assert "ap50" not in found and found["seconds_per_plane"] > 0
    assert [plane["mean_iou"] for plane in found["per_plane"]] == pytest.approx([1, half], abs=1e-6)
    made_with = [found[name] for name in ("model", "adapter", "clip", "device")]
    assert made_with == ["bright", "lamp", "torch", "cpu"]
    assert f"{found['mean_iou']:.3f}" in done.out


@pytest.mark.parametrize("prompts", ["point", "box"])
def test_two_files_by_click_and_by_box(
    run: Run, bright: BrightSegmenter, folders: tuple[Path, Path], tmp_path: Path, prompts: str
) -> None:
    report = tmp_path / "r.json"
    pair = folders[0] / "b.tif", folders[1] / "b.png"
    done = run("evaluate", *pair, "--prompts", prompts, "--text", "nuclei", "--json", report)
    assert done.status == 0, done.err
    found = json.loads(report.read_text())
    assert found["mean_iou"] == 0.5 and found["n_objects"] == 4 and found["target"] == "object"
    assert "dice" not in found and "ap50" not in found
    assert {prompt.text for prompt, _ in bright.asked} == {"nuclei"}


def test_instances(run: Run, bright: BrightSegmenter, data: Path, tmp_path: Path) -> None:
    report = tmp_path / "r.json"
    done = run(
        "evaluate",
        data,
        "--index",
        "index.csv",
        "--prompts",
        "text",
        "--text",
        "nuclei",
        "--target",
        "instances",
        "--json",
        report,
    )
    assert done.status == 0, done.err
    found = json.loads(report.read_text())
    assert found["ap50"] == pytest.approx((1 + 2 / 4) / 2) and "mean_iou" not in found


def test_a_table_gives_a_row_for_each_kind_of_image(
    run: Run, bright: BrightSegmenter, data: Path
) -> None:
    done = run(
        "evaluate",
        data,
        data,
        "--index",
        "index.csv",
        "--split",
        "test",
        "--concept",
        "nuclei",
        "--prompts",
        "point",
        "--text",
        "blobs",
    )
    assert done.status == 0, done.err
    lines = [line.split() for line in done.out.splitlines()]
    assert ["fluorescence", "dim", "1", "4", "1.000"] in lines
    assert ["histology", "pale", "1", "4", "0.500"] in lines
    assert ["all", "2", "8", "0.750"] in lines


def test_rows_are_chosen_by_column(run: Run, bright: BrightSegmenter, data: Path) -> None:
    done = run(
        "evaluate",
        data,
        "--index",
        "index.csv",
        "--where",
        "style=pale",
        "--prompts",
        "box",
        "--text",
        "nuclei",
    )
    assert done.status == 0, done.err
    assert len(bright.planes) == 1 and "0.500" in done.out


def test_a_stack_is_measured_plane_by_plane(
    run: Run, bright: BrightSegmenter, tmp_path: Path
) -> None:
    for name, plane in (("i", IMAGE), ("l", LABELS)):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.stack([plane, plane * 0]))
    done = run(
        "evaluate",
        tmp_path / "i.tif",
        tmp_path / "l.tif",
        "--axes",
        "TYX",
        "--text",
        "nuclei",
        "--prompts",
        "text",
        "--json",
        tmp_path / "r.json",
    )
    assert done.status == 0, done.err
    planes = json.loads((tmp_path / "r.json").read_text())["per_plane"]
    assert [plane["plane"] for plane in planes] == [{"T": 0}, {"T": 1}]


def test_a_sheet_shows_truth_and_prediction(
    run: Run, bright: BrightSegmenter, data: Path, tmp_path: Path
) -> None:
    sheet = tmp_path / "sheet.png"
    done = run(
        "evaluate",
        data,
        "--index",
        "index.csv",
        "--split",
        "test",
        "--text",
        "nuclei",
        "--prompts",
        "text",
        "--sheet",
        sheet,
    )
    assert done.status == 0, done.err
    with Image.open(sheet) as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture)
    colours = {tuple(colour) for colour in np.unique(pixels.reshape(-1, 3), axis=0)}
    assert {(230, 159, 0), (86, 180, 233)} <= colours


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("options", "saying"),
    [
        (["--prompts", "point", "--text", "platelets"], "boxes, not masks"),
        (["--prompts", "point", "--concept", "membranes"], "semantic"),
        (
            ["--prompts", "text", "--text", "x", "--target", "instances", "--concept", "membranes"],
            "semantic",
        ),
        (["--prompts", "text", "--text", "x"], "several concepts: membranes, nuclei, platelets"),
        (["--prompts", "text"], "Give --text WORD"),
        (["--prompts", "point", "--target", "concept", "--text", "nuclei"], "do not go with"),
        (["--prompts", "box", "--text", ""], "is empty"),
        (["--prompts", "box", "--text", "nuclei", "--split", "val"], "There are: test, train"),
        (["--prompts", "box", "--text", "nuclei", "--json", "no/r.json"], "does not exist"),
        (["--prompts", "box", "--text", "nuclei", "--json", "index.csv"], "exists already"),
        (["--prompts", "box", "--text", "nuclei", "--sheet", "s.tif"], "Let it end in .png"),
        (
            ["--prompts", "box", "--text", "nuclei", "--json", "index.csv", "--overwrite"],
            "index.csv is one of the images, labels or tables that are read",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_line(
    run: Run, data: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], saying: str
) -> None:
    monkeypatch.chdir(data)
    before = set(data.rglob("*"))
    done = run("evaluate", ".", "--index", "index.csv", *options)
    assert done.status == 2
    assert done.err.count("\n") == 1 and saying in done.err
    assert set(data.rglob("*")) == before


@pytest.mark.usefixtures("no_model")
def test_labels_are_needed_without_a_table(run: Run, folders: tuple[Path, Path]) -> None:
    done = run("evaluate", folders[0], "--prompts", "point")
    assert done.status == 2 and "Give LABELS behind IMAGES" in done.err
    done = run("evaluate", *folders, "--prompts", "point", "--split", "test")
    assert done.status == 2 and "Give --index too" in done.err
