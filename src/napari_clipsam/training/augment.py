"""Parts of a plane as a microscope might have shown them: crops, turns, light, focus, noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Crop", "draw_crop", "relight"]

_SMALLEST = 32
_GAMMA, _GAIN, _OFFSET, _BLUR, _NOISE = 0.35, 0.15, 12.0, 0.8, 4.0
# Stains differ more between slides than exposures do.
_TINT, _SATURATION = 0.15, (0.5, 1.5)


@dataclass(frozen=True)
class Crop:
    """A part of a plane, turned by quarters and mirrored.

    Attributes
    ----------
    rows, columns : slice
    turns : int
        Quarters, counter-clockwise.
    mirrored : bool
        Left to right, after turning.
    """

    rows: slice
    columns: slice
    turns: int = 0
    mirrored: bool = False

    def of(self, pixels: NDArray) -> NDArray:
        """Cut and turn an array (H, W, ...)."""
        part = np.rot90(pixels[self.rows, self.columns], self.turns)
        return np.ascontiguousarray(part[:, ::-1] if self.mirrored else part)


def draw_crop(
    shown: NDArray[np.bool_],
    rng: np.random.Generator,
    side: float,
    smallest: float = 0.6,
) -> Crop:
    """Draw a crop around one of the pixels that show a structure; anywhere without any.

    Parameters
    ----------
    shown : ndarray of bool, shape (H, W)
        Where there is something to see.
    rng : numpy Generator
    side : float
        A longest side of the plane beyond this is cut to it, pixels.
    smallest : float
        Least share of what is left that a crop has along each axis.

    Returns
    -------
    Crop
    """
    share = rng.uniform(smallest, 1.0)
    sides = [max(min(n, _SMALLEST), round(min(n, side) * share)) for n in shown.shape]
    there = np.argwhere(shown)
    spans = []
    pixel = there[rng.integers(len(there))] if len(there) else None
    for axis, (length, total) in enumerate(zip(sides, shown.shape, strict=True)):
        low, high = 0, total - length
        if pixel is not None:
            low, high = max(low, int(pixel[axis]) - length + 1), min(high, int(pixel[axis]))
        first = int(rng.integers(low, high + 1))
        spans.append(slice(first, first + length))
    return Crop(spans[0], spans[1], int(rng.integers(4)), bool(rng.integers(2)))


def relight(rgb: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Change gamma, gain, offset, focus, noise and, of colours, the stain.

    Parameters
    ----------
    rgb : ndarray of uint8, shape (H, W, 3)
        Where the three channels are equal they stay so.
    """
    grey = bool((rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 0] == rgb[..., 2]).all())
    pixels = rgb[..., :1] if grey else rgb
    values = np.power(pixels.astype(np.float32) / 255, np.exp(rng.uniform(-_GAMMA, _GAMMA))) * 255
    values = values * rng.uniform(1 - _GAIN, 1 + _GAIN) + rng.uniform(-_OFFSET, _OFFSET)
    if not grey:
        values = values * rng.uniform(1 - _TINT, 1 + _TINT, size=3).astype(np.float32)
        mean = values.mean(axis=2, keepdims=True)
        values = mean + rng.uniform(*_SATURATION) * (values - mean)
    if rng.random() < 0.3:
        sigma = rng.uniform(0, _BLUR)
        values = ndimage.gaussian_filter(values, (sigma, sigma, 0))
    if rng.random() < 0.3:
        values = values + rng.normal(0, rng.uniform(0, _NOISE), values.shape)
    changed = values.clip(0, 255).astype(np.uint8)
    return np.repeat(changed, 3, axis=2) if grey else changed
