"""The Segment dock, used with a mouse and a keyboard; a fake says what it was asked for."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from napari.components import ViewerModel
from napari.qt import get_stylesheet
from plugin.qt.conftest import FakeControls, click
from qtpy.QtCore import QEvent, QObject, QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import QApplication, QFileDialog, QScrollArea, QWidget

from napari_clipsam._plugin._qt import runner as runner_module
from napari_clipsam._plugin._qt import viewers
from napari_clipsam._plugin._qt.annotate import SegmentDock
from napari_clipsam._plugin.runner import Job, Urgency
from napari_clipsam._plugin.state import Choice, DockState, Hint, ObjectRow, Progress
from napari_clipsam._plugin.wording import no_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytestqt.qtbot import QtBot

    MakeDock = Callable[..., tuple[SegmentDock, FakeControls]]

LEFT = Qt.MouseButton.LeftButton

NO_IMAGE = DockState(samples=(Choice("nuclei", "fluorescent nuclei"), Choice("stack", "a stack")))
IMAGE = DockState(
    images=(Choice("cells", "cells.tif"), Choice("tissue", "tissue.tif")),
    image="cells",
    channels=(Choice("grey", "grey"),),
    channel="grey",
    models=(Choice("starter", "Starter (30 MB)"), Choice("vit", "ViT", False, "Get its file.")),
    adapters=(Choice("default", "the model's own"),),
    device="CPU",
    history=("nuclei",),
    known_words=("mitochondria", "membranes"),
    label_layers=(Choice("", "a new layer"), Choice("nuclei", "nuclei")),
)
OBJECTS = tuple(
    ObjectRow(f"key{label}", label, "nuclei", score, "10-14", size, score < 0.6)
    for label, score, size in ((17, 0.97, "83.2"), (18, 0.55, "1200"), (19, 0.8, "7"))
)
FULL = replace(
    IMAGE,
    word="nuclei",
    answer="nuclei   score 0.91   214 objects   0.18 s   slice 12/59",
    hint=Hint("Click the one you mean.", (("click-one", "Click one"),)),
    can_keep=True,
    can_clear=True,
    undo_text="keep nuclei",
    redo_text="clear",
    z_extent=60,
    z_range=(0, 59),
    estimate="~2 min",
    can_propagate=True,
    objects=OBJECTS,
)


@pytest.fixture
def make_dock(qtbot: QtBot) -> MakeDock:
    """Makes docks in a window, as high as they need."""

    def make(state: DockState, width: int = 420) -> tuple[SegmentDock, FakeControls]:
        controls = FakeControls(state)
        dock = SegmentDock(ViewerModel(), controls)
        qtbot.addWidget(dock)
        dock.resize(width, 900)
        with qtbot.waitExposed(dock):
            dock.show()
        dock.activateWindow()
        qtbot.waitUntil(dock.isActiveWindow)
        return dock, controls

    return make


def test_the_key_for_the_word_goes_to_its_field(qtbot: QtBot, make_dock: MakeDock) -> None:
    dock, controls = make_dock(FULL)
    dock.setFocus()
    controls.show(replace(FULL, word_wanted=1))
    assert dock.search.word.edit.hasFocus()
    dock.setFocus()
    controls.show(replace(FULL, word_wanted=1, answer="another answer"))
    assert not dock.search.word.edit.hasFocus()


# ---------------------------------------------------------------- the first minute


def test_without_an_image_the_samples_are_links(qtbot: QtBot, make_dock: MakeDock) -> None:
    dock, controls = make_dock(NO_IMAGE)
    assert [link.text() for link in dock.welcome.samples] == ["fluorescent nuclei", "a stack"]
    assert not dock.search.isVisible()
    click(qtbot, dock.welcome.samples[1])
    assert controls.calls == [("open_sample", "stack")]


def test_what_went_wrong_is_said_without_an_image_too(make_dock: MakeDock) -> None:
    dock, controls = make_dock(NO_IMAGE)
    controls.show(replace(NO_IMAGE, hint=no_image()))
    assert not dock.hint.isVisible(), "the welcome says so"
    controls.show(replace(NO_IMAGE, hint=Hint("A session was not finished.", (("restore", "Go"),))))
    assert dock.hint.isVisible()


def test_a_word_is_typed_at_once_and_return_searches(qtbot: QtBot, make_dock: MakeDock) -> None:
    dock, controls = make_dock(NO_IMAGE)
    controls.show(IMAGE)
    field = dock.search.word.edit
    assert not dock.welcome.isVisible()
    assert QApplication.focusWidget() is field
    assert field.placeholderText() == "nuclei"
    qtbot.keyClicks(QApplication.focusWidget(), "golgi")
    qtbot.keyClick(field, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: controls.calls == [("find", "golgi")])
    assert not field.hasFocus(), "the next key is for a shortcut, not for the word"


def test_a_known_word_is_completed_and_asked_for_once(qtbot: QtBot, make_dock: MakeDock) -> None:
    dock, controls = make_dock(IMAGE)
    field = dock.search.word.edit
    qtbot.keyClicks(field, "chond")
    popup = field.completer().popup()
    qtbot.waitUntil(popup.isVisible)
    qtbot.keyClick(popup, Qt.Key.Key_Down)
    qtbot.keyClick(popup, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: bool(controls.calls))
    qtbot.wait(10)
    assert controls.calls == [("find", "mitochondria")]


def test_the_list_has_former_and_known_words(qtbot: QtBot, make_dock: MakeDock) -> None:
    dock, controls = make_dock(IMAGE)
    word = dock.search.word
    click(qtbot, word.list_button)
    actions = word.menu.actions()
    words = ["Latest words", "nuclei", "Known words", "mitochondria", "membranes"]
    assert [action.text() for action in actions] == words
    actions[-1].trigger()
    word.menu.close()
    assert controls.calls == [("find", "membranes")]
    assert word.edit.text() == "membranes"


def test_the_cross_empties_the_word(qtbot: QtBot, make_dock: MakeDock) -> None:
    dock, controls = make_dock(FULL)
    click(qtbot, dock.search.word.clear_button)
    assert controls.calls == [("find", "")]


# ---------------------------------------------------------------- nothing blinks


class Events(QObject):
    """Counts what makes a screen change."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[object, object]] = []

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        assert event is not None
        if event.type() in (QEvent.Type.Paint, QEvent.Type.LayoutRequest, QEvent.Type.FocusIn):
            self.seen.append((event.type(), watched))
        return False


