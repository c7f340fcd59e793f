"""The Library dock, used with a mouse and a keyboard; a fake says what it was asked for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from napari.components import ViewerModel
from napari.qt import get_stylesheet
from plugin.qt.conftest import FakeControls, click
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QApplication, QFileDialog, QWidget

from napari_clipsam._plugin._qt.library import LibraryDock
from napari_clipsam._plugin.library_state import Download, LibraryState, Naming, Offer, Row
from napari_clipsam._plugin.state import Hint, Progress

if TYPE_CHECKING:
    from pytestqt.qtbot import QtBot

MakeDock = Callable[..., tuple[LibraryDock, FakeControls]]

ROWS = (
    Row(
        key="sam:starter",
        name="starter",
        kind="model",
        status="in use",
        size="20 MB",
        licence="BSD-3-Clause",
        made_for="microscopy",
        score="",
        size_bytes=20_000_000,
    ),
    Row(
        key="sam:vit_b",
        name="vit_b",
        kind="model",
        status="no",
        size="375 MB",
        licence="Apache-2.0",
        made_for="photographs",
        score="",
        size_bytes=375_000_000,
    ),
    Row(
        key="adapter:a",
        name="mitochondria (em, 22 Nov)",
        kind="adapter",
        status="yes",
        size="2 MB",
        licence="",
        made_for="mitochondria",
        score="Dice 0.41 → 0.78",
        score_tip="1 is perfect",
        size_bytes=2_000_000,
    ),
)
NOTHING = LibraryState(
    rows=ROWS, n_rows=3, get=Offer(False, "Select a line."), use=Offer(False, "Select a line.")
)
CHOSEN = replace(
    NOTHING,
    selected="adapter:a",
    details="mitochondria (em, 22 Nov), adapter\nsize: 2 MB",
    get=Offer(False, "It is here already."),
    use=Offer(True, "Let it answer"),
    show_file=Offer(True, "Open its folder"),
    delete=Offer(True, "Delete it; asks first"),
)
BUSY = replace(
    CHOSEN,
    downloads=(
        Download("sam:vit_b", Progress("vit_b: 120 MB of 375 MB, 1 min left", 320, 1000)),
        Download("clip:x", Progress("x: 1 MB of 2 MB", 500, 1000)),
    ),
    naming=Naming(Path("my_sam.pth"), "my_sam"),
    hint=Hint("Delete it?", (("delete", "Delete it"), ("keep", "Keep it"))),
)


@pytest.fixture
def make_dock(qtbot: QtBot) -> MakeDock:
    """Makes docks in a window."""

    def make(state: LibraryState, width: int = 420) -> tuple[LibraryDock, FakeControls]:
        controls = FakeControls(state)
        dock = LibraryDock(ViewerModel(), controls)
        qtbot.addWidget(dock)
        dock.resize(width, 900)
        with qtbot.waitExposed(dock):
            dock.show()
        dock.activateWindow()
        qtbot.waitUntil(dock.isActiveWindow)
        assert controls.calls == [("look",)], "what came since the last time it was shown"
        controls.calls.clear()
        return dock, controls

    return make


def row_centre(dock: LibraryDock, number: int) -> QPoint:
    table = dock.list.table
    return table.visualRect(table.model().index(number, 0)).center()


def test_a_click_selects_a_line_and_keys_act_on_it(qtbot: QtBot, make_dock: MakeDock) -> None:
    dock, controls = make_dock(NOTHING)
    table = dock.list.table
    qtbot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=row_centre(dock, 2))
    assert controls.calls == [("select", "adapter:a")]
    controls.show(CHOSEN)
    assert table.selected_key() == "adapter:a"
    assert dock.details.toPlainText().startswith("mitochondria (em, 22 Nov), adapter")
    table.setFocus()
    qtbot.keyClick(table, Qt.Key.Key_Up)
    qtbot.keyClick(table, Qt.Key.Key_Return)
    qtbot.keyClick(table, Qt.Key.Key_Delete)
    assert controls.calls[1:] == [("select", "sam:vit_b"), ("use",), ("delete",)]


def test_buttons_show_what_can_be_done_and_why_not(qtbot: QtBot, make_dock: MakeDock) -> None:
    dock, controls = make_dock(CHOSEN)
    buttons = dock.buttons
    assert not buttons.get.isEnabled() and buttons.get.toolTip() == "It is here already."
    for made in (buttons.get, buttons.use, buttons.show_file, buttons.delete):
        click(qtbot, made)
    assert controls.calls == [("use",), ("show_file",), ("delete",)]
    controls.show(replace(CHOSEN, get=Offer(True, "Download it")))
    click(qtbot, buttons.get)
    assert controls.calls[-1] == ("get",)


def test_the_list_is_narrowed_down_while_one_types(qtbot: QtBot, make_dock: MakeDock) -> None:
    dock, controls = make_dock(CHOSEN)
    field = dock.list.wanted
    field.setFocus()
    qtbot.keyClicks(field, "vi")
    assert controls.calls == [("set_wanted", "v"), ("set_wanted", "vi")]
    controls.show(replace(CHOSEN, wanted="vi", rows=ROWS[1:2], selected="", details=""))
    assert dock.list.table.model().rowCount() == 1 and not dock.list.empty.isVisible()
    controls.show(replace(CHOSEN, wanted="vix", rows=()))
    assert dock.list.empty.text() == "Nothing here holds 'vix'."
    field.clear()
    assert controls.calls[-1] == ("set_wanted", "")
    qtbot.keyClick(dock.list.kind, Qt.Key.Key_Down)
    assert controls.calls[-1] == ("set_kind", "here")


def test_a_head_sorts_and_the_selected_line_stays(qtbot: QtBot, make_dock: MakeDock) -> None:
    dock, controls = make_dock(CHOSEN)
    table, model = dock.list.table, dock.list.table.model()
    heads = table.horizontalHeader()

    def names() -> list[str]:
        return [model.index(number, 0).data() for number in range(model.rowCount())]

    def press(column: int) -> None:
        where = QPoint(heads.sectionViewportPosition(column) + 8, 8)
        qtbot.mouseClick(heads.viewport(), Qt.MouseButton.LeftButton, pos=where)

    press(3)
    assert names() == ["mitochondria (em, 22 Nov)", "starter", "vit_b"], "by bytes, not letters"
    assert table.selected_key() == "adapter:a"
    press(3)
    assert names()[0] == "vit_b"
    controls.show(replace(CHOSEN, rows=(*ROWS[:1], replace(ROWS[1], status="coming"), ROWS[2])))
    assert names()[0] == "vit_b" and model.index(0, 2).data() == "coming"
    assert table.selected_key() == "adapter:a" and controls.calls == []


def test_each_download_has_a_line_and_a_stop_of_its_own(qtbot: QtBot, make_dock: MakeDock) -> None:
    dock, controls = make_dock(BUSY)
    rows = dock.arrivals.rows
    qtbot.waitUntil(lambda: all(row.isVisible() for row in rows.values()))
    assert rows["sam:vit_b"].label.text() == "vit_b: 120 MB of 375 MB, 1 min left"
    assert (rows["sam:vit_b"].bar.value(), rows["sam:vit_b"].bar.maximum()) == (320, 1000)
    click(qtbot, rows["clip:x"].stop_button)
    assert controls.calls == [("stop", "clip:x")]
    controls.show(replace(BUSY, downloads=BUSY.downloads[:1]))
    assert list(dock.arrivals.rows) == ["sam:vit_b"]


def test_a_model_is_named_before_it_is_imported(qtbot: QtBot, make_dock: MakeDock) -> None:
    dock, controls = make_dock(NOTHING)
    assert not dock.naming.isVisible()
    controls.show(replace(NOTHING, naming=Naming(Path("my_sam.pth"), "my_sam")))
    assert dock.naming.isVisible() and dock.naming.name.hasFocus()
    assert "my_sam.pth" in dock.naming.question.text()
    qtbot.keyClicks(dock.naming.name, "cells")
    qtbot.keyClick(dock.naming.name, Qt.Key.Key_Return)
    assert controls.calls == [("import_as", "cells")], "the proposal was selected"
    click(qtbot, dock.naming.take_in)
    click(qtbot, dock.naming.leave)
    assert controls.calls[1:] == [("import_as", "cells"), ("drop_import",)]


@pytest.mark.parametrize("chosen", ["given/blobs.safetensors", ""])
def test_a_file_is_chosen_in_a_dialog(
    qtbot: QtBot, make_dock: MakeDock, monkeypatch: pytest.MonkeyPatch, chosen: str
) -> None:
    dock, controls = make_dock(NOTHING)
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *args: (chosen, ""))
    click(qtbot, dock.buttons.take_in)
    assert controls.calls == ([("import_file", Path(chosen))] if chosen else [])
    controls.show(replace(NOTHING, busy=Progress("Looking at it", can_stop=False)))
    assert not dock.buttons.take_in.isEnabled()


def test_a_question_is_answered_by_its_buttons(qtbot: QtBot, make_dock: MakeDock) -> None:
    dock, controls = make_dock(BUSY)
    for made in dock.hint.buttons:
        click(qtbot, made)
    assert controls.calls == [("act", "delete"), ("act", "keep")]


@pytest.fixture
def naparis_style() -> Iterator[None]:
    """Its style sheet, by which fields and buttons are wider than Qt's own."""
    application = QApplication.instance()
    application.setStyleSheet(get_stylesheet("dark"))
    yield
    application.setStyleSheet("")


