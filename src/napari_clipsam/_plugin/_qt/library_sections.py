"""The parts of the Library dock from top to bottom; each shows its share of a `LibraryState`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtGui import QTextOption
from qtpy.QtWidgets import (
    QFileDialog,
    QGridLayout,
    QLineEdit,
    QPlainTextEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_clipsam._plugin import library_wording
from napari_clipsam._plugin._qt.layouts import stacked, wrapped
from napari_clipsam._plugin._qt.library_table import LibraryTable
from napari_clipsam._plugin._qt.parts import (
    ChoiceBox,
    ProgressRow,
    button,
    head,
    on_click,
    text_line,
    tip,
)
from napari_clipsam._plugin.library_state import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_clipsam._plugin.library_state import LibraryControls, LibraryState, Naming, Offer

    Ask = Callable[..., None]

__all__ = ["ActionSection", "ArrivalSection", "DetailSection", "ListSection", "NamingSection"]

_FILES = "Models and adapters (*.safetensors *.pth *.pt *.ckpt *.bin);;All files (*)"
_DETAIL_LINES = 8


class ListSection(QWidget):
    """What there is, narrowed down by kind and by words."""

    def __init__(self, ask: Ask, controls: LibraryControls) -> None:
        super().__init__()
        self._controls, self._ask = controls, ask
        self.kind = ChoiceBox("Which kind to list")
        self.wanted = QLineEdit()
        self.wanted.setPlaceholderText("find in the list")
        self.wanted.setClearButtonEnabled(True)
        tip(self.wanted, "List only what holds these words")
        self.table = LibraryTable()
        self.empty = text_line()
        self.kind.chosen.connect(partial(ask, controls.set_kind))
        self.wanted.textEdited.connect(partial(ask, controls.set_wanted))
        self.wanted.textChanged.connect(self._on_text)
        self.table.picked.connect(partial(ask, controls.select))
        self.table.used.connect(partial(ask, controls.use))
        self.table.removed.connect(partial(ask, controls.delete))
        row = QGridLayout()
        row.setHorizontalSpacing(6)
        row.addWidget(head("Show"), 0, 0)
        row.addWidget(self.kind, 0, 1)
        row.addWidget(self.wanted, 0, 2)
        row.setColumnStretch(1, 1)
        row.setColumnStretch(2, 1)
        column = stacked(self, row, self.table, self.empty)
        column.setStretch(1, 1)

    def show_state(self, state: LibraryState) -> None:
        """Show the list."""
        self.kind.show_choices(KINDS, state.kind)
        if not self.wanted.hasFocus() and self.wanted.text() != state.wanted:
            self.wanted.setText(state.wanted)
        self.table.show_rows(state.rows, state.selected)
        text = library_wording.empty(state)
        self.empty.setText(text)
        self.empty.setVisible(bool(text))

    def arrange(self, letters: int) -> None:
        """Show the columns there is room for."""
        self.table.arrange(letters)

    def _on_text(self, text: str) -> None:
        """The clear button of the field edits it without saying so."""
        if not text and self._controls.state.wanted:
            self._ask(self._controls.set_wanted, "")


class ActionSection(QWidget):
    """What can be done with the selected one, and Import."""

    def __init__(self, ask: Ask, controls: LibraryControls) -> None:
        super().__init__()
        self._ask, self._controls = ask, controls
        self.get = button("Get")
        self.use = button("Use")
        self.show_file = button("Show file")
        self.delete = button("Delete")
        self.take_in = button("Import...", "Copy a model's file or an adapter into the library")
        self._offers: dict[str, QPushButton] = {
            "get": self.get,
            "use": self.use,
            "show_file": self.show_file,
            "delete": self.delete,
        }
        for name, made in self._offers.items():
            on_click(made, ask, getattr(controls, name))
        self.take_in.clicked.connect(self._choose_file)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(wrapped([*self._offers.values(), self.take_in], even=True))

    def show_state(self, state: LibraryState) -> None:
        """Show what can be done."""
        for name, made in self._offers.items():
            offer: Offer = getattr(state, name)
            made.setEnabled(offer.enabled)
            tip(made, offer.tip)
        self.take_in.setEnabled(state.busy is None)

    def _choose_file(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Import a model or an adapter", "", _FILES)
        if name:
            self._ask(self._controls.import_file, Path(name))


class NamingSection(QWidget):
    """Asks for the name of a model's file."""

    def __init__(self, ask: Ask, controls: LibraryControls) -> None:
        super().__init__()
        self._ask, self._controls = ask, controls
        self._shown: Naming | None = None
        self.question = text_line()
        self.name = QLineEdit()
        tip(
            self.name,
            "Letters, digits, _, - and dots; of a CLIP its architecture first, as in "
            "ViT-B-16:mine. Return imports",
        )
        self.take_in = button("Import it", "Check the file, and copy it into the library")
        self.leave = button("Leave it", "Do not import this file")
        self.name.returnPressed.connect(self._enter)
        self.take_in.clicked.connect(self._enter)
        on_click(self.leave, ask, controls.drop_import)
        stacked(self, self.question, self.name, wrapped([self.take_in, self.leave], even=True))
        self.hide()

    def show_state(self, state: LibraryState) -> None:
        """Ask, where there is something to name."""
        naming, is_free = state.naming, state.busy is None
        is_asked_again = is_free and not self.isEnabled()
        self.setVisible(naming is not None)
        self.setEnabled(is_free)
        if naming is not None and (naming != self._shown or is_asked_again):
            self.question.setText(f"{naming.path.name} may be a model. What is it to be called?")
            self.name.setText(naming.proposed)
            self.name.selectAll()
            self.name.setFocus()
        self._shown = naming

    def _enter(self) -> None:
        self._ask(self._controls.import_as, self.name.text())


class ArrivalSection(QWidget):
    """A line for each download, and one for a file that is looked at."""

    def __init__(self, ask: Ask, controls: LibraryControls) -> None:
        super().__init__()
        self._ask, self._controls = ask, controls
        self.busy = ProgressRow({})
        self.rows: dict[str, ProgressRow] = {}
        self._column = stacked(self, self.busy)

    def show_state(self, state: LibraryState) -> None:
        """Show how far they are."""
        self.busy.show_progress(state.busy)
        wanted = {one.key: one.progress for one in state.downloads}
        for key in self.rows.keys() - wanted.keys():
            row = self.rows.pop(key)
            row.hide()
            row.deleteLater()
        for key, progress in wanted.items():
            if key not in self.rows:
                self.rows[key] = self._row(key)
            self.rows[key].show_progress(progress)

    def _row(self, key: str) -> ProgressRow:
        row = ProgressRow({}, reveal_ms=0)
        tip(row.stop_button, "Stop; what has arrived is kept, and Get goes on from there")
        row.stopped.connect(lambda: self._ask(self._controls.stop, key))
        self._column.addWidget(row)
        return row


class DetailSection(QPlainTextEdit):
    """All that is known of the selected one, to read and to copy."""

    def __init__(self) -> None:
        super().__init__()
        self.setReadOnly(True)
        self.setTabChangesFocus(True)
        # Checksums have no place to break at
        self.setWordWrapMode(QTextOption.WrapMode.WrapAtWordBoundaryOrAnywhere)
        self.setMinimumHeight(self.fontMetrics().lineSpacing() * _DETAIL_LINES)
        tip(self, "What is known of the selected line; it can be copied")

    def show_state(self, state: LibraryState) -> None:
        """Show the details; what somebody has marked in the same ones stays marked."""
        text = state.details or "Select a line to see what is known of it."
        if text != self.toPlainText():
            self.setPlainText(text)
