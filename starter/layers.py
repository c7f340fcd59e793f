"""Structures of generated images: each function draws one concept as a density and a label map."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage as ndi

from starter.shapes import Blob, Canvas, Mosaic, Window, curves, positions, rho_of, smooth_noise

__all__ = [
    "Layer",
    "bacteria",
    "cell_nuclei",
    "cells",
    "debris",
    "filaments",
    "membranes",
    "mitochondria",
    "nuclei",
    "spots",
    "union_rho",
    "vesicles",
    "yeast",
]

Rng = np.random.Generator
Shape = tuple[int, int]
MOST = 130


@dataclass
class Layer:
    """One concept in one image.

    `labels` (H, W) holds ids, `plane` (H, W) float32 the density, about 0..1; `blobs` are the
    outlines behind the labels, in their order (where there are any).
    """

    concept: str
    labels: np.ndarray
    plane: np.ndarray
    kind: str = "instance"
    blobs: list[list[Blob]] = field(default_factory=list)


def union_rho(blobs: list[Blob], shape: Shape, reach: float = 1.0) -> tuple[Window, np.ndarray]:
    """Return the window and rho of a union of blobs: the smallest rho at every pixel."""
    if len(blobs) == 1:
        return rho_of(blobs[0], shape, reach)
    parts = [part for part in (rho_of(b, shape, reach) for b in blobs) if part[1].size]
    if not parts:
        return (slice(0, 0), slice(0, 0)), np.zeros((0, 0), np.float32)
    y0, y1 = min(w[0].start for w, _ in parts), max(w[0].stop for w, _ in parts)
    x0, x1 = min(w[1].start for w, _ in parts), max(w[1].stop for w, _ in parts)
    rho = np.full((y1 - y0, x1 - x0), 9, np.float32)
    for (rows, columns), part in parts:
        view = rho[rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0]
        np.minimum(view, part, out=view)
    return (slice(y0, y1), slice(x0, x1)), rho


def how_many(rng: Rng, shape: Shape, diameter: float, most: int = MOST, least: float = 0.03) -> int:
    """Draw a number of objects: from a few to as many as nearly cover the plane."""
    cover = float(np.exp(rng.uniform(np.log(least), np.log(0.9))))
    return int(np.clip(cover * shape[0] * shape[1] / (0.8 * diameter**2), 2, most))


def _texture(rng: Rng, shape: Shape, diameter: float) -> np.ndarray:
    coarse = smooth_noise(rng, shape, max(2.0, diameter * rng.uniform(0.15, 0.5)))
    fine = smooth_noise(rng, shape, max(1.5, diameter * rng.uniform(0.04, 0.12)))
    return coarse + np.float32(0.6) * fine


def nuclei(
    rng: Rng,
    shape: Shape,
    diameter: float,
    *,
    n: int | None = None,
    blocked: np.ndarray | None = None,
    aligned: bool = False,
) -> Layer:
    """Round, oval or lobed blobs, textured, touching or apart, of varied brightness."""
    n = how_many(rng, shape, diameter) if n is None else n
    canvas = Canvas(shape, overlap=rng.uniform(0, 0.3), gap=int(rng.random() < 0.3))
    if blocked is not None:
        canvas.labels[blocked] = np.iinfo(np.uint16).max
    plane = np.zeros(shape, np.float32)
    texture = np.float32(rng.choice([0.0, 0.1, 0.2, 0.4])) * _texture(rng, shape, diameter)
    elongation = rng.choice([1.08, 1.25, 1.6])
    wobble = rng.choice([0.0, 0.03, 0.06, 0.12], p=[0.3, 0.4, 0.2, 0.1])
    spread, vary = rng.choice([0.08, 0.2, 0.35]), rng.choice([0.1, 0.3, 0.7])
    dome, rim, nucleoli = rng.choice([0.0, 0.5, 0.9]), rng.random() < 0.15, rng.random() < 0.3
    direction = rng.uniform(0, np.pi)
    kept = []
    for y, x in positions(rng, shape, n, diameter, clustered=rng.choice([0.0, 0.5, 0.9])):
        radius = max(2.6, diameter / 2 * np.exp(rng.normal(0, spread)))
        blob = Blob.draw(
            rng,
            y,
            x,
            radius,
            elongation=1 + (elongation - 1) * rng.gamma(2, 0.5),
            wobble=wobble if radius > 4 else 0,
            angle=direction + rng.normal(0, 0.3) if aligned else None,
        )
        window, rho = rho_of(blob, shape)
        if not rho.size or (visible := canvas.add(window, rho <= 1)) is None:
            continue
        kept.append([blob])
        value = (
            1 - dome * rho**2 if not rim else 0.45 + 0.55 * np.exp(-(((rho - 0.85) / 0.12) ** 2))
        )
        value = value * np.exp(rng.normal(0, vary)) * (1 + texture[window])
        if nucleoli and radius > 6:
            for _ in range(int(rng.integers(1, 4))):
                spot = Blob(
                    y + rng.normal(0, radius / 3), x + rng.normal(0, radius / 3), radius / 6
                )
                inner, near = rho_of(spot, shape, 2)
                _scale(value, window, inner, 1 - 0.45 * np.exp(-(near**2)))
        plane[window][visible] = np.clip(value, 0.12, 2)[visible]
    labels = canvas.labels
    labels[labels > canvas.count] = 0
    plane /= max(float(np.quantile(plane[labels > 0], 0.97)) if kept else 1.0, 0.2)
    return Layer("nuclei", labels, plane, blobs=kept)


def _scale(value: np.ndarray, window: Window, inner: Window, factor: np.ndarray) -> None:
    """Multiply `value`, which covers `window`, by `factor`, which covers `inner`."""
    y0, x0 = window[0].start, window[1].start
    top, bottom = max(inner[0].start, y0), min(inner[0].stop, window[0].stop)
    left, right = max(inner[1].start, x0), min(inner[1].stop, window[1].stop)
    if top < bottom and left < right:
        iy, ix = inner[0].start, inner[1].start
        value[top - y0 : bottom - y0, left - x0 : right - x0] *= factor[
            top - iy : bottom - iy, left - ix : right - ix
        ]


def _cell_outline(rng: Rng, y: float, x: float, diameter: float, style: str) -> list[Blob]:
    radius = diameter / 2 * np.exp(rng.normal(0, 0.15))
    if style == "round":
        return [Blob.draw(rng, y, x, radius, elongation=1 + rng.gamma(2, 0.07), wobble=0.03)]
    if style == "spread":
        stretch = 1 + rng.gamma(2, 0.3)
        return [Blob.draw(rng, y, x, radius, elongation=stretch, wobble=0.13, waves=6)]
    body = Blob.draw(
        rng, y, x, radius * 0.75, elongation=1 + rng.gamma(2, 0.3), wobble=0.1, waves=6
    )
    arms = []
    for number in range(int(rng.integers(1, 4))):
        length = rng.uniform(2.5, 7)
        angle = body.angle + np.pi * number + rng.normal(0, 0.25 if number < 2 else 1.5)
        shift = radius * rng.uniform(0.1, 0.9)
        ay, ax = y + shift * np.sin(angle), x + shift * np.cos(angle)
        arms.append(
            Blob.draw(
                rng,
                ay,
                ax,
                radius * rng.uniform(0.5, 0.8),
                elongation=length,
                angle=angle,
                power=1.45,
            )
        )
    return [body, *arms]


def cells(
    rng: Rng, shape: Shape, diameter: float, *, n: int | None = None, style: str | None = None
) -> Layer:
    """Whole cells that may touch; `style` is "round", "spread" or "stellate"."""
    style = str(rng.choice(["round", "spread", "stellate"])) if style is None else style
    n = how_many(rng, shape, diameter, 70) if n is None else n
    canvas = Canvas(shape, overlap=0.3 if style != "round" else 0.12)
    plane = np.zeros(shape, np.float32)
    texture = np.float32(rng.uniform(0.05, 0.35)) * _texture(rng, shape, diameter * 0.5)
    thin, vary = rng.uniform(0.2, 0.9), rng.choice([0.1, 0.35])
    kept = []
    for y, x in positions(rng, shape, n, diameter, clustered=rng.choice([0.0, 0.3, 0.8])):
        outline = _cell_outline(rng, y, x, diameter, style)
        window, rho = union_rho(outline, shape)
        if not rho.size or (visible := canvas.add(window, rho <= 1)) is None:
            continue
        kept.append(outline)
        value = (1 - thin * np.clip(rho, 0, 1) ** 2) * np.exp(rng.normal(0, vary))
        plane[window][visible] = np.clip(value * (1 + texture[window]), 0.05, 2)[visible]
    plane /= max(float(plane.max()), 0.2)
    return Layer("cells", canvas.labels, plane, blobs=kept)


def cell_nuclei(rng: Rng, owners: Layer, ratio: float) -> Layer:
    """One nucleus inside each cell of `owners`; `ratio` is its diameter relative to the cell's."""
    shape = owners.labels.shape
    plane, labels = np.zeros(shape, np.float32), np.zeros(shape, np.uint16)
    texture = np.float32(rng.choice([0.05, 0.15, 0.3]))
    size = np.sqrt(float((owners.labels > 0).sum()) / max(len(owners.blobs), 1))
    grain = texture * _texture(rng, shape, max(4.0, size * ratio))
    for number, (body, *_) in enumerate(owners.blobs, start=1):
        radius = max(3.0, body.radius * ratio * np.exp(rng.normal(0, 0.1)))
        dy, dx = rng.normal(0, body.radius * (1 - ratio) * 0.2, 2)
        stretch = 1 + min(1.0, (body.elongation - 1) * 0.4) + rng.gamma(2, 0.05)
        nucleus = Blob.draw(
            rng, body.y + dy, body.x + dx, radius, elongation=stretch, angle=body.angle, wobble=0.03
        )
        window, rho = rho_of(nucleus, shape)
        inside = (rho <= 1) & (owners.labels[window] == number)
        if inside.sum() < 6:
            continue
        labels[window][inside] = number
        value = (1 - 0.3 * rho**2) * np.exp(rng.normal(0, 0.15)) * (1 + grain[window])
        plane[window][inside] = np.clip(value, 0.1, 2)[inside]
    return Layer("nuclei", labels, plane)


