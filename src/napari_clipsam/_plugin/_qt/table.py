"""The list of kept objects: the weakest first, a click opens one."""

from __future__ import annotations

import re
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
    from collections.abc import Callable

    from napari_clipsam._plugin.state import ObjectRow

__all__ = ["ObjectTable"]

_LABEL, _WORD, _SCORE, _SLICES, _SIZE, _MARK = range(6)
_RIGHT = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
_LEFT = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
_WEAK = "This object is uncertain: look at it, and correct it by clicking"


def _first_slice(row: ObjectRow) -> int:
    number = re.match(r"\d+", row.slices)
    return int(number[0]) if number else -1


def _size(row: ObjectRow) -> float:
    try:
        return float(row.size)
    except ValueError:
        return 0.0


_SORTED_BY: tuple[Callable[[ObjectRow], Any], ...] = (
    lambda row: row.label,
    lambda row: (row.word, row.label),
    lambda row: (row.score, row.label),
    lambda row: (_first_slice(row), row.label),
    _size,
    lambda row: (not row.is_weak, row.score),
)


class _Objects(QAbstractTableModel):
    """Rows of objects, sorted here: Qt's own sorting asks for each value many times."""

    def __init__(self) -> None:
        super().__init__()
        self.given: tuple[ObjectRow, ...] = ()
        self.rows: list[ObjectRow] = []
        self.size_title = ""
        self._column, self._descends = _SCORE, False

    def set_rows(self, rows: tuple[ObjectRow, ...], size_title: str) -> None:
        self.given, self.size_title = rows, size_title
        self._sort()

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        self._column, self._descends = column, order == Qt.SortOrder.DescendingOrder
        self._sort()

    def _sort(self) -> None:
        self.beginResetModel()
        self.rows = sorted(self.given, key=_SORTED_BY[self._column], reverse=self._descends)
        self.endResetModel()

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        return len(self.rows)

    def columnCount(self, parent: QModelIndex | None = None) -> int:
        return 6

    def headerData(
        self,
        section: int,
        orientation: Qt.Orientation,
        role: int = Qt.ItemDataRole.DisplayRole,
    ) -> Any:
        if orientation != Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return self._alignment(section)
        if role == Qt.ItemDataRole.DisplayRole:
            size = self.size_title.replace("/", "/\n")  # the words need the room more
            return ("id", "word", "score", "slices", size, "")[section]
        if role == Qt.ItemDataRole.ToolTipRole:
            return "Click to sort"
        return None

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        row, column = self.rows[index.row()], index.column()
        if role == Qt.ItemDataRole.DisplayRole:
            mark = "weak" if row.is_weak else ""
            texts = (str(row.label), row.word, f"{row.score:.2f}", row.slices, row.size, mark)
            return texts[column]
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return self._alignment(column)
        if role == Qt.ItemDataRole.ToolTipRole:
            return _WEAK if row.is_weak else "A click shows this object and opens it"
        if role == Qt.ItemDataRole.FontRole and column == _MARK:
            font = QFont()
            font.setBold(True)
            return font
        return None

    @staticmethod
    def _alignment(column: int) -> Qt.AlignmentFlag:
        return _RIGHT if column in (_LABEL, _SCORE, _SIZE) else _LEFT


class ObjectTable(QTableView):
    """Kept objects, with weak ones marked by a word.

    Attributes
    ----------
    opened, removed : Signal(str)
        Key of the object to open, or to delete.
    """

    opened = Signal(str)
    removed = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self._objects = _Objects()
        self._selected = ""
        self.setModel(self._objects)
        self._objects.modelReset.connect(self._reselect)
        self.setSortingEnabled(True)
        self.sortByColumn(_SCORE, Qt.SortOrder.AscendingOrder)
        list_rows(self, [_WORD])
        self.setToolTip("Objects you kept. A click shows one and opens it; Del deletes it")
        self.clicked.connect(lambda index: self.opened.emit(self._key(index)))

    def show_objects(self, rows: tuple[ObjectRow, ...], selected: str, size_title: str) -> None:
        """Show objects, and which of them is open; the place in the list stays."""
        is_other, self._selected = selected != self._selected, selected
        if rows != self._objects.given or size_title != self._objects.size_title:
            self._objects.set_rows(rows, size_title)
        self.setColumnHidden(_SLICES, not any(row.slices for row in rows))
        self.setColumnHidden(_MARK, not any(row.is_weak for row in rows))
        if selected != self.selected_key():
            self._reselect()
        if is_other and selected:
            self.scrollTo(self.currentIndex())

    def selected_key(self) -> str:
        """Key of the row that is selected, "" without one."""
        selection = self.selectionModel()
        indexes = selection.selectedRows() if selection is not None else []
        return self._key(indexes[0]) if indexes else ""

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Return opens the current object, Delete deletes it; letters are for the viewer."""
        if event is None:
            return
        key = self._key(self.currentIndex())
        if key and event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.opened.emit(key)
        elif key and event.key() == Qt.Key.Key_Delete:
            self.removed.emit(key)
        elif is_letter(event):
            event.ignore()
        else:
            super().keyPressEvent(event)

    def _reselect(self) -> None:
        keys = [one.key for one in self._objects.rows]
        if self._selected in keys:
            self.selectRow(keys.index(self._selected))
        else:
            self.clearSelection()

    def _key(self, index: QModelIndex) -> str:
        return self._objects.rows[index.row()].key if index.isValid() else ""
