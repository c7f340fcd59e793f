"""A real viewer with the Segment dock, and a user's hands."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from psygnal import Signal
from qtpy.QtCore import QPoint, Qt, QTimer
from qtpy.QtTest import QTest

from napari_clipsam._plugin._qt import viewers

if TYPE_CHECKING:
    import napari
    from napari.layers import Layer
    from pytestqt.qtbot import QtBot
    from qtpy.QtWidgets import QWidget

    from napari_clipsam._plugin._qt.annotate import SegmentDock
    from napari_clipsam._plugin.controller import SegmentController

PATIENCE = 120_000  # ms, for machines with other work


class FakeControls:
    """Records what is asked for; the state changes only when a test says so."""

    changed = Signal(object)

    def __init__(self, state: Any) -> None:
        self.state = state
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: self.calls.append((name, *args))

    def show(self, state: Any) -> None:
        self.state = state
        self.changed.emit(state)


def click(qtbot: QtBot, widget: QWidget) -> None:
    """Click a control of a dock."""
    where = QPoint(8, widget.height() // 2)  # a radio button answers to its circle
    qtbot.mouseClick(widget, Qt.MouseButton.LeftButton, pos=where)


@dataclass
class Heart:
    """Beats in the event loop, and notices when it does not.

    `worst` is the longest pause in seconds; `busiest` the processor time of the main thread in the
    busiest one, which other programs on the machine do not lengthen.
    """

    worst: float = 0.0
    busiest: float = 0.0
    _last: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        self._timer = QTimer()
        self._timer.setInterval(5)
        self._timer.timeout.connect(self._beat)

    def __enter__(self) -> Heart:
        self.worst = self.busiest = 0.0
        self._last = time.perf_counter(), time.thread_time()
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.stop()

    def _beat(self) -> None:
        now = time.perf_counter(), time.thread_time()
        self.worst = max(self.worst, now[0] - self._last[0])
        self.busiest = max(self.busiest, now[1] - self._last[1])
        self._last = now


@dataclass
class User:
    """Works on a viewer by mouse and keyboard."""

    viewer: napari.Viewer
    dock: SegmentDock
    controller: SegmentController
    bot: QtBot

    def wait(self, until: Callable[[], bool]) -> None:
        """Let the event loop run until something is so."""
        self.bot.waitUntil(until, timeout=PATIENCE)

    def answered(self, act: Callable[[], Any]) -> str:
        """Do something, wait for the answer, and read it."""
        before = self.controller.keeper.state
        hint = self.controller.state.hint
        act()
        self.wait(
            lambda: (
                self.controller.keeper.state is not before
                or (self.controller.state.hint is not None and self.controller.state.hint != hint)
            )
        )
        return self.controller.state.answer

    def click(self, layer: Layer, *data: float) -> None:
        """A real mouse click on the canvas at a position of a layer's data."""
        canvas = self.viewer.window._qt_viewer.canvas
        world = np.array(layer.data_to_world(data))[list(self.viewer.dims.displayed)]
        # vispy counts x first, and pixels by their corners
        scene = canvas.view.scene.transform.map([*world[::-1], 0, 1])
        x, y = scene[:2] / scene[3]
        point = QPoint(round(x), round(y))
        QTest.mouseMove(canvas.native, point)
        self.bot.wait(30)
        QTest.mouseClick(
            canvas.native, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, point
        )

    def press(self, key: Qt.Key, modifier: Any = Qt.KeyboardModifier.NoModifier) -> None:
        """A key pressed over the canvas."""
        QTest.keyClick(self.viewer.window._qt_viewer.canvas.native, key, modifier)


@pytest.fixture
def make_user(
    make_napari_viewer: Callable[..., napari.Viewer],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    qtbot: QtBot,
) -> Iterator[Callable[..., User]]:
    """Makes a user in front of a viewer with one image and the open dock."""
    monkeypatch.setenv("NAPARI_CLIPSAM_HOME", str(tmp_path / "home"))

    def make(image: np.ndarray | None = None, **kwargs: Any) -> User:
        viewer = make_napari_viewer(show=True)
        viewer.window.resize(1200, 900)
        if image is not None:
            viewer.add_image(image, name="cells", **kwargs)
        _, dock = viewer.window.add_plugin_dock_widget("napari-clipsam", "Segment")
        controller = dock._controls
        qtbot.waitUntil(lambda: bool(controller.state.models), timeout=PATIENCE)
        return User(viewer, dock, controller, qtbot)

    yield make
    viewers.forget_all()
