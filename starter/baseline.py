"""What a user without any model does: Otsu's threshold, then a watershed on the distance map.

Polarity is given, as a user sees it; smoothing and distance were chosen on the validation split.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.color import rgb2gray
from skimage.feature import peak_local_max
from skimage.filters import gaussian, threshold_otsu
from skimage.segmentation import watershed

__all__ = ["otsu_watershed"]

_SIGMA = 1.0
_APART = 8
_SMALLEST = 20


def otsu_watershed(rgb: np.ndarray, bright: bool) -> np.ndarray:
    """Instances of bright or dark blobs.

    Parameters
    ----------
    rgb : ndarray of uint8, shape (H, W, 3)
        Colours are brought to their luminance.
    bright : bool
        Whether the structure is brighter than what surrounds it.

    Returns
    -------
    ndarray of int, shape (H, W)
        0 is background.
    """
    grey = gaussian(rgb2gray(rgb), _SIGMA)
    if np.ptp(grey) == 0:
        return np.zeros(grey.shape, int)
    level = threshold_otsu(grey)
    mask = ndimage.binary_fill_holes(grey > level if bright else grey < level)
    parts, _ = ndimage.label(mask)
    mask &= np.bincount(parts.ravel())[parts] >= _SMALLEST
    parts[~mask] = 0
    depth = gaussian(ndimage.distance_transform_edt(mask), 1.0)
    peaks = peak_local_max(depth, min_distance=_APART, labels=parts, exclude_border=False)
    seeds = np.zeros(mask.shape, int)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return watershed(-depth, seeds, mask=mask)
