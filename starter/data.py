"""Labelled microscopy images of the recipe: one `Sample` type for measured and generated ones."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from starter.phrases import canonical

__all__ = ["TRAINING_SETS", "Sample", "contiguous", "folder_reader", "load_split", "read_index"]

TRAINING_SETS = ("dsb2018_nuclei", "usiigaci_phase_contrast", "bccd_blood_boxes")

Reader = Callable[[str], bytes]
Row = dict[str, str]

_MODALITIES = {
    "fluorescence_256x256": "fluorescence microscopy image",
    "fluorescence_360x360": "fluorescence microscopy image",
    "fluorescence_520x696": "fluorescence microscopy image",
    "fluorescence_other": "fluorescence microscopy image",
    "histology_purple_on_violet": "histology",
    "histology_purple_on_white": "histology",
    "brightfield_pap_smear_grey": "brightfield",
    "phase_contrast_large_cells": "phase contrast",
    "phase_contrast_small_cells": "phase contrast",
    "blood smear": "blood smear",
}

# What a person may see in images of a style although nobody outlined it.
_UNLABELLED = {
    "fluorescence microscopy image": {"cells", "spots"},
    "histology": {
        "cells",
        "membranes",
        "filaments",
        "red blood cells",
        "white blood cells",
        "vesicles",
        "spots",
    },
    "brightfield": {"cells", "membranes", "white blood cells", "bacteria", "spots", "vesicles"},
    "phase contrast": {"nuclei", "membranes", "filaments", "vesicles", "spots"},
    "blood smear": {"cells", "nuclei", "membranes", "spots", "platelets"},
}
# Marked objects are right, but unmarked ones exist: positives only.
_PARTIAL = {"bccd_blood_boxes": {"red blood cells"}}


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and what is known about it.

    Attributes
    ----------
    image : (H, W, 3) uint8 array
        Greys are replicated.
    concepts : dict of str to (H, W) uint16 array
        Canonical concept to instance ids, 0 = background; for a semantic concept 0 / 1.
    kinds : dict of str to str
        Every labelled concept, those of `boxes` too: "instance", "semantic" or "boxes".
    boxes : dict of str to (M, 4) float64 array
        y0, x0, y1, x1 in pixels, half open, of the concepts that have boxes and no masks.
    modality : str
        How it was imaged, a key of `starter.phrases.MODALITIES`.
    source : str
        Data set, style and file, or family and seed.
    unlabelled : frozenset of str
        Concepts that may be visible but are not labelled: never ask for them as absent.
    partial : frozenset of str
        Concepts of which some objects are not marked: what is marked is right, the rest unknown.
    """

    image: np.ndarray
    concepts: dict[str, np.ndarray]
    kinds: dict[str, str]
    modality: str
    source: str
    boxes: dict[str, np.ndarray] = field(default_factory=dict)
    unlabelled: frozenset[str] = frozenset()
    partial: frozenset[str] = frozenset()


def contiguous(labels: np.ndarray) -> np.ndarray:
    """Renumber the ids of a label map as 1..n in rising order.

    Parameters
    ----------
    labels : (H, W) integer array

    Returns
    -------
    (H, W) uint16 array
    """
    if not labels.any():
        return np.zeros(labels.shape, np.uint16)
    present = np.bincount(labels.ravel()) > 0
    present[0] = False
    return np.where(present, np.cumsum(present), 0).astype(np.uint16)[labels]


def folder_reader(folder: Path) -> Reader:
    """Return read(name) -> bytes for files below a folder."""
    return lambda name: (folder / name).read_bytes()


def _opener(root: Path, dataset: str) -> tuple[Reader, Callable[[], None]]:
    """Return read(name) -> bytes and close() for a data set: a folder or DATASET.zip."""
    folder, packed = root / dataset, root / f"{dataset}.zip"
    if folder.is_dir():
        return folder_reader(folder), (lambda: None)
    if packed.is_file():
        archive = zipfile.ZipFile(packed)
        return archive.read, archive.close
    raise FileNotFoundError(
        f"no {dataset} in {root}: give the data folder, or one made by python -m starter.pack"
    )


def read_index(read: Reader) -> list[Row]:
    """Return the rows of a data set's index.csv."""
    return list(csv.DictReader(io.StringIO(read("index.csv").decode())))


def _by_file(rows: Iterable[Row], split: str) -> Iterator[tuple[str, list[Row]]]:
    files: dict[str, list[Row]] = {}
    for row in rows:
        if row["split"] == split:
            files.setdefault(row["file"], []).append(row)
    yield from files.items()


def _boxes(read: Reader, rows: list[Row]) -> dict[tuple[str, str], np.ndarray]:
    """Return {(file, canonical concept): (M, 4) y0, x0, y1, x1}."""
    found: dict[tuple[str, str], list[list[float]]] = {}
    for name in sorted({row["label"] for row in rows if row["label_type"] == "boxes"}):
        for line in csv.DictReader(io.StringIO(read(name).decode())):
            key = (line["file"], canonical(line["concept"]))
            found.setdefault(key, []).append([float(line[k]) for k in ("y0", "x0", "y1", "x1")])
    return {key: np.array(boxes) for key, boxes in found.items()}


def _sample(
    read: Reader,
    dataset: str,
    file: str,
    rows: list[Row],
    boxes: dict[tuple[str, str], np.ndarray],
) -> Sample:
    concepts, kinds, own_boxes = {}, {}, {}
    for row in rows:
        concept = canonical(row["concepts"].split(";")[0])
        kinds[concept] = row["label_type"]
        if row["label_type"] == "boxes":
            own_boxes[concept] = boxes[file, concept]
        else:
            concepts[concept] = contiguous(np.array(Image.open(io.BytesIO(read(row["label"])))))
    style = rows[0]["style"]
    modality = _MODALITIES[style]
    return Sample(
        image=np.array(Image.open(io.BytesIO(read(file))).convert("RGB")),
        concepts=concepts,
        kinds=kinds,
        boxes=own_boxes,
        modality=modality,
        source=f"{dataset}/{style}/{file}",
        unlabelled=frozenset(_UNLABELLED[modality] - kinds.keys()),
        partial=frozenset(_PARTIAL.get(dataset, set()) & kinds.keys()),
    )


def load_split(
    root: str | Path, datasets: Iterable[str] = TRAINING_SETS, split: str = "train"
) -> list[Sample]:
    """Read the images of one split.

    Parameters
    ----------
    root : path
        Folder that holds each data set as a folder or as a packed DATASET.zip.
    datasets : iterable of str
        Of `TRAINING_SETS`; the others may be evaluated on, but nothing shipped may learn from them.
    split : "train", "val" or "test"

    Returns
    -------
    list of Sample
        In the order of the index files.

    Raises
    ------
    ValueError
        For a data set that is not one of `TRAINING_SETS`.
    FileNotFoundError
        Where a data set is missing.
    """
    samples = []
    for dataset in datasets:
        if dataset not in TRAINING_SETS:
            raise ValueError(f"{dataset} is not for training; choose among {TRAINING_SETS}")
        read, close = _opener(Path(root), dataset)
        try:
            rows = read_index(read)
            boxes = _boxes(read, rows)
            samples += [_sample(read, dataset, *item, boxes) for item in _by_file(rows, split)]
        finally:
            close()
    return samples