@pytest.mark.parametrize("width", [320, 350, 420, 560, 800])
def test_nothing_sticks_out_and_tab_follows_the_eye(
    make_dock: MakeDock, naparis_style: None, width: int
) -> None:
    long = replace(ROWS[0], name="x" * 80, made_for="y" * 80)
    details = "checksum: sha256 " + "0123456789abcdef" * 4
    dock, _ = make_dock(replace(BUSY, rows=(long, *ROWS[1:]), details=details), width)
    QApplication.processEvents()
    content = dock.content
    assert content.width() <= dock.area.viewport().width()
    for widget in (w for w in content.findChildren(QWidget) if w.isVisible()):
        right = widget.mapTo(content, QPoint(widget.width(), 0)).x()
        assert right <= content.width(), widget
    table = dock.list.table
    shown = [not table.isColumnHidden(column) for column in range(7)]
    assert shown[:4] == [True] * 4 and (width < 800 or all(shown))
    assert table.columnWidth(0) > 80
    lines = dock.details.document().idealWidth()
    assert lines <= dock.details.viewport().width(), "a checksum is broken, not cut"
    stops, widget = [], dock.list.kind
    for _ in range(len(dock.findChildren(QWidget))):
        takes_focus = widget.focusPolicy() & Qt.FocusPolicy.TabFocus and not widget.focusProxy()
        if widget.isVisible() and takes_focus and content.isAncestorOf(widget):
            stops.append(widget)
        widget = widget.nextInFocusChain()
    stops = list(dict.fromkeys(stops))
    assert len(stops) >= 15
    places = [w.mapTo(content, w.rect().center()) for w in stops]
    ordered = [(round(p.y() / 14), p.x()) for p in places]
    assert sorted(ordered) == ordered
    assert all(w.toolTip() for w in stops)


def test_opening_it_does_not_load_torch() -> None:
    code = (
        "import sys, napari_clipsam._plugin._qt.library; "
        "import napari_clipsam._plugin._qt.viewers; "
        "assert not {'torch', 'open_clip', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


@pytest.mark.parametrize("way", ["close", "parent", "delete"])
def test_a_dock_that_goes_lets_go_of_the_controls(qtbot: QtBot, way: str) -> None:
    controls: Any = FakeControls(BUSY)
    holder = QWidget()
    qtbot.addWidget(holder)
    dock = LibraryDock(ViewerModel(), controls)
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
    controls.show(NOTHING)
