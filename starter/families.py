"""Families of generated images: which structures come together, and how they are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from starter import layers, looks, organelles
from starter.blood import blood_smear_layers
from starter.layers import Layer
from starter.shapes import blur, curves, mosaic, smooth_noise

__all__ = ["FAMILIES", "Scene"]

Rng = np.random.Generator
Shape = tuple[int, int]


@dataclass
class Scene:
    """What a family hands over: an image in 0..1 before faults, and its labelled layers."""

    image: np.ndarray
    labelled: list[Layer]
    modality: str
    dark: bool = False
    dimmest: float = 0.3
    unlabelled: set[str] = field(default_factory=set)


def _log_between(rng: Rng, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _diameter(rng: Rng, shape: Shape, low: float = 7, high: float = 120) -> float:
    return _log_between(rng, low, min(high, shape[0] / 2.6))


def _line(rng: Rng, shape: Shape) -> float:
    return _log_between(rng, 2.2, max(3.0, shape[0] / 40))


def _with_debris(rng: Rng, planes: list[tuple[str, np.ndarray]], size: float) -> set[str]:
    """Add unlabelled specks to the planes of a fluorescence image now and then."""
    if rng.random() > 0.25:
        return set()
    shape = planes[0][1].shape
    specks = layers.debris(rng, shape, max(3.0, size * rng.uniform(0.1, 0.4)))
    planes.append(("debris", np.float32(rng.uniform(0.2, 0.8)) * blur(specks, 1.0)))
    return {"spots", "vesicles", "bacteria"}


def _fluorescent(rng: Rng, found: list[Layer], size: float, grey: float = 0.55) -> Scene:
    """Return the scene of layers that all glow, each in its own colour or all in grey."""
    weights = [_log_between(rng, 0.45, 1.0) for _ in found]
    planes = [
        (layer.concept, (w * layer.plane).astype(np.float32))
        for layer, w in zip(found, weights, strict=True)
    ]
    unlabelled = _with_debris(rng, planes, size)
    colour = rng.random() > grey
    image = looks.fluoresce(rng, planes, colour)
    return Scene(image, found, "fluorescence microscopy image", True, unlabelled=unlabelled)


def fluorescence_nuclei(rng: Rng, shape: Shape) -> Scene:
    """Stained nuclei alone; sometimes a faint, unlabelled haze of cytoplasm around them."""
    diameter = _diameter(rng, shape)
    found = layers.nuclei(rng, shape, diameter, aligned=rng.random() < 0.15)
    planes = [("nuclei", found.plane)]
    unlabelled = _with_debris(rng, planes, diameter) | {"cells"}
    if rng.random() < 0.25:
        haze = blur(found.plane, diameter * rng.uniform(0.3, 0.8))
        planes.append(("cells", np.float32(rng.uniform(0.1, 0.5)) * haze))
    if rng.random() < 0.2:
        ghosts = layers.nuclei(rng, shape, diameter, n=int(rng.integers(1, 8)))
        planes.append(("ghosts", np.float32(0.2) * blur(ghosts.plane, diameter * 0.35)))
    together = np.sum([plane for _, plane in planes], axis=0)
    image = looks.fluoresce(rng, [("nuclei", together)], rng.random() < 0.25)
    return Scene(image, [found], "fluorescence microscopy image", True, 0.12, unlabelled)


def fluorescence_cells(rng: Rng, shape: Shape) -> Scene:
    """Whole cells with their nuclei, in two channels or one; the nucleus brighter, or a hole."""
    diameter = _diameter(rng, shape, low=16, high=150)
    body = layers.cells(rng, shape, diameter)
    inner = layers.cell_nuclei(rng, body, rng.uniform(0.35, 0.7))
    found = [body, inner]
    if rng.random() < 0.3:
        body.plane *= 1 - np.float32(rng.uniform(0.5, 1)) * (inner.labels > 0)
        inner.plane *= np.float32(rng.choice([0.0, 1.0]))
    else:
        body.plane *= np.float32(rng.uniform(0.35, 0.8))
    if rng.random() < 0.3:
        size = max(3.0, diameter * rng.uniform(0.05, 0.12))
        found.append(layers.spots(rng, shape, size, inside=body.labels > 0))
    return _fluorescent(rng, found, diameter)


def fluorescence_fibres(rng: Rng, shape: Shape) -> Scene:
    """Filaments with nuclei, spots or vesicles, or alone."""
    lines = layers.filaments(rng, shape, _line(rng, shape))
    found = [lines]
    partner = rng.choice(["nuclei", "spots", "vesicles", "none"], p=[0.62, 0.18, 0.1, 0.1])
    diameter = _diameter(rng, shape, low=10)
    if partner == "nuclei":
        found.append(layers.nuclei(rng, shape, diameter))
    elif partner == "spots":
        found.append(layers.spots(rng, shape, _log_between(rng, 4, 12)))
    elif partner == "vesicles":
        found.append(organelles.vesicles(rng, shape, _log_between(rng, 9, 35)))
    return _fluorescent(rng, found, diameter)


def fluorescence_tissue(rng: Rng, shape: Shape) -> Scene:
    """A mosaic of cells with bright borders; the interiors are cells, some with nuclei."""
    diameter = _diameter(rng, shape, low=18, high=130)
    tissue = mosaic(rng, shape, diameter, wavy=rng.uniform(0, 0.4))
    width = float(np.clip(diameter * rng.uniform(0.06, 0.16), 2.2, 9))
    wall, body = layers.membranes(rng, tissue, width), layers.tissue_cells(rng, tissue, width)
    found = [wall]
    if rng.random() < 0.45:
        found.append(layers.mosaic_nuclei(rng, tissue, body, diameter * rng.uniform(0.35, 0.6)))
    elif rng.random() < 0.3:
        found.append(layers.spots(rng, shape, max(3.5, diameter * 0.12)))
    scene = _fluorescent(rng, found, diameter)
    scene.labelled = [body, *found]
    return scene


def fluorescence_organelles(rng: Rng, shape: Shape) -> Scene:
    """Mitochondria, vesicles or spots around nuclei."""
    diameter = _diameter(rng, shape, low=30, high=120)
    core = layers.nuclei(rng, shape, diameter, n=int(rng.integers(2, 14)))
    near = (blur((core.labels > 0).astype(np.float32), diameter * 0.4) > 0.04) & (core.labels == 0)
    kind = rng.choice(["mitochondria", "vesicles", "spots"])
    if kind == "mitochondria":
        other = organelles.threads(rng, shape, _log_between(rng, 2.5, 6), near)
    elif kind == "vesicles":
        other = organelles.vesicles(rng, shape, max(8.0, diameter * rng.uniform(0.15, 0.35)), near)
    else:
        other = layers.spots(rng, shape, _log_between(rng, 3.5, 10), inside=near)
    found = [core, other] if rng.random() < 0.85 else [other]
    if rng.random() < 0.2:
        found.append(layers.filaments(rng, shape, _line(rng, shape)))
    return _fluorescent(rng, found, diameter)


def fluorescence_microbes(rng: Rng, shape: Shape) -> Scene:
    """Bacteria and yeast, together or with nuclei or spots, or alone."""
    width = _log_between(rng, 4, 18)
    kind = rng.choice(["bacteria", "yeast", "both", "bacteria+nuclei", "spots"])
    found = []
    if kind in ("bacteria", "both", "bacteria+nuclei"):
        found.append(organelles.bacteria(rng, shape, width))
    if kind in ("yeast", "both"):
        found.append(organelles.yeast(rng, shape, max(14.0, width * rng.uniform(2.5, 5))))
    if kind == "bacteria+nuclei":
        found.append(layers.nuclei(rng, shape, max(20.0, width * 6), n=int(rng.integers(2, 14))))
    if kind == "spots":
        found += [
            layers.spots(rng, shape, _log_between(rng, 4, 14)),
            organelles.vesicles(rng, shape, _log_between(rng, 14, 50)),
        ]
    return _fluorescent(rng, found, width)


_NUCLEAR_STAINS = (
    (0.26, 0.13, 0.62),
    (0.38, 0.10, 0.42),
    (0.30, 0.20, 0.50),
    (0.22, 0.22, 0.45),
    (0.42, 0.12, 0.52),
)
_GROUNDS = ((0.70, 0.62, 0.86), (0.90, 0.89, 0.88), (0.96, 0.92, 0.95), (0.88, 0.80, 0.90))
_EOSIN = ((0.90, 0.62, 0.76), (0.85, 0.55, 0.70), (0.93, 0.70, 0.72))


def _near(rng: Rng, colour: Iterable[float], spread: float = 0.04) -> tuple[float, ...]:
    return tuple(np.clip(np.array(tuple(colour)) + rng.normal(0, spread, 3), 0.03, 0.99))


def histology(rng: Rng, shape: Shape) -> Scene:
    """Purple nuclei in stained tissue; with fibres, red blood cells or outlined cells at times."""
    diameter = _log_between(rng, 11, min(70, shape[0] / 3))
    kind = str(rng.choice(["plain", "fibres", "blood", "cells"], p=[0.42, 0.22, 0.16, 0.2]))
    style = int(rng.integers(len(_GROUNDS)))
    ground = np.array(_near(rng, _GROUNDS[style], 0.03), np.float32)
    pink = _near(rng, _EOSIN[rng.integers(len(_EOSIN))] if style else (0.72, 0.62, 0.88))
    purple = _near(rng, _NUCLEAR_STAINS[0 if style == 0 else rng.integers(len(_NUCLEAR_STAINS))])
    patches = np.clip(
        smooth_noise(rng, shape, shape[0] / rng.uniform(2, 8)) + rng.uniform(-1, 1), 0, 2
    )
    grain = smooth_noise(rng, shape, diameter * 0.4) + smooth_noise(rng, shape, 3)
    tissue = np.float32(rng.uniform(0.1, 0.5)) * patches * (1 + np.float32(0.2) * grain)
    labelled: list[Layer] = []
    unlabelled = {"cells", "membranes", "filaments", "white blood cells", "red blood cells"}
    density: list[tuple[np.ndarray, tuple[float, ...]]] = []
    blocked = None
    if kind == "cells":
        plan = mosaic(rng, shape, diameter * rng.uniform(1.7, 2.6), wavy=0.3)
        width = float(np.clip(diameter * 0.12, 2.2, 6))
        body = layers.tissue_cells(rng, plan, width)
        wall = layers.membranes(rng, plan, width)
        core = layers.mosaic_nuclei(rng, plan, body, diameter)
        flesh = tissue + np.float32(rng.uniform(0.3, 0.7)) * body.plane
        tissue = (
            flesh * (1 - np.clip(wall.plane, 0, 1))
            if rng.random() < 0.5
            else flesh + 0.8 * wall.plane
        )
        labelled += [body, wall]
        unlabelled -= {"cells", "membranes"}
    else:
        if kind == "blood":
            red = _red_cells(rng, shape, diameter * rng.uniform(0.8, 1.3))
            blocked = red.labels > 0
            density.append((red.plane, _near(rng, (0.86, 0.45, 0.50))))
            labelled.append(red)
            unlabelled -= {"red blood cells"}
        crowd = layers.how_many(rng, shape, diameter, least=0.12)
        core = layers.nuclei(
            rng, shape, diameter, n=crowd, blocked=blocked, aligned=rng.random() < 0.4
        )
    if kind == "fibres":
        bundle = layers.filaments(rng, shape, _line(rng, shape), wavy=0.008)
        density.append((0.9 * bundle.plane * (core.labels == 0), pink))
        labelled.append(bundle)
        unlabelled -= {"filaments"}
    elif rng.random() < 0.6:
        tissue = tissue + np.float32(rng.uniform(0.05, 0.2)) * _wisps(rng, shape)
    _chromatin(rng, core, diameter)
    soft = blur(core.plane, _log_between(rng, 0.6, 1.6))
    halo = np.float32(rng.uniform(0, 0.35)) * blur(core.plane, diameter * 0.3)
    density += [(tissue.astype(np.float32), pink), (halo, pink), (soft, purple)]
    if rng.random() < 0.3:
        ghosts = layers.nuclei(rng, shape, diameter, n=int(rng.integers(1, 12)))
        pale = np.float32(rng.uniform(0.15, 0.35)) * blur(ghosts.plane, diameter * 0.25)
        density.append((pale, purple))
    image = looks.absorb(ground, density)
    return Scene(image, [core, *labelled], "histology", unlabelled=unlabelled)


def _chromatin(rng: Rng, core: Layer, diameter: float) -> None:
    """Give nuclei of a section clumps and individual darkness, in place."""
    clumps = smooth_noise(rng, core.plane.shape, max(2.0, diameter * 0.12))
    strength = np.float32(rng.choice([0.1, 0.25, 0.45]))
    number = int(core.labels.max()) + 1
    dark = np.clip(np.exp(rng.normal(0, rng.choice([0.15, 0.3, 0.5]), number)), 0.35, 1.6).astype(
        np.float32
    )
    core.plane = np.clip(core.plane, 0.3, 1.2) * (core.labels > 0) * dark[core.labels]
    core.plane *= np.clip(1 + strength * clumps, 0.25, 1.8)


def _wisps(rng: Rng, shape: Shape) -> np.ndarray:
    """Return the density of thin strands between cells, as tissue shows them everywhere."""
    paths = curves(rng, shape, int(rng.integers(5, 30)), bend=0.01, aligned=rng.uniform(0, np.pi))
    points = paths.reshape(-1, 2).astype(int)
    points = points[((points >= 0) & (points < shape)).all(axis=1)]
    plane = np.zeros(shape, np.float32)
    plane[tuple(points.T)] = 4
    return blur(plane, float(rng.uniform(0.8, 2.0)))


def _red_cells(rng: Rng, shape: Shape, diameter: float) -> Layer:
    found = layers.cells(rng, shape, diameter, style="round", n=int(rng.integers(3, 25)))
    found.concept = "red blood cells"
    found.plane = 0.6 + 0.4 * found.plane
    found.plane *= found.labels > 0
    return found


def blood_smear(rng: Rng, shape: Shape) -> Scene:
    """Red cells, white cells with their nuclei, platelets, in any combination; Giemsa colours."""
    found, density, unlabelled = blood_smear_layers(rng, shape, _diameter(rng, shape, 16, 120))
    tint = np.array(_near(rng, (0.83, 0.84, 0.86), 0.05), np.float32)
    shade = 1 + np.float32(0.02) * smooth_noise(rng, shape, 60)
    image = looks.absorb(tint * shade[..., None], density)
    return Scene(image, found, "blood smear", unlabelled=unlabelled)


def phase_cells(rng: Rng, shape: Shape) -> Scene:
    """Adherent cells in phase contrast, with nuclei labelled at times; rounded dead ones beside."""
    diameter = _diameter(rng, shape, low=18, high=140)
    style = str(rng.choice(["stellate", "spread", "round"], p=[0.6, 0.3, 0.1]))
    crowd = layers.how_many(rng, shape, diameter, 60, least=0.12)
    body = layers.cells(rng, shape, diameter, style=style, n=crowd)
    rim = blur((body.labels > 0).astype(np.float32), 1.0)
    speckle = smooth_noise(rng, shape, max(1.8, diameter * rng.uniform(0.02, 0.05)))
    granules = (np.clip(speckle - 1.1, 0, 1.5) + 0.08 * speckle) * rim * (0.3 + body.plane)
    phase = 0.5 * rim + 0.5 * body.plane + np.float32(rng.uniform(0.1, 0.8)) * granules
    labelled = [body]
    unlabelled = {"nuclei", "membranes", "filaments", "vesicles", "spots"}
    if diameter > 30 and rng.random() < 0.7:
        inner = layers.cell_nuclei(rng, body, rng.uniform(0.35, 0.5))
        ring = blur(inner.plane, 1.0) - blur(inner.plane, 3.0)
        phase = phase + 0.8 * ring - np.float32(rng.uniform(0.1, 0.3)) * inner.plane
        labelled.append(inner)
        unlabelled.discard("nuclei")
    image = looks.phase_contrast(rng, phase.astype(np.float32), diameter)
    if rng.random() < 0.4:
        image = _dead_cells(rng, image, body, diameter * rng.uniform(0.2, 0.5))
    return Scene(image, labelled, "phase contrast", unlabelled=unlabelled)


def _dead_cells(rng: Rng, image: np.ndarray, body: Layer, diameter: float) -> np.ndarray:
    """Add a few glaring rings with a dark middle, which nothing labels, outside the cells."""
    canvas_free = body.labels == 0
    rings = organelles.vesicles(rng, image.shape, max(6.0, diameter), canvas_free)
    few = (rings.labels > 0) & (rings.labels <= rng.integers(1, 6))
    glare = blur(rings.plane * few, 1.0)
    return image + np.float32(rng.uniform(0.3, 0.9)) * glare - np.float32(0.15) * few


def phase_microbes(rng: Rng, shape: Shape) -> Scene:
    """Bacteria, yeast or both in phase contrast."""
    width = _log_between(rng, 5, 18)
    kind = rng.choice(["bacteria", "yeast", "both"], p=[0.3, 0.25, 0.45])
    found = [organelles.bacteria(rng, shape, width)] if kind != "yeast" else []
    if kind != "bacteria":
        found.append(organelles.yeast(rng, shape, max(14.0, width * rng.uniform(2, 4))))
    phase = np.maximum.reduce([layer.plane for layer in found])
    return Scene(looks.phase_contrast(rng, phase, width), found, "phase contrast")


def brightfield(rng: Rng, shape: Shape) -> Scene:
    """Grey transmitted light: pale cells with dark nuclei, or microbes, or fibres with spots."""
    kind = rng.choice(["cells", "microbes", "fibres"], p=[0.7, 0.18, 0.12])
    unlabelled: set[str] = set()
    if kind == "cells":
        diameter = _diameter(rng, shape, low=24, high=240)
        count = None if diameter < 70 else int(rng.integers(1, 8))
        body = layers.cells(
            rng, shape, diameter, style=str(rng.choice(["spread", "round"])), n=count
        )
        inner = layers.cell_nuclei(rng, body, _log_between(rng, 0.14, 0.5))
        specks = np.clip(smooth_noise(rng, shape, 3) - 1, 0, 2) * (body.labels > 0)
        folds = np.float32(0.15) * _wisps(rng, shape) * (body.labels > 0)
        pale = np.float32(rng.uniform(0.1, 0.4)) * (0.7 * (body.labels > 0) + 0.3 * body.plane)
        density = pale + np.float32(0.1) * specks + folds
        density = density + np.float32(rng.uniform(0.4, 1.2)) * blur(inner.plane, 0.8)
        found = [inner, body]
        unlabelled = {"membranes", "spots", "white blood cells"}
    elif kind == "microbes":
        width = _log_between(rng, 5, 18)
        found = [
            organelles.bacteria(rng, shape, width),
            organelles.yeast(rng, shape, max(14.0, width * rng.uniform(2, 4))),
        ][: int(rng.integers(1, 3))]
        density = np.maximum.reduce([layer.plane for layer in found])
    else:
        found = [
            layers.filaments(rng, shape, _line(rng, shape)),
            layers.spots(rng, shape, _log_between(rng, 5, 16)),
        ]
        density = np.maximum(found[0].plane, found[1].plane)
    dust = np.float32(rng.choice([0.0, 0.3])) * layers.debris(rng, shape, 4)
    image = looks.brightfield_grey(rng, (density + dust).astype(np.float32))
    if rng.random() < 0.25:
        image = looks.absorb(
            np.ones(3, np.float32), [(1 - image, _near(rng, (0.4, 0.3, 0.4), 0.15))]
        )
    return Scene(image, found, "brightfield", unlabelled=unlabelled)


def electron_microscopy(rng: Rng, shape: Shape) -> Scene:
    """A section: membranes around cells, mitochondria and vesicles inside; or organelles alone."""
    grains = smooth_noise(rng, shape, 6)
    density: np.ndarray = np.float32(0.04) * grains
    labelled: list[Layer] = []
    unlabelled = {"spots", "filaments"}
    size, inside = _diameter(rng, shape, low=14, high=110), np.ones(shape, bool)
    walled = rng.random() < 0.75
    if walled:
        diameter = _diameter(rng, shape, low=28, high=170)
        tissue = mosaic(rng, shape, diameter, wavy=rng.uniform(0.3, 0.7))
        width = float(np.clip(diameter * rng.uniform(0.04, 0.1), 2.5, 8))
        wall, body = layers.membranes(rng, tissue, width), layers.tissue_cells(rng, tissue, width)
        shade = np.float32(rng.uniform(0.0, 0.15)) * (body.plane - 1)
        density = (
            density + np.float32(rng.uniform(0.6, 1.1)) * wall.plane + shade * (body.labels > 0)
        )
        inside = tissue.edge > width
        labelled += [wall, body]
        size = float(np.clip(size, 12, max(13.0, diameter * 0.55)))
    else:
        unlabelled |= {"membranes", "cells"}
    if not walled or rng.random() < 0.75:
        power = organelles.mitochondria(rng, shape, size, inside)
        density = density * (power.labels == 0) + np.float32(rng.uniform(0.5, 1)) * power.plane
        inside = inside & (power.labels == 0)
        labelled.append(power)
    else:
        unlabelled.discard("mitochondria")
    if rng.random() < 0.45:
        small = organelles.vesicles(rng, shape, float(np.clip(size * 0.35, 9, 28)), inside)
        density = density + np.float32(rng.uniform(0.5, 0.9)) * small.plane
        labelled.append(small)
    else:
        specks = layers.debris(rng, shape, 5) * inside
        density = density + np.float32(0.4) * specks
        unlabelled.add("vesicles")
    soft = blur(density.astype(np.float32), float(rng.uniform(0.5, 1.3)))
    return Scene(looks.electron(rng, soft), labelled, "electron microscopy", unlabelled=unlabelled)


# Name -> how to draw it, and how often.
FAMILIES: dict[str, tuple[Callable[[Rng, Shape], Scene], float]] = {
    "fluorescence_nuclei": (fluorescence_nuclei, 0.13),
    "fluorescence_cells": (fluorescence_cells, 0.10),
    "fluorescence_fibres": (fluorescence_fibres, 0.11),
    "fluorescence_tissue": (fluorescence_tissue, 0.08),
    "fluorescence_organelles": (fluorescence_organelles, 0.07),
    "fluorescence_microbes": (fluorescence_microbes, 0.07),
    "histology": (histology, 0.13),
    "blood_smear": (blood_smear, 0.10),
    "phase_cells": (phase_cells, 0.07),
    "phase_microbes": (phase_microbes, 0.03),
    "brightfield": (brightfield, 0.05),
    "electron_microscopy": (electron_microscopy, 0.06),
}
