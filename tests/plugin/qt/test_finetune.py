"""The Teach dock, used with a mouse and a keyboard; a fake says what it was asked for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from napari.components import ViewerModel
from napari.qt import get_stylesheet
from plugin.qt.conftest import FakeControls, click
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QApplication, QWidget

from napari_clipsam._plugin._qt.finetune import TeachDock
from napari_clipsam._plugin.state import Choice, Hint, Progress
from napari_clipsam._plugin.teach_state import Curve, TeachState

if TYPE_CHECKING:
    from pytestqt.qtbot import QtBot

MakeDock = Callable[..., tuple[TeachDock, FakeControls]]

FOUND = TeachState(
    images=(Choice("em", "em.tif"), Choice("overview", "overview")),
    image="em",
    label_layers=(Choice("mito", "mito"), Choice("other", "other", False, "Another shape.")),
    labels="mito",
    words="mitochondria",
    history=("nuclei",),
    known_words=("cells",),
    slices="3, 7, 12",
    tested_on="12",
    tested_edit="12",
    is_stack=True,
    estimate="needs about 2.1 GB, 2 min 40 s on CPU",
    can_teach=True,
)
LEARNING = replace(
    FOUND,
    learning=Progress("learning, 1 min 20 s left", 556, 1000),
    curve=Curve(((0.0, 0.41), (60.0, 0.6)), ((30.0, 1.0), (50.0, 0.7))),
    score="held-out Dice  0.41 → 0.60",
    score_tip="Dice 0.60: overlap with your labels on slice 12",
    views=("before", "after"),
    view_on="on slice 12",
)
DONE = replace(
    LEARNING,
    learning=None,
    saved="Saved as mitochondria (em.tif, 22 Nov)",
    can_use=True,
    can_roll_back=True,
    can_save=True,
    can_go_on=True,
    next_slice="Label next: slice 31 (least sure)",
    can_go=True,
    has_next=True,
    hint=Hint("Teaching was cut off.", (("go-on", "Go on"),)),
)


@pytest.fixture
def make_dock(qtbot: QtBot) -> MakeDock:
    """Makes docks in a window, as high as they need."""

    def make(state: TeachState, width: int = 420) -> tuple[TeachDock, FakeControls]:
        controls = FakeControls(state)
        dock = TeachDock(ViewerModel(), controls)
        qtbot.addWidget(dock)
        dock.resize(width, 1000)
        with qtbot.waitExposed(dock):
            dock.show()
        dock.activateWindow()
        qtbot.waitUntil(dock.isActiveWindow)
        return dock, controls

    return make


def test_without_an_image_there_is_one_line(make_dock: MakeDock) -> None:
    dock, _ = make_dock(TeachState(hint=Hint("Open an image and labels.")))
    assert dock.hint.isVisible()
    assert not any(p.isVisible() for p in (dock.material, dock.lesson, dock.result))


def test_what_was_found_and_what_it_takes_is_shown(make_dock: MakeDock) -> None:
    dock, _ = make_dock(FOUND)
    slices = dock.material.slices
    assert slices.found.text() == "Labelled slices found: 3, 7, 12"
    assert slices.tested.text() == "Tested on: 12"
    assert dock.material.estimate.text() == "needs about 2.1 GB, 2 min 40 s on CPU"
    assert dock.lesson.teach.isEnabled() and not dock.result.isVisible()
    assert "cannot get worse" in dock.lesson.calm.text()
    assert not dock.material.steps.isVisible()


def test_words_are_known_while_they_are_typed(qtbot: QtBot, make_dock: MakeDock) -> None:
    dock, controls = make_dock(replace(FOUND, words=""))
    field = dock.material.word.edit
    field.setFocus()
    qtbot.keyClicks(field, "ab")
    assert controls.calls == [("set_words", "a"), ("set_words", "ab")]
    controls.show(replace(FOUND, words="vacuoles", words_given=1))
    assert field.text() == "vacuoles", "somebody asked for it elsewhere"


def test_slices_are_edited_behind_a_button(qtbot: QtBot, make_dock: MakeDock) -> None:
    dock, controls = make_dock(FOUND)
    slices = dock.material.slices
    assert not slices.editor.isVisible()
    click(qtbot, slices.edit)
    assert QApplication.focusWidget() is slices.slices
    slices.slices.selectAll()
    qtbot.keyClicks(slices.slices, "3, 12~")
    controls.show(replace(FOUND, estimate="needs less"))
    assert slices.slices.text() == "3, 12~", "that is left alone"
    qtbot.keyClick(slices.slices, Qt.Key.Key_Return)
    slices.tested_on.setFocus()
    slices.tested_on.selectAll()
    qtbot.keyClicks(slices.tested_on, "3")
    slices.slices.setFocus()
    assert controls.calls == [("set_slices", "3, 12~"), ("set_tested_on", "3")]
    assert not slices.auto.isEnabled()
    controls.show(replace(FOUND, slices="3, 12~", tested_edit="3", is_chosen=True))
    assert slices.found.text() == "Slices: 3, 12~"
    click(qtbot, slices.auto)
    assert controls.calls[-1] == ("choose_slices",)


def test_time_is_chosen_in_minutes_or_steps(qtbot: QtBot, make_dock: MakeDock) -> None:
    dock, controls = make_dock(FOUND)
    qtbot.keyClick(dock.material.budget, Qt.Key.Key_Down)
    assert controls.calls == [("set_budget", "10")]
    controls.show(replace(FOUND, budget="steps"))
    steps = dock.material.steps
    assert steps.isVisible()
    steps.setFocus()
    steps.selectAll()
    qtbot.keyClicks(steps, "120")
    qtbot.keyClick(steps, Qt.Key.Key_Return)
    assert controls.calls[-1] == ("set_steps", 120)


def test_while_it_learns_only_stop_can_be_pressed(qtbot: QtBot, make_dock: MakeDock) -> None:
    dock, controls = make_dock(LEARNING)
    progress = dock.lesson.progress
    qtbot.waitUntil(progress.isVisible, timeout=2000)
    assert progress.stop_button.text() == "Stop and keep"
    assert not dock.material.isEnabled() and not dock.lesson.teach.isEnabled()
    assert dock.lesson.score.text() == "held-out Dice  0.41 → 0.60"
    assert dock.lesson.score.toolTip().startswith("Dice 0.60: overlap")
    click(qtbot, progress.stop_button)
    assert controls.calls == [("stop",)]


def test_the_curve_follows(make_dock: MakeDock) -> None:
    dock, controls = make_dock(FOUND)
    assert dock.lesson.plot is None, "its library is not loaded for nothing"
    controls.show(LEARNING)
    plot = dock.lesson.plot
    assert plot is not None and plot.isVisible()
    assert plot._score.getData()[1].tolist() == [0.41, 0.6]
    (low, high) = plot.viewRange()[1]
    losses = plot._loss.getData()[1]
    assert low < losses.min() and losses.max() < high
    controls.show(replace(LEARNING, curve=LEARNING.curve.with_score(180.0, 0.9)))
    assert plot._score.getData()[0].tolist() == [0.0, 1.0, 3.0], "minutes by now"
    controls.show(FOUND)
    assert not plot.isVisible()


def test_every_button_asks_for_its_own(qtbot: QtBot, make_dock: MakeDock) -> None:
    dock, controls = make_dock(DONE)
    result = dock.result
    asked: list[tuple[QWidget, tuple[Any, ...]]] = [
        (dock.material.radios["both"], ("set_goal", "both")),
        (dock.hint.buttons[0], ("act", "go-on")),
        (dock.lesson.teach, ("teach",)),
        (result.views["before"], ("show_view", "before")),
        (result.use, ("use",)),
        (result.roll_back, ("roll_back",)),
        (result.save, ("save_again",)),
        (result.go_on, ("go_on",)),
        (result.go, ("go",)),
        (result.skip, ("skip",)),
    ]
    for widget, _ in asked:
        click(qtbot, widget)
    assert controls.calls == [call for _, call in asked]
    assert not result.views["before"].isChecked(), "the controller has not shown it"
    controls.show(replace(DONE, view="before"))
    click(qtbot, result.views["before"])
    assert controls.calls[-1] == ("show_view", "")


def test_what_is_impossible_is_not_offered(make_dock: MakeDock) -> None:
    dock, _ = make_dock(replace(DONE, can_save=False, can_go_on=False, has_next=False))
    result = dock.result
    assert not result.save.isVisible() and not result.go_on.isVisible()
    assert result.use.isVisible() and not result.skip.isEnabled()


@pytest.fixture
def naparis_style() -> Iterator[None]:
    """Its style sheet, by which fields and buttons are wider than Qt's own."""
    application = QApplication.instance()
    application.setStyleSheet(get_stylesheet("dark"))
    yield
    application.setStyleSheet("")


