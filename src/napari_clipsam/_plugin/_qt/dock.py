"""What all docks are: they scroll, wear the theme, and close their controls when they go."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakMethod

from napari.utils.theme import get_theme
from qtpy.QtCore import QEvent, QObject, Qt, QTimer
from qtpy.QtGui import QCloseEvent, QResizeEvent
from qtpy.QtWidgets import QApplication, QFrame, QScrollArea, QVBoxLayout, QWidget

if TYPE_CHECKING:
    from collections.abc import Callable

    import napari.viewer

__all__ = ["Dock", "nobody_types"]

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


class Dock(QWidget):
    """A column that scrolls, and shows the state of its controls.

    A subclass fills `column`, then calls `begin`.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    controls : Any
        With ``state``, ``changed`` and ``close``; the dock closes them when it goes.
    """

    def __init__(self, viewer: napari.viewer.Viewer, controls: Any) -> None:
        super().__init__()
        self._viewer, self._controls = viewer, controls
        self.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        self.content = QWidget()
        self.content.installEventFilter(self)
        self.column = QVBoxLayout(self.content)
        self.column.setContentsMargins(8, 6, 8, 6)
        self.column.setSpacing(6)
        self.area = area = QScrollArea()
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        area.setWidget(self.content)
        around = QVBoxLayout(self)
        around.setContentsMargins(0, 0, 0, 0)
        around.addWidget(area)

    def begin(self) -> None:
        """Show what there is, and what comes."""
        viewer, controls = self._viewer, self._controls
        self.arrange(self._letters())
        self.restyle()
        # Not the method itself: to find that, napari compares its widget with models, and a widget
        # that Qt has deleted cannot be compared.
        restyle = partial(_call, WeakMethod(self.restyle))
        self._release = partial(_release, viewer, controls, restyle, WeakMethod(self.render_state))
        self.destroyed.connect(self._release)
        viewer.events.theme.connect(restyle)
        controls.changed.connect(self.render_state)
        self.render_state(controls.state)

    def render_state(self, state: Any) -> None:
        """Show a state."""
        raise NotImplementedError

    def arrange(self, letters: int) -> None:
        """Use the width there is, in letters of average width."""

    def ask(self, function: Callable[..., None], *args: Any) -> None:
        """Ask for something; what the user changed by that shows as what it is then."""
        function(*args)
        self.render_state(self._controls.state)

    def inner_focus(self) -> QWidget | None:
        """The widget of this dock that has the focus."""
        focus = QApplication.focusWidget()
        return focus if focus is not None and self.isAncestorOf(focus) else None

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

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Let work begin once the dock has been painted; its content covers all of it."""
        if event is not None and event.type() == QEvent.Type.Paint:
            from napari_clipsam._plugin._qt.viewers import begin_work

            self.content.removeEventFilter(self)
            QTimer.singleShot(0, partial(begin_work, self._viewer))
        return super().eventFilter(watched, event)

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """Use the width there is."""
        super().resizeEvent(event)
        self.arrange(self._letters())

    def restyle(self, _: object = None) -> None:
        """Wear the theme."""
        self.setStyleSheet(_STYLE % get_theme(self._viewer.theme).icon.as_rgb())

    def _letters(self) -> int:
        return self.width() // max(1, self.fontMetrics().averageCharWidth())


def nobody_types() -> bool:
    """Whether the focus may be taken: not from a field that the user may be typing in."""
    focus = QApplication.focusWidget()
    if focus is None:
        return True
    return not focus.testAttribute(Qt.WidgetAttribute.WA_InputMethodEnabled)


def _call(method: WeakMethod, *_: object) -> None:
    """Call a method of something that may be gone."""
    if (alive := method()) is not None:
        alive()


def _release(
    viewer: napari.viewer.Viewer,
    controls: Any,
    restyle: Callable[..., None],
    render: WeakMethod,
    *_: object,
) -> None:
    """Let go of viewer and controls; may be called many times."""
    viewer.events.theme.disconnect(restyle)
    if (slot := render()) is not None:
        controls.changed.disconnect(slot, missing_ok=True)
    controls.close()
