"""An independent check of `napari-clipsam evaluate`.

``python -m starter.check --data ../shared/data --planes 12``

Words are asked with `napari-clipsam segment`, whose label files are read back; clicks and boxes
are chosen here and asked of a `Segmenter`. All scores are counted here too, from their definitions
alone (numpy and scipy), and set beside those of `evaluate` on the same planes. The exit status is
1 where two differ by more than 0.002.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image
from scipy.ndimage import distance_transform_edt

from napari_clipsam import Prompts, Segmenter, open_image
from napari_clipsam.cli import main as command
from napari_clipsam.models.registry import load_model, starter_file

__all__ = ["ap50", "click", "compare", "dice_of", "iou_of", "main", "surrounding_box"]

SETS = (("dsb2018_nuclei", "nuclei"), ("usiigaci_phase_contrast", "cells"))
TOLERANCE = 0.002
_SMALLEST = 20


# ---------------------------------------------------------------- definitions


def iou_of(a: np.ndarray, b: np.ndarray) -> float:
    """Shared pixels of two masks over the pixels of either; two empty ones agree."""
    either = np.logical_or(a, b).sum()
    return float(np.logical_and(a, b).sum() / either) if either else 1.0


def dice_of(a: np.ndarray, b: np.ndarray) -> float:
    """Twice the shared pixels of two masks over the sum of both; two empty ones agree."""
    both = int(a.sum()) + int(b.sum())
    return float(2 * np.logical_and(a, b).sum() / both) if both else 1.0


def ap50(found: np.ndarray, true: np.ndarray) -> float:
    """TP / (TP + FP + FN) of two label images; a hit shares more than half of what either covers.

    One object can be hit by one other only, so hits need not be assigned.
    """
    predicted, wanted = (np.setdiff1d(np.unique(labels), 0) for labels in (found, true))
    hits = 0
    for number in wanted:
        mask = true == number
        near = np.setdiff1d(np.unique(found[mask]), 0)
        hits += any(iou_of(found == other, mask) > 0.5 for other in near)
    all_of_them = len(predicted) + len(wanted) - hits
    return hits / all_of_them if all_of_them else 1.0


def click(mask: np.ndarray) -> tuple[int, int]:
    """The pixel (y, x) of an object that is farthest from all that is not the object.

    What lies outside the image is not the object; of equals the first in reading order.
    """
    depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = divmod(int(depth.argmax()), mask.shape[1])
    return y, x


def surrounding_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """First row and column of an object, and those behind its last ones."""
    ys, xs = np.nonzero(mask)
    return int(ys.min()), int(xs.min()), int(ys.max()) + 1, int(xs.max()) + 1


# ---------------------------------------------------------------- planes


def gather(data: Path, name: str, count: int, folder: Path) -> None:
    """Copy test images and labels, evenly spread over a set, into two folders of equal names."""
    with (data / name / "index.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    rows = [rows[i * len(rows) // count] for i in range(min(count, len(rows)))]
    for number, row in enumerate(rows):
        for kind, column in (("images", "file"), ("labels", "label")):
            source = data / name / row[column]
            target = folder / kind / f"{number:03d}{source.suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def true_labels(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Names and label images."""
    for path in sorted((folder / "labels").iterdir()):
        yield path.stem, np.asarray(Image.open(path))


# ---------------------------------------------------------------- both ways


def compare(
    data: Path, name: str, word: str, count: int, models: Sequence[Path], device: str
) -> dict[str, tuple[float, float]]:
    """Own score and that of `evaluate` for each measure, on the same planes of one set."""
    sam, clip, adapter = map(str, models)
    chosen = ["--model", sam, "--clip", clip, "--adapter", adapter, "--device", device]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        gather(data, name, count, folder)
        own = by_word(folder, word, chosen)
        own |= by_prompt(folder, word, Segmenter(load_model(sam, clip), adapter, device))
        theirs = by_evaluate(folder, word, chosen)
    return {measure: (own[measure], theirs[measure]) for measure in own}


