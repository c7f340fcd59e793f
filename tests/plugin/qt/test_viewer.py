"""The plugin in a real viewer with the starter model, used by mouse and keyboard."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from plugin.qt.conftest import Heart, User
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from skimage.io import imread

from napari_clipsam._plugin.samples import synthetic_nuclei
from napari_clipsam.training.metrics import innermost_pixel

MakeUser = Callable[..., User]


def iou(found: np.ndarray, true: np.ndarray) -> float:
    return float((found & true).sum() / (found | true).sum())


def largest(labels: np.ndarray, rank: int = 0) -> np.ndarray:
    """Mask of one of the largest objects."""
    order = np.argsort(-np.bincount(labels.ravel())[1:])
    return labels == 1 + order[rank]


def test_a_click_ends_as_a_label(make_user: MakeUser) -> None:
    image, labels = synthetic_nuclei((256, 256), (0.5, 0.5), n_nuclei=30, seed=3)
    user = make_user(image, scale=(0.5, 0.5), rotate=20, translate=(7, -3))
    true = largest(labels)
    user.press(Qt.Key.Key_G)
    assert user.controller.state.tool == "point+"
    cells = user.viewer.layers["cells"]
    user.answered(lambda: user.click(cells, *innermost_pixel(true)))
    user.press(Qt.Key.Key_K)

    kept = user.viewer.layers["objects"]
    assert iou(kept.data > 0, true) >= 0.7
    assert np.allclose(kept.affine.affine_matrix, cells.affine.affine_matrix)
    assert np.allclose(kept.rotate, cells.rotate) and np.allclose(kept.scale, cells.scale)
    user.press(Qt.Key.Key_U)
    assert not kept.data.any()
    assert user.controller.state.can_keep


def test_a_word_is_typed_searched_and_kept(make_user: MakeUser) -> None:
    image, labels = synthetic_nuclei((256, 256), (0.5, 0.5), n_nuclei=30, seed=3)
    user = make_user(image)
    field = user.dock.search.word
    QTest.keyClicks(field.edit, "nuclei")
    with Heart() as heart:
        user.answered(lambda: QTest.keyClick(field.edit, Qt.Key.Key_Return))
    user.answered(lambda: user.controller.set_target("instances"))
    user.controller.keep()

    kept = user.viewer.layers["nuclei"].data
    assert iou(kept > 0, labels > 0) >= 0.7
    assert abs(int(kept.max()) - int(labels.max())) <= 6
    assert len(user.controller.state.objects) == kept.max()
    assert heart.busiest < 1, "napari froze while the model was loaded"
    if os.getloadavg()[0] <= (os.cpu_count() or 1):
        assert heart.worst < 5


def test_the_event_loop_goes_on_while_the_starter_works(make_user: MakeUser) -> None:
    image, _ = synthetic_nuclei((512, 512), (0.5, 0.5), n_nuclei=150, seed=2)
    user = make_user(image)
    cells = user.viewer.layers["cells"]
    user.controller.set_tool("point+")
    user.answered(lambda: user.click(cells, 60, 60))
    hearts = []
    for position in ((100, 400), (300, 90), (420, 300)):
        user.controller.clear()
        user.controller.engine._segmenter._encoder.clear()  # so that the encoder runs again
        user.bot.wait(50)
        with Heart() as heart:
            user.answered(lambda position=position: user.click(cells, *position))
        hearts.append(heart)
    assert max(heart.busiest for heart in hearts) < 0.1
    if os.getloadavg()[0] <= (os.cpu_count() or 1):
        assert min(heart.worst for heart in hearts) < 0.1


@pytest.mark.parametrize("style", ["fluorescence_256x256", "fluorescence_360x360"])
def test_a_click_on_a_real_image(make_user: MakeUser, shared: Path, style: str) -> None:
    image, labels = _easy(shared, style)
    user = make_user(image)
    true = largest(labels)
    user.controller.set_tool("point+")
    cells = user.viewer.layers["cells"]
    user.answered(lambda: user.click(cells, *innermost_pixel(true)))
    user.controller.keep()
    assert iou(user.viewer.layers["objects"].data > 0, true) >= 0.7


def test_an_object_is_followed_through_an_anisotropic_stack(make_user: MakeUser) -> None:
    image, labels = synthetic_nuclei((12, 128, 128), (2.0, 0.5, 0.5), n_nuclei=8, seed=5)
    user = make_user(image, scale=(2.0, 0.5, 0.5))
    true = largest(labels)
    z = int(np.argmax(true.sum(axis=(1, 2))))
    user.viewer.dims.set_point(0, 2.0 * z)
    user.controller.set_tool("point+")
    cells = user.viewer.layers["cells"]
    user.answered(lambda: user.click(cells, z, *innermost_pixel(true[z])))
    user.answered(lambda: user.press(Qt.Key.Key_N, Qt.KeyboardModifier.ShiftModifier))
    user.controller.keep()
    assert iou(user.viewer.layers["objects"].data > 0, true) >= 0.7


def test_the_dock_is_closed_in_mid_run_and_opened_again(make_user: MakeUser) -> None:
    image = synthetic_nuclei((12, 128, 128), (2.0, 0.5, 0.5), n_nuclei=8, seed=5)[0]
    user = make_user(image)
    user.answered(lambda: user.controller.find("nuclei"))
    user.controller.segment_stack()
    user.wait(lambda: user.controller.state.busy is not None)
    user.viewer.window.remove_dock_widget(user.dock)
    assert [layer.name for layer in user.viewer.layers] == ["cells"]

    _, dock = user.viewer.window.add_plugin_dock_widget("napari-clipsam", "Segment")
    assert dock._controls is not user.controller
    assert dock._controls.state.can_keep, "what was found is still there"


def test_two_viewers_do_not_meddle(make_user: MakeUser) -> None:
    image = synthetic_nuclei((128, 128), (0.5, 0.5), n_nuclei=8, seed=5)[0]
    one, other = make_user(image), make_user(image)
    one.answered(lambda: one.controller.find("nuclei"))
    one.controller.keep()
    other.answered(lambda: other.controller.find("nuclei"))
    assert [layer.name for layer in other.viewer.layers if layer.name == "nuclei"] == []
    assert other.controller.state.can_keep and not one.controller.state.can_keep


def test_samples_open_from_the_dock(make_user: MakeUser) -> None:
    user = make_user()
    assert len(user.controller.state.samples) == 3
    user.controller.open_sample("nuclei")
    assert user.controller.state.image == "nuclei"
    user.answered(lambda: user.controller.find("nuclei"))
    assert "nuclei" in user.controller.state.answer


def _fluorescence(shared: Path) -> Path:
    return _paths(shared, "fluorescence")[0][0]


def _easy(shared: Path, style: str) -> tuple[np.ndarray, np.ndarray]:
    image, label = _paths(shared, style)[0]
    return imread(image), imread(label)


def _paths(shared: Path, style: str) -> list[tuple[Path, Path]]:
    """Images of the training split of a style, and their labels."""
    import csv

    folder = shared / "data" / "dsb2018_nuclei"
    with (folder / "index.csv").open(encoding="utf-8", newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["split"] == "train" and style in r["style"]]
    return [(folder / r["file"], folder / r["label"]) for r in rows]
