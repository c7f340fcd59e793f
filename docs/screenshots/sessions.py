"""Pictures of real sessions: napari's window, the starter model, the plugin's own sample data.

    python docs/screenshots/sessions.py             # writes docs/images/segment-*.png, teach-*.png
    python docs/screenshots/sessions.py stack       # only the pictures of one session

needs a display; `make screenshots` brings a virtual one. A session is used by mouse and keyboard.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from scipy import ndimage

from napari_clipsam.training.metrics import innermost_pixel

if TYPE_CHECKING:
    import napari
    from napari.layers import Layer
    from numpy.typing import NDArray
    from qtpy.QtWidgets import QAbstractButton

    from napari_clipsam._plugin._qt.finetune import TeachDock

IMAGES = Path(__file__).resolve().parents[1] / "images"
WINDOW = (1200, 800)
_DOCK_WIDTH = 400
#: Bytes; a picture with more colours than fit is drawn with fewer.
_MOST_BYTES = 250_000
_COLOURS = (256, 128, 64)
#: Seed of label colours with which the first is pale, to be seen in 3D.
_PALE = 8
_PATIENCE = 300.0  # seconds, for machines with other work
_LESSON = 900.0  # seconds of a lesson of ten minutes


class Session:
    """Somebody in front of napari with the Segment dock."""

    def __init__(self, viewer: napari.Viewer) -> None:
        self.viewer = viewer
        _, self.dock = viewer.window.add_plugin_dock_widget("napari-clipsam", "Segment")
        self.controller = self.dock._controls
        window = viewer.window._qt_window
        window.resize(*WINDOW)
        window.resizeDocks([self.dock.parent()], [_DOCK_WIDTH], Qt.Orientation.Horizontal)

    def open(self, sample: str) -> Layer:
        """Open sample data by the link in the dock, and have the model loaded."""
        values = [choice.value for choice in self.controller.state.samples]
        press(self.dock.welcome.samples[values.index(sample)])
        self.viewer.reset_view()
        # Neither loading nor importing is what the first answer's seconds are to show.
        self.controller.set_model("starter")
        wait(lambda: bool(self.controller.state.device))
        importlib.import_module("open_clip")
        return self.viewer.layers[self.controller.state.image]

    def find(self, word: str) -> None:
        """Type a word, and wait for the answer."""
        field = self.dock.search.word.edit
        field.clear()
        QTest.keyClicks(field, word)
        self.answered(lambda: QTest.keyClick(field, Qt.Key.Key_Return))

    def look_for(self, target: str) -> None:
        """Choose "all of it", "every one" or "just this one"."""
        press(self.dock.search._radios[target])

    def place(self, layer: Layer, *data: float) -> QPoint:
        """Where in the canvas a position of a layer's data is shown."""
        canvas = self.viewer.window._qt_viewer.canvas
        world = np.array(layer.data_to_world(data))[list(self.viewer.dims.displayed)]
        # vispy counts x first, and pixels by their corners
        scene = canvas.view.scene.transform.map([*world[::-1], 0, 1])
        return QPoint(*(round(float(value / scene[3])) for value in scene[:2]))

    def click(self, layer: Layer, *data: float) -> None:
        """Click the canvas at a position of a layer's data."""
        canvas = self.viewer.window._qt_viewer.canvas
        point = self.place(layer, *data)
        QTest.mouseMove(canvas.native, point)
        QTest.qWait(50)
        self.answered(
            lambda: QTest.mouseClick(
                canvas.native, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, point
            )
        )

    def key(self, key: Qt.Key, modifier: Any = Qt.KeyboardModifier.NoModifier) -> None:
        """Press a key over the canvas."""
        QTest.keyClick(self.viewer.window._qt_viewer.canvas.native, key, modifier)

    def answered(self, act: Callable[[], Any]) -> None:
        """Do something, and wait until the model has answered."""
        before = self.controller.keeper.state, self.controller.state.hint
        act()
        wait(
            lambda: (
                (self.controller.keeper.state, self.controller.state.hint) != before
                and self.controller.state.busy is None
            )
        )
        # A closer look may follow the first answer.
        QTest.qWait(500)
        wait(lambda: self.controller.state.busy is None)

    def look_at(self, layer: Layer, *data: float, zoom: float) -> None:
        """Move and magnify the view; a zoom of 1 shows the whole layer."""
        self.viewer.reset_view()
        self.viewer.scene.camera.center = layer.data_to_world(data)
        self.viewer.scene.camera.zoom *= zoom
        QTest.qWait(200)

    def open_teach(self) -> TeachDock:
        """Open the Teach dock in front of the Segment dock."""
        return self.open_dock("Teach")

    def open_dock(self, name: str) -> Any:
        """Open another dock in front of the Segment dock."""
        frame, dock = self.viewer.window.add_plugin_dock_widget("napari-clipsam", name, tabify=True)
        frame.raise_()
        return dock

    def picture(self, name: str, of: str = "segment") -> None:
        """Save napari's window as it is now."""
        wait(lambda: not self.dock.stack.progress.isVisible())
        QTest.qWait(600)
        path = IMAGES / f"{'-'.join(part for part in (of, name) if part)}.png"
        size = save_small(self.viewer.window.screenshot(flash=False, canvas_only=False), path)
        print(f"{path.name}: {size / 1e3:.0f} kB   {self.controller.state.answer}")