def tissue_cells(rng: Rng, tissue: Mosaic, border: float) -> Layer:
    """The interiors of a mosaic as cell instances, inside borders `border` pixels wide."""
    labels, _ = ndi.label(tissue.edge > border / 2)
    areas = np.bincount(labels.ravel())
    labels[areas[labels] < 12] = 0
    values = np.exp(rng.normal(0, 0.3, len(areas))).astype(np.float32)
    plane = values[labels] * (labels > 0)
    return Layer("cells", labels.astype(np.uint16), plane.astype(np.float32))


def mosaic_nuclei(rng: Rng, tissue: Mosaic, owners: Layer, diameter: float) -> Layer:
    """One nucleus in most cells of a mosaic."""
    shape = owners.labels.shape
    plane, labels = np.zeros(shape, np.float32), np.zeros(shape, np.uint16)
    grain = np.float32(rng.choice([0.05, 0.15, 0.3])) * _texture(rng, shape, diameter)
    where = ndi.center_of_mass(
        np.ones(shape, np.uint8), owners.labels, ids := np.unique(owners.labels)[1:]
    )
    for number, (y, x) in zip(ids, where, strict=True):
        if rng.random() < 0.1:
            continue
        radius = diameter / 2 * np.exp(rng.normal(0, 0.12))
        nucleus = Blob.draw(rng, y, x, radius, elongation=1 + rng.gamma(2, 0.1), wobble=0.03)
        window, rho = rho_of(nucleus, shape)
        inside = (rho <= 1) & (owners.labels[window] == number)
        if inside.sum() < 6:
            continue
        labels[window][inside] = number
        value = (1 - 0.3 * rho**2) * np.exp(rng.normal(0, 0.2)) * (1 + grain[window])
        plane[window][inside] = np.clip(value, 0.1, 2)[inside]
    return Layer("nuclei", labels, plane)


