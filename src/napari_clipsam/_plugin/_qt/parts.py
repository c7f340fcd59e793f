"""Parts the docks are put together from: each shows values it is given, and says what was asked.

Signals come from what the user does, never from showing a value, and showing the same value twice
changes nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QRectF, Qt, QTimer, Signal  # type: ignore[attr-defined]
from qtpy.QtGui import (
    QGuiApplication,
    QKeyEvent,
    QPainter,
    QPaintEvent,
    QStandardItemModel,
    QWheelEvent,
)
from qtpy.QtWidgets import (
    QAbstractButton,
    QComboBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QSizePolicy,
    QSpinBox,
    QStyle,
    QStyleOptionComboBox,
    QStylePainter,
    QVBoxLayout,
    QWidget,
)

from napari_clipsam._plugin._qt.icons import Mark, faint, icon
from napari_clipsam._plugin._qt.layouts import wrapped

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from napari_clipsam._plugin.state import Choice, Hint, Progress

__all__ = [
    "ChoiceBox",
    "HintLine",
    "KeyList",
    "ProgressRow",
    "RangeRow",
    "ToolButtons",
    "button",
    "head",
    "is_letter",
    "on_click",
    "text_line",
    "timer",
    "tip",
]

_REVEAL_MS = 500  # what is over sooner shows no progress: nothing blinks
_LINGER_MS = 300


def tip(widget: QWidget, text: str, key: str = "") -> None:
    """Give a control its tool tip, with the key that does the same."""
    widget.setToolTip(f"{text} ({key})" if key else text)
    widget.setAccessibleDescription(text)


def button(text: str, tool_tip: str = "", key: str = "", is_link: bool = False) -> QPushButton:
    """A push button; or what looks like a link."""
    made = QPushButton(text)
    made.setAutoDefault(False)
    tip(made, tool_tip or text, key)
    if is_link:
        made.setObjectName("link")
        made.setCursor(Qt.CursorShape.PointingHandCursor)
    return made


def on_click(control: QAbstractButton, ask: Callable[..., None], *what: Any) -> None:
    """Let a click ask for something; whether the button is checked now is nobody's business."""
    control.clicked.connect(lambda: ask(*what))


def text_line(text: str = "") -> QLabel:
    """Words that wrap; never read as mark-up, since users' words and file names are in them."""
    label = head(text)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setWordWrap(True)
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
    return label


def head(text: str) -> QLabel:
    """A short label in front of a control; its left edge is that of the buttons below."""
    label = QLabel(text)
    label.setIndent(0)
    return label


def timer(owner: QWidget, ms: int, function: Callable[[], None]) -> QTimer:
    """A timer that calls a function once, so many milliseconds after its start."""
    made = QTimer(owner)
    made.setSingleShot(True)
    made.setInterval(ms)
    made.timeout.connect(function)
    return made


def is_letter(event: QKeyEvent) -> bool:
    """Whether a key could be a shortcut of the viewer, not one that moves in a list."""
    return Qt.Key.Key_A <= event.key() <= Qt.Key.Key_Z


