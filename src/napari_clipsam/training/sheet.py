"""Pictures of results: true and predicted outlines, told apart by line as well as by colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

__all__ = ["Panel", "contact_sheet", "mark_point", "outlined", "picked", "scaled", "tinted"]

#: Orange and sky blue stay apart for every kind of colour vision.
TRUE = (230, 159, 0)
PREDICTED = (86, 180, 233)
_PAPER, _INK = (255, 255, 255), (20, 20, 20)
_DASH = 6
_GAP, _TEXT = 10, 15


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture of a sheet.

    Attributes
    ----------
    picture : ndarray, shape (H, W, 3), uint8
    caption : str
        Lines below the picture.
    """

    picture: NDArray[np.uint8]
    caption: str


def picked(scores: Sequence[float | None], each: int = 3) -> dict[str, list[int]]:
    """Positions of the best, median and worst scores, none of them twice.

    Parameters
    ----------
    scores : sequence of float or None
        None is left out.
    each : int
        How many of each at most.

    Returns
    -------
    dict of str to list of int
        ``best``, ``median`` and ``worst``, each from high to low.
    """
    order = sorted((i for i, s in enumerate(scores) if s is not None), key=lambda i: -_f(scores[i]))
    each = min(each, max(1, len(order) // 3))
    best, rest = order[:each], order[each:]
    worst = rest[-each:] if len(rest) else []
    between = rest[: len(rest) - len(worst)]
    start = max(0, (len(between) - each) // 2)
    return {"best": best, "median": between[start : start + each], "worst": worst}


def scaled(array: NDArray, side: int) -> NDArray:
    """Picture (H, W, 3) or labels (H, W), its longest side brought to ``side`` pixels.

    Pictures are interpolated, labels keep their numbers.
    """
    from PIL import Image

    height, width = array.shape[:2]
    factor = side / max(height, width)
    size = max(1, round(height * factor)), max(1, round(width * factor))
    if array.ndim == 3:
        return np.asarray(Image.fromarray(array).resize(size[::-1], Image.Resampling.BILINEAR))
    rows = np.arange(size[0]) * height // size[0]
    cols = np.arange(size[1]) * width // size[1]
    return array[np.ix_(rows, cols)]


def outlined(
    picture: NDArray[np.uint8],
    labels: NDArray,
    colour: tuple[int, int, int] = PREDICTED,
    dashed: bool = False,
) -> NDArray[np.uint8]:
    """Draw the outlines of all objects, dark on the outside so that they show on any ground.

    Parameters
    ----------
    picture : ndarray, shape (H, W, 3), uint8
    labels : ndarray of int or bool, shape (H, W)
    colour : (int, int, int)
    dashed : bool
        Interrupt the line.

    Returns
    -------
    ndarray, shape (H, W, 3), uint8
    """
    from scipy.ndimage import binary_dilation
    from skimage.segmentation import find_boundaries

    line = find_boundaries(labels.astype(np.int64), mode="inner")
    drawn = picture.copy()
    shade = binary_dilation(line) & ~line & (labels == 0)
    drawn[shade] = drawn[shade] // 3
    if dashed:
        rows, cols = np.indices(line.shape)
        line &= (rows + cols) // _DASH % 2 == 0
    drawn[line] = colour
    return drawn


def tinted(
    picture: NDArray[np.uint8], labels: NDArray, strength: float = 0.45
) -> NDArray[np.uint8]:
    """Lay a colour over every object; neighbouring numbers get colours that are far apart.

    Parameters
    ----------
    picture : ndarray, shape (H, W, 3), uint8
    labels : ndarray of int or bool, shape (H, W)
    strength : float
        0 leaves the picture, 1 hides it.

    Returns
    -------
    ndarray, shape (H, W, 3), uint8
    """
    from skimage.color import hsv2rgb

    count = int(labels.max())
    hues = (0.55 + np.arange(count) * 0.618034) % 1.0
    colours = np.full((count + 1, 3), 0.85)
    colours[1:, 0] = hues
    colours[1:, 2] = 1.0
    layer = hsv2rgb(colours)[labels.astype(np.int64)] * 255
    mixed = (1 - strength) * picture + strength * layer
    return np.where((labels > 0)[..., None], mixed, picture).astype(np.uint8)


def mark_point(picture: NDArray[np.uint8], y: float, x: float) -> NDArray[np.uint8]:
    """Draw a click as a ring with a dot, white on black."""
    from PIL import Image, ImageDraw

    drawn = Image.fromarray(picture)
    pen = ImageDraw.Draw(drawn)
    for radius, width, colour in ((9, 5, (0, 0, 0)), (8, 2, (255, 255, 255))):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=width)
    pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=(255, 255, 255), outline=(0, 0, 0))
    return np.asarray(drawn)


def contact_sheet(rows: Sequence[Sequence[Panel]], title: str, legend: bool = True) -> Image:
    """Put panels in rows under a title.

    Parameters
    ----------
    rows : sequence of sequence of Panel
    title : str
    legend : bool
        Say which line is the true and which the predicted one.

    Returns
    -------
    PIL.Image.Image
        RGB.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(_TEXT)
    rows = [row for row in rows if row]
    widths = [_GAP + sum(panel.picture.shape[1] + _GAP for panel in row) for row in rows]
    lines = max((panel.caption.count("\n") + 1 for row in rows for panel in row), default=1)
    below = lines * (_TEXT + 5) + _GAP
    heights = [max(panel.picture.shape[0] for panel in row) + below for row in rows]
    top = _GAP + (2 if legend else 1) * (_TEXT + 8)
    text_width = ImageDraw.Draw(Image.new("RGB", (1, 1))).textlength(title, font=font)
    width = max([*widths, int(text_width) + 2 * _GAP, 420])
    sheet = Image.new("RGB", (width, top + sum(heights)), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, _GAP), title, _INK, font=font)
    if legend:
        _draw_legend(pen, _GAP + _TEXT + 8, font)
    y = top
    for row, height in zip(rows, heights, strict=True):
        x = _GAP
        for panel in row:
            sheet.paste(Image.fromarray(panel.picture), (x, y))
            at = x, y + panel.picture.shape[0] + 3
            caption = _fitting(panel.caption, panel.picture.shape[1], font)
            pen.multiline_text(at, caption, _INK, font=font, spacing=3)
            x += panel.picture.shape[1] + _GAP
        y += height
    return sheet


def _draw_legend(pen: Any, y: int, font: Any) -> None:
    x = _GAP
    for text, colour, dashed in (("true", TRUE, False), ("predicted", PREDICTED, True)):
        middle = y + _TEXT // 2 + 3
        for start in range(x, x + 48, 2 * _DASH if dashed else _DASH):
            pen.line((start, middle, start + _DASH - 1, middle), fill=colour, width=4)
        pen.text((x + 56, y), text, _INK, font=font)
        x += 160


def _fitting(caption: str, width: int, font: Any) -> str:
    """Captions cut to the width of their picture."""
    lines = []
    for line in caption.split("\n"):
        short = line
        while font.getlength(short) > width and len(short) > 4:
            short = short[:-2].rstrip("…") + "…"
        lines.append(short)
    return "\n".join(lines)


def _f(value: float | None) -> float:
    return 0.0 if value is None else value
