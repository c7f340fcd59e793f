"""The list of models, adapters and words, with as many columns as there is room for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import (  # type: ignore[attr-defined]
    QAbstractTableModel,
    QModelIndex,
    Qt,
    Signal,
)
from qtpy.QtGui import QFont, QKeyEvent
from qtpy.QtWidgets import QTableView

from napari_clipsam._plugin._qt.parts import is_letter
from napari_clipsam._plugin._qt.row_list import list_rows

if TYPE_CHECKING:
    from napari_clipsam._plugin.library_state import Row

__all__ = ["LibraryTable"]

#: Attribute of a row, and what stands above it.
_COLUMNS = (
    ("name", "name"),
    ("kind", "kind"),
    ("status", "here"),
    ("size", "size"),
    ("score", "score"),
    ("made_for", "made for"),
    ("licence", "licence"),
)
_NAME, _SIZE, _MADE_FOR = 0, 3, 5
# Letters of average width in a line from which a column is shown; the details have all of them.
_LETTERS = (0, 0, 0, 44, 62, 84, 104)
_RIGHT = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
_LEFT = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
_LINES = 9
_GAP = "\N{EN SPACE}"  # between a column on the right of its place and the next


class _Rows(QAbstractTableModel):
    """Rows as they are given, or sorted by a column."""

    def __init__(self) -> None:
        super().__init__()
        self.given: tuple[Row, ...] = ()
        self.rows: list[Row] = []
        self._column, self._descends = -1, False

    def set_rows(self, rows: tuple[Row, ...]) -> None:
        """Show rows; where only their values are new, the view keeps its place."""
        is_same = [row.key for row in rows] == [row.key for row in self.given]
        self.given = rows
        if is_same and self.rows and self._column < 0:
            self.rows = list(rows)
            self.dataChanged.emit(self.index(0, 0), self.index(len(rows) - 1, len(_COLUMNS) - 1))
        else:
            self._sort()

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        self._column, self._descends = column, order == Qt.SortOrder.DescendingOrder
        self._sort()

    def _sort(self) -> None:
        self.beginResetModel()
        self.rows = list(self.given)
        if self._column >= 0:
            self.rows.sort(key=self._place, reverse=self._descends)
        self.endResetModel()

    def _place(self, row: Row) -> tuple[Any, ...]:
        if self._column == _SIZE:
            return (row.size_bytes, row.name)
        return (str(getattr(row, _COLUMNS[self._column][0])).lower(), row.name)

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        return len(self.rows)

    def columnCount(self, parent: QModelIndex | None = None) -> int:
        return len(_COLUMNS)

    def headerData(
        self,
        section: int,
        orientation: Qt.Orientation,
        role: int = Qt.ItemDataRole.DisplayRole,
    ) -> Any:
        if orientation != Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            return _COLUMNS[section][1] + (_GAP if section == _SIZE else "")
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _RIGHT if section == _SIZE else _LEFT
        return None

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        row, column = self.rows[index.row()], index.column()
        text = getattr(row, _COLUMNS[column][0])
        if role == Qt.ItemDataRole.DisplayRole:
            return text + _GAP if column == _SIZE else text
        if role == Qt.ItemDataRole.ToolTipRole:
            return row.score_tip if _COLUMNS[column][0] == "score" else text
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _RIGHT if column == _SIZE else _LEFT
        if role == Qt.ItemDataRole.FontRole and row.status == "in use":
            font = QFont()
            font.setBold(True)
            return font
        return None


class LibraryTable(QTableView):
    """One line for each model, adapter and word; what is in use is bold, and says so.

    Attributes
    ----------
    picked : Signal(str)
        Key of the row that the user went to.
    used, removed : Signal()
        The row that was picked is to be used, or to be deleted.
    """

    picked = Signal(str)
    used = Signal()
    removed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._rows = _Rows()
        self._selected = ""
        self._is_showing = False
        self.setModel(self._rows)
        self.setToolTip("What there is. Return uses the selected one, Del deletes it")
        self._sorted = (-1, False)
        self.setMinimumHeight(_LINES * list_rows(self, [_NAME, _MADE_FOR]))
        columns = self.horizontalHeader()
        if columns is not None:
            columns.setSectionsClickable(True)
            columns.sectionClicked.connect(self._sort_by)
        self._rows.modelReset.connect(self._reselect)
        self.doubleClicked.connect(self.used)
        selection = self.selectionModel()
        if selection is not None:
            selection.currentRowChanged.connect(self._on_row)

    def show_rows(self, rows: tuple[Row, ...], selected: str) -> None:
        """Show rows, and which of them is selected; the place in the list stays."""
        is_other, self._selected = selected != self._selected, selected
        self._is_showing = True
        if rows != self._rows.given:
            self._rows.set_rows(rows)
        if selected != self.selected_key():
            self._reselect()
        self._is_showing = False
        if is_other and selected:
            self.scrollTo(self.currentIndex())

    def selected_key(self) -> str:
        """Key of the row that is selected, "" without one."""
        index = self.currentIndex()
        return self._rows.rows[index.row()].key if index.isValid() else ""

    def arrange(self, letters: int) -> None:
        """Show the columns there is room for."""
        for column, least in enumerate(_LETTERS):
            self.setColumnHidden(column, letters < least)

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Return uses the current row, Delete deletes it; letters are for the viewer."""
        if event is None:
            return
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.used.emit()
        elif event.key() == Qt.Key.Key_Delete:
            self.removed.emit()
        elif is_letter(event):
            event.ignore()
        else:
            super().keyPressEvent(event)

    def _on_row(self, index: QModelIndex) -> None:
        if not self._is_showing and index.isValid():
            self._selected = self._rows.rows[index.row()].key
            self.picked.emit(self._selected)

    def _reselect(self) -> None:
        was_showing, self._is_showing = self._is_showing, True
        keys = [row.key for row in self._rows.rows]
        if self._selected in keys:
            self.selectRow(keys.index(self._selected))
        else:
            self.setCurrentIndex(QModelIndex())
        self._is_showing = was_showing

    def _sort_by(self, column: int) -> None:
        """Sort by a column, the other way round by a second click."""
        former, descends = self._sorted
        self._sorted = (column, column == former and not descends)
        order = Qt.SortOrder.DescendingOrder if self._sorted[1] else Qt.SortOrder.AscendingOrder
        self._rows.sort(column, order)
