"""From densities of structures to pixels: how microscopes show them, and what degrades them."""

from __future__ import annotations

import numpy as np

from starter.shapes import blur, smooth_noise

__all__ = [
    "absorb",
    "brightfield_grey",
    "coloured",
    "degrade",
    "electron",
    "fluoresce",
    "phase_contrast",
    "to_uint8",
]

Rng = np.random.Generator
_COLOURS = {
    "blue": (0.15, 0.3, 1.0),
    "green": (0.1, 1.0, 0.2),
    "red": (1.0, 0.15, 0.1),
    "magenta": (1.0, 0.1, 0.9),
    "cyan": (0.1, 0.9, 1.0),
    "yellow": (1.0, 0.9, 0.1),
    "grey": (0.8, 0.8, 0.8),
}


def _between(rng: Rng, low: float, high: float) -> float:
    return rng.uniform(low, high)


def _log_between(rng: Rng, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def illumination(rng: Rng, shape: tuple[int, int], strength: float) -> np.ndarray:
    """Return an (H, W) float32 factor around 1: a slope, a bump and a vignette."""
    h, w = shape
    y = np.linspace(-1, 1, h, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, w, dtype=np.float32)[None]
    slope = rng.normal(0, 0.5, 2).astype(np.float32)
    cy, cx = rng.normal(0, 0.4, 2).astype(np.float32)
    vignette = (y - cy) ** 2 + (x - cx) ** 2
    factor = 1 + strength * (slope[0] * y + slope[1] * x - 0.5 * np.abs(rng.normal()) * vignette)
    return np.clip(factor, 0.35, 2).astype(np.float32)


def coloured(rng: Rng, names: list[str]) -> list[np.ndarray]:
    """Return one RGB colour for each named structure, all different; nuclei are mostly blue."""
    free = list(_COLOURS)
    colours = []
    for name in names:
        usual = name == "nuclei" and rng.random() < 0.7 and "blue" in free
        chosen = "blue" if usual else str(rng.choice(free))
        free.remove(chosen)
        colour = np.array(_COLOURS[chosen], np.float32) + rng.normal(0, 0.06, 3)
        colours.append(np.clip(colour, 0, 1).astype(np.float32))
    return colours


def fluoresce(rng: Rng, planes: list[tuple[str, np.ndarray]], colour: bool) -> np.ndarray:
    """Return bright structures on dark: (H, W) where grey, (H, W, 3) float32 where pseudo-coloured.

    Parameters
    ----------
    rng : numpy Generator
    planes : list of (concept, (H, W) float32 density)
    colour : bool
    """
    shape = planes[0][1].shape
    haze = _between(rng, 0, 0.2) if rng.random() < 0.5 else 0.0
    spread = [plane + haze * blur(plane, _log_between(rng, 8, 30)) for _, plane in planes]
    floor = _between(rng, 0.0, 0.12) if rng.random() < 0.6 else 0.01
    ground = floor * (1 + np.float32(0.15) * smooth_noise(rng, shape, float(rng.uniform(20, 100))))
    if not colour:
        return ground + sum(spread)
    image = np.repeat(ground[..., None] * _between(rng, 0.1, 1), 3, axis=2)
    for plane, rgb in zip(spread, coloured(rng, [name for name, _ in planes]), strict=True):
        image += plane[..., None] * rgb
    return image


def absorb(ground: np.ndarray, stains: list[tuple[np.ndarray, tuple[float, ...]]]) -> np.ndarray:
    """Return transmitted light after Beer-Lambert absorption.

    Parameters
    ----------
    ground : (3,) or (H, W, 3) array
        Light without structures, 0..1.
    stains : list of ((H, W) density, (r, g, b))
        The colour is what a white ground shows at density 1.

    Returns
    -------
    (H, W, 3) float32 array
    """
    densities = np.stack([density for density, _ in stains], axis=-1).astype(np.float32)
    colours = np.array([colour for _, colour in stains], np.float32)
    return ground * np.exp(densities @ np.log(np.clip(colours, 0.02, 1)))


def phase_contrast(rng: Rng, phase: np.ndarray, scale: float) -> np.ndarray:
    """Return (H, W) float32 grey: objects darker (or brighter) than the ground, in a bright halo.

    Parameters
    ----------
    rng : numpy Generator
    phase : (H, W) float32
        Optical thickness, about 0..1.
    scale : float
        Size of the objects in pixels; the halo follows it.
    """
    grey = _between(rng, 0.3, 0.6)
    wide = blur(phase, max(2.0, scale * float(rng.uniform(0.08, 0.25))))
    edge = phase - wide
    contrast = _log_between(rng, 0.25, 1.1)
    body = _between(rng, -0.1, 0.3)
    image = grey - contrast * edge - body * contrast * phase
    rim = blur(phase, 1.5) - phase
    image += _between(rng, 0, 1.3) * np.clip(rim, 0, None)
    if rng.random() < 0.15:
        image = 2 * grey - image
    grain = smooth_noise(rng, phase.shape, float(rng.uniform(2, 5)))
    return image + _between(rng, 0.002, 0.02) * grain


def brightfield_grey(rng: Rng, density: np.ndarray) -> np.ndarray:
    """Return (H, W) float32 grey: dark structures on a bright ground, some with a bright rim."""
    light = _between(rng, 0.65, 0.97)
    image = light * np.exp(-_log_between(rng, 0.5, 1.6) * density)
    if rng.random() < 0.5:
        fine = blur(density, 1.0)
        image += _between(rng, 0.05, 0.4) * (blur(fine, 2.0) - fine)
    return image


def electron(rng: Rng, density: np.ndarray) -> np.ndarray:
    """Return (H, W) float32 grey of a section: electron-dense structures dark, with grain."""
    shape = density.shape
    grey = _between(rng, 0.55, 0.8)
    grain = np.float32(0.6) * smooth_noise(rng, shape, 1)
    grain += smooth_noise(rng, shape, float(rng.uniform(2, 4)))
    cloud = smooth_noise(rng, shape, float(rng.uniform(10, 40)))
    image = grey - _between(rng, 0.45, 0.75) * density
    return image + _between(rng, 0.02, 0.07) * grain + _between(rng, 0.0, 0.03) * cloud


def degrade(rng: Rng, image: np.ndarray, *, dark: bool, dimmest: float = 0.15) -> np.ndarray:
    """Return the image with the faults of a real one: blur, light, contrast, gamma, noise.

    Parameters
    ----------
    rng : numpy Generator
    image : (H, W) or (H, W, 3) float32
    dark : bool
        Dark ground (fluorescence): low signals and shot noise; bright ground otherwise.
    dimmest : float
        Smallest share of the range that a dark-ground image fills.
    """
    shape = image.shape[:2]
    if rng.random() < 0.6:
        sigma = float(_log_between(rng, 0.4, 2.2 if rng.random() < 0.3 else 1.1))
        if image.ndim == 2:
            image = blur(image, sigma)
        else:
            image = np.stack([blur(image[..., c], sigma) for c in range(3)], axis=-1)
    if rng.random() < 0.5:
        light = illumination(rng, shape, float(rng.uniform(0.05, 0.5 if dark else 0.2)))
        image = image * (light if image.ndim == 2 else light[..., None])
    if rng.random() < 0.4:
        top = max(float(image.max()), 1e-3)
        image = top * (np.clip(image, 0, None) / top) ** _log_between(rng, 0.6, 1.4)
    if dark:
        image = image * (
            _log_between(rng, dimmest, 1.0) if rng.random() < 0.6 else _between(rng, 1, 1.6)
        )
    elif rng.random() < 0.3:
        middle = image.mean()
        image = middle + _between(rng, 0.4, 0.95) * (image - middle)
    return _noisy(rng, image, dark)


def _noisy(rng: Rng, image: np.ndarray, dark: bool) -> np.ndarray:
    read = _log_between(rng, 0.002, 0.05 if dark else 0.02)
    shot = _log_between(rng, 0.005, 0.08) if rng.random() < 0.5 else 0.0
    peak = max(float(image.max()), 0.05) if dark else 1.0
    relative = np.clip(image / peak, 0, 1)
    sigma = read + shot * np.sqrt(relative)
    image = image + peak * sigma * _grain(rng, image.shape)
    if dark and rng.random() < 0.1:
        n = int(rng.integers(5, 60))
        rows, columns = rng.integers(0, image.shape[0], n), rng.integers(0, image.shape[1], n)
        image[rows, columns] = peak * rng.uniform(0.5, 1.5)
    return image


def _grain(rng: Rng, shape: tuple[int, ...]) -> np.ndarray:
    """Return unit noise: the same in all channels, or cut apart from one draw for speed."""
    h, w = shape[:2]
    if len(shape) == 2 or rng.random() < 0.3:
        grain: np.ndarray = rng.standard_normal((h, w), np.float32)
        if rng.random() < 0.3:
            grain = blur(grain, 0.6) * 1.8
        return grain if len(shape) == 2 else grain[..., None]
    step = 3 * w + 7
    drawn = rng.standard_normal(h * w + 2 * step, np.float32)
    parts = [drawn[c * step : c * step + h * w].reshape(h, w) for c in range(3)]
    return np.stack(parts, axis=-1)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) uint8 of a (H, W) or (H, W, 3) image in 0..1."""
    values = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    return np.repeat(values[..., None], 3, axis=2) if values.ndim == 2 else values
