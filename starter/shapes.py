"""Geometry of generated images: blobs, rods, curves and cell mosaics drawn into label maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage as ndi

__all__ = [
    "Blob",
    "Canvas",
    "Mosaic",
    "blur",
    "curves",
    "mosaic",
    "positions",
    "rho_of",
    "smooth_noise",
]

Window = tuple[slice, slice]
Rng = np.random.Generator
_TURN = 2 * np.pi
_DIRECTIONS = 720


def blur(plane: np.ndarray, sigma: float) -> np.ndarray:
    """Return an (H, W) plane after a Gaussian of `sigma` pixels, wide ones on a small grid."""
    if sigma < 0.2:
        return plane.astype(np.float32, copy=False)
    if sigma < 4:
        return ndi.gaussian_filter(plane.astype(np.float32, copy=False), sigma, truncate=3)
    h, w = plane.shape
    step = int(sigma // 1.5)
    size = (max(4, w // step), max(4, h // step))
    small = np.asarray(Image.fromarray(plane.astype(np.float32)).resize(size, Image.Resampling.BOX))
    small = ndi.gaussian_filter(small, sigma * size[0] / w, truncate=3, mode="nearest")
    return np.asarray(Image.fromarray(small).resize((w, h), Image.Resampling.BICUBIC))


def smooth_noise(rng: Rng, shape: tuple[int, int], scale: float) -> np.ndarray:
    """Return (H, W) float32 noise of about unit variance whose grains are `scale` pixels wide."""
    h, w = shape
    if scale <= 1:
        return rng.standard_normal(shape, np.float32)
    gain = 1.4
    smoothed = scale >= 4
    if smoothed:
        # Filtered on a finer grid, else the grains line up with the axes.
        scale, gain = scale / 2, 3.6
    grid = (max(4, round(h / scale) + 3), max(4, round(w / scale) + 3))
    values = rng.standard_normal(grid, np.float32)
    if smoothed:
        values = ndi.gaussian_filter(values, 1.0, truncate=3)
    small = Image.fromarray(values)
    dx, dy = rng.uniform(0, 1, 2)
    box = (dx, dy, dx + min(w / scale, grid[1] - 1), dy + min(h / scale, grid[0] - 1))
    big = np.asarray(small.resize((w, h), Image.Resampling.BICUBIC, box=box))
    return big * np.float32(gain)


@dataclass
class Blob:
    """A star-shaped outline: radius as a function of direction.

    `radius` is the geometric mean of the half axes in pixels, `elongation` their ratio,
    `harmonics` is (K, 2): amplitude and phase of the relative radius for 2..K + 1 waves a turn.
    """

    y: float
    x: float
    radius: float
    elongation: float = 1.0
    angle: float = 0.0
    harmonics: np.ndarray | None = None
    power: float = 2.0

    @classmethod
    def draw(
        cls,
        rng: Rng,
        y: float,
        x: float,
        radius: float,
        *,
        elongation: float = 1.0,
        wobble: float = 0.0,
        waves: int = 5,
        angle: float | None = None,
        power: float = 2.0,
    ) -> Blob:
        """Return a blob with random direction and outline; `wobble` is the relative roughness."""
        harmonics = None
        if wobble > 0:
            orders = np.arange(2, waves + 2)
            amplitude = wobble * rng.normal(size=waves) / orders**0.7
            harmonics = np.stack([amplitude, rng.uniform(0, _TURN, waves)], axis=1)
        turned = rng.uniform(0, _TURN) if angle is None else angle
        return cls(y, x, radius, elongation, turned, harmonics, power)


def rho_of(blob: Blob, shape: tuple[int, int], reach: float = 1.0) -> tuple[Window, np.ndarray]:
    """Return the window of a blob in a plane and rho there: 0 at its centre, 1 on its outline.

    Parameters
    ----------
    blob : Blob
    shape : (H, W)
    reach : float
        How far the window goes, in units of rho.

    Returns
    -------
    window : pair of slices
        Empty where the blob lies outside the plane.
    rho : float32 array of the window's shape
    """
    swing = 1.0 if blob.harmonics is None else 1 + np.abs(blob.harmonics[:, 0]).sum()
    half = blob.radius * np.sqrt(blob.elongation) * reach * min(swing, 2.2) + 1
    y0, y1 = max(0, int(blob.y - half)), min(shape[0], int(blob.y + half) + 2)
    x0, x1 = max(0, int(blob.x - half)), min(shape[1], int(blob.x + half) + 2)
    if y0 >= y1 or x0 >= x1:
        return (slice(0, 0), slice(0, 0)), np.zeros((0, 0), np.float32)
    dy = (np.arange(y0, y1, dtype=np.float32) - blob.y)[:, None]
    dx = (np.arange(x0, x1, dtype=np.float32) - blob.x)[None]
    c, s = np.float32(np.cos(blob.angle)), np.float32(np.sin(blob.angle))
    long, short = blob.radius * np.sqrt(blob.elongation), blob.radius / np.sqrt(blob.elongation)
    u, v = (c * dx + s * dy) / np.float32(long), (c * dy - s * dx) / np.float32(short)
    if blob.power == 2.0:
        rho = np.sqrt(u * u + v * v)
    else:
        rho = (np.abs(u) ** blob.power + np.abs(v) ** blob.power) ** np.float32(1 / blob.power)
    if blob.harmonics is not None:
        turn = np.arange(_DIRECTIONS, dtype=np.float32) * np.float32(_TURN / _DIRECTIONS)
        outline = np.ones_like(turn)
        for order, (amplitude, phase) in enumerate(blob.harmonics.astype(np.float32), start=2):
            outline += amplitude * np.cos(order * turn + phase)
        inverse = 1 / np.clip(outline, 0.25, None)
        # Index -180..180 degrees: negative ones count from the end, as they should.
        direction = np.arctan2(v, u) * np.float32(_DIRECTIONS / _TURN)
        rho = rho * inverse[direction.astype(np.int16)]
    return (slice(y0, y1), slice(x0, x1)), rho


class Canvas:
    """A label map that objects are added to one by one, each on ground still free.

    Parameters
    ----------
    shape : (H, W)
    overlap : float
        Share of an object that may be hidden under earlier ones before it is refused.
    gap : int
        Pixels kept free around each object (0: objects may touch).
    """

    def __init__(self, shape: tuple[int, int], overlap: float = 0.15, gap: int = 0) -> None:
        self.labels = np.zeros(shape, np.uint16)
        self.overlap = overlap
        self.gap = gap
        self.count = 0

    def add(self, window: Window, mask: np.ndarray) -> np.ndarray | None:
        """Place an object; return its visible bool mask in the window, or None if refused."""
        area = int(mask.sum())
        if area < 6:
            return None
        taken = self.labels[window] > 0
        tested = ndi.binary_dilation(taken, iterations=self.gap) if self.gap else taken
        visible = mask & ~taken
        if (mask & tested).sum() > self.overlap * area or visible.sum() < 6:
            return None
        self.count += 1
        self.labels[window][visible] = self.count
        return visible


def positions(
    rng: Rng, shape: tuple[int, int], n: int, spacing: float, clustered: float = 0.0
) -> Iterator[tuple[float, float]]:
    """Yield `n` centres (y, x): uniform, a share `clustered` of them packed around a few places."""
    h, w = shape
    centres = rng.uniform((0, 0), (h, w), (max(1, int(rng.integers(1, 5))), 2))
    spread = spacing * np.sqrt(max(n, 4) / len(centres)) * 0.6
    for _ in range(n):
        if rng.random() < clustered:
            y, x = centres[rng.integers(len(centres))] + rng.normal(0, spread, 2)
            yield float(np.clip(y, 0, h - 1)), float(np.clip(x, 0, w - 1))
        else:
            yield float(rng.uniform(-3, h + 3)), float(rng.uniform(-3, w + 3))


def curves(
    rng: Rng,
    shape: tuple[int, int],
    n: int,
    *,
    bend: float = 0.05,
    length: float = 1.0,
    aligned: float | None = None,
    start: Callable[[], np.ndarray] | None = None,
) -> np.ndarray:
    """Return the points of `n` smooth random curves, one pixel apart: (n, T, 2) float32 y, x.

    Parameters
    ----------
    rng : numpy Generator
    shape : (H, W)
    n : int
    bend : float
        Standard deviation of the change of curvature, radians a pixel.
    length : float
        In units of the longer side.
    aligned : float, optional
        Direction in radians that all follow roughly.
    start : callable, optional
        Gives (n, 2) starting points; uniform otherwise.
    """
    steps = max(8, int(max(shape) * length))
    wander = rng.normal(0, bend, (n, steps // 8 + 2)).astype(np.float32)
    turning = ndi.zoom(wander, (1, steps / wander.shape[1]), order=1)[:, :steps]
    first = (
        rng.uniform(0, _TURN, n)
        if aligned is None
        else aligned + rng.normal(0, 0.25, n) + np.pi * rng.integers(0, 2, n)
    )
    heading = first[:, None] + np.cumsum(turning, axis=1)
    path = np.cumsum(np.stack([np.sin(heading), np.cos(heading)], axis=-1), axis=1)
    origin = rng.uniform((-20, -20), (shape[0] + 20, shape[1] + 20), (n, 2))
    if start is not None:
        origin = start()
    elif aligned is None:
        path -= path[:, steps // 2 : steps // 2 + 1]
    return (origin[:, None] + path).astype(np.float32)


@dataclass
class Mosaic:
    """A tissue of cells that touch.

    `edge` (H, W) float32 is the distance in pixels to the nearest border between two cells.
    """

    edge: np.ndarray


def mosaic(rng: Rng, shape: tuple[int, int], diameter: float, *, wavy: float = 0.3) -> Mosaic:
    """Return a Voronoi-like mosaic with cells about `diameter` pixels wide.

    Parameters
    ----------
    rng : numpy Generator
    shape : (H, W)
    diameter : float
    wavy : float
        Warping of the borders, relative to the diameter.
    """
    h, w = shape
    pad = int(diameter)
    big = (h + 2 * pad, w + 2 * pad)
    rows = np.arange(0, big[0], diameter * 0.9)
    columns = np.arange(0, big[1], diameter)
    grid = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
    grid[1::2, :, 1] += diameter / 2
    jitter = rng.uniform(0.1, 0.45)
    seeds = (grid + rng.normal(0, jitter * diameter, grid.shape)).reshape(-1, 2)
    seeds = seeds[rng.random(len(seeds)) > rng.choice([0.0, 0.15, 0.35])]
    whole = np.clip(seeds.round().astype(int), 0, np.array(big) - 1)
    marks = np.ones(big, bool)
    marks[tuple(whole.T)] = False
    ids = np.zeros(big, np.int32)
    ids[tuple(whole.T)] = np.arange(1, len(seeds) + 1)
    near = ndi.distance_transform_edt(marks, return_distances=False, return_indices=True)
    ids = ids[tuple(near)]
    stretch = wavy * diameter / 2
    yy = np.arange(pad, pad + h)[:, None] + stretch * smooth_noise(rng, shape, diameter * 0.9)
    xx = np.arange(pad, pad + w)[None] + stretch * smooth_noise(rng, shape, diameter * 0.9)
    rough = max(0.5, diameter * 0.02)
    yy = yy + rough * smooth_noise(rng, shape, diameter * 0.15)
    cells = ids[
        np.clip(yy.round().astype(int), 0, big[0] - 1),
        np.clip(xx.round().astype(int), 0, big[1] - 1),
    ]
    border = np.zeros(shape, bool)
    border[:, 1:] |= cells[:, 1:] != cells[:, :-1]
    border[1:] |= cells[1:] != cells[:-1]
    edge = ndi.distance_transform_edt(~border).astype(np.float32)
    return Mosaic(edge)