def _drawn(shape: Shape, points: np.ndarray) -> np.ndarray:
    """Return the distance in pixels to the nearest of the points (..., 2) y, x."""
    flat = points.reshape(-1, 2).round().astype(int)
    flat = flat[((flat >= 0) & (flat < shape)).all(axis=1)]
    empty = np.ones(shape, bool)
    empty[tuple(flat.T)] = False
    return ndi.distance_transform_edt(empty).astype(np.float32)


def filaments(rng: Rng, shape: Shape, width: float, *, wavy: float | None = None) -> Layer:
    """Long curved lines, crossing or side by side; semantic."""
    n = int(np.exp(rng.uniform(np.log(3), np.log(max(5, min(50, 3.0 * shape[0] / width / 4))))))
    aligned = rng.uniform(0, np.pi) if rng.random() < 0.35 else None
    bend = rng.choice([0.002, 0.008, 0.02]) if wavy is None else wavy
    length = rng.choice([0.35, 0.8, 1.6])
    start = None
    if aligned is None and rng.random() < 0.25:
        centre = rng.uniform(0.2, 0.8, 2) * shape
        start = lambda: centre + rng.normal(0, 0.05 * shape[0], (n, 2))  # noqa: E731
    paths = curves(rng, shape, n, bend=bend, length=length, aligned=aligned, start=start)
    distance = _drawn(shape, paths)
    uneven = 1 + np.float32(0.25) * smooth_noise(rng, shape, 12)
    plane = np.exp(-((distance / np.float32(width * 0.55)) ** 2)) * np.clip(uneven, 0.5, 1.5)
    labels = (distance <= max(1.0, width / 2)).astype(np.uint16)
    return Layer("filaments", labels, plane, kind="semantic")


