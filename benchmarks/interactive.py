"""How long somebody in front of napari waits: for the dock, the first answers, and each click.

``python benchmarks/interactive.py [--turns 3] [--clicks 20]``

needs a display. Each turn starts napari anew with the starter model and an image of nuclei. Clicks
and keys are real events of the window, and an answer counts once napari has drawn it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from napari_clipsam._plugin.engine import Found
from napari_clipsam.training.metrics import innermost_pixel

if TYPE_CHECKING:
    from qtpy.QtWidgets import QWidget

    from docs.screenshots.sessions import Session

__all__ = ["SCENES", "Desk", "Watch", "main", "table"]

SIDE = 512
#: What is measured, what it is called, and the most it should be: seconds, or a share.
ROWS = {
    "dock": ("from asking for the dock to its picture", 1.0),
    "first click": ("... to the mask of a click made at once", 4.0),
    "first word": ("... to the mask of a word typed at once", 8.0),
    "click": ("a click, from the mouse event to the drawn mask", None),
    "decoder": ("... of it in the decoder", None),
    "rest": ("... all the rest / the decoder", 1.0),
    "closer": ("the same click, to the mask of the closer look", None),
}
#: Seconds somebody looks at a mask before the next click.
PAUSE = 1.0


class Watch:
    """Tells when what the model found is on the screen.

    Parameters
    ----------
    session : Session
    """

    def __init__(self, session: Session) -> None:
        self._keeper = session.controller.keeper
        self._latest: object = self._keeper.state.draft
        self._drawn: list[float] = []
        canvas = session.viewer.window._qt_viewer.canvas
        canvas._scene_canvas.events.draw.connect(self._on_draw, position="last")

    def drawn(self, act: Callable[[], Any]) -> float:
        """Do something; the clock when its answer was drawn."""
        from docs.screenshots.sessions import wait

        self._latest, self._drawn = self._keeper.state.draft, []
        act()
        wait(lambda: bool(self._drawn))
        return self._drawn[0]

    def latest(self) -> float:
        """The clock when what holds now was drawn."""
        from docs.screenshots.sessions import wait

        wait(lambda: self._latest is self._keeper.state.draft)
        return self._drawn[-1]

    def _on_draw(self, _: object) -> None:
        if self._keeper.state.draft is not self._latest:
            self._latest = self._keeper.state.draft
            self._drawn.append(time.perf_counter())


class Desk:
    """A napari with an image of nuclei, and somebody who opens the dock.

    Attributes
    ----------
    asked : float
        The clock when the dock was asked for.
    dock_seconds : float
        Until it was painted.
    """

    def __enter__(self) -> Desk:
        import napari
        from qtpy.QtTest import QTest

        from docs.screenshots.sessions import WINDOW, Session
        from napari_clipsam._plugin.samples import synthetic_nuclei

        pixels, labels = synthetic_nuclei((SIDE, SIDE), (0.5, 0.5), n_nuclei=60, seed=3)
        # The largest objects first: no miss of a click is to be measured.
        order = np.argsort(-np.bincount(labels.ravel())[1:]) + 1
        self._at = [innermost_pixel(labels == number) for number in order]
        viewer = napari.Viewer()
        viewer.window.resize(*WINDOW)
        self._image = viewer.add_image(pixels, name="cells")
        QTest.qWait(500)
        self.asked = time.perf_counter()
        _, dock = viewer.window.add_plugin_dock_widget("napari-clipsam", "Segment")
        self.dock_seconds = _painted(dock) - self.asked
        self._session = Session(viewer)
        self._watch = Watch(self._session)
        self._answers: list[Found | None] = []
        self._overhear()
        return self

    def __exit__(self, *_: object) -> None:
        self._session.viewer.close()

    def click(self, number: int) -> tuple[float, float]:
        """Click an object: the clock at the mouse event, and when its mask was drawn."""
        from qtpy.QtCore import Qt
        from qtpy.QtTest import QTest

        session, start = self._session, 0.0
        canvas = session.viewer.window._qt_viewer.canvas.native
        point = session.place(self._image, *self._at[number])
        QTest.mouseMove(canvas, point)
        QTest.qWait(50)

        def press() -> None:
            nonlocal start
            start = time.perf_counter()
            none = Qt.KeyboardModifier.NoModifier
            QTest.mouseClick(canvas, Qt.MouseButton.LeftButton, none, point)

        drawn = self._watch.drawn(press)
        return start, drawn

    def closer(self) -> float | None:
        """The clock when the closer look at what was clicked was drawn; None without one."""
        from qtpy.QtTest import QTest

        from docs.screenshots.sessions import wait

        wait(lambda: bool(self._answers) and self._answers[-1] is None)
        # What came before the end may still be on its way to this thread.
        QTest.qWait(50)
        return self._watch.latest() if len(self._answers) == 3 else None

    def find(self, word: str) -> float:
        """Type a word: the clock when what it found was drawn."""
        from qtpy.QtCore import Qt
        from qtpy.QtTest import QTest

        field = self._session.dock.search.word.edit
        QTest.keyClicks(field, word)
        return self._watch.drawn(lambda: QTest.keyClick(field, Qt.Key.Key_Return))

    def take_the_click_tool(self) -> None:
        """Press the key of the positive point."""
        from qtpy.QtCore import Qt

        self._session.key(Qt.Key.Key_G)

    @property
    def stages(self) -> Mapping[str, float]:
        """Seconds that the first answer took, by stage, which the dock says in words only."""
        first = self._answers[0]
        assert first is not None
        return first.prediction.seconds

    def start_over(self) -> None:
        """Press Clear and look on for a while."""
        from qtpy.QtTest import QTest

        self._session.controller.clear()
        QTest.qWait(int(1e3 * PAUSE))

    def _overhear(self) -> None:
        """Keep the answers to the latest question, and a None at their end."""
        engine = self._session.controller.engine
        answer = engine.answer

        def heard(*args: Any) -> Iterator[Any]:
            self._answers = []
            for value in answer(*args):
                if isinstance(value, Found):
                    self._answers.append(value)
                yield value
            self._answers.append(None)

        engine.answer = heard  # type: ignore[method-assign]


def first_click(turns: int) -> dict[str, list[float]]:
    """Seconds until the dock is there, and until a click made at once is answered."""
    with Desk() as desk:
        desk.take_the_click_tool()
        _, drawn = desk.click(0)
        return {"dock": [desk.dock_seconds], "first click": [drawn - desk.asked]}


def first_word(turns: int) -> dict[str, list[float]]:
    """Seconds until a word that is typed at once is answered."""
    with Desk() as desk:
        drawn = desk.find("nuclei")
        return {"dock": [desk.dock_seconds], "first word": [drawn - desk.asked]}


def clicks(turns: int) -> dict[str, list[float]]:
    """Seconds of clicks on one object after another, and what the decoder had of each."""
    found: dict[str, list[float]] = defaultdict(list)
    with Desk() as desk:
        desk.take_the_click_tool()
        for number in range(turns + 1):
            start, drawn = desk.click(number)
            if number:  # the first one loads the model and encodes the image
                whole, decoder = drawn - start, desk.stages["decode"]
                if closer := desk.closer():
                    found["closer"].append(closer - start)
                found["click"].append(whole)
                found["decoder"].append(decoder)
                found["rest"].append((whole - decoder) / decoder)
            desk.start_over()
    return dict(found)


SCENES = {"first-click": first_click, "first-word": first_word, "clicks": clicks}


def in_new_process(scene: str, turns: int) -> dict[str, list[float]]:
    """Measure a scene in a napari of its own, with a home folder of its own."""
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [sys.executable, __file__, "--scene", scene, "--clicks", str(turns)],
            env={**os.environ, "NAPARI_CLIPSAM_HOME": home},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def table(found: Mapping[str, Sequence[float]]) -> str:
    """What was measured as a Markdown table: medians, the worst, and what is aimed at."""
    lines = ["| what | median | worst | aimed at |", "| --- | --- | --- | --- |"]
    for key, (name, most) in ROWS.items():
        if values := found.get(key):
            shown = _share if key == "rest" else _duration
            aim = "" if most is None else f"at most {shown(most)}"
            median, worst = shown(statistics.median(values)), shown(max(values))
            lines.append(f"| {name} | {median} | {worst} | {aim} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--turns", type=int, default=3, help="how often napari is started")
    parser.add_argument("--clicks", type=int, default=20, help="how many clicks in a row")
    parser.add_argument("--scene", choices=SCENES, help="one scene, in this process, as JSON")
    options = parser.parse_args(arguments)
    if options.scene:
        print(json.dumps(SCENES[options.scene](options.clicks)))
        return
    found: dict[str, list[float]] = defaultdict(list)
    for scene in ["first-click", "first-word"] * options.turns + ["clicks"]:
        for key, values in in_new_process(scene, options.clicks).items():
            found[key] += values
    print(table(found))


def _painted(widget: QWidget) -> float:
    """Let Qt go on until a widget is painted; the clock when it was."""
    from qtpy.QtCore import QEvent, QObject
    from qtpy.QtTest import QTest

    painted: list[float] = []

    class _Painted(QObject):
        def eventFilter(self, _: QObject | None, event: QEvent | None) -> bool:
            if event is not None and event.type() == QEvent.Type.Paint:
                painted.append(time.perf_counter())
            return False

    watcher = _Painted()
    widget.installEventFilter(watcher)
    while not painted:
        QTest.qWait(1)
    widget.removeEventFilter(watcher)
    return painted[0]


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.0f} ms"


def _share(value: float) -> str:
    return f"{value:.2f}"


if __name__ == "__main__":
    main()
