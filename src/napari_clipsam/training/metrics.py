"""Scores of masks and instances (definitions of the `evaluate` command)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["average_precision", "dice", "innermost_pixel", "iou", "overlap_matrix", "tight_box"]


def iou(predicted: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks of one shape; 1 when both are empty."""
    union = np.count_nonzero(predicted | true)
    return 1.0 if union == 0 else np.count_nonzero(predicted & true) / union


def dice(predicted: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    """Dice coefficient of two masks of one shape; 1 when both are empty."""
    total = np.count_nonzero(predicted) + np.count_nonzero(true)
    return 1.0 if total == 0 else 2 * np.count_nonzero(predicted & true) / total


def overlap_matrix(
    predicted: NDArray[np.integer], true: NDArray[np.integer]
) -> NDArray[np.float64]:
    """IoU of every predicted with every true object.

    Parameters
    ----------
    predicted, true : ndarray of int, shape (H, W)
        0 is background.

    Returns
    -------
    ndarray of float64, shape (P, T)
        In ascending order of ids.
    """
    p_ids, p = np.unique(predicted, return_inverse=True)
    t_ids, t = np.unique(true, return_inverse=True)
    counts = np.zeros((len(p_ids), len(t_ids)))
    np.add.at(counts, (p.ravel(), t.ravel()), 1)
    union = counts.sum(1, keepdims=True) + counts.sum(0, keepdims=True) - counts
    return (counts / union)[np.ix_(p_ids != 0, t_ids != 0)]


def average_precision(
    predicted: NDArray[np.integer], true: NDArray[np.integer], threshold: float = 0.5
) -> float:
    """AP at an IoU threshold, TP / (TP + FP + FN); 1 when nothing is true and nothing predicted.

    A match is an IoU above the threshold. At 0.5 and above the matches are unique, so no assignment
    is needed.
    """
    overlaps = overlap_matrix(predicted, true)
    n_predicted, n_true = overlaps.shape
    if n_predicted == 0 and n_true == 0:
        return 1.0
    unique = threshold >= 0.5
    hits = np.count_nonzero(overlaps > threshold) if unique else _assign(overlaps, threshold)
    return hits / (n_predicted + n_true - hits)


def innermost_pixel(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """Pixel (y, x) farthest from the background; the image border counts as background.

    Euclidean distance, first in raster order.
    """
    from scipy.ndimage import distance_transform_edt

    y0, x0, y1, x1 = tight_box(mask)
    distance = distance_transform_edt(np.pad(mask[y0:y1, x0:x1], 1))
    y, x = np.unravel_index(np.argmax(distance), distance.shape)
    return int(y) + y0 - 1, int(x) + x0 - 1


def tight_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Half-open box (y0, x0, y1, x1) of a mask that is not empty."""
    rows = np.flatnonzero(mask.any(axis=1))
    cols = np.flatnonzero(mask.any(axis=0))
    return int(rows[0]), int(cols[0]), int(rows[-1]) + 1, int(cols[-1]) + 1


def _assign(overlaps: NDArray[np.float64], threshold: float) -> int:
    from scipy.optimize import linear_sum_assignment

    rows, cols = linear_sum_assignment(-(overlaps > threshold).astype(float))
    return int(np.count_nonzero(overlaps[rows, cols] > threshold))
