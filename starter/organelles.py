"""More structures of generated images: organelles and microbes."""

from __future__ import annotations

import numpy as np

from starter.layers import Layer, distance_to, how_many, places, scale_inside, union_rho
from starter.shapes import Blob, Canvas, Window, curves, positions, rho_of, smooth_noise

__all__ = ["bacteria", "mitochondria", "threads", "vesicles", "yeast"]

Rng = np.random.Generator
Shape = tuple[int, int]


def mitochondria(
    rng: Rng, shape: Shape, diameter: float, inside: np.ndarray | None = None
) -> Layer:
    """Oblong organelles of a section: dense, with a darker rim and cristae."""
    n = how_many(rng, shape, diameter * 2.2, 40)
    canvas = Canvas(shape, overlap=0.3, gap=1)
    if inside is not None:
        canvas.labels[~inside] = np.iinfo(np.uint16).max
    plane = np.zeros(shape, np.float32)
    warp = np.float32(diameter * 0.25) * smooth_noise(rng, shape, diameter * 0.5)
    pitch, matrix = max(3.0, diameter * rng.uniform(0.12, 0.25)), rng.uniform(0.2, 0.6)
    stripes = rng.uniform(0.1, 0.5)
    for y, x in places(rng, shape, n * 3, diameter, inside):
        if canvas.count >= n:
            break
        blob = Blob.draw(
            rng,
            y,
            x,
            diameter / 2 * np.exp(rng.normal(0, 0.25)),
            elongation=1 + rng.gamma(2, 0.5),
            wobble=0.08,
        )
        window, rho = rho_of(blob, shape)
        if not rho.size or (visible := canvas.add(window, rho <= 1)) is None:
            continue
        rows = np.arange(window[0].start, window[0].stop)[:, None]
        columns = np.arange(window[1].start, window[1].stop)[None]
        along = rows * np.sin(blob.angle) + columns * np.cos(blob.angle) + warp[window]
        wave = np.clip(np.sin(2 * np.pi * along / pitch), -0.3, 1)
        rim = np.exp(-(((1 - rho) * blob.radius / 1.6) ** 2))
        value = matrix + stripes * wave * (rho < 0.85) + 0.5 * rim
        plane[window][visible] = np.clip(value, 0.05, 1.2)[visible]
    labels = canvas.labels
    labels[labels > canvas.count] = 0
    return Layer("mitochondria", labels, plane)


def threads(rng: Rng, shape: Shape, width: float, inside: np.ndarray | None = None) -> Layer:
    """Mitochondria as fluorescence shows them: short thick worms; semantic."""
    room = shape[0] * shape[1] if inside is None else int(inside.sum())
    n = int(np.clip(rng.uniform(0.1, 0.5) * room / (8 * width**2), 5, 120))
    ground = np.argwhere(inside) if inside is not None and inside.any() else None

    def start() -> np.ndarray:
        if ground is None:
            return rng.uniform((0, 0), shape, (n, 2))
        return ground[rng.integers(len(ground), size=n)].astype(float)

    short = rng.uniform(4, 12) * width / max(shape)
    distance = distance_to(shape, curves(rng, shape, n, bend=0.15, length=short, start=start))
    plane = np.exp(-((distance / np.float32(width * 0.55)) ** 2))
    labels = (distance <= width / 2).astype(np.uint16)
    return Layer("mitochondria", labels, plane, kind="semantic")


def vesicles(rng: Rng, shape: Shape, diameter: float, inside: np.ndarray | None = None) -> Layer:
    """Small round bodies with a bright or dense rim and a pale lumen."""
    n = how_many(rng, shape, diameter * 1.5, 80)
    canvas = Canvas(shape, overlap=0.1, gap=int(rng.random() < 0.7))
    if inside is not None:
        canvas.labels[~inside] = np.iinfo(np.uint16).max
    plane = np.zeros(shape, np.float32)
    wall = max(0.9, diameter * rng.uniform(0.06, 0.14))
    lumen = rng.uniform(0, 0.35)
    for y, x in places(rng, shape, n * 2, diameter, inside, clustered=rng.choice([0.2, 0.8])):
        if canvas.count >= n:
            break
        blob = Blob.draw(
            rng,
            y,
            x,
            max(2.5, diameter / 2 * np.exp(rng.normal(0, 0.2))),
            elongation=1 + rng.gamma(2, 0.05),
        )
        window, rho = rho_of(blob, shape, 1.3)
        if not rho.size or (visible := canvas.add(window, rho <= 1)) is None:
            continue
        ring = np.exp(-((((1 - rho) * blob.radius - wall) / wall) ** 2))
        plane[window][visible] = np.maximum(ring, lumen)[visible]
    labels = canvas.labels
    labels[labels > canvas.count] = 0
    return Layer("vesicles", labels, plane)


