"""From any pixel type to 8 bits, the same way through a whole stack."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import PlaneError

__all__ = ["PERCENTILES", "Normalisation", "check_dtype", "limits"]

#: Intensities at these percentiles of the sample become 0 and 255.
PERCENTILES = (0.1, 99.9)

#: Pixels converted at a time, so that a huge plane needs little more than its own memory.
_BLOCK = 1 << 20


def check_dtype(dtype: np.dtype) -> None:
    """Refuse pixels that are not bool, integer or real.

    Raises
    ------
    PlaneError
        For complex numbers, text, objects, dates and records.
    """
    if dtype.kind not in "buif":
        raise PlaneError(
            f"Pixels of the type {dtype} cannot be shown. Give bool, integer or real pixels; of "
            "complex ones take np.abs(...) first."
        )


def limits(values: NDArray) -> tuple[float, float]:
    """Estimate the intensities that become black and white.

    The ranks are rounded inwards, so that even in a small image one extreme pixel cannot set a
    limit. Where nearly all pixels are equal, the few others alone set the limits.

    Parameters
    ----------
    values : ndarray
        Sampled pixels; NaN and infinity are left out.

    Returns
    -------
    (float, float)
        Low and high; equal if there is nothing to tell apart.
    """
    values = np.asarray(values, dtype=np.float64).ravel()
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 0.0
    low, high = _inner_percentiles(values)
    if low == high:
        below, above = values[values < low], values[values > high]
        low = _inner_percentiles(below)[0] if below.size else low
        high = _inner_percentiles(above)[1] if above.size else high
    return low, high


def _inner_percentiles(values: NDArray[np.float64]) -> tuple[float, float]:
    low = np.percentile(values, PERCENTILES[0], method="higher")
    high = np.percentile(values, PERCENTILES[1], method="lower")
    return float(min(low, high)), float(max(low, high))


@dataclass(frozen=True)
class Normalisation:
    """How the pixels of a stack become 8 bits.

    Parameters
    ----------
    limits : tuple of (float, float), or None
        Intensities that become 0 and 255, one pair for each chosen channel. None leaves 8-bit
        pixels as they are (and makes bool 0 and 255).
    """

    limits: tuple[tuple[float, float], ...] | None = None

    def apply(self, pixels: NDArray, channel: int, out: NDArray[np.uint8]) -> None:
        """Convert one channel of a plane, block by block.

        NaN becomes 0, +inf 255 and -inf 0. Where the two limits are equal, what lies above them
        becomes 255 and all else 0.

        Parameters
        ----------
        pixels : ndarray, shape (H, W)
        channel : int
            Position among the chosen channels.
        out : ndarray, shape (H, W), uint8
            Written to.
        """
        if self.limits is None:
            if pixels.dtype == np.bool_:
                np.multiply(pixels, np.uint8(255), out=out)
            else:
                out[...] = pixels
            return
        low, high = self.limits[channel]
        rows = max(1, _BLOCK // pixels.shape[1])
        for start in range(0, pixels.shape[0], rows):
            block = pixels[start : start + rows].astype(np.float64)
            out[start : start + rows] = _to_8_bits(block, low, high)


def _to_8_bits(block: NDArray[np.float64], low: float, high: float) -> NDArray[np.uint8]:
    if low == high:
        return np.where(block > high, np.uint8(255), np.uint8(0))
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isinf(high - low):
            block, low, high = block / 2, low / 2, high / 2
        block = (block - low) / (high - low) * 255
    np.clip(block, 0, 255, out=block)
    block[np.isnan(block)] = 0
    return np.rint(block, out=block).astype(np.uint8)
