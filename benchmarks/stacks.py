"""One click an object, followed through a stack; and every object of a word, linked.

``python benchmarks/stacks.py [--data ../shared/data] [--stacks sample,mouse] [--clock cpu]``

The starter model, on the sample stack of the plugin and on labelled stacks of a data folder. Each
object is clicked once, at the innermost pixel of the middle slice it is in. Prints two tables.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage

from napari_clipsam import Plane, Prompts, Segmenter, open_image
from napari_clipsam._plugin.samples import nuclei_stack, synthetic_nuclei
from napari_clipsam.inference.propagation import PropagationSettings, propagate
from napari_clipsam.inference.stacks import segment_stack
from napari_clipsam.planes import read_labels

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from napari_clipsam.inference.requests import ObjectMask

__all__ = ["Labelled", "follow_all", "link_all", "main"]

# Folder, stem, distance of two slices in pixel sizes as far as it is known, word.
FILES = {
    "mouse": ("mouse_embryo_nuclei_3d", "embryo_16_cell_stage", 2.18, "nuclei"),
    "ovule-train": ("plant_ovule_nuclei_3d", "ovule1135_z00-54", 2.237, "nuclei"),
    "ovule-val": ("plant_ovule_nuclei_3d", "ovule1135_z55-69", 2.237, "nuclei"),
    "ovule": ("plant_ovule_nuclei_3d", "ovule1135_z70-99", 2.237, "nuclei"),
    "root": ("plant_cells_3d", "lateral_root_z36-55", 1.0, "cells"),
}
STACKS = ("sample", "mouse", "ovule", "root")


@dataclass(frozen=True, eq=False)
class Labelled:
    """A stack with its true objects; `spacing` is the slice distance in pixel sizes."""

    name: str
    planes: list[Plane]
    labels: NDArray[np.integer]
    spacing: float
    word: str

    @classmethod
    def open(cls, name: str, data: Path) -> Labelled:
        """The plugin's sample, ``synthetic-SEED`` like it but smaller, or a stack of `FILES`."""
        if name in FILES:
            folder, stem, spacing, word = FILES[name]
            stack = open_image(data / folder / "images" / f"{stem}.tif")
            true = read_labels(data / folder / "labels" / f"{stem}.tif")
            labels = np.stack([true.plane(index) for index in true.planes()])
        else:
            spacing, word = 4.0, "nuclei"
            if name == "sample":
                (image, _, _), (labels, _, _) = nuclei_stack()
            else:
                seed = int(name.removeprefix("synthetic-"))
                image, labels = synthetic_nuclei((24, 192, 192), (2.0, 0.5, 0.5), 40, seed)
            stack = open_image(image, axes="ZYX")
        return cls(name, [stack.plane(z) for z in range(len(labels))], labels, spacing, word)

    def volume(self, masks: dict[int, ObjectMask]) -> NDArray[np.bool_]:
        """Masks by slice as one volume."""
        found = np.zeros(self.labels.shape, bool)
        for z, one in masks.items():
            found[z][one.slices] = one.mask
        return found


