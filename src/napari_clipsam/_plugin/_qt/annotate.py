"""The Segment dock: shows a `DockState`, and passes on what the user asks for."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakMethod

from napari.utils.theme import get_theme
from qtpy.QtCore import QEvent, Qt, QTimer
from qtpy.QtGui import QCloseEvent, QResizeEvent, QShowEvent
from qtpy.QtWidgets import QApplication, QFrame, QHBoxLayout, QScrollArea, QVBoxLayout, QWidget

from napari_clipsam._plugin import wording
from napari_clipsam._plugin._qt.icons import Line
from napari_clipsam._plugin._qt.layouts import order_tabs
from napari_clipsam._plugin._qt.parts import HintLine, KeyList, button
from napari_clipsam._plugin._qt.sections import (
    AnswerSection,
    FileSection,
    FindSection,
    ObjectsSection,
    StackSection,
    WelcomeSection,
)
from napari_clipsam._plugin.keymap import KEYS, SHORTCUTS

if TYPE_CHECKING:
    from collections.abc import Callable

    import napari.viewer

    from napari_clipsam._plugin.state import Controls, DockState

__all__ = ["SegmentDock"]

# napari's style sheet has no mark for the focus and no links
_STYLE = """
QPushButton, QComboBox, QLineEdit, QSpinBox, QTableView { border: 1px solid transparent; }
QPushButton { padding: 3px 6px; }
QPushButton:focus, QComboBox:focus, QLineEdit:focus, QSpinBox:focus, QTableView:focus {
    border: 1px solid %s;
}
QRadioButton:focus, QCheckBox:focus { text-decoration: underline; }
QPushButton#link {
    background: transparent; text-align: left; text-decoration: underline; padding: 3px 2px;
}
QSpinBox { min-width: 76px; padding: 1px; }
QLabel#key { font-weight: bold; }
"""


class SegmentDock(QWidget):
    """Say what you want, see it, fix it by clicking, keep it.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    controls : Controls, optional
        What answers; by default the viewer's own controller. The dock closes it when it goes.
    """

    def __init__(self, viewer: napari.viewer.Viewer, controls: Controls | None = None) -> None:
        super().__init__()
        if controls is None:
            from napari_clipsam._plugin._qt.viewers import controller_of

            controls = controller_of(viewer)
        self._viewer, self._controls = viewer, controls
        self._has_image = False
        self._word_wanted = controls.state.word_wanted
        self._made_for: tuple[object, ...] = ()  # what buttons were made for, the last time
        self.welcome = WelcomeSection(self._ask, controls)
        self.search = FindSection(self._ask, controls, KEYS)
        self.hint = HintLine()
        self.hint.acted.connect(partial(self._ask, controls.act))
        self.answer = AnswerSection(self._ask, controls, KEYS)
        self.stack = StackSection(self._ask, controls, KEYS)
        self.objects = ObjectsSection(self._ask, controls, KEYS)
        self.files = FileSection(self._ask, controls)
        self.help = button("Shortcuts", "Show or hide the list of keys")
        self.help.setCheckable(True)
        self.key_list = KeyList([(one.shown, one.words) for one in SHORTCUTS])
        self.help.toggled.connect(self._show_keys)
        self.search.word.left.connect(self.setFocus)
        self.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        self._lay_out()
        self._arrange()
        self._restyle()
        self._release = partial(
            _release, viewer, controls, WeakMethod(self._restyle), WeakMethod(self.render_state)
        )
        self.destroyed.connect(self._release)
        viewer.events.theme.connect(self._restyle)
        controls.changed.connect(self.render_state)
        self.render_state(controls.state)

    def render_state(self, state: DockState) -> None:
        """Show a state; where a control that has the focus goes away, the dock takes it."""
        focus = self._inner_focus()
        had_image, self._has_image = self._has_image, bool(state.images)
        for part in (self.search, self.answer, self.stack, self.objects, self.files, self.welcome):
            part.show_state(state)
        is_welcome = not state.images and state.hint == wording.no_image()
        self.hint.show_hint(None if is_welcome else state.hint)
        for part in (self.search, self.answer, self.stack, self.objects):
            part.setVisible(self._has_image)
        if (state.hint, state.samples) != self._made_for:
            self._made_for = (state.hint, state.samples)
            order_tabs(self._content)
        if focus is not None and not focus.hasFocus():
            self.setFocus()
        if self._has_image and not had_image and _nobody_types():
            self.search.word.setFocus()
        if state.word_wanted != self._word_wanted:
            self._word_wanted = state.word_wanted
            self.search.word.setFocus()

    def event(self, event: QEvent | None) -> bool:
        """The x of a napari dock only takes the parent away."""
        if event is not None and event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self._release()
            self.deleteLater()
        return super().event(event)

    def closeEvent(self, event: QCloseEvent | None) -> None:
        """A dock in a window of its own is closed as usual."""
        self._release()
        super().closeEvent(event)

    def showEvent(self, event: QShowEvent | None) -> None:
        """Start in the word field."""
        super().showEvent(event)
        is_ours = event is not None and not event.spontaneous()  # not a window that comes back
        if is_ours and self._has_image and _nobody_types():
            self.search.word.setFocus()

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """Use the width there is."""
        super().resizeEvent(event)
        self._arrange()

    def _ask(self, function: Callable[..., None], *args: Any) -> None:
        """Ask for something; what the user changed by that shows as what it is then."""
        function(*args)
        self.render_state(self._controls.state)

    def _inner_focus(self) -> QWidget | None:
        focus = QApplication.focusWidget()
        return focus if focus is not None and self.isAncestorOf(focus) else None

    def _arrange(self) -> None:
        letters = self.width() // max(1, self.fontMetrics().averageCharWidth())
        self.search.arrange(letters)
        self.answer.arrange(letters)

    def _show_keys(self, on: bool) -> None:
        self.key_list.setVisible(on)
        if on:
            self.key_list.adjustSize()
            QTimer.singleShot(0, partial(self._area.ensureWidgetVisible, self.key_list, 0, 0))

    def _restyle(self, _: object = None) -> None:
        self.setStyleSheet(_STYLE % get_theme(self._viewer.theme).icon.as_rgb())

    def _lay_out(self) -> None:
        self._content = QWidget()
        column = QVBoxLayout(self._content)
        column.setContentsMargins(8, 6, 8, 6)
        column.setSpacing(6)
        for part in (self.welcome, self.search, self.hint, self.answer, self.stack):
            column.addWidget(part)
        column.addWidget(self.objects, 1)
        column.addStretch(0)
        column.addWidget(Line())
        foot = QHBoxLayout()
        foot.addWidget(self.files)
        foot.addStretch(1)
        foot.addWidget(self.help)
        column.addLayout(foot)
        column.addWidget(self.key_list)
        self._area = area = QScrollArea()
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        area.setWidget(self._content)
        around = QVBoxLayout(self)
        around.setContentsMargins(0, 0, 0, 0)
        around.addWidget(area)


def _release(
    viewer: napari.viewer.Viewer,
    controls: Controls,
    restyle: WeakMethod,
    render: WeakMethod,
    *_: object,
) -> None:
    """Let go of viewer and controls; may be called many times."""
    if (themed := restyle()) is not None:
        viewer.events.theme.disconnect(themed)
    if (slot := render()) is not None:
        controls.changed.disconnect(slot, missing_ok=True)
    controls.close()


def _nobody_types() -> bool:
    """Whether the focus may be taken: not from a field that the user may be typing in."""
    focus = QApplication.focusWidget()
    if focus is None:
        return True
    return not focus.testAttribute(Qt.WidgetAttribute.WA_InputMethodEnabled)