def test_showing_a_state_again_draws_nothing_and_asks_for_nothing(
    qtbot: QtBot, make_dock: MakeDock
) -> None:
    dock, controls = make_dock(FULL)
    dock.setFocus()  # no cursor that blinks
    qtbot.wait(50)
    events = Events()
    QApplication.instance().installEventFilter(events)
    try:
        controls.show(replace(FULL))
        qtbot.wait(50)
        assert [str(e) for e in events.seen] == []
        controls.show(replace(FULL, answer="another"))
        qtbot.waitUntil(lambda: bool(events.seen))
    finally:
        QApplication.instance().removeEventFilter(events)
    assert controls.calls == []


def test_an_answer_leaves_alone_what_the_user_types(qtbot: QtBot, make_dock: MakeDock) -> None:
    dock, controls = make_dock(replace(FULL, word="nuclei"))
    word, last = dock.search.word.edit, dock.stack.z_range.last
    word.setFocus()
    word.selectAll()
    qtbot.keyClicks(word, "golg")
    controls.show(replace(FULL, word="cells", answer="new", history=("cells", "nuclei")))
    assert word.text() == "golg"
    assert QApplication.focusWidget() is word
    last.setFocus()
    last.selectAll()
    qtbot.keyClicks(last, "2")
    controls.show(replace(FULL, answer="newer", z_range=(3, 40)))
    assert last.text() == "2"
    assert dock.stack.z_range.first.value() == 3
    qtbot.keyClick(last, Qt.Key.Key_Return)
    assert controls.calls == [("set_z_range", 3, 2)]


