"""The curve of a lesson: held-out scores, what they were before, and what was still wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyqtgraph as pg
from qtpy.QtCore import QEvent, Qt
from qtpy.QtGui import QColor, QPalette, QWheelEvent

if TYPE_CHECKING:
    from napari_clipsam._plugin.teach_state import Curve

__all__ = ["CurvePlot"]

# Colours that stay apart for everybody; the lines differ in shape as well.
_SCORE, _LOSS = {"dark": "#56b4e9", "light": "#0072b2"}, {"dark": "#e69f00", "light": "#b35900"}
_HEIGHT = 110
_MARGIN = 0.05
# Losses in a row of which the middle one counts, and half the share of them that is averaged.
_SPIKES, _SMOOTH = 5, 20


class CurvePlot(pg.PlotWidget):
    """A small plot that only shows: it takes neither wheel nor focus."""

    def __init__(self) -> None:
        super().__init__(background=None)
        self.setFixedHeight(_HEIGHT)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setMouseEnabled(x=False, y=False)
        self.setMenuEnabled(False)
        self.hideButtons()
        self.setFrameShape(self.Shape.NoFrame)
        self._curve: Curve | None = None
        self._times = _Times(orientation="bottom")
        self.setAxisItems({"bottom": self._times})
        self._loss, self._score = self.plot(), self.plot()
        self._before = pg.InfiniteLine(angle=0)
        self.addItem(self._before)
        self._paint()

    def show_curve(self, curve: Curve) -> None:
        """Show a curve; losses are drawn as high as there is room, since their size says little."""
        if curve == self._curve:
            return
        self._curve = curve
        times, scores = _columns(curve.scores)
        longest = max((time for time, _ in (*curve.scores, *curve.losses)), default=0.0)
        self._times.unit, seconds = ("min", 60.0) if longest >= 120 else ("s", 1.0)
        self._score.setData(times / seconds, scores)
        self._before.setVisible(bool(len(scores)))
        low, high = 0.0, 1.0
        if len(scores):
            self._before.setValue(scores[0])
            low = max(0.0, float(scores.min()) - _MARGIN)
            high = min(1.0, float(scores.max()) + _MARGIN)
        times, losses = _columns(curve.losses)
        if len(losses):
            losses = low + (high - low) * (0.05 + 0.9 * _shape_of(losses))
        self._loss.setData(times / seconds, losses)
        self.setYRange(low, high, padding=0.08)
        self.setXRange(0, max(longest, 1.0) / seconds, padding=0.04)

    def changeEvent(self, event: QEvent | None) -> None:
        """Follow the theme."""
        super().changeEvent(event)
        themed = (QEvent.Type.PaletteChange, QEvent.Type.StyleChange)
        if event is not None and event.type() in themed and hasattr(self, "_before"):
            self._paint()

    def wheelEvent(self, event: QWheelEvent | None) -> None:
        """Leave the wheel to scrolling."""
        if event is not None:
            event.ignore()

    def _paint(self) -> None:
        self.ensurePolished()
        ink = self.palette().color(QPalette.ColorRole.WindowText)
        theme = "dark" if ink.lightness() > 127 else "light"
        for side in ("left", "bottom"):
            axis = self.getAxis(side)
            axis.setPen(_faded(ink, 110))
            axis.setTextPen(ink)
            axis.setStyle(tickLength=-4, tickTextOffset=3, maxTickLevel=0)
        score, loss = QColor(_SCORE[theme]), QColor(_LOSS[theme])
        self._score.setPen(pg.mkPen(score, width=2))
        self._score.setSymbol("o")
        self._score.setSymbolSize(5)
        self._score.setSymbolPen(score)
        self._score.setSymbolBrush(score)
        self._loss.setPen(pg.mkPen(loss, width=1.5, style=Qt.PenStyle.DotLine))
        self._before.setPen(pg.mkPen(_faded(ink, 170), width=1, style=Qt.PenStyle.DashLine))


class _Times(pg.AxisItem):
    """Times with their unit."""

    unit = "s"

    def tickStrings(self, values: list[float], scale: float, spacing: float) -> list[str]:
        """Words of the ticks."""
        return [f"{value:g} {self.unit}" for value in values]


def _shape_of(losses: np.ndarray) -> np.ndarray:
    """Losses between 0 and 1, without the ups and downs of single steps."""
    smooth = np.median(_windows(losses, _SPIKES), axis=1)
    smooth = _windows(smooth, 1 + 2 * (len(losses) // _SMOOTH)).mean(axis=1)
    span = smooth.max() - smooth.min()
    return (smooth - smooth.min()) / (span or 1.0)


def _windows(values: np.ndarray, width: int) -> np.ndarray:
    """Each value with its neighbours."""
    padded = np.pad(values, width // 2, mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, width)


def _columns(points: tuple[tuple[float, float], ...]) -> tuple[np.ndarray, np.ndarray]:
    table = np.array(points, float).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _faded(colour: QColor, alpha: int) -> QColor:
    return QColor(colour.red(), colour.green(), colour.blue(), alpha)