def by_word(folder: Path, word: str, chosen: Sequence[str]) -> dict[str, float]:
    """Scores of the label files that `segment` writes."""
    for target in ("concept", "instances"):
        images, out = str(folder / "images"), str(folder / target)
        run("segment", images, "--text", word, "--target", target, "-o", out, *chosen)
    overlaps, agreements, precisions = [], [], []
    for stem, true in true_labels(folder):
        mask = tifffile.imread(folder / "concept" / f"{stem}.tif") > 0
        overlaps.append(iou_of(mask, true > 0))
        agreements.append(dice_of(mask, true > 0))
        precisions.append(ap50(tifffile.imread(folder / "instances" / f"{stem}.tif"), true))
    scores = {"concept, IoU": overlaps, "concept, Dice": agreements, "instances, AP50": precisions}
    return {measure: float(np.mean(values)) for measure, values in scores.items()}


def by_prompt(folder: Path, word: str, segmenter: Segmenter) -> dict[str, float]:
    """Mean IoU over objects after one click and after a box."""
    scores: dict[str, list[float]] = {"click, IoU": [], "box, IoU": []}
    images = {path.stem: path for path in (folder / "images").iterdir()}
    for stem, true in true_labels(folder):
        segmenter.set_plane(open_image(images[stem]).plane())
        for number in np.setdiff1d(np.unique(true), 0):
            mask = true == number
            if mask.sum() < _SMALLEST:
                continue
            asked = {
                "click, IoU": Prompts(word, points=[click(mask)]),
                "box, IoU": Prompts(word, boxes=[surrounding_box(mask)]),
            }
            for measure, prompts in asked.items():
                found = segmenter.predict(prompts, "object").mask()
                scores[measure].append(iou_of(found, mask))
    return {measure: float(np.mean(values)) for measure, values in scores.items()}


def by_evaluate(folder: Path, word: str, chosen: Sequence[str]) -> dict[str, float]:
    """What the command line says of the same planes."""
    scores: dict[str, float] = {}
    for prompts, target, measures in (
        ("text", "concept", {"mean_iou": "concept, IoU", "dice": "concept, Dice"}),
        ("text", "instances", {"ap50": "instances, AP50"}),
        ("point", "object", {"mean_iou": "click, IoU"}),
        ("box", "object", {"mean_iou": "box, IoU"}),
    ):
        path = folder / f"{prompts}_{target}.json"
        pair = str(folder / "images"), str(folder / "labels")
        asked = ("--text", word, "--prompts", prompts, "--target", target, "--json", str(path))
        run("evaluate", *pair, *asked, *chosen)
        said = json.loads(path.read_text())
        scores |= {measure: said[key] for key, measure in measures.items()}
    return scores


def run(*words: str) -> None:
    """One command of the command line, which has to succeed."""
    status = command(list(words))
    if status:
        raise SystemExit(f"napari-clipsam {' '.join(words)} ended with {status}")


def main(argv: list[str] | None = None) -> int:
    """Compare, print a table; 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="../shared/data", help="the data folder")
    parser.add_argument("--planes", type=int, default=12, help="of each set")
    parser.add_argument("--run", default=None, help="folder of a run; by default what ships")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(argv)
    parts = ("sam", "clip", "adapter")
    if options.run is None:
        models = [starter_file(part) for part in parts]
    else:
        models = [Path(options.run) / f"{part}.safetensors" for part in parts]
    lines = ["| set | measure | counted here | evaluate | apart |", "|" + " --- |" * 5]
    worst = 0.0
    for name, word in SETS:
        found = compare(Path(options.data), name, word, options.planes, models, options.device)
        for measure, (own, theirs) in found.items():
            apart = abs(own - theirs)
            worst = max(worst, apart)
            lines.append(f"| {name} | {measure} | {own:.4f} | {theirs:.4f} | {apart:.4f} |")
    print("\n".join(lines))
    print(f"largest difference {worst:.4f}, allowed {TOLERANCE}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
