"""Generated microscopy images with labels: `generate(seed)` gives one, the same for the same seed.

A family (`starter.families`) draws structures (`starter.layers`, `organelles`, `blood`), a look
(`starter.looks`) turns them into light, and faults of real microscopes are added. Most images hold
two or more labelled concepts, so that only the word can tell which one is meant.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from scipy import ndimage as ndi

from starter import looks
from starter.data import Sample, contiguous
from starter.families import FAMILIES

__all__ = ["FAMILIES", "generate", "generate_family", "generate_many"]

_ATTEMPTS = 30
_FAINTEST = 3.0


def _visible(pixels: np.ndarray, mask: np.ndarray) -> bool:
    """Tell whether a structure differs from its surroundings by a few grey levels on average."""
    pixels, mask = pixels[::2, ::2], mask[::2, ::2]
    ring = ndi.maximum_filter(mask, 5) & ~mask
    if not mask.any() or not ring.any():
        return False
    inside, outside = pixels[mask].mean(axis=0), pixels[ring].mean(axis=0)
    return float(np.abs(inside - outside).max()) >= _FAINTEST


def generate_family(family: str, seed: int, size: int = 320) -> Sample:
    """Return one image of a family.

    Parameters
    ----------
    family : str
        A key of `FAMILIES`.
    seed : int
    size : int
        Height and width in pixels.

    Returns
    -------
    Sample
        Every label map holds at least one object; ids are 1..n.
    """
    draw, _ = FAMILIES[family]
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng([seed, attempt, list(FAMILIES).index(family)])
        scene = draw(rng, (size, size))
        image = looks.degrade(rng, scene.image, dark=scene.dark, dimmest=scene.dimmest)
        if image.ndim == 2 and rng.random() < 0.04:
            image = 1 - image
        pixels = looks.to_uint8(image)
        if all(_visible(pixels, layer.labels > 0) for layer in scene.labelled):
            break
    else:
        raise ValueError(f"{family} {seed} shows nothing at {size} pixels; ask for larger images")
    names = [layer.concept for layer in scene.labelled]
    return Sample(
        image=pixels,
        concepts={layer.concept: contiguous(layer.labels) for layer in scene.labelled},
        kinds={layer.concept: layer.kind for layer in scene.labelled},
        modality=scene.modality,
        source=f"synthetic/{family}/{seed}",
        unlabelled=frozenset(scene.unlabelled - set(names)),
    )


def generate(seed: int, size: int = 320) -> Sample:
    """Return one generated image; families are drawn by their weights.

    Parameters
    ----------
    seed : int
        The same seed and size give the same sample.
    size : int
        Height and width in pixels, 96 or more.

    Returns
    -------
    Sample
    """
    weights = np.array([weight for _, weight in FAMILIES.values()])
    family = np.random.default_rng(seed).choice(list(FAMILIES), p=weights / weights.sum())
    return generate_family(str(family), seed, size)


def _job(task: tuple[int, int]) -> Sample:
    return generate(*task)


def generate_many(seeds: Iterable[int], size: int = 320, workers: int = 1) -> Iterator[Sample]:
    """Yield `generate(seed, size)` for every seed, in order, from a pool of processes.

    Parameters
    ----------
    seeds : iterable of int
    size : int
    workers : int
        Processes; with 1 everything happens in this one.
    """
    tasks = [(seed, size) for seed in seeds]
    if workers <= 1:
        yield from map(_job, tasks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(_job, tasks, chunksize=max(1, min(32, len(tasks) // (4 * workers))))
