"""A stack into a file, and a folder of images, in a real viewer: stopped and gone on with too."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from plugin.qt.conftest import Heart, User, click
from qtpy.QtCore import Qt, QTimer
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QFileDialog, QPushButton

from napari_clipsam._plugin.samples import synthetic_nuclei
from napari_clipsam.planes import read_labels
from napari_clipsam.training.metrics import innermost_pixel


def test_a_stack_goes_into_a_file_while_one_clicks(
    make_user: Callable[..., User], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one, labels = synthetic_nuclei((128, 128), (0.5, 0.5), n_nuclei=9, seed=3)
    depth = 8
    stack = np.stack([np.roll(one, z, axis=0) for z in range(depth)])
    user = make_user(stack, scale=(1, 0.5, 0.5), units=("um",) * 3)
    controller, dock = user.controller, user.dock
    cells = user.viewer.layers["cells"]
    user.viewer.dims.set_point(0, 0)
    QTest.keyClicks(dock.search.word.edit, "nuclei")
    user.answered(lambda: QTest.keyClick(dock.search.word.edit, Qt.Key.Key_Return))
    user.answered(lambda: controller.set_target("instances"))
    controller.clear()
    path = tmp_path / "nuclei.ome.zarr"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *args: (str(path), ""))

    with Heart() as heart:
        click(user.bot, dock.stack.into)
        user.wait(lambda: "nuclei" in user.viewer.layers)
        controller.set_tool("point+")
        where = innermost_pixel(labels == 1 + np.bincount(labels.ravel())[1:].argmax())
        user.answered(lambda: user.click(cells, 0, *where))
        assert controller.stack_file.progress is not None, "the click came first"
        assert controller.keeper.state.draft[0].masks
        stopped = time.perf_counter()
        click(user.bot, dock.stack.progress.stop_button)
        user.wait(lambda: controller.state.busy is None)
        assert time.perf_counter() - stopped < 1
    # Of it napari takes most to make three layers.
    assert heart.busiest < 2, "napari froze"
    assert (
        controller.state.hint is not None and "was stopped at slice" in controller.state.hint.text
    )
    shown = user.viewer.layers["nuclei"]
    assert np.asarray(shown.data[0]).any() and not np.asarray(shown.data[depth - 1]).any()

    click(user.bot, dock.hint.buttons[0])
    user.wait(path.is_dir)
    user.wait(lambda: controller.state.busy is None)
    written = read_labels(path)
    assert all(written.plane(z).any() for z in range(depth))
    assert np.array_equal(shown.data[depth - 1], written.plane(depth - 1))
    assert np.allclose(shown.data_to_world((3, 4, 5)), cells.data_to_world((3, 4, 5)))


def test_images_of_a_folder_are_segmented_from_the_menu_and_opened(
    make_user: Callable[..., User], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    images, output = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    output.mkdir()
    one, labels = synthetic_nuclei((96, 96), (0.5, 0.5), n_nuclei=5, seed=3)
    for n in range(2):
        tifffile.imwrite(images / f"well_{n}.tif", np.roll(one, 20 * n, axis=0))
    (images / "broken.tif").write_bytes(b"II*\0nothing else")
    user = make_user(one)
    controller, dock = user.controller, user.dock
    QTest.keyClicks(dock.search.word.edit, "nuclei")
    user.answered(lambda: QTest.keyClick(dock.search.word.edit, Qt.Key.Key_Return))
    user.answered(lambda: controller.set_target("instances"))
    folders = iter([str(images), str(output)])
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *args: next(folders))

    choose_first(dock.files.folder)
    user.wait(lambda: controller.state.busy is None and (output / "well_1.tif").exists())

    hint = controller.state.hint
    assert hint is not None and "2 images" in hint.text and "broken.tif" in hint.text
    user.bot.wait(50)
    click(user.bot, dock.hint.buttons[0])
    user.wait(lambda: "well_1" in user.viewer.layers)
    shown = np.asarray(user.viewer.layers["well_1"].data)
    found = shown[np.roll(labels, 20, axis=0) > 0]
    assert (found > 0).mean() > 0.5 and len(np.unique(found)) > 3


def choose_first(button: QPushButton) -> None:
    """Open a button's menu by mouse, and take its first entry by keyboard."""

    def choose() -> None:
        QTest.keyClick(button.menu(), Qt.Key.Key_Down)
        QTest.keyClick(button.menu(), Qt.Key.Key_Return)

    QTimer.singleShot(200, choose)
    QTest.mouseClick(button, Qt.MouseButton.LeftButton)
