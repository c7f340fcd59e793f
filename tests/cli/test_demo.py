"""``demo``: both images, all masks, a picture of each, and napari only where somebody watches."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from bright import BrightSegmenter, Run
from napari.components import ViewerModel
from numpy.testing import assert_array_equal
from PIL import Image

from napari_clipsam._plugin.viewing import add_results
from napari_clipsam.cli import _demo
from napari_clipsam.training.sheet import PREDICTED

NAMES = {
    f"{image}{what}"
    for image in ("histology", "fluorescence")
    for what in ("_concept.tif", "_instances.tif", "_click.tif", ".png")
}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What would have been opened in napari."""
    shown: list[object] = []
    monkeypatch.setattr("napari_clipsam._plugin.viewing.show_results", shown.extend)
    return shown


@pytest.mark.usefixtures("opened")
def test_both_images_are_segmented_by_word_and_by_click(
    run: Run, bright: BrightSegmenter, tmp_path: Path
) -> None:
    out = tmp_path / "demo"
    done = run("demo", "-o", out)
    assert (done.status, done.err) == (0, "")
    assert {path.name for path in out.iterdir()} == NAMES
    assert all(name in done.out for name in NAMES)
    asked = [(p.text, target, len(p.points)) for p, target in bright.asked]
    one_image = [("nuclei", "concept", 0), ("nuclei", "instances", 0), ("nuclei", "object", 1)]
    assert asked == one_image * 2
    for name in ("histology", "fluorescence"):
        masks = {what: tifffile.imread(out / f"{name}_{what}.tif") for what in _demo._RESULTS}
        assert {mask.shape for mask in masks.values()} == {(512, 512)}
        assert [mask.dtype for mask in masks.values()] == [np.uint8, np.uint16, np.uint8]
        assert_array_equal(masks["concept"] > 0, masks["instances"] > 0)
        with Image.open(out / f"{name}.png") as picture:
            width, height = picture.size
        assert width > 4 * 512 and height > 512


def test_the_clicked_object_is_shown_enlarged() -> None:
    image = np.zeros((200, 100, 3), np.uint8)
    mask = np.zeros((200, 100), bool)
    mask[190:200, 0:10] = True
    shown = _demo._clicked(_demo._Example("a", image, (195, 4)), image, mask)
    assert shown.shape == (512, 512, 3)
    # A quarter of the shorter side is seen, in the corner where the click is.
    border = np.argwhere((shown == PREDICTED).all(axis=2))
    assert border.min(axis=0).tolist() == [15 * 512 // 25 + 1, 0]
    assert border.max(axis=0).tolist() == [511, 10 * 512 // 25]
    tint = (shown.astype(int).sum(axis=2) > 0).mean()
    assert 0.1 < tint < (10 / 25) ** 2 + 0.02


def test_the_click_is_on_a_nucleus() -> None:
    histology, fluorescence = _demo._examples()
    y, x = histology.click
    red, _, blue = histology.image[y - 1 : y + 2, x - 1 : x + 2].mean(axis=(0, 1))
    assert blue > red + 15  # the stain of nuclei is blue, that of the tissue brown
    y, x = fluorescence.click
    around = fluorescence.image[y - 3 : y + 4, x - 3 : x + 4]
    assert around.mean() > 3 * np.median(fluorescence.image)


@pytest.mark.usefixtures("bright", "opened")
def test_a_second_demo_replaces_the_first(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_demo, "_examples", small_examples)
    out = tmp_path / "demo"
    assert run("demo", "-o", out, "--no-show").status == 0
    (out / "mine.txt").write_text("mine")
    (out / "histology.png").write_bytes(b"old")
    assert run("demo", "-o", out).status == 0
    assert (out / "mine.txt").read_text() == "mine"
    assert (out / "histology.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("display", "terminal", "ci", "option", "expected"),
    [
        (":0", True, "", [], 2),
        ("", True, "", [], 0),
        (":0", False, "", [], 0),
        (":0", True, "true", [], 0),
        (":0", False, "", ["--show"], 2),
        (":0", True, "", ["--no-show"], 0),
    ],
)
def test_napari_opens_where_somebody_watches(
    run: Run,
    bright: BrightSegmenter,
    opened: list[object],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    display: str,
    terminal: bool,
    ci: str,
    option: list[str],
    expected: int,
) -> None:
    monkeypatch.setattr(_demo.sys, "platform", "linux")
    monkeypatch.setattr(_demo, "_examples", small_examples)
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    for name, value in (("DISPLAY", display), ("WAYLAND_DISPLAY", ""), ("CI", ci)):
        monkeypatch.setenv(name, value)
    done = run("demo", "-o", tmp_path / "demo", *option)
    assert done.status == 0, done.err
    assert len(opened) == expected


def small_examples() -> list[_demo._Example]:
    image = np.zeros((40, 40), np.uint8)
    image[10:20, 10:20] = 200
    return [_demo._Example(name, image, (15, 15)) for name in ("histology", "fluorescence")]


def test_showing_without_a_screen_is_refused(
    run: Run, no_model: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_demo, "sys", SimpleNamespace(platform="linux"))
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    done = run("demo", "-o", tmp_path / "demo", "--show")
    assert done.status == 2 and "no screen" in done.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "saying"), [("no/demo", "does not exist"), ("file", "is a file")])
def test_folders_that_cannot_be_used(
    run: Run, no_model: None, tmp_path: Path, name: str, saying: str
) -> None:
    (tmp_path / "file").touch()
    done = run("demo", "-o", tmp_path / name)
    assert done.status == 2 and saying in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_results_become_layers() -> None:
    viewer = ViewerModel()
    grey, colour = np.zeros((8, 9), np.uint16), np.zeros((8, 9, 3), np.uint8)
    masks = {what: np.ones((8, 9), np.uint8) for what in _demo._RESULTS}
    add_results(viewer, [("a", colour, (1, 2), masks), ("b", grey, (3, 4), masks)])
    assert len(viewer.layers) == 10
    assert viewer.layers["a"].rgb and not viewer.layers["b"].rgb
    assert_array_equal(viewer.layers["b click point"].data, [[3, 4]])
    shown = {layer.name for layer in viewer.layers if layer.visible}
    assert shown == {"b", "b instances", "b click point"}