def wait(until: Callable[[], bool], seconds: float = _PATIENCE) -> None:
    """Let napari go on until something is so."""
    end = time.monotonic() + seconds
    while not until():
        if time.monotonic() > end:
            raise TimeoutError(f"napari gave no answer in {seconds:.0f} s")
        QTest.qWait(20)


def press(button: QAbstractButton) -> None:
    """Press a button of the dock by mouse."""
    middle = QPoint(10, button.height() // 2)
    QTest.mouseClick(button, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, middle)


def save_small(pixels: NDArray[np.uint8], path: Path) -> int:
    """Write a picture with as many colours as its size allows; returns its bytes."""
    picture = Image.fromarray(pixels).convert("RGB")
    for colours in _COLOURS:
        file = io.BytesIO()
        picture.quantize(colours, kmeans=1, dither=Image.Dither.NONE).save(
            file, "PNG", optimize=True
        )
        if file.tell() <= _MOST_BYTES:
            break
    path.write_bytes(file.getvalue())
    return file.tell()


def first_minutes(session: Session) -> None:
    """A word, every one, keep, take back, and one object by a click."""
    nuclei = session.open("nuclei")
    session.find("nuclei")
    session.picture("word")
    session.answered(lambda: session.look_for("instances"))
    session.picture("every-one")
    best = max(session.controller.keeper.state.draft, key=lambda one: one.score)
    (mask,) = best.masks.values()
    session.key(Qt.Key.Key_K)
    session.picture("kept")

    session.key(Qt.Key.Key_U)
    session.key(Qt.Key.Key_K, Qt.KeyboardModifier.ShiftModifier)
    session.look_for("object")
    session.key(Qt.Key.Key_G)
    y, x = np.add(innermost_pixel(mask.mask), mask.box[:2])
    session.look_at(nuclei, y, x, zoom=4)
    session.click(nuclei, y, x)
    session.picture("click")


def no_match(session: Session) -> None:
    """A word for what is not there."""
    session.open("nuclei")
    session.find("mitochondria")
    session.picture("no-match")


def stack(session: Session) -> None:
    """An object followed through a stack from one click, and where that is least certain."""
    image = session.open("nuclei_stack")
    truth = session.viewer.layers["nuclei stack labels"]
    truth.visible = False
    middle = len(truth.data) // 2
    session.viewer.dims.set_point(0, truth.data_to_world((middle, 0, 0))[0])
    largest = 1 + np.bincount(truth.data[middle].ravel())[1:].argmax()
    session.look_for("object")
    session.key(Qt.Key.Key_G)
    session.click(image, middle, *innermost_pixel(truth.data[middle] == largest))
    session.picture("stack-click")
    session.answered(lambda: session.key(Qt.Key.Key_N, Qt.KeyboardModifier.ShiftModifier))
    session.key(Qt.Key.Key_N)
    session.picture("stack-followed")


def stack_file(session: Session) -> None:
    """Labels of a stack in a file, stopped on the way."""
    image = session.open("nuclei_stack")
    session.viewer.layers["nuclei stack labels"].visible = False
    session.find("nuclei")
    session.look_for("instances")
    session.key(Qt.Key.Key_K, Qt.KeyboardModifier.ShiftModifier)
    with tempfile.TemporaryDirectory() as folder:
        controller = session.controller
        controller.set_z_range(10, 30)
        controller.segment_into(Path(folder) / "nuclei.ome.zarr")
        wait(lambda: (now := controller.stack_file.progress) is not None and now.done > 5)
        press(session.dock.stack.progress.stop_button)
        wait(lambda: controller.state.busy is None)
        session.viewer.dims.set_point(0, image.data_to_world((12, 0, 0))[0])
        session.picture("stack-file")


def volume(session: Session) -> None:
    """Every nucleus of a stack, with one number through all slices, in 3D and as a table."""
    session.open("nuclei_stack")
    truth = session.viewer.layers["nuclei stack labels"]
    truth.visible = False
    image = session.viewer.layers["nuclei stack"]
    session.viewer.dims.set_point(0, image.data_to_world((20, 0, 0))[0])
    session.find("nuclei")
    session.answered(lambda: session.look_for("instances"))
    session.picture("volume-slice")
    session.key(Qt.Key.Key_J, Qt.KeyboardModifier.ShiftModifier)
    wait(
        lambda: session.controller.state.busy is None and "step" in session.controller.state.answer
    )
    session.viewer.dims.set_point(0, image.data_to_world((12, 0, 0))[0])
    session.picture("volume-found")
    session.key(Qt.Key.Key_K)
    found = session.viewer.layers["nuclei"].data
    print(f"{found.max()} objects of {truth.data.max()}; AP50 {volume_ap50(found, truth.data):.2f}")
    image.visible = False
    session.viewer.dims.ndisplay = 3
    session.viewer.reset_view()
    session.viewer.scene.camera.angles = (0, 30, 120)
    session.picture("volume-kept")


def volume_ap50(found: NDArray, truth: NDArray) -> float:
    """Share of objects of two labellings that are the same, at an overlap of half in 3D."""
    together, counts = np.unique(
        np.stack([found.ravel(), truth.ravel()]), axis=1, return_counts=True
    )
    sizes = np.bincount(found.ravel()), np.bincount(truth.ravel())
    same = sum(
        count > 0.5 * (sizes[0][a] + sizes[1][b] - count)
        for (a, b), count in zip(together.T, counts, strict=True)
        if a and b
    )
    n_found, n_truth = (np.count_nonzero(one[1:]) for one in sizes)
    return same / (n_found + n_truth - same)


def large(session: Session) -> None:
    """A slice of the OME-Zarr that the tutorial makes, opens and scales in napari's console."""
    session.open("nuclei_stack")
    page = IMAGES.parent / "tutorials" / "large-ome-zarr.md"
    typed = re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for block in typed[:2]:
            exec(block, {"viewer": session.viewer})
        wait(lambda: session.controller.state.image == "large.ome")
        layer = session.viewer.layers["large.ome"]
        session.viewer.dims.set_point(0, layer.data_to_world((20, 0, 0))[0])
        layer.reset_contrast_limits("slice")
        session.find("nuclei")
        session.picture("large")
        session.controller.close()


def teach(session: Session) -> None:
    """The brighter nuclei of a stack, taught from three slices, then found in all of it."""
    image = session.open("nuclei_stack")
    truth = session.viewer.layers["nuclei stack labels"]
    session.viewer.layers.remove(truth)
    target = brighter(image.data, truth.data)
    dock = session.open_teach()
    teacher = dock._controls
    wait(lambda: bool(dock.hint.buttons))
    press(dock.hint.buttons[0])
    painted = session.viewer.layers[-1]
    painted.mode = "pan_zoom"
    for number in (10, 20, 30):
        paint(painted, number, target[number])
    session.viewer.dims.set_point(0, image.data_to_world((20, 0, 0))[0])
    QTest.keyClicks(dock.material.word.edit, "bright nuclei")
    teacher.set_budget("10")
    wait(lambda: teacher.state.slices == "10, 20, 30" and bool(teacher.state.estimate))
    session.picture("found", "teach")

    press(dock.lesson.teach)
    wait(lambda: len(teacher.state.curve.scores) > 7, _LESSON)
    session.picture("learning", "teach")
    wait(lambda: teacher.state.can_go and bool(teacher.state.estimate), _LESSON)
    painted.visible = False
    for view in ("before", "after"):
        press(dock.result.views[view])
        session.picture(view, "teach")
    press(dock.result.views["after"])

    session.dock.parent().raise_()
    session.find("bright nuclei")
    session.key(Qt.Key.Key_J, Qt.KeyboardModifier.ShiftModifier)
    wait(
        lambda: session.controller.state.busy is None and "step" in session.controller.state.answer
    )
    session.key(Qt.Key.Key_K)
    volume = session.viewer.layers["bright nuclei"]
    overlap = 2 * ((volume.data > 0) & (target > 0)).sum()
    print(f"Dice of the volume: {overlap / ((volume.data > 0).sum() + (target > 0).sum()):.2f}")
    volume.new_colormap(seed=_PALE)
    image.visible = False
    session.viewer.dims.ndisplay = 3
    session.viewer.reset_view()
    session.viewer.scene.camera.angles = (0, 30, 120)
    session.picture("volume", "teach")


def brighter(image: NDArray, labels: NDArray) -> NDArray:
    """The labels of the brighter half of all nuclei."""
    numbers = np.arange(1, labels.max() + 1)
    brightness = ndimage.median(image, labels, numbers)
    bright = numbers[brightness > np.median(brightness)]
    return np.where(np.isin(labels, bright), labels, 0)


def paint(layer: Layer, number: int, labels: NDArray) -> None:
    """Label one slice, as a brush would."""
    rows, cols = np.nonzero(labels)
    with layer.block_history():
        layer.data_setitem((np.full(len(rows), number), rows, cols), labels[rows, cols])


def library(session: Session) -> None:
    """An adapter that somebody was given, imported and in use."""
    session.open("nuclei")
    session.find("nuclei")
    dock = session.open_dock("Library")
    librarian = dock._controls
    wait(lambda: bool(librarian.entries))
    starter = librarian.entries["adapter:starter"].file
    with tempfile.TemporaryDirectory() as folder:
        given = shutil.copyfile(starter, Path(folder) / "from a colleague.safetensors")
        librarian.import_file(given)
        wait(lambda: "from a colleague" in librarian.state.selected)
    wait(lambda: dock.buttons.use.isEnabled())
    press(dock.buttons.use)
    wait(lambda: bool(session.controller.state.device))
    session.picture("", "library")


SESSIONS = {
    "first-minutes": first_minutes,
    "no-match": no_match,
    "stack": stack,
    "stack-file": stack_file,
    "volume": volume,
    "large": large,
    "teach": teach,
    "library": library,
}


@contextlib.contextmanager
def nobodys_home() -> Iterator[None]:
    """Neither read nor change what the user keeps: settings, sessions, models."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["NAPARI_CLIPSAM_HOME"] = home
        from napari.settings import get_settings

        get_settings(path=None)
        yield


@contextlib.contextmanager
def new_session() -> Iterator[Session]:
    """A fresh viewer with the dock."""
    import napari

    from napari_clipsam._plugin._qt import viewers

    viewer = napari.Viewer()
    try:
        session = Session(viewer)
        wait(lambda: bool(session.controller.state.models))
        yield session
    finally:
        viewers.forget_all()
        viewer.close()


def main() -> None:
    """Make the pictures that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sessions", nargs="*", help=f"of {', '.join(SESSIONS)}; else all")
    asked = parser.parse_args().sessions or list(SESSIONS)
    if unknown := set(asked) - set(SESSIONS):
        parser.error(f"there is no session {', '.join(sorted(unknown))}")
    with nobodys_home():
        for name in asked:
            with new_session() as session:
                SESSIONS[name](session)


if __name__ == "__main__":
    main()
