"""Rows that wrap, so that a narrow dock needs no horizontal scroll bar."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from qtpy.QtCore import QPoint, QRect, QSize, Qt
from qtpy.QtWidgets import QLayout, QVBoxLayout, QWidget

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qtpy.QtWidgets import QLayoutItem

__all__ = ["WrapLayout", "order_tabs", "stacked", "wrapped"]


class WrapLayout(QLayout):
    """Widgets in reading order, in as many lines as their width needs.

    Parameters
    ----------
    parent : QWidget
    spacing : int
        Pixels between the widgets of a line; lines are closer than that if it is wide.
    even : bool
        Give all the same width, as many in each line as possible, and fill the line.
    """

    def __init__(self, parent: QWidget, spacing: int = 4, even: bool = False) -> None:
        super().__init__(parent)
        self._items: list[QLayoutItem] = []
        self._even = even
        self.setSpacing(spacing)
        self._line_gap = min(spacing, 4)
        self.setContentsMargins(0, 0, 0, 0)

    def addItem(self, item: QLayoutItem | None) -> None:
        """Qt calls this for each new widget."""
        if item is not None:
            self._items.append(item)

    def count(self) -> int:
        """Number of items, the hidden ones too."""
        return len(self._items)

    def itemAt(self, index: int) -> QLayoutItem | None:
        """Item at a place in reading order."""
        return self._items[index] if 0 <= index < len(self._items) else None

    def takeAt(self, index: int) -> QLayoutItem | None:
        """Remove the item at a place."""
        return self._items.pop(index) if 0 <= index < len(self._items) else None

    def expandingDirections(self) -> Qt.Orientation:
        """Wants no more room than it needs."""
        return Qt.Orientation(0)

    def hasHeightForWidth(self) -> bool:
        """The fewer pixels a line has, the more lines there are."""
        return True

    def heightForWidth(self, width: int) -> int:
        """Pixels needed by all lines."""
        return max((r.bottom() + 1 for _, r in self._places(width)), default=0)

    def sizeHint(self) -> QSize:
        """All in one line."""
        hints = [item.sizeHint() for item in self._shown()]
        width = sum(h.width() for h in hints) + self.spacing() * max(0, len(hints) - 1)
        return QSize(width, max((h.height() for h in hints), default=0))

    def minimumSize(self) -> QSize:
        """The widest widget alone in its line."""
        sizes = [item.minimumSize() for item in self._shown()]
        return QSize(
            max((s.width() for s in sizes), default=0), max((s.height() for s in sizes), default=0)
        )

    def setGeometry(self, rect: QRect) -> None:
        """Put every widget in its place."""
        super().setGeometry(rect)
        for item, place in self._places(rect.width()):
            item.setGeometry(place.translated(rect.topLeft()))

    def _shown(self) -> list[QLayoutItem]:
        return [item for item in self._items if not item.isEmpty()]

    def _places(self, width: int) -> list[tuple[QLayoutItem, QRect]]:
        items = self._shown()
        return self._even_places(items, width) if self._even else self._ragged_places(items, width)

    def _ragged_places(
        self, items: Sequence[QLayoutItem], width: int
    ) -> list[tuple[QLayoutItem, QRect]]:
        lines: list[list[QLayoutItem]] = []
        right = 0
        for item in items:
            wanted = item.sizeHint().width()
            if not lines or right + self.spacing() + wanted > width:
                lines.append([])
                right = -self.spacing()
            lines[-1].append(item)
            right += self.spacing() + wanted
        places, y = [], 0
        for line in lines:
            height = max(item.sizeHint().height() for item in line)
            x = 0
            for item in line:
                hint = item.sizeHint()
                corner = QPoint(x, y + (height - hint.height()) // 2)
                places.append((item, QRect(corner, hint.boundedTo(QSize(width, hint.height())))))
                x += hint.width() + self.spacing()
            y += height + self._line_gap
        return places

    def _even_places(
        self, items: Sequence[QLayoutItem], width: int
    ) -> list[tuple[QLayoutItem, QRect]]:
        if not items:
            return []
        gap = self.spacing()
        cell = max(item.sizeHint().width() for item in items)
        height = max(item.sizeHint().height() for item in items)
        most = min(len(items), max(1, (width + gap) // (cell + gap)))
        columns = -(-len(items) // -(-len(items) // most))  # as full a last line as can be
        edges = [round(i * (width + gap) / columns) for i in range(columns + 1)]
        return [
            (item, QRect(edges[c], r * (height + gap), edges[c + 1] - edges[c] - gap, height))
            for item, (r, c) in zip(
                items, (divmod(i, columns) for i in range(len(items))), strict=True
            )
        ]


def wrapped(widgets: Sequence[QWidget], spacing: int = 4, even: bool = False) -> QWidget:
    """One widget that holds others in lines as its width allows."""
    holder = QWidget()
    layout = WrapLayout(holder, spacing, even)
    for widget in widgets:
        layout.addWidget(widget)
    return holder


def stacked(holder: QWidget, *parts: QWidget | QLayout) -> QVBoxLayout:
    """Stack parts in a widget."""
    column = QVBoxLayout(holder)
    column.setContentsMargins(0, 0, 0, 0)
    column.setSpacing(6)
    for part in parts:
        if isinstance(part, QWidget):
            column.addWidget(part)
        else:
            column.addLayout(part)
    return column


def order_tabs(widget: QWidget) -> None:
    """Let Tab go through the controls of a widget in the order in which layouts hold them."""
    stops = list(_stops(widget.layout()))
    for before, after in pairwise(stops):
        QWidget.setTabOrder(before, after)


def _stops(layout: QLayout | None) -> Iterator[QWidget]:
    for index in range(layout.count() if layout is not None else 0):
        item = layout.itemAt(index) if layout is not None else None
        widget = item.widget() if item is not None else None
        if widget is None:
            yield from _stops(item.layout() if item is not None else None)
        elif widget.layout() is not None:
            yield from _stops(widget.layout())
        elif widget.focusPolicy() & Qt.FocusPolicy.TabFocus:
            yield widget
