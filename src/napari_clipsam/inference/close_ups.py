"""Close-ups: squares of data pixels around objects, resampled to the few cells a refiner sees."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["CHOICE_MARGIN", "MARGIN", "CloseUp"]

#: How much wider a close-up is than what it shows.
MARGIN = 1.6
#: The same where it shows what one click may mean.
CHOICE_MARGIN = 2.0


class CloseUp(NamedTuple):
    """A square of a plane, which may reach beyond it.

    Attributes
    ----------
    y0, x0 : int
        Its first row and column, data pixels; may be negative.
    side : int
        Data pixels.
    """

    y0: int
    x0: int
    side: int

    @classmethod
    def around(cls, box: ArrayLike, margin: float = MARGIN, least: int = 16) -> CloseUp:
        """A square centred on a box (y0, x0, y1, x1), `margin` times as wide as its longer side."""
        y0, x0, y1, x1 = (float(edge) for edge in np.asarray(box, dtype=np.float64))
        side = max(math.ceil(margin * max(y1 - y0, x1 - x0)), least)
        return cls(round((y0 + y1 - side) / 2), round((x0 + x1 - side) / 2), side)

    def image(self, rgb: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
        """What a plane (H, W, 3) shows here, (size, size, 3); its edge goes on beyond it."""
        rows, cols = self._range(self.y0, rgb.shape[0]), self._range(self.x0, rgb.shape[1])
        return _resized(np.ascontiguousarray(rgb[np.ix_(rows, cols)]), size)

    def mask(
        self, mask: NDArray[np.bool_], origin: tuple[int, int], size: int
    ) -> NDArray[np.uint8]:
        """How much of each cell (size, size) a mask at an origin covers, 0..255."""
        square = np.zeros((self.side, self.side), dtype=np.uint8)
        top, left = origin[0] - self.y0, origin[1] - self.x0
        into, part = zip(
            *(
                _shared(start, n, self.side)
                for start, n in zip((top, left), mask.shape, strict=True)
            ),
            strict=True,
        )
        square[into] = np.where(mask[part], np.uint8(255), np.uint8(0))
        return _resized(square, size)

    def cells(self, yx: ArrayLike, size: int) -> NDArray[np.float64]:
        """Positions (..., 2) in data pixels, integers at centres, as cells, 0 at the first edge."""
        at = np.asarray(yx, dtype=np.float64) + 0.5 - (self.y0, self.x0)
        return at * (size / self.side)

    def box_cells(self, box: ArrayLike, size: int) -> NDArray[np.float64]:
        """The same for the edges of a box (y0, x0, y1, x1)."""
        at = np.asarray(box, dtype=np.float64) - (self.y0, self.x0, self.y0, self.x0)
        return at * (size / self.side)

    def _range(self, first: int, length: int) -> NDArray[np.int64]:
        return np.arange(first, first + self.side).clip(0, length - 1)


def _shared(start: int, length: int, side: int) -> tuple[slice, slice]:
    """What [0, side) and [start, start + length) share, as a part of the one and of the other."""
    first, last = max(start, 0), max(min(start + length, side), max(start, 0))
    return slice(first, last), slice(first - start, last - start)


def _resized(values: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    return np.array(Image.fromarray(values).resize((size, size), Image.Resampling.BILINEAR))
