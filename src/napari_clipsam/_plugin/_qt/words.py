"""The field for a word, with its lists of words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent, QObject, QStringListModel, Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtGui import QAction, QKeyEvent  # type: ignore[attr-defined]
from qtpy.QtWidgets import QCompleter, QHBoxLayout, QLineEdit, QMenu, QWidget

from napari_clipsam._plugin._qt.icons import icon
from napari_clipsam._plugin._qt.parts import button, timer, tip

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["WordField"]

_LATEST = 8


class WordField(QWidget):
    """Field for a word, with a list of former words and of those the model has learnt.

    Attributes
    ----------
    asked : Signal(str)
        A word to look for: Return, or a word of the list; "" when the field was emptied.
    left : Signal()
        The user is done with the field, for the moment.
    """

    asked = Signal(str)
    left = Signal()

    def __init__(self, example: str, keys: Mapping[str, str]) -> None:
        super().__init__()
        self._shown = ""
        self._lists: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        # Return in the completer's list reaches both the list and the field: ask once
        self._ask_soon = timer(self, 0, self._ask)
        self.edit = QLineEdit()
        self.edit.setPlaceholderText(example)
        tip(self.edit, "What to look for. Return searches, Down lists words", keys.get("find", ""))
        self.edit.returnPressed.connect(self._ask_soon.start)
        self.edit.installEventFilter(self)
        self._completions = QStringListModel(self)
        completer = QCompleter(self._completions, self)
        completer.setCaseSensitivity(Qt.CaseSensitivity.CaseInsensitive)
        completer.setFilterMode(Qt.MatchFlag.MatchContains)
        completer.activated.connect(self._ask_soon.start)
        self.edit.setCompleter(completer)
        self.edit.textEdited.connect(self._colour_completions)
        self.menu = QMenu(self)
        self.menu.triggered.connect(self._pick)
        self.list_button = button("", "Words you used, and words the model knows", "Down")
        self.list_button.setIcon(icon("down", self.list_button))
        self.list_button.clicked.connect(self.open_list)
        self.clear_button = button("", "Empty the word field")
        self.clear_button.setIcon(icon("x", self.clear_button))
        self.clear_button.clicked.connect(self._empty)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(2)
        row.addWidget(self.edit, 1)
        row.addWidget(self.list_button)
        row.addWidget(self.clear_button)
        self.setFocusProxy(self.edit)

    def show_word(self, word: str) -> None:
        """Show a word that is new, unless the user is typing another one."""
        if word != self._shown:
            self._shown = word
            is_typing = self.edit.hasFocus() and self.edit.isModified()
            if not is_typing and self.edit.text() != word:
                self.edit.setText(word)

    def show_lists(self, history: tuple[str, ...], known: tuple[str, ...]) -> None:
        """Offer former words, and those the model has learnt."""
        if (history, known) != self._lists:
            self._lists = (history, known)
            self._completions.setStringList(list(dict.fromkeys(history + known)))
            self.list_button.setEnabled(bool(history or known))

    def open_list(self) -> None:
        """Open the list of words below the field."""
        self.menu.clear()
        history, known = self._lists
        for title, words in (("Latest words", history[:_LATEST]), ("Known words", known)):
            if words:
                heading = QAction(title, self.menu)
                heading.setEnabled(False)
                self.menu.addAction(heading)
            for word in words:
                action = QAction(word.replace("&", "&&"), self.menu)
                action.setData(word)
                self.menu.addAction(action)
        if not self.menu.isEmpty():
            self.menu.setMinimumWidth(self.edit.width())
            self.menu.popup(self.edit.mapToGlobal(self.edit.rect().bottomLeft()))

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Let Down open the list, and Escape leave the field."""
        if isinstance(event, QKeyEvent) and event.type() == QEvent.Type.KeyPress:
            if event.key() == Qt.Key.Key_Down:
                self.open_list()
                return True
            if event.key() == Qt.Key.Key_Escape:
                self.left.emit()
                return True
        return super().eventFilter(watched, event)

    def _colour_completions(self) -> None:
        """Let the list, which is a window of its own, have the theme's colours too."""
        completer = self.edit.completer()
        popup = completer.popup() if completer is not None else None
        if popup is not None and popup.palette() != self.edit.palette():
            popup.setPalette(self.edit.palette())

    def _pick(self, action: QAction) -> None:
        self.edit.setText(action.data())
        self._ask()

    def _ask(self) -> None:
        self.edit.setModified(False)
        word = self.edit.text().strip()
        self.asked.emit(word)
        if word:
            self.left.emit()

    def _empty(self) -> None:
        self.edit.clear()
        self.edit.setFocus()
        self._ask()
