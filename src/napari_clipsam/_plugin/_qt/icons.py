"""Small drawings in the theme's own colours: a tool is told by its shape, not by colour alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QLineF, QPointF, QRect, QRectF, QSize, Qt
from qtpy.QtGui import (
    QColor,
    QIcon,
    QIconEngine,
    QPainter,
    QPainterPath,
    QPaintEvent,
    QPen,
    QPixmap,
    QPolygonF,
)
from qtpy.QtWidgets import QWidget

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SHAPES", "Line", "Mark", "faint", "icon"]

_SIDE = 16.0
_POSITIVE, _NEGATIVE, _YELLOW = QColor("#2ca02c"), QColor("#d62728"), QColor("#f2d024")
_WHITE = QColor("white")


def _line(painter: QPainter, colour: QColor, width: float, *points: tuple[float, float]) -> None:
    cap, join = Qt.PenCapStyle.RoundCap, Qt.PenJoinStyle.RoundJoin
    painter.setPen(QPen(colour, width, Qt.PenStyle.SolidLine, cap, join))
    painter.drawPolyline(QPolygonF([QPointF(x, y) for x, y in points]))


def _disc_with_plus(painter: QPainter, ink: QColor) -> None:
    painter.setPen(QPen(ink, 1))
    painter.setBrush(_POSITIVE)
    painter.drawEllipse(QPointF(8, 8), 6.5, 6.5)
    _line(painter, _WHITE, 1.8, (5, 8), (11, 8))
    _line(painter, _WHITE, 1.8, (8, 5), (8, 11))


def _cross(painter: QPainter, ink: QColor) -> None:
    for colour, width in ((ink, 5.0), (_NEGATIVE, 3.2)):
        _line(painter, colour, width, (4, 4), (12, 12))
        _line(painter, colour, width, (12, 4), (4, 12))


def _box(painter: QPainter, ink: QColor) -> None:
    painter.setPen(QPen(ink, 1.2))
    painter.setBrush(_YELLOW)
    painter.drawRect(QRectF(2, 3.5, 12, 9))


def _lasso(painter: QPainter, ink: QColor) -> None:
    path = QPainterPath(QPointF(4, 12))
    path.cubicTo(-2, 2, 12, -1, 14, 5)
    path.cubicTo(15.5, 10, 8, 9, 4, 12)
    painter.setPen(QPen(ink, 1.2))
    painter.setBrush(_YELLOW)
    painter.drawPath(path)
    _line(painter, ink, 1.4, (4, 12), (6.5, 15))


def _scribble(painter: QPainter, ink: QColor) -> None:
    path = QPainterPath(QPointF(2, 11))
    path.cubicTo(4, 1, 7, 3, 7, 8)
    path.cubicTo(7, 15, 11, 14, 14, 4)
    for colour, width in ((ink, 4.4), (_YELLOW, 2.4)):
        painter.strokePath(path, _round_pen(colour, width))


def _round_pen(colour: QColor, width: float) -> QPen:
    return QPen(colour, width, Qt.PenStyle.SolidLine, Qt.PenCapStyle.RoundCap)


def _labels(painter: QPainter, ink: QColor) -> None:
    painter.setPen(QPen(ink, 1.2))
    painter.drawRoundedRect(QRectF(2, 3, 12, 10), 2, 2)
    painter.setBrush(ink)
    painter.drawEllipse(QPointF(6, 9), 1.8, 1.8)
    painter.drawEllipse(QPointF(10.5, 6.8), 1.8, 1.8)


def _x(painter: QPainter, ink: QColor) -> None:
    _line(painter, ink, 1.6, (4.5, 4.5), (11.5, 11.5))
    _line(painter, ink, 1.6, (11.5, 4.5), (4.5, 11.5))


def _down(painter: QPainter, ink: QColor) -> None:
    _line(painter, ink, 1.8, (4, 6), (8, 10.5), (12, 6))


def _warning(painter: QPainter, ink: QColor) -> None:
    _line(painter, ink, 1.4, (8, 2), (14.5, 13.5), (1.5, 13.5), (8, 2))
    painter.drawLine(QLineF(8, 6.2, 8, 9.4))
    painter.drawPoint(QPointF(8, 11.6))


def _arrow(painter: QPainter, ink: QColor) -> None:
    _line(painter, ink, 1.6, (2.5, 8), (13, 8))
    _line(painter, ink, 1.6, (9, 4), (13, 8), (9, 12))


SHAPES: dict[str, Callable[[QPainter, QColor], None]] = {
    "point+": _disc_with_plus,
    "point-": _cross,
    "box": _box,
    "lasso": _lasso,
    "scribble": _scribble,
    "labels": _labels,
    "x": _x,
    "down": _down,
    "warning": _warning,
    "arrow": _arrow,
}


class _ShapeEngine(QIconEngine):
    """Draws a shape at any size, in its widget's text colour at that moment."""

    def __init__(self, shape: str, widget: QWidget) -> None:
        super().__init__()
        self._shape, self._widget = shape, widget

    def paint(
        self, painter: QPainter | None, rect: QRect, mode: QIcon.Mode, state: QIcon.State
    ) -> None:
        if painter is not None:
            painter.setOpacity(0.4 if mode == QIcon.Mode.Disabled else 1.0)
            _draw(painter, self._shape, QRectF(rect), self._widget)

    def pixmap(self, size: QSize, mode: QIcon.Mode, state: QIcon.State) -> QPixmap:
        pixmap = QPixmap(size)
        pixmap.fill(Qt.GlobalColor.transparent)
        painter = QPainter(pixmap)
        self.paint(painter, pixmap.rect(), mode, state)
        painter.end()
        return pixmap

    def clone(self) -> QIconEngine:
        return _ShapeEngine(self._shape, self._widget)


class Mark(QWidget):
    """A shape at the start of a line.

    Parameters
    ----------
    shape : str
        One of `SHAPES`.
    """

    def __init__(self, shape: str) -> None:
        super().__init__()
        self._shape = shape
        self.setFixedSize(16, 16)

    def set_shape(self, shape: str) -> None:
        """Show another of `SHAPES`."""
        if shape != self._shape:
            self._shape = shape
            self.update()

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw the shape in the theme's text colour."""
        painter = QPainter(self)
        _draw(painter, self._shape, QRectF(self.rect()), self)
        painter.end()


class Line(QWidget):
    """A thin line between two parts of a dock."""

    def __init__(self) -> None:
        super().__init__()
        self.setFixedHeight(1)

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Fill the widget, which is one pixel high."""
        painter = QPainter(self)
        painter.fillRect(self.rect(), faint(self))
        painter.end()


def faint(widget: QWidget) -> QColor:
    """The theme's text colour, weakened for lines and frames."""
    colour = widget.palette().color(widget.foregroundRole())
    colour.setAlphaF(0.3)
    return colour


def icon(shape: str, widget: QWidget) -> QIcon:
    """One of `SHAPES` as an icon for a widget, in the colours of its theme."""
    return QIcon(_ShapeEngine(shape, widget))


def _draw(painter: QPainter, shape: str, rect: QRectF, widget: QWidget) -> None:
    painter.save()
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    side = min(rect.width(), rect.height())
    painter.translate(rect.center().x() - side / 2, rect.center().y() - side / 2)
    painter.scale(side / _SIDE, side / _SIDE)
    painter.setBrush(Qt.BrushStyle.NoBrush)
    SHAPES[shape](painter, widget.palette().color(widget.foregroundRole()))
    painter.restore()