@pytest.mark.parametrize("width", [320, 350, 420, 560, 700])
def test_nothing_sticks_out_and_tab_follows_the_eye(
    make_dock: MakeDock, naparis_style: None, width: int
) -> None:
    state = replace(DONE, image="x" * 80, images=(Choice("x" * 80, "x" * 80),), budget="steps")
    dock, _ = make_dock(state, width)
    dock.material.slices.edit.setChecked(True)
    QApplication.processEvents()
    content = dock.content
    assert content.width() <= dock.area.viewport().width()
    for widget in (w for w in content.findChildren(QWidget) if w.isVisible()):
        right = widget.mapTo(content, QPoint(widget.width(), 0)).x()
        assert right <= content.width(), widget
    stops, widget = [], dock.material.image
    for _ in range(len(dock.findChildren(QWidget))):
        takes_focus = widget.focusPolicy() & Qt.FocusPolicy.TabFocus and not widget.focusProxy()
        if widget.isVisible() and takes_focus and content.isAncestorOf(widget):
            stops.append(widget)
        widget = widget.nextInFocusChain()
    stops = list(dict.fromkeys(stops))
    assert len(stops) > 20
    places = [w.mapTo(content, w.rect().center()) for w in stops]
    ordered = [(round(p.y() / 14), p.x()) for p in places]
    assert sorted(ordered) == ordered
    assert all(w.toolTip() for w in stops)


def test_opening_it_loads_neither_torch_nor_a_plot_library() -> None:
    code = (
        "import sys, napari_clipsam._plugin._qt.finetune; "
        "import napari_clipsam._plugin._qt.viewers; "
        "assert not {'torch', 'open_clip', 'pyqtgraph'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


@pytest.mark.parametrize("way", ["close", "parent", "delete"])
def test_a_dock_that_goes_lets_go_of_the_controls(qtbot: QtBot, way: str) -> None:
    controls = FakeControls(DONE)
    holder = QWidget()
    qtbot.addWidget(holder)
    dock = TeachDock(ViewerModel(), controls)
    dock.setParent(holder)
    assert controls.calls == []
    if way == "close":
        dock.close()
    elif way == "parent":
        dock.setParent(None)
    else:
        dock.deleteLater()
    qtbot.waitUntil(lambda: ("close",) in controls.calls)
    assert len(controls.changed) == 0
    controls.show(FOUND)
