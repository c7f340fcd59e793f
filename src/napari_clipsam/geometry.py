"""Data pixels (y, x) to model pixels (x, y) and back: crop, resize, tile, zoom.

This is the one place where (y, x) turns into (x, y).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from .errors import ConfigError, PlaneError, PromptError
from .prompts import MASK_LOGIT

__all__ = ["Frame", "tiles", "whole_plane", "zoom_to_box"]

PixelT = TypeVar("PixelT", bound=np.generic)


@dataclass(frozen=True)
class Frame:
    """A crop of a plane and how it lies in the model's square input.

    The crop is resized to ``resized`` and placed at the top left of a square of ``input_size``
    pixels; what remains on the right or below is padding.

    Parameters
    ----------
    origin : (int, int)
        First row and column (y0, x0) of the crop, in data pixels.
    shape : (int, int)
        Height and width of the crop, in data pixels.
    input_size : int
        Side of the model's square input, in model pixels.
    squash : bool
        Fill the whole square and give up the aspect, as checkpoints of the paper expect.

    Raises
    ------
    PlaneError
        If the crop has no pixels or starts before the plane.
    ConfigError
        If ``input_size`` is not positive.
    """

    origin: tuple[int, int]
    shape: tuple[int, int]
    input_size: int
    squash: bool = False

    def __post_init__(self) -> None:
        if min(self.shape) < 1 or min(self.origin) < 0:
            raise PlaneError(
                f"A crop of {self.shape[0]} x {self.shape[1]} pixels from {self.origin} shows "
                "nothing. Give an image with at least one pixel and a crop inside it."
            )
        if self.input_size < 1:
            raise ConfigError(f"The input size {self.input_size} is too small. Give 1 or more.")

    @property
    def resized(self) -> tuple[int, int]:
        """Height and width of the crop in model pixels, as ``ResizeLongestSide`` computes them.

        A side that would vanish (an aspect beyond 2 x ``input_size``) keeps one pixel.
        """
        if self.squash:
            return self.input_size, self.input_size
        height, width = self.shape
        scale = self.input_size * 1.0 / max(height, width)
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns of the crop, to index a plane of shape (H, W, ...)."""
        (y0, x0), (height, width) = self.origin, self.shape
        return slice(y0, y0 + height), slice(x0, x0 + width)

    def to_model(self, yx: ArrayLike) -> NDArray[np.float64]:
        """Turn data pixels (y, x) into model pixels (x, y), by plain scaling as SAM does.

        Parameters
        ----------
        yx : array_like, shape (..., 2)
            Positions in the whole plane.

        Returns
        -------
        ndarray, shape (..., 2), float64
            Positions (x, y) in the model's input.
        """
        yx = np.asarray(yx, dtype=np.float64)
        scale_y, scale_x = self._scales()
        y = (yx[..., 0] - self.origin[0]) * scale_y
        x = (yx[..., 1] - self.origin[1]) * scale_x
        return np.stack([x, y], axis=-1)

    def to_data(self, xy: ArrayLike) -> NDArray[np.float64]:
        """Turn model pixels (x, y) into data pixels (y, x); the inverse of `to_model`.

        Parameters
        ----------
        xy : array_like, shape (..., 2)
            Positions (x, y) in the model's input.

        Returns
        -------
        ndarray, shape (..., 2), float64
            Positions (y, x) in the whole plane.
        """
        xy = np.asarray(xy, dtype=np.float64)
        scale_y, scale_x = self._scales()
        y = xy[..., 1] / scale_y + self.origin[0]
        x = xy[..., 0] / scale_x + self.origin[1]
        return np.stack([y, x], axis=-1)

    def box_to_model(self, boxes: ArrayLike) -> NDArray[np.float64]:
        """Turn boxes (y0, x0, y1, x1) in data pixels into (x0, y0, x1, y1) in model pixels.

        Parameters
        ----------
        boxes : array_like, shape (M, 4)

        Returns
        -------
        ndarray, shape (M, 4), float64
        """
        corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 2, 2)
        return self.to_model(corners).reshape(-1, 4)

    def image(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Crop a plane and resize it the way SAM does (PIL, bilinear with antialiasing).

        Parameters
        ----------
        rgb : ndarray, shape (H, W, 3), uint8
            The whole plane.

        Returns
        -------
        ndarray, shape (nh, nw, 3), uint8
            The crop in model pixels, without padding; (nh, nw) is ``resized``.

        Raises
        ------
        PlaneError
            If the plane is not 8-bit RGB or the crop reaches beyond it.
        """
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
            raise PlaneError(
                f"A plane of shape {rgb.shape} and type {rgb.dtype} is not 8-bit RGB. "
                "Read it with open_image(...).plane(...)."
            )
        crop = self._crop(rgb)
        height, width = self.resized
        picture = Image.fromarray(np.ascontiguousarray(crop))
        return np.array(picture.resize((width, height), Image.Resampling.BILINEAR))

    def mask_to_model(self, mask: NDArray[np.float32], size: int) -> NDArray[np.float32]:
        """Resample a mask of the plane to the square SAM takes as mask prompt.

        Parameters
        ----------
        mask : ndarray, shape (H, W), float32
            Logits over the whole plane.
        size : int
            Side of the mask prompt (256 for an input of 1024). It shows the whole square input,
            padding included.

        Returns
        -------
        ndarray, shape (size, size), float32
            Logits; padding is -10.

        Raises
        ------
        PlaneError
            If the crop reaches beyond the mask.
        """
        crop = self._crop(mask)
        (rows, box_height), (columns, box_width) = (
            self._mask_extent(axis, size) for axis in (0, 1)
        )
        height, width = self.shape
        # The border of the crop rarely falls between two mask pixels, so the source is grown
        # with padding to the next one: every mask pixel then shows exactly what lies under it.
        source = np.full(
            (max(height, math.ceil(box_height)), max(width, math.ceil(box_width))),
            -MASK_LOGIT,
            dtype=np.float32,
        )
        source[:height, :width] = crop
        resized = Image.fromarray(source).resize(
            (columns, rows), Image.Resampling.BILINEAR, box=(0.0, 0.0, box_width, box_height)
        )
        result = np.full((size, size), -MASK_LOGIT, dtype=np.float32)
        result[:rows, :columns] = np.asarray(resized)
        return result

    def _scales(self) -> tuple[float, float]:
        """Model pixels per data pixel along y and x."""
        (new_height, new_width), (height, width) = self.resized, self.shape
        return new_height / height, new_width / width

    def _mask_extent(self, axis: int, size: int) -> tuple[int, float]:
        """Mask pixels that touch the crop along an axis, and the data pixels they span."""
        data_per_mask = self.input_size / size / self._scales()[axis]
        count = min(size, math.ceil(self.shape[axis] / data_per_mask - 1e-9))
        return count, count * data_per_mask

    def _crop(self, plane: NDArray[PixelT]) -> NDArray[PixelT]:
        rows, columns = self.slices
        if rows.stop > plane.shape[0] or columns.stop > plane.shape[1]:
            raise PlaneError(
                f"A crop up to row {rows.stop}, column {columns.stop} reaches beyond the plane of "
                f"{plane.shape[0]} x {plane.shape[1]} pixels. Make the crop for this plane's shape."
            )
        return plane[rows, columns]


def whole_plane(shape: tuple[int, int], input_size: int, squash: bool = False) -> Frame:
    """Return the frame that shows a whole plane.

    Parameters
    ----------
    shape : (int, int)
        Height and width of the plane, in data pixels.
    input_size : int
        Side of the model's square input.
    squash : bool
        Give up the aspect and fill the square.

    Returns
    -------
    Frame
    """
    return Frame((0, 0), (int(shape[0]), int(shape[1])), input_size, squash)


def tiles(
    shape: tuple[int, int], size: int, overlap: int, input_size: int | None = None
) -> list[Frame]:
    """Cover a plane with crops of one size, row by row, the last ones flush with the border.

    Parameters
    ----------
    shape : (int, int)
        Height and width of the plane, in data pixels.
    size : int
        Side of a tile in data pixels; an axis shorter than this is taken whole.
    overlap : int
        Least number of pixels that neighbours share; below ``size``.
    input_size : int, optional
        Side of the model's square input; ``size`` when left out, which shows tiles 1 : 1.

    Returns
    -------
    list of Frame

    Raises
    ------
    ConfigError
        If ``size`` is not positive or ``overlap`` is not in [0, size).
    """
    if size < 1 or not 0 <= overlap < size:
        raise ConfigError(
            f"Tiles of {size} pixels cannot overlap by {overlap}. Give a size of 1 or more and an "
            "overlap from 0 to below the size."
        )
    height, width = (min(size, int(side)) for side in shape)
    return [
        Frame((y, x), (height, width), size if input_size is None else input_size)
        for y in _starts(shape[0], size, overlap)
        for x in _starts(shape[1], size, overlap)
    ]


def zoom_to_box(
    box: ArrayLike,
    shape: tuple[int, int],
    input_size: int,
    margin: float = 0.5,
    min_side: int | None = None,
) -> Frame:
    """Return a frame around a box, so that a small box in a large plane keeps its own scale.

    The crop is a square around the box where the plane has room for one. It is at least
    ``min_side`` wide, so that the model gets data pixels 1 : 1 rather than a blurred enlargement,
    and the whole plane where the plane is smaller.

    Parameters
    ----------
    box : array_like, shape (4,)
        (y0, x0, y1, x1) in data pixels, half open. What lies outside the plane is left out.
    shape : (int, int)
        Height and width of the plane, in data pixels.
    input_size : int
        Side of the model's square input.
    margin : float
        Context added on each side, as a fraction of the box's longer side.
    min_side : int, optional
        Least side of the crop in data pixels; ``input_size`` when left out.

    Returns
    -------
    Frame
        Inside the plane, containing the part of the box that is in the plane.

    Raises
    ------
    PromptError
        If the box is empty or misses the plane.
    ConfigError
        If the margin is negative.
    """
    if not margin >= 0:
        raise ConfigError(f"The margin {margin} is negative. Give 0 or more.")
    y0, x0, y1, x1 = (float(edge) for edge in np.asarray(box, dtype=np.float64))
    spans = []
    for low, high, length in ((y0, y1, shape[0]), (x0, x1, shape[1])):
        first, last = max(0, math.floor(low)), min(length, math.ceil(high))
        if last <= first or high <= low:
            raise PromptError(
                f"The box {y0:g},{x0:g},{y1:g},{x1:g} has no pixels in the image of {shape[0]} x "
                f"{shape[1]} pixels. Give Y0,X0,Y1,X1 that cover part of it."
            )
        spans.append((first, last, int(length)))
    longer = max(last - first for first, last, _ in spans)
    least = input_size if min_side is None else min_side
    side = max(math.ceil(longer * (1 + 2 * margin)), least)
    (top, height), (left, width) = (_around(*span, side) for span in spans)
    return Frame((top, left), (height, width), input_size)


def _starts(length: int, size: int, overlap: int) -> list[int]:
    """First pixels of the tiles along one axis."""
    last = max(0, int(length) - size)
    return [*range(0, last, size - overlap), last]


def _around(first: int, last: int, length: int, side: int) -> tuple[int, int]:
    """First pixel and length of a crop of ``side`` centred on [first, last), inside [0, length)."""
    side = min(side, length)
    start = (first + last - side) // 2
    return min(max(start, 0), length - side), side