def test_what_is_over_soon_shows_no_progress(qtbot: QtBot, make_dock: MakeDock) -> None:
    dock, controls = make_dock(IMAGE)
    progress = dock.stack.progress
    controls.show(replace(IMAGE, busy=Progress("Looking for nuclei")))
    assert not progress.isVisible()
    controls.show(replace(IMAGE, busy=None))
    qtbot.wait(600)
    assert not progress.isVisible()
    controls.show(replace(IMAGE, busy=Progress("slice 22/60, 1 min left", 22, 60)))
    qtbot.waitUntil(progress.isVisible, timeout=2000)
    assert progress.label.text() == "slice 22/60, 1 min left"
    assert (progress.bar.value(), progress.bar.maximum()) == (22, 60)
    click(qtbot, progress.stop_button)
    assert controls.calls == [("stop",)]
    controls.show(IMAGE)
    qtbot.waitUntil(lambda: not progress.isVisible(), timeout=2000)


def test_seconds_are_counted_where_nobody_knows_how_far_it_is(
    qtbot: QtBot, make_dock: MakeDock
) -> None:
    dock, controls = make_dock(IMAGE)
    progress = dock.stack.progress
    controls.show(replace(IMAGE, busy=Progress("Looking for nuclei")))
    assert progress.label.text() == "Looking for nuclei"
    qtbot.waitUntil(lambda: progress.label.text() == "Looking for nuclei, 1 s")
    assert (progress.bar.value(), progress.bar.maximum()) == (0, 1), "a bar without end is dear"
    controls.show(replace(IMAGE, busy=Progress("Looking for cells")))
    assert progress.label.text() == "Looking for cells"
    controls.show(replace(IMAGE, busy=Progress("Looking for nuclei", 1, 9)))
    assert progress.label.text() == "Looking for nuclei"
    controls.show(IMAGE)
    controls.show(replace(IMAGE, busy=Progress("Looking for cells")))
    assert progress.label.text() == "Looking for cells"


def test_a_control_that_goes_leaves_the_focus_to_no_other(
    qtbot: QtBot, make_dock: MakeDock
) -> None:
    dock, controls = make_dock(FULL)
    for gone in (
        dock.answer.keep,
        dock.hint.buttons[0],
        dock.objects.delete,
    ):
        controls.show(replace(FULL, selected="key17"))
        gone.setFocus()
        assert QApplication.focusWidget() is gone
        controls.show(replace(IMAGE, can_clear=True))
        assert QApplication.focusWidget() is dock


# ---------------------------------------------------------------- what can be asked for


def test_where_files_go_is_asked_for(
    qtbot: QtBot, make_dock: MakeDock, monkeypatch: pytest.MonkeyPatch
) -> None:
    dock, controls = make_dock(FULL)
    names = iter(["a/found", "a/found.ome.zarr", ""])
    folders = iter(["in", "out", "out"])
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *args: (next(names), ""))
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *args: next(folders))
    monkeypatch.setattr(QFileDialog, "getOpenFileNames", lambda *args: (["a.tif", "b.tif"], ""))
    click(qtbot, dock.stack.into)
    controls.show(replace(FULL, file_wanted=1))
    qtbot.waitUntil(lambda: len(controls.calls) == 2)
    click(qtbot, dock.stack.into)
    for action in dock.files.folder.menu().actions():
        action.trigger()
    assert controls.calls == [
        ("segment_into", Path("a/found.ome.zarr")),
        ("segment_into", Path("a/found.ome.zarr")),
        ("segment_folder", [Path("in")], Path("out")),
        ("segment_folder", [Path("a.tif"), Path("b.tif")], Path("out")),
    ]


def test_the_wheel_scrolls_and_changes_nothing(qtbot: QtBot, make_dock: MakeDock) -> None:
    dock, controls = make_dock(FULL)
    dock.resize(320, 200)
    for part in (dock.search.image, dock.stack.z_range.last):
        part.setFocus()
        middle = QPointF(part.rect().center())
        turn = QWheelEvent(
            middle,
            QPointF(part.mapToGlobal(part.rect().center())),
            QPoint(),
            QPoint(0, -120),
            Qt.MouseButton.NoButton,
            Qt.KeyboardModifier.NoModifier,
            Qt.ScrollPhase.NoScrollPhase,
            False,
        )
        QApplication.sendEvent(part, turn)
    assert controls.calls == []
    assert dock.stack.z_range.last.value() == 59


