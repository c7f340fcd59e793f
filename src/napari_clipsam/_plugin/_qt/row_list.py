"""How tables that list rows look and behave, kept objects and the library alike."""

from __future__ import annotations

from collections.abc import Iterable

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView

__all__ = ["list_rows"]


def list_rows(table: QTableView, stretching: Iterable[int]) -> int:
    """Let a table list rows: one is selected at a time, none edited; the height of one.

    Parameters
    ----------
    table : QTableView
        With its model.
    stretching : iterable of int
        Columns that take the room there is; all others are as wide as what is in them.
    """
    table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
    table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
    table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
    table.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    table.setWordWrap(False)
    table.setShowGrid(False)
    table.setTabKeyNavigation(False)
    rows, columns = table.verticalHeader(), table.horizontalHeader()
    line = table.fontMetrics().height() + 6
    if rows is not None:
        rows.hide()
        rows.setDefaultSectionSize(line)
    if columns is not None:
        columns.setResizeContentsPrecision(50)
        columns.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        for column in stretching:
            columns.setSectionResizeMode(column, QHeaderView.ResizeMode.Stretch)
        columns.setMinimumSectionSize(24)
        columns.setHighlightSections(False)
        columns.setSortIndicatorShown(False)  # its room would push the words out
    return line
