"""Structures of a stained blood smear: red cells, white cells with lobed nuclei, platelets."""

from __future__ import annotations

import numpy as np

from starter.layers import Layer, union_rho
from starter.shapes import Blob, Canvas, positions, rho_of, smooth_noise

__all__ = ["blood_smear_layers"]

Rng = np.random.Generator
Shape = tuple[int, int]
Stain = tuple[np.ndarray, tuple[float, ...]]

_MIXES = (
    (("red", "white", "platelets"), 0.45),
    (("red", "white"), 0.15),
    (("red", "platelets"), 0.15),
    (("red",), 0.07),
    (("white",), 0.08),
    (("white", "platelets"), 0.1),
)


def _jitter(
    rng: Rng, colour: tuple[float, float, float], spread: float = 0.04
) -> tuple[float, ...]:
    return tuple(np.clip(np.array(colour) + rng.normal(0, spread, 3), 0.05, 0.99))


def _white(rng: Rng, shape: Shape, diameter: float, n: int) -> tuple[Layer, Layer, np.ndarray]:
    """Return white cells, their nuclei and the granules of their cytoplasm."""
    canvas = Canvas(shape, overlap=0.1)
    body, core = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    nuclei = np.zeros(shape, np.uint16)
    grain = smooth_noise(rng, shape, max(1.5, diameter * 0.04))
    clumps = smooth_noise(rng, shape, max(2.0, diameter * 0.1))
    for y, x in positions(rng, shape, n * 3, diameter):
        if canvas.count >= n:
            break
        radius = diameter / 2 * np.exp(rng.normal(0, 0.12))
        cell = Blob.draw(rng, y, x, radius, elongation=1 + rng.gamma(2, 0.06), wobble=0.03)
        window, rho = rho_of(cell, shape)
        if not rho.size or (visible := canvas.add(window, rho <= 1)) is None:
            continue
        body[window][visible] = (0.75 + 0.25 * rho + 0.12 * grain[window])[visible]
        lobes = _lobes(rng, cell)
        inner, near = union_rho(lobes, shape)
        mask = (near <= 1) & (canvas.labels[inner] == canvas.count)
        nuclei[inner][mask] = canvas.count
        core[inner][mask] = np.clip(0.9 + 0.15 * clumps[inner] - 0.15 * near**2, 0.3, 1.4)[mask]
    return Layer("white blood cells", canvas.labels, body), Layer("nuclei", nuclei, core), grain


def _lobes(rng: Rng, cell: Blob) -> list[Blob]:
    """Return the blobs of a nucleus: one large, a bean, or a few joined lobes."""
    if rng.random() < 0.4:
        size = cell.radius * rng.uniform(0.6, 0.98)
        shift = rng.normal(0, 0.3 * (cell.radius - size) + 0.01, 2)
        return [
            Blob.draw(rng, cell.y + shift[0], cell.x + shift[1], size, elongation=1.1, wobble=0.06)
        ]
    count = int(rng.integers(2, 5))
    turn, arc = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.3)
    angles = turn + arc * np.arange(count)
    reach = cell.radius * rng.uniform(0.3, 0.5)
    return [
        Blob.draw(
            rng,
            cell.y + reach * np.sin(angle),
            cell.x + reach * np.cos(angle),
            cell.radius * rng.uniform(0.3, 0.45),
            elongation=1.25,
            angle=angle + np.pi / 2,
            wobble=0.06,
        )
        for angle in angles
    ]