class ChoiceBox(QComboBox):
    """A drop-down of `Choice`s that shortens long names with an ellipsis.

    Attributes
    ----------
    chosen : Signal(str)
        The value the user picked.
    """

    chosen = Signal(str)

    def __init__(self, tool_tip: str, key: str = "") -> None:
        super().__init__()
        self._choices: tuple[Choice, ...] = ()
        self._tip, self._key = tool_tip, key
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(4)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.activated.connect(lambda index: self.chosen.emit(self._choices[index].value))

    def show_choices(self, choices: tuple[Choice, ...], value: str) -> None:
        """Show the choices, and the one of this value as chosen."""
        if choices != self._choices:
            self._choices = choices
            self.clear()
            self.addItems([choice.text for choice in choices])
            items = self.model()
            for row, choice in enumerate(choices):
                self.setItemData(row, choice.why or choice.text, Qt.ItemDataRole.ToolTipRole)
                if isinstance(items, QStandardItemModel) and (item := items.item(row)):
                    item.setEnabled(choice.enabled)
        values = [choice.value for choice in choices]
        self.setCurrentIndex(values.index(value) if value in values else -1)
        chosen = self.currentText()
        tip(self, f"{self._tip}: {chosen}" if chosen else self._tip, self._key)

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Leave letters to the viewer's shortcuts: they are no search in the list."""
        if event is not None and is_letter(event):
            event.ignore()
        else:
            super().keyPressEvent(event)

    def wheelEvent(self, event: QWheelEvent | None) -> None:
        """Leave the wheel to scrolling: on its way over the dock it must not change a choice."""
        if event is not None:
            event.ignore()

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw as usual, but the name with an ellipsis where it does not fit."""
        option = QStyleOptionComboBox()
        self.initStyleOption(option)
        painter = QStylePainter(self)
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, option)
        style = self.style()
        if style is not None:
            room = style.subControlRect(
                QStyle.ComplexControl.CC_ComboBox,
                option,
                QStyle.SubControl.SC_ComboBoxEditField,
                self,
            ).width()
            option.currentText = self.fontMetrics().elidedText(
                option.currentText, Qt.TextElideMode.ElideRight, room - 2
            )
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)
        painter.end()


class ToolButtons(QWidget):
    """Prompt tools, of which one or none is active; told apart by shape and word.

    Attributes
    ----------
    picked : Signal(str)
        Tool to activate, "" for none.
    """

    picked = Signal(str)

    def __init__(
        self,
        tools: Sequence[tuple[str, str, str]],
        keys: Mapping[str, str],
        more: Sequence[QPushButton] = (),
    ) -> None:
        super().__init__()
        self.buttons: dict[str, QPushButton] = {}
        for name, words, explanation in tools:
            made = button(words, explanation, keys.get(name, ""))
            made.setIcon(icon(name, made))
            made.setCheckable(True)
            made.clicked.connect(
                lambda checked, name=name: self.picked.emit(name if checked else "")
            )
            self.buttons[name] = made
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(wrapped([*self.buttons.values(), *more], even=True))

    def show_tool(self, active: str) -> None:
        """Show which tool is active."""
        for name, made in self.buttons.items():
            made.setChecked(name == active)


class HintLine(QWidget):
    """One line that says what to do, with buttons that do it.

    Attributes
    ----------
    acted : Signal(str)
        Action of the button that was pressed.
    """

    acted = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self._hint: Hint | None = None
        self._mark = Mark("arrow")
        self.label = text_line()
        self.buttons: list[QPushButton] = []
        self._holder = QWidget()
        self._layout = QGridLayout(self)
        self._layout.setContentsMargins(6, 5, 6, 5)
        self._layout.setHorizontalSpacing(6)
        self._layout.setVerticalSpacing(4)
        self._layout.setColumnStretch(1, 1)
        self._layout.addWidget(self._mark, 0, 0, Qt.AlignmentFlag.AlignTop)
        self._layout.addWidget(self.label, 0, 1)
        self.hide()

    def show_hint(self, hint: Hint | None) -> None:
        """Show a hint, or nothing."""
        if hint == self._hint:
            return
        self._hint = hint
        self.setVisible(hint is not None)
        if hint is None:
            return
        self._mark.set_shape("warning" if hint.is_error else "arrow")
        self.label.setText(hint.text)
        self.buttons = [self._action(action, words) for action, words in hint.actions]
        if hint.details:
            self.buttons.append(self._details(hint.details))
        self._layout.removeWidget(self._holder)
        self._holder.hide()
        self._holder.deleteLater()
        self._holder = wrapped(self.buttons)
        self._holder.setVisible(bool(self.buttons))
        self._layout.addWidget(self._holder, 1, 1)

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw a frame around the hint."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(faint(self))
        painter.drawRoundedRect(QRectF(self.rect()).adjusted(0.5, 0.5, -0.5, -0.5), 3, 3)
        painter.end()

    def _action(self, action: str, words: str) -> QPushButton:
        made = button(words)
        made.clicked.connect(lambda: self.acted.emit(action))
        return made

    def _details(self, details: str) -> QPushButton:
        made = button("Details", "Copies the technical details, to paste into a report")

        def copy() -> None:
            clipboard = QGuiApplication.clipboard()
            if clipboard is not None:
                clipboard.setText(details)
            made.setText("Copied")

        made.clicked.connect(copy)
        return made


class ProgressRow(QWidget):
    """How far a long job is, and Stop; what takes no time shows nothing.

    While nobody knows how far, seconds are counted. Qt's bar that runs to and fro would have all of
    napari's window, canvas included, put together anew for each of its pictures: without a graphics
    card that takes the processor from the very job that is waited for.

    Attributes
    ----------
    stopped : Signal()
    """

    stopped = Signal()

    def __init__(self, keys: Mapping[str, str], reveal_ms: int = _REVEAL_MS) -> None:
        super().__init__()
        self._reveal = timer(self, reveal_ms, self.show)
        self._linger = timer(self, _LINGER_MS, self.hide)
        self._clock = QTimer(self)
        self._clock.timeout.connect(self._say)
        self._progress: Progress | None = None
        self._begun = 0.0
        self.label = text_line()
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setFixedHeight(8)
        self.stop_button = button("Stop", "Stop, and keep what is finished", keys.get("stop", ""))
        self.stop_button.clicked.connect(self.stopped)
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(3)
        layout.setColumnStretch(0, 1)
        layout.addWidget(self.label, 0, 0)
        layout.addWidget(self.stop_button, 0, 1)
        layout.addWidget(self.bar, 1, 0, 1, 2)
        self.hide()

    def show_progress(self, progress: Progress | None) -> None:
        """Show a job that runs on, or that there is none."""
        if self._progress is None or progress is None or progress.text != self._progress.text:
            self._begun = time.monotonic()
        self._progress = progress
        if progress is None:
            self._reveal.stop()
            self._clock.stop()
            if self.isVisible() and not self._linger.isActive():
                self._linger.start()
            elif not self.isVisible():
                self.hide()
            return
        self._linger.stop()
        if self.isHidden() and not self._reveal.isActive():
            self._reveal.start()
        self.bar.setRange(0, progress.total or 1)
        self.bar.setValue(progress.done if progress.total else 0)
        self.stop_button.setVisible(progress.can_stop)
        if progress.total:
            self._clock.stop()
        elif not self._clock.isActive():
            self._clock.start(1000)
        self._say()

    def _say(self) -> None:
        if self._progress is None:
            return
        seconds = int(time.monotonic() - self._begun)
        is_counted = not self._progress.total and seconds
        self.label.setText(self._progress.text + (f", {seconds} s" if is_counted else ""))


class _SliceBox(QSpinBox):
    """A slice number, which changes by typing and by its buttons."""

    def __init__(self) -> None:
        super().__init__()
        self.setKeyboardTracking(False)
        self.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)

    def wheelEvent(self, event: QWheelEvent | None) -> None:
        """Leave the wheel to scrolling."""
        if event is not None:
            event.ignore()


class RangeRow(QWidget):
    """First and last slice of a range.

    Attributes
    ----------
    changed : Signal(int, int)
    """

    changed = Signal(int, int)

    def __init__(self, title: str) -> None:
        super().__init__()
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(6)
        self.first, self.last = _SliceBox(), _SliceBox()
        self.title = head(title)
        row.addWidget(self.title)
        for spin, end in ((self.first, "First"), (self.last, "Last")):
            tip(spin, f"{end} slice, both ends included")
            spin.valueChanged.connect(self._tell)
            row.addWidget(spin, 1)
        row.insertWidget(2, QLabel("–"))

    def show_range(self, extent: int, values: tuple[int, int]) -> None:
        """Show a range of slices of a stack, except in a field the user is typing in."""
        for spin, value in zip((self.first, self.last), values, strict=True):
            edit, top = spin.lineEdit(), max(0, extent - 1)
            is_typed_in = spin.hasFocus() and edit is not None and edit.isModified()
            if is_typed_in or (spin.maximum(), spin.value()) == (top, value):
                continue
            spin.blockSignals(True)
            spin.setMaximum(top)
            spin.setValue(value)
            spin.blockSignals(False)

    def _tell(self) -> None:
        self.changed.emit(self.first.value(), self.last.value())


class KeyList(QWidget):
    """The list of shortcuts, which a button opens and closes."""

    def __init__(self, shortcuts: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(10)
        grid.setVerticalSpacing(1)
        grid.setColumnStretch(1, 1)
        for row, (key, words) in enumerate(shortcuts):
            name = QLabel(key)
            name.setObjectName("key")
            grid.addWidget(name, row, 0, Qt.AlignmentFlag.AlignTop)
            grid.addWidget(text_line(words), row, 1)
        self.hide()
