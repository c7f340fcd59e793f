"""What is drawn in a plane as prompts, and back: rectangles, scribbles, areas; in data pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "box_around",
    "box_corners",
    "box_of",
    "outline",
    "points_along",
    "polygon_mask",
    "ring_of",
]

#: A scribble becomes at most so many points, no closer than so many pixels.
_MOST_POINTS = 12
_POINT_DISTANCE = 3.0


def box_of(
    corners: NDArray[np.float64], shape: tuple[int, int]
) -> tuple[float, float, float, float] | None:
    """A drawn rectangle as a box prompt.

    Parameters
    ----------
    corners : ndarray, shape (4, 2)
        (y, x), pixel centres at integers.
    shape : (int, int)
        Height and width of the plane.

    Returns
    -------
    (float, float, float, float) or None
        Half-open (y0, x0, y1, x1) that counts whole pixels. None for a turned rectangle, and for
        one that is smaller than a pixel or beside the plane.
    """
    if len({tuple(np.round(corner, 3)) for corner in corners}) < 4:
        return None
    low, high = corners.min(axis=0), corners.max(axis=0)
    on_edges = np.isclose(corners, low, atol=1e-3) | np.isclose(corners, high, atol=1e-3)
    y0, x0 = (float(value) + 0.5 for value in low)
    y1, x1 = (float(value) + 0.5 for value in high)
    too_small = max(y1 - y0, x1 - x0) < 1
    if too_small or not on_edges.all() or y1 <= 0 or x1 <= 0 or y0 >= shape[0] or x0 >= shape[1]:
        return None
    return y0, x0, y1, x1


def box_corners(box: NDArray[np.float64]) -> NDArray[np.float64]:
    """A box prompt as the rectangle (4, 2) around its pixels."""
    y0, x0, y1, x1 = box - 0.5
    return np.array([(y0, x0), (y1, x0), (y1, x1), (y0, x1)])


def box_around(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """The tight half-open box (y0, x0, y1, x1) of a mask with at least one pixel.

    An area needs it: SAM makes little of a mask prompt without a box or a point.
    """
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def points_along(path: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
    """Points along a scribble, evenly spread, those beside the plane left out.

    Parameters
    ----------
    path : ndarray, shape (N, 2)
    shape : (int, int)

    Returns
    -------
    ndarray, shape (M, 2)
    """
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    at = np.concatenate([[0.0], np.cumsum(steps)])
    count = int(np.clip(at[-1] / _POINT_DISTANCE, 1, _MOST_POINTS))
    middles = (np.arange(count) + 0.5) / count * at[-1]
    points = np.stack([np.interp(middles, at, path[:, axis]) for axis in (0, 1)], axis=1)
    inside = (points >= -0.5).all(axis=1) & (points <= np.array(shape) - 0.5).all(axis=1)
    return points[inside]


def ring_of(kind: str, vertices: NDArray[np.float64]) -> NDArray[np.float64]:
    """The outline of an area; an ellipse is given by the corners around it."""
    if kind != "ellipse":
        return vertices
    centre = vertices.mean(axis=0)
    first, second = (vertices[1] - vertices[0]) / 2, (vertices[3] - vertices[0]) / 2
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)[:, None]
    return centre + np.cos(angles) * first + np.sin(angles) * second


def polygon_mask(ring: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels whose centres lie in a polygon.

    Parameters
    ----------
    ring : ndarray, shape (N, 2)
    shape : (int, int)

    Returns
    -------
    ndarray, shape (H, W), bool
    """
    from skimage.draw import polygon

    mask = np.zeros(shape, bool)
    mask[polygon(ring[:, 0], ring[:, 1], shape)] = True
    return mask


def outline(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The outer edge of the largest piece of a mask, to draw.

    Parameters
    ----------
    mask : ndarray, shape (H, W), bool
        With at least one pixel.

    Returns
    -------
    ndarray, shape (N, 2)
    """
    from skimage.measure import approximate_polygon, find_contours

    y0, x0, y1, x1 = box_around(mask)
    part = mask[y0:y1, x0:x1]
    contours = find_contours(np.pad(part, 1).astype(np.uint8), 0.5)
    ring = max(contours, key=len)
    tolerance = max(0.5, max(part.shape) / 400)
    simple = approximate_polygon(ring, tolerance)
    return (simple if len(simple) > 3 else ring)[:-1] + np.array([y0 - 1, x0 - 1])