def _red(rng: Rng, shape: Shape, diameter: float, n: int, blocked: np.ndarray) -> Layer:
    """Return discs with a paler middle; where two overlap the density adds up."""
    canvas = Canvas(shape, overlap=rng.choice([0.05, 0.3]))
    canvas.labels[blocked] = np.iinfo(np.uint16).max
    plane = np.zeros(shape, np.float32)
    pallor, width = rng.choice([0.0, 0.3, 0.6, 0.9]), rng.uniform(0.35, 0.65)
    rim, wobble = rng.uniform(0, 0.3), rng.choice([0.02, 0.05])
    for y, x in positions(rng, shape, n, diameter, clustered=rng.choice([0.0, 0.5])):
        radius = diameter / 2 * np.exp(rng.normal(0, 0.08))
        blob = Blob.draw(rng, y, x, radius, elongation=1 + rng.gamma(2, 0.06), wobble=wobble)
        window, rho = rho_of(blob, shape)
        disc = rho <= 1
        if not rho.size or canvas.add(window, disc) is None:
            continue
        value = (
            1 - pallor * np.exp(-((rho / width) ** 4)) + rim * np.exp(-(((rho - 0.92) / 0.07) ** 2))
        )
        plane[window] += (value * np.exp(rng.normal(0, 0.12)) * disc).astype(np.float32)
    labels = canvas.labels
    labels[labels > canvas.count] = 0
    plane[blocked] = 0
    return Layer("red blood cells", labels, np.clip(plane, 0, 2.2))


def _platelets(rng: Rng, shape: Shape, diameter: float, blocked: np.ndarray) -> Layer:
    """Return small irregular granular bodies, between the other cells."""
    canvas = Canvas(shape, overlap=0.15)
    canvas.labels[blocked] = np.iinfo(np.uint16).max
    plane = np.zeros(shape, np.float32)
    grain = smooth_noise(rng, shape, max(1.2, diameter * 0.2))
    wanted = int(rng.integers(1, 22))
    for y, x in positions(rng, shape, wanted * 4, diameter, clustered=rng.choice([0.0, 0.4])):
        if canvas.count >= wanted:
            break
        radius = max(2.2, diameter / 2 * np.exp(rng.normal(0, 0.25)))
        blob = Blob.draw(rng, y, x, radius, elongation=1 + rng.gamma(2, 0.15), wobble=0.1)
        window, rho = rho_of(blob, shape)
        if not rho.size or (visible := canvas.add(window, rho <= 1)) is None:
            continue
        value = 1 - 0.5 * rho**2 + 0.25 * grain[window]
        plane[window][visible] = np.clip(value, 0.25, 1.5)[visible]
    labels = canvas.labels
    labels[labels > canvas.count] = 0
    return Layer("platelets", labels, plane)


def blood_smear_layers(
    rng: Rng, shape: Shape, diameter: float
) -> tuple[list[Layer], list[Stain], set[str]]:
    """Draw the cells of a smear whose red cells are about `diameter` pixels wide.

    Returns
    -------
    labelled : list of Layer
    stains : list of ((H, W) density, (r, g, b))
        For `starter.looks.absorb`.
    unlabelled : set of str
        Concepts that may be seen but have no label.
    """
    chances = np.array([p for _, p in _MIXES])
    mix = _MIXES[rng.choice(len(_MIXES), p=chances / chances.sum())][0]
    free = np.zeros(shape, bool)
    found: list[Layer] = []
    stains: list[Stain] = []
    area = shape[0] * shape[1]
    if "white" in mix:
        big = min(diameter * rng.uniform(1.25, 2.0), shape[0] * 0.6)
        most = max(2, min(12, int(area / big**2 * 0.35)))
        white, core, _ = _white(rng, shape, big, int(rng.integers(1, most + 1)))
        found += [white, core]
        stains.append((white.plane, _jitter(rng, (0.80, 0.66, 0.84), 0.06)))
        stains.append((core.plane, _jitter(rng, (0.50, 0.32, 0.78), 0.07)))
        free |= white.labels > 0
    red = None
    if "red" in mix:
        n = int(np.clip(area / diameter**2 * np.exp(rng.uniform(np.log(0.1), np.log(1.6))), 2, 130))
        red = _red(rng, shape, diameter, n, free)
        found.append(red)
        salmon = (0.86, 0.66, 0.60) if rng.random() < 0.6 else (0.80, 0.62, 0.68)
        stains.append((red.plane, _jitter(rng, salmon)))
    if "platelets" in mix:
        taken = free if red is None else free | (red.labels > 0)
        small = _platelets(rng, shape, diameter * rng.uniform(0.18, 0.4), taken)
        found.append(small)
        stains.append((small.plane, _jitter(rng, (0.62, 0.50, 0.80), 0.06)))
    return found, stains, {"cells", "spots", "membranes"}