def bacteria(rng: Rng, shape: Shape, width: float) -> Layer:
    """Rods, straight or slightly bent, scattered, in chains or packed side by side."""
    n = how_many(rng, shape, width * 2.2, 110)
    canvas = Canvas(shape, overlap=0.06)
    plane = np.zeros(shape, np.float32)
    length, spread = rng.uniform(2.0, 4.5), rng.choice([0.3, 2.0])
    direction, dome, vary = rng.uniform(0, np.pi), rng.uniform(0.1, 0.8), rng.choice([0.1, 0.3])
    for y, x in positions(rng, shape, n, width * 2, clustered=rng.choice([0.0, 0.6, 0.9])):
        window, rho = _rod(
            shape,
            (y, x),
            width * np.exp(rng.normal(0, 0.08)),
            length * np.exp(rng.normal(0, 0.25)),
            direction + rng.normal(0, spread),
            rng.normal(0, 0.06),
        )
        if not rho.size or (visible := canvas.add(window, rho <= 1)) is None:
            continue
        value = (1 - dome * rho**2) * np.exp(rng.normal(0, vary))
        plane[window][visible] = np.clip(value, 0.1, 1.5)[visible]
    return Layer("bacteria", canvas.labels, plane)


def _rod(
    shape: Shape,
    centre: tuple[float, float],
    width: float,
    length: float,
    angle: float,
    bend: float,
) -> tuple[Window, np.ndarray]:
    """Return window and rho of a capsule `width` wide and `length` widths long."""
    half = width * length / 2 + 1
    y, x = centre
    y0, y1 = max(0, int(y - half)), min(shape[0], int(y + half) + 2)
    x0, x1 = max(0, int(x - half)), min(shape[1], int(x + half) + 2)
    if y0 >= y1 or x0 >= x1:
        return (slice(0, 0), slice(0, 0)), np.zeros((0, 0), np.float32)
    dy = (np.arange(y0, y1, dtype=np.float32) - y)[:, None]
    dx = (np.arange(x0, x1, dtype=np.float32) - x)[None]
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    along, across = c * dx + s * dy, c * dy - s * dx
    across = across - np.float32(bend / width) * along**2
    excess = np.clip(np.abs(along) - np.float32(width * (length - 1) / 2), 0, None)
    return (slice(y0, y1), slice(x0, x1)), np.hypot(excess, across) / np.float32(width / 2)


def yeast(rng: Rng, shape: Shape, diameter: float) -> Layer:
    """Round cells with a dense wall, many with a bud."""
    n = how_many(rng, shape, diameter, 70)
    canvas = Canvas(shape, overlap=0.08)
    plane = np.zeros(shape, np.float32)
    wall = max(1.0, diameter * rng.uniform(0.05, 0.12))
    lumen, vacuole = rng.uniform(0.1, 0.6), rng.random() < 0.5
    for y, x in positions(rng, shape, n, diameter, clustered=rng.choice([0.3, 0.9])):
        radius = max(3.0, diameter / 2 * np.exp(rng.normal(0, 0.12)))
        mother = Blob.draw(rng, y, x, radius, elongation=1 + rng.gamma(2, 0.06))
        outline = [mother]
        if rng.random() < 0.35:
            angle, size = rng.uniform(0, 2 * np.pi), radius * rng.uniform(0.35, 0.7)
            gap = radius + 0.7 * size
            outline.append(Blob(y + gap * np.sin(angle), x + gap * np.cos(angle), size))
        window, rho = union_rho(outline, shape)
        if not rho.size or (visible := canvas.add(window, rho <= 1)) is None:
            continue
        value = lumen + (1 - lumen) * np.exp(-(((1 - rho) * radius / wall - 0.7) ** 2))
        if vacuole:
            dy, dx = rng.normal(0, radius / 4, 2)
            spot = Blob(y + dy, x + dx, radius * rng.uniform(0.25, 0.5))
            inner, near = rho_of(spot, shape)
            scale_inside(value, window, inner, np.where(near <= 1, 0.4, 1.0))
        plane[window][visible] = value[visible]
    return Layer("yeast", canvas.labels, plane)