def test_every_button_asks_for_its_own(qtbot: QtBot, make_dock: MakeDock) -> None:
    dock, controls = make_dock(FULL)
    radios = dock.search.targets.buttons()
    asked: list[tuple[QWidget, tuple[Any, ...]]] = [
        (radios[1], ("set_target", "instances")),
        (radios[2], ("set_target", "object")),
        (dock.search.tools.buttons["point-"], ("set_tool", "point-")),
        (dock.search.from_labels, ("prompt_from_labels",)),
        (dock.hint.buttons[0], ("act", "click-one")),
        (dock.answer.keep, ("keep",)),
        (dock.answer.clear, ("clear",)),
        (dock.answer.undo, ("undo",)),
        (dock.answer.redo, ("redo",)),
        (dock.answer.spare_others, ("set_overwrite", True)),
        (dock.stack.segment, ("segment_stack",)),
        (dock.stack.follow, ("propagate",)),
        (dock.objects.weak, ("next_weak",)),
    ]
    for widget, _ in asked:
        click(qtbot, widget)
    assert controls.calls == [call for _, call in asked]


def test_what_is_not_granted_is_not_shown(qtbot: QtBot, make_dock: MakeDock) -> None:
    dock, controls = make_dock(FULL)
    qtbot.keyClick(dock.search.image, Qt.Key.Key_Down)
    click(qtbot, dock.search.targets.buttons()[1])
    click(qtbot, dock.search.tools.buttons["box"])
    assert controls.calls == [
        ("set_image", "tissue"),
        ("set_target", "instances"),
        ("set_tool", "box"),
    ]
    assert dock.search.image.currentText() == "cells.tif"
    assert dock.search.targets.buttons()[0].isChecked()
    assert not dock.search.tools.buttons["box"].isChecked()


def test_an_active_tool_is_put_down_by_its_button(qtbot: QtBot, make_dock: MakeDock) -> None:
    dock, controls = make_dock(replace(FULL, tool="lasso"))
    lasso = dock.search.tools.buttons["lasso"]
    assert lasso.isChecked()
    click(qtbot, lasso)
    assert controls.calls == [("set_tool", "")]


def test_what_is_chosen_shows_before_it_is_known_what_else_there_is(make_dock: MakeDock) -> None:
    path = str(Path("mito.safetensors").resolve())
    dock, controls = make_dock(replace(IMAGE, models=(), adapters=(), adapter=path, device=""))
    assert dock.search.model.currentText() == "Starter"
    assert dock.search.adapter.currentText() == "mito"
    controls.show(replace(IMAGE, adapter="default"))
    assert dock.search.model.currentText() == "Starter (30 MB, CPU)"
    assert dock.search.adapter.currentText() == "the model's own"


def test_a_model_that_is_not_installed_cannot_be_picked(make_dock: MakeDock) -> None:
    dock, _ = make_dock(IMAGE)
    box = dock.search.model
    assert box.itemText(0) == "Starter (30 MB, CPU)"
    assert not box.model().flags(box.model().index(1, 0)) & Qt.ItemFlag.ItemIsEnabled
    assert box.itemData(1, Qt.ItemDataRole.ToolTipRole) == "Get its file."


def test_what_is_impossible_is_disabled(make_dock: MakeDock) -> None:
    dock, _ = make_dock(IMAGE)
    answer = dock.answer
    buttons = (answer.keep, answer.clear, answer.undo, answer.redo, dock.files.export)
    assert not any(made.isEnabled() for made in buttons)
    assert not dock.stack.segment.isVisible()


def test_an_error_says_what_to_do_and_its_cause_can_be_copied(
    qtbot: QtBot, make_dock: MakeDock
) -> None:
    dock, controls = make_dock(FULL)
    controls.show(replace(FULL, hint=Hint("It <b>failed</b>.", (), True, "ValueError: 3")))
    assert dock.hint.label.text() == "It <b>failed</b>."
    assert dock.hint.label.textFormat() == Qt.TextFormat.PlainText
    (details,) = dock.hint.buttons
    click(qtbot, details)
    assert QApplication.clipboard().text() == "ValueError: 3"
    assert details.text() == "Copied"