def membranes(rng: Rng, tissue: Mosaic, width: float) -> Layer:
    """The borders of a mosaic; semantic."""
    uneven = 1 + np.float32(rng.uniform(0, 0.35)) * smooth_noise(rng, tissue.edge.shape, 20)
    plane = np.exp(-((tissue.edge / np.float32(width * 0.55)) ** 2)) * np.clip(uneven, 0.3, 1.5)
    labels = (tissue.edge <= width / 2).astype(np.uint16)
    return Layer("membranes", labels, plane, kind="semantic")


def _places(
    rng: Rng,
    shape: Shape,
    n: int,
    spacing: float,
    inside: np.ndarray | None,
    clustered: float = 0.0,
) -> Iterator[tuple[float, float]]:
    """Yield centres in the region `inside`, or anywhere without one."""
    if inside is None or not inside.any():
        yield from positions(rng, shape, n, spacing, clustered)
        return
    ground = np.argwhere(inside)
    for y, x in ground[rng.integers(len(ground), size=n)] + rng.uniform(-0.5, 0.5, (n, 2)):
        yield float(y), float(x)


def spots(rng: Rng, shape: Shape, diameter: float, *, inside: np.ndarray | None = None) -> Layer:
    """Small bright discs; with `inside`, their centres lie in that region."""
    n = int(np.exp(rng.uniform(np.log(6), np.log(90))))
    canvas = Canvas(shape, overlap=0.1, gap=1)
    plane = np.zeros(shape, np.float32)
    for y, x in _places(rng, shape, n, diameter * 2, inside, clustered=rng.choice([0.0, 0.5])):
        blob = Blob(y, x, max(1.5, diameter / 2 * np.exp(rng.normal(0, 0.15))))
        window, rho = rho_of(blob, shape, 2)
        if not rho.size or canvas.add(window, rho <= 1) is None:
            continue
        plane[window] += np.exp(rng.normal(0, 0.25)) * np.exp(-((rho / 0.85) ** 2))
    return Layer("spots", canvas.labels, plane)


def debris(rng: Rng, shape: Shape, diameter: float) -> np.ndarray:
    """Return the density of irregular specks and smears that nothing labels."""
    plane = np.zeros(shape, np.float32)
    for y, x in positions(rng, shape, int(rng.integers(2, 18)), diameter):
        radius = diameter / 2 * np.exp(rng.normal(-0.5, 0.5))
        blob = Blob.draw(rng, y, x, radius, elongation=1 + rng.gamma(2, 0.4), wobble=0.2, waves=7)
        window, rho = rho_of(blob, shape)
        plane[window] += rng.uniform(0.1, 0.8) * (rho <= 1)
    return plane


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
    for y, x in _places(rng, shape, n * 3, diameter, inside):
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
    distance = _drawn(shape, curves(rng, shape, n, bend=0.15, length=short, start=start))
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
    for y, x in _places(rng, shape, n * 2, diameter, inside, clustered=rng.choice([0.2, 0.8])):
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
            _scale(value, window, inner, np.where(near <= 1, 0.4, 1.0))
        plane[window][visible] = value[visible]
    return Layer("yeast", canvas.labels, plane)
