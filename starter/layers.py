"""Structures of generated images: each function draws one concept as a density and a label map."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage as ndi

from starter.shapes import Blob, Canvas, Mosaic, Window, curves, positions, rho_of, smooth_noise

__all__ = [
    "Layer",
    "cell_nuclei",
    "cells",
    "debris",
    "distance_to",
    "filaments",
    "how_many",
    "membranes",
    "mosaic_nuclei",
    "nuclei",
    "places",
    "scale_inside",
    "spots",
    "tissue_cells",
    "union_rho",
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
    elongation = rng.choice([1.08, 1.25, 1.6, 2.3], p=[0.3, 0.35, 0.3, 0.05])
    if aligned:
        elongation = rng.uniform(1.5, 2.8)
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
                scale_inside(value, window, inner, 1 - 0.45 * np.exp(-(near**2)))
        plane[window][visible] = np.clip(value, 0.12, 2)[visible]
    labels = canvas.labels
    labels[labels > canvas.count] = 0
    plane /= max(float(np.quantile(plane[labels > 0], 0.97)) if kept else 1.0, 0.2)
    return Layer("nuclei", labels, plane, blobs=kept)


def scale_inside(value: np.ndarray, window: Window, inner: Window, factor: np.ndarray) -> None:
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


def distance_to(shape: Shape, points: np.ndarray) -> np.ndarray:
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
    distance = distance_to(shape, paths)
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


def places(
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
    for y, x in places(rng, shape, n, diameter * 2, inside, clustered=rng.choice([0.0, 0.5])):
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