def test_objects_are_listed_weakest_first_and_a_click_opens_one(
    qtbot: QtBot, make_dock: MakeDock
) -> None:
    dock, controls = make_dock(FULL)
    table = dock.objects.table
    cells = [[table.model().index(r, c).data() for c in range(6)] for r in range(3)]
    assert cells[0] == ["18", "nuclei", "0.55", "10-14", "1200", "weak"]
    assert [row[0] for row in cells] == ["18", "19", "17"]
    where = table.visualRect(table.model().index(1, 1)).center()
    qtbot.mouseClick(table.viewport(), LEFT, pos=where)
    assert controls.calls == [("open_object", "key19")]
    assert table.selected_key() == "", "the controller has not opened it"
    controls.show(replace(FULL, selected="key17"))
    assert table.selected_key() == "key17"
    qtbot.keyClick(table, Qt.Key.Key_Delete)
    click(qtbot, dock.objects.delete)
    assert controls.calls[1:] == [("delete_object", "key17")] * 2
    header = table.horizontalHeader()
    qtbot.mouseClick(header.viewport(), LEFT, pos=QPoint(header.sectionPosition(4) + 20, 8))
    assert [table.model().index(r, 4).data() for r in range(3)] in (
        ["7", "83.2", "1200"],
        ["1200", "83.2", "7"],
    ), "sorted as numbers"
    assert table.selected_key() == "key17"


def test_slices_are_listed_where_there_are_some_and_sorted_by_the_first(
    qtbot: QtBot, make_dock: MakeDock
) -> None:
    dock, controls = make_dock(FULL)
    table, column = dock.objects.table, 3
    slices = ("10-14", "9", "2, 4-5")
    rows = tuple(replace(one, slices=text) for one, text in zip(OBJECTS, slices, strict=True))
    controls.show(replace(FULL, objects=rows, z_extent=0))
    assert not table.isColumnHidden(column), "in 3D view as well, which shows no slice"
    table.sortByColumn(column, Qt.SortOrder.AscendingOrder)
    listed = [table.model().index(row, column).data() for row in range(3)]
    assert listed == ["2, 4-5", "9", "10-14"]
    controls.show(replace(FULL, objects=tuple(replace(one, slices="") for one in rows)))
    assert table.isColumnHidden(column)


def test_the_list_keeps_its_place_and_shows_the_object_that_is_opened(
    qtbot: QtBot, make_dock: MakeDock
) -> None:
    dock, controls = make_dock(FULL)
    rows = tuple(replace(OBJECTS[0], key=f"key{n}", label=n, score=n / 300) for n in range(300))
    table, bar = dock.objects.table, dock.objects.table.verticalScrollBar()
    controls.show(replace(FULL, objects=rows))
    qtbot.waitUntil(lambda: bar.maximum() > 200)
    bar.setValue(100)
    controls.show(replace(FULL, objects=rows[:-1]))
    qtbot.wait(20)
    assert bar.value() == 100
    controls.show(replace(FULL, objects=rows, selected="key290"))
    assert table.visualRect(table.currentIndex()).intersects(table.viewport().rect())
    assert table.selected_key() == "key290"


def test_a_file_gets_its_ending(
    qtbot: QtBot, make_dock: MakeDock, monkeypatch: pytest.MonkeyPatch
) -> None:
    dock, controls = make_dock(FULL)
    names = iter(["a/labels", "", "a/table.csv"])
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *args: (next(names), ""))
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *args: "a/project")
    kinds = dock.files.export.menu().actions()
    for number in (1, 0, 2):
        kinds[number].trigger()
    for action in dock.files.project.menu().actions():
        action.trigger()
    assert controls.calls == [
        ("export", "ome-zarr", Path("a/labels.ome.zarr")),
        ("export", "csv", Path("a/table.csv")),
        ("save_project", Path("a/project")),
        ("open_project", Path("a/project")),
        ("replay",),
    ]


# ---------------------------------------------------------------- layout


@pytest.fixture
def naparis_style() -> Iterator[None]:
    """Its style sheet, by which fields and buttons are wider than Qt's own."""
    application = QApplication.instance()
    application.setStyleSheet(get_stylesheet("dark"))
    yield
    application.setStyleSheet("")


