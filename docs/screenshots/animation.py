"""The animation of the first page: a word, the mask, a click on what it missed, keep.

    python docs/screenshots/animation.py            # writes docs/images/word-click-keep.gif

needs a display; `make screenshots` brings a virtual one. All of it happens in napari's window, with
the starter model and the plugin's own sample. Only the pointer is drawn in afterwards, since a
picture of a window leaves it out, and waiting is cut short.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from sessions import Session, new_session, nobodys_home, wait

from napari_clipsam._plugin.samples import synthetic_nuclei
from napari_clipsam.training.metrics import innermost_pixel

if TYPE_CHECKING:
    from napari.layers import Image as ImageLayer
    from numpy.typing import NDArray
    from qtpy.QtWidgets import QWidget

TARGET = Path(__file__).resolve().parents[1] / "images" / "word-click-keep.gif"
SIZE = (1000, 660)
_DOCK_WIDTH = 380
#: All that a GIF may have.
_COLOURS = 256
#: Pixels (y, x) in the middle of what is shown, and how far in.
_VIEW, _ZOOM = (256.0, 200.0), 1.6
#: Milliseconds that a frame stays.
_LETTER, _MOVE, _GLANCE, _READ, _END = 130, 50, 700, 1800, 2600
#: Milliseconds in which napari has drawn what changed.
_DRAWN = 600
#: An arrow, as screens show pointers, in pixels (x, y) from its tip.
_ARROW = ((0, 0), (0, 22), (5, 17), (9, 25), (13, 23), (9, 15), (16, 15))


class Film:
    """Frames of napari's window, each with the pointer and how long it stays."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.frames: list[tuple[Image.Image, int]] = []
        window = session.viewer.window._qt_window
        window.resize(*SIZE)
        for panel in (window._qt_viewer.dockLayerControls, window._qt_viewer.dockLayerList):
            panel.setVisible(False)
        window.resizeDocks([session.dock.parent()], [_DOCK_WIDTH], Qt.Orientation.Horizontal)
        self._pointer = QPoint(window.width() // 2, window.height() // 2)

    def take(self, milliseconds: int, wait_for: int = _DRAWN) -> None:
        """Add the window as it is now, after some milliseconds in which napari draws it."""
        QTest.qWait(wait_for)
        self.frames.append((self._with_pointer(self._pixels()), milliseconds))

    def go_to(self, target: QPoint, steps: int = 6) -> None:
        """Move the pointer to a place in the window."""
        pixels, start = self._pixels(), self._pointer
        for step in range(1, steps + 1):
            done = 0.5 - 0.5 * math.cos(math.pi * step / steps)  # slow at both ends
            self._pointer = start + (target - start) * done
            self.frames.append((self._with_pointer(pixels), _MOVE))

    def point_at(self, widget: QWidget, x: int | None = None) -> None:
        """Move the pointer to the middle of a widget, or `x` pixels from its left."""
        inside = QPoint(widget.width() // 2 if x is None else x, widget.height() // 2)
        self.go_to(self.in_window(widget, inside))

    def in_window(self, widget: QWidget, point: QPoint) -> QPoint:
        """A place of a widget, seen from the window's corner."""
        return widget.mapTo(self.session.viewer.window._qt_window, point)

    def save(self, path: Path) -> int:
        """Write all frames as a GIF that starts again at its end; returns its bytes."""
        palette = _palette([frame for frame, _ in self.frames])
        drawn = [
            frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame, _ in self.frames
        ]
        drawn[0].save(
            path,
            save_all=True,
            append_images=drawn[1:],
            duration=[milliseconds for _, milliseconds in self.frames],
            loop=0,
            optimize=True,
        )
        return path.stat().st_size

    def _pixels(self) -> NDArray[np.uint8]:
        return self.session.viewer.window.screenshot(flash=False, canvas_only=False)

    def _with_pointer(self, pixels: NDArray[np.uint8]) -> Image.Image:
        frame = Image.fromarray(pixels).convert("RGB")
        arrow = [(self._pointer.x() + x, self._pointer.y() + y) for x, y in _ARROW]
        ImageDraw.Draw(frame).polygon(arrow, fill="white", outline="black", width=2)
        return frame


def _palette(frames: list[Image.Image]) -> Image.Image:
    """Colours for all frames, so that what stays the same is the same in each.

    Colours count by the root of how often they are there: most pixels are the window's, and would
    leave few colours to the nuclei.
    """
    some = frames[:: max(1, len(frames) // 12)] + frames[-1:]
    pixels = np.concatenate([np.asarray(frame.convert("RGBA")).view(np.uint32) for frame in some])
    colours, counts = np.unique(pixels, return_counts=True)
    sheet = np.repeat(colours, np.ceil(np.sqrt(counts)).astype(int))
    sheet = sheet.view(np.uint8).reshape(1, -1, 4)[..., :3]
    return Image.fromarray(sheet).quantize(_COLOURS, method=Image.Quantize.MEDIANCUT, kmeans=1)


def missed(session: Session) -> tuple[int, int]:
    """The innermost pixel of a nucleus that the preview leaves out, near the middle of the view."""
    _, truth = synthetic_nuclei((512, 512), (0.5, 0.5), n_nuclei=110, seed=7)
    found = np.zeros(truth.shape, bool)
    for one in session.controller.keeper.state.draft:
        for mask in one.masks.values():
            found[mask.slices] |= mask.mask
    left_out = np.setdiff1d(np.arange(1, truth.max() + 1), truth[found])
    places = [innermost_pixel(truth == number) for number in left_out]
    return min(places, key=lambda place: float(np.hypot(*np.subtract(place, _VIEW))))


def film(session: Session) -> Film:
    """Ask for a word, tell every one apart, click one that was missed, and keep them all."""
    made = Film(session)
    nuclei = session.open("nuclei")
    session.look_at(nuclei, *_VIEW, zoom=_ZOOM)
    made.take(_GLANCE)
    type_word(made, "nuclei")
    search = session.dock.search
    made.point_at(search._radios["instances"], 10)
    session.answered(lambda: session.look_for("instances"))
    made.take(_READ)
    click_one(made, nuclei, *missed(session))
    made.point_at(session.dock.answer.keep)
    session.key(Qt.Key.Key_K)
    made.take(_END)
    return made


def type_word(made: Film, word: str) -> None:
    """Type a word letter by letter; first the glow is shown, then the mask."""
    field = made.session.dock.search.word.edit
    made.point_at(field, 60)
    field.setFocus()
    for letter in word:
        QTest.keyClicks(field, letter)
        made.take(_LETTER, wait_for=0)
    made.session.answered(lambda: press_return(made, field))
    made.take(_READ)


def press_return(made: Film, field: QWidget) -> None:
    """Ask, and show the glow when it is there."""
    QTest.keyClick(field, Qt.Key.Key_Return)
    layers = made.session.viewer.layers
    wait(lambda: any(layer.name.endswith("similarity") and layer.visible for layer in layers))
    made.take(_GLANCE, wait_for=0)


def click_one(made: Film, layer: ImageLayer, y: int, x: int) -> None:
    """Add one object by a click."""
    session = made.session
    made.point_at(session.dock.search.tools.buttons["point+"])
    session.key(Qt.Key.Key_G)
    made.take(_GLANCE)
    canvas = session.viewer.window._qt_viewer.canvas.native
    made.go_to(made.in_window(canvas, session.place(layer, y, x)))
    made.take(_GLANCE)
    session.click(layer, y, x)
    made.take(_READ)


def main() -> None:
    """Make the animation."""
    with nobodys_home(), new_session() as session:
        made = film(session)
        print(f"{TARGET.name}: {len(made.frames)} frames, {made.save(TARGET) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