def innermost(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """The pixel farthest from the outside, the border of the image counting as outside."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(y), int(x)


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Intersection over union."""
    return float((a & b).sum() / max(1, (a | b).sum()))


def follow_all(
    stack: Labelled,
    segmenter: Segmenter,
    settings: PropagationSettings,
    clock: Callable[[], float],
) -> dict[str, str]:
    """Click each object once and follow it; the row of the table."""
    extents, clicks = {}, {}
    for value in range(1, int(stack.labels.max()) + 1):
        zs = np.flatnonzero((stack.labels == value).any(axis=(1, 2)))
        if len(zs):
            middle = int(zs[len(zs) // 2])
            extents[str(value)] = (int(zs[0]), middle, int(zs[-1]))
            at = innermost(stack.labels[middle] == value)
            clicks[str(value)] = {middle: Prompts(stack.word, points=[at])}
    found: dict[str, dict[int, ObjectMask]] = defaultdict(dict)
    steps, start = 0, clock()
    last = len(stack.planes) - 1
    for step in propagate(
        *(segmenter, stack.planes.__getitem__, {}, clicks, (0, last), stack.spacing, settings)
    ):
        steps += 1
        if step.found is not None:
            found[step.key][step.z] = step.found
    seconds = clock() - start
    scores, clicked, over, missed = [], [], [], []
    for key, (low, middle, high) in extents.items():
        volume, true = stack.volume(found[key]), stack.labels == int(key)
        scores.append(iou(volume, true))
        clicked.append(iou(volume[middle], true[middle]))
        over.append(sum(not low <= z <= high for z in found[key]))
        missed.append(sum(z not in found[key] for z in range(low, high + 1)))
    values = np.array(scores)
    return {
        "stack": stack.name,
        "objects": str(len(values)),
        "clicked slice": f"{np.mean(clicked):.3f}",
        "3D IoU": f"{values.mean():.3f}",
        "at least 0.5": f"{(values >= 0.5).mean():.0%}",
        "at least 0.75": f"{(values >= 0.75).mean():.0%}",
        "slices too many": f"{np.mean(over):.2f}",
        "slices missed": f"{np.mean(missed):.2f}",
        "of": f"{np.mean([high - low + 1 for low, _, high in extents.values()]):.1f}",
        "s a slice": f"{seconds / len(stack.planes):.2f}",
        "ms a step": f"{1000 * seconds / max(1, steps):.0f}",
    }


def link_all(stack: Labelled, segmenter: Segmenter, clock: Callable[[], float]) -> dict[str, str]:
    """Find every object of the word and link them; the row of the table."""
    volume = np.zeros(stack.labels.shape, np.int64)
    flat, start = [], clock()
    for step in segment_stack(
        *(segmenter, stack.planes.__getitem__, range(len(stack.planes)), stack.word, "instances"),
        spacing=stack.spacing,
    ):
        objects = step.prediction.objects
        for i in sorted(range(len(objects)), key=lambda i: objects[i].score):
            volume[step.z][objects[i].slices][objects[i].mask] = step.ids[i]
        flat.append(matches(volume[step.z], stack.labels[step.z])[0])
    seconds = clock() - start
    ap50, hits, n_found, n_true = matches(volume, stack.labels)
    return {
        "stack": stack.name,
        "found": str(n_found),
        "true": str(n_true),
        "hits": str(hits),
        "3D AP50": f"{ap50:.3f}",
        "AP50 of slices": f"{np.mean(flat):.3f}",
        "s a slice": f"{seconds / len(stack.planes):.2f}",
    }


def matches(found: NDArray[np.integer], true: NDArray[np.integer]) -> tuple[float, int, int, int]:
    """AP50, hits (IoU above 0.5), objects found and objects true; 1 where there is nothing."""
    size = int(true.max()) + 1
    pairs = found.astype(np.int64).ravel() * size + true.ravel()
    counts = np.bincount(pairs, minlength=(int(found.max()) + 1) * size).reshape(-1, size)
    areas, others = counts.sum(axis=1)[1:], counts.sum(axis=0)[1:]
    shared = counts[1:, 1:]
    hits = int((shared > 0.5 * (areas[:, None] + others - shared)).sum())
    n_found, n_true = int((areas > 0).sum()), int((others > 0).sum())
    total = n_found + n_true - hits
    return (hits / total if total else 1.0), hits, n_found, n_true


def table(rows: list[dict[str, str]]) -> str:
    """Rows as Markdown."""
    heads = list(rows[0])
    lines = [heads, ["---"] * len(heads), *([row[head] for head in heads] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--stacks", default=",".join(STACKS), help="also synthetic-SEED")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--min-contrast", type=float, help="0: score and overlap alone end it")
    parser.add_argument("--skip", choices=("clicks", "words"))
    chosen = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    clock = time.process_time if chosen.clock == "cpu" else time.perf_counter
    settings = PropagationSettings()
    if chosen.min_contrast is not None:
        settings = replace(settings, min_contrast=chosen.min_contrast)
    clicks, words = [], []
    for name in chosen.stacks.split(","):
        stack = Labelled.open(name, chosen.data)
        # A fresh one each time, so that no stack profits from what another left in the caches.
        if chosen.skip != "clicks":
            clicks.append(follow_all(stack, Segmenter(device=chosen.device), settings, clock))
        if chosen.skip != "words":
            words.append(link_all(stack, Segmenter(device=chosen.device), clock))
    for rows in (clicks, words):
        if rows:
            print(table(rows), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