@pytest.mark.parametrize("width", [320, *range(350, 500, 10), 560])
def test_nothing_sticks_out_and_tab_follows_the_eye(
    make_dock: MakeDock, naparis_style: None, width: int
) -> None:
    state = replace(FULL, image="x" * 80, images=(Choice("x" * 80, "x" * 80),))
    dock, _ = make_dock(state, width)
    (area,) = dock.findChildren(QScrollArea)
    content = area.widget()
    assert content.width() <= area.viewport().width()
    shown = [w for w in content.findChildren(QWidget) if w.isVisible()]
    for widget in shown:
        right = widget.mapTo(content, QPoint(widget.width(), 0)).x()
        assert right <= content.width(), widget
    stops, widget = [], dock.search.image
    for _ in range(len(dock.findChildren(QWidget))):
        takes_focus = widget.focusPolicy() & Qt.FocusPolicy.TabFocus and not widget.focusProxy()
        if widget.isVisible() and takes_focus:
            stops.append(widget)
        widget = widget.nextInFocusChain()
    stops = list(dict.fromkeys(stops))
    assert len(stops) > 20
    places = [w.mapTo(content, w.rect().center()) for w in stops]
    lines = [round(p.y() / 14) for p in places]
    assert sorted(zip(lines, (p.x() for p in places), strict=True)) == list(
        zip(lines, (p.x() for p in places), strict=True)
    )
    assert all(w.toolTip() for w in stops)


# ---------------------------------------------------------------- coming and going


def test_the_dock_opens_at_once(qtbot: QtBot) -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        dock = SegmentDock(ViewerModel(), FakeControls(FULL))
        seconds.append(time.perf_counter() - start)
        qtbot.addWidget(dock)
    assert min(seconds) < 0.3


def test_opening_it_loads_no_torch() -> None:
    code = (
        "import sys, napari_clipsam._plugin._qt.annotate; "
        "assert not {'torch', 'open_clip', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


def test_work_begins_once_the_dock_is_painted(
    qtbot: QtBot, make_dock: MakeDock, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[object] = []
    monkeypatch.setattr(viewers, "begin_work", begun.append)
    early = SegmentDock(ViewerModel(), FakeControls(FULL))
    qtbot.addWidget(early)
    QApplication.processEvents()
    assert begun == []

    dock, _ = make_dock(FULL)
    qtbot.waitUntil(lambda: bool(begun))
    dock.repaint()
    QApplication.processEvents()
    assert begun == [dock._viewer]


def test_work_of_a_viewer_without_a_window_begins_too(
    qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "_LATEST", 50)
    runner = runner_module.QtRunner()
    seen: list[int] = []
    runner.submit(Job("word", lambda: iter([1]), Urgency.WORD, on_value=seen.append))
    assert seen == []
    qtbot.waitUntil(lambda: seen == [1])
    runner.close()


@pytest.mark.parametrize("way", ["close", "parent", "delete"])
def test_a_dock_that_goes_lets_go_of_the_controls(qtbot: QtBot, way: str) -> None:
    controls = FakeControls(FULL)
    holder = QWidget()
    qtbot.addWidget(holder)
    dock = SegmentDock(ViewerModel(), controls)
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
    controls.show(IMAGE)


def test_in_napari_keys_reach_the_viewer_and_the_x_lets_go(
    qtbot: QtBot, make_napari_viewer_proxy: Callable[[], Any]
) -> None:
    viewer = make_napari_viewer_proxy()
    controls = FakeControls(FULL)
    dock = SegmentDock(viewer, controls)
    frame = viewer.window.add_dock_widget(dock, name="CLIP-Guided SAM")
    frame.setFloating(True)
    frame.setFloating(False)
    assert controls.calls == []
    pressed: list[str] = []
    viewer.bind_key("K", lambda _: pressed.append("K"))
    dock.search.word.edit.setFocus()
    qtbot.keyClicks(dock.search.word.edit, "K")
    assert pressed == [], "it belongs to the word"
    for part in (dock, dock.objects.table, dock.search.model, dock.answer.clear):
        qtbot.keyClick(part, Qt.Key.Key_K)
    assert pressed == ["K"] * 4
    assert controls.calls == []
    frame.destroyOnClose()
    qtbot.waitUntil(lambda: ("close",) in controls.calls)
    assert len(controls.changed) == 0
