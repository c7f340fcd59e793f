"""What the report measures on labelled masks: clicks, boxes, words, instances, speed and size.

Every section is a function from a `Lab` to rows; `starter.report` runs them and keeps the results.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from scipy.special import expit

from napari_clipsam import Prompts, Segmenter, open_image
from napari_clipsam.inference.requests import PredictRequest
from napari_clipsam.models.registry import load_model, starter_file
from napari_clipsam.training.evaluated import Evaluation, Question
from napari_clipsam.training.evaluation import evaluate
from napari_clipsam.training.labelled import LabelledPlane, labelled_planes, read_index
from napari_clipsam.training.metrics import average_precision, dice
from starter.baseline import otsu_watershed
from starter.synthetic import generate_family

__all__ = ["FEW_SHOT", "Lab", "Row", "by_modality"]

NUCLEI = "dsb2018_nuclei"
PHASE = "usiigaci_phase_contrast"
SYNONYMS = ("nucleus", "cell nuclei", "DAPI stained nuclei")

#: Sets that nothing was trained on, and what is asked of them.
FEW_SHOT = (
    ("vnc_em_organelles", "mitochondria"),
    ("vnc_em_organelles", "synapses"),
    ("vnc_em_organelles", "cell membranes"),
    ("isbi2012_em_membranes", "cell membranes"),
    ("isbi2012_em_membranes", "neurites"),
    ("wbc_blood_smear", "white blood cells"),
    ("wbc_blood_smear", "nuclei"),
    ("mouse_embryo_nuclei_3d", "nuclei"),
    ("plant_ovule_nuclei_3d", "nuclei"),
    ("plant_cells_3d", "cells"),
)
_PARTS = ("sam", "clip", "adapter")
_WHOLE = "all"


@dataclass(frozen=True)
class Row:
    """One measured number.

    Attributes
    ----------
    what, on : str
        What was measured, and on which images.
    value : float or None
        None where there was nothing to measure.
    target : float, optional
    at_most : bool
        The target is an upper bound.
    count : int, optional
        Over how many planes, objects or pairs.
    plain : float, optional
        The same by Otsu and watershed.
    unit : str
    """

    what: str
    on: str
    value: float | None
    target: float | None = None
    at_most: bool = False
    count: int | None = None
    plain: float | None = None
    unit: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the target was; None without one."""
        if self.target is None or self.value is None:
            return None
        return self.value <= self.target if self.at_most else self.value >= self.target


@dataclass(frozen=True)
class Lab:
    """The model, the data, and how much of it is looked at.

    Attributes
    ----------
    data : Path
        The data folder.
    run : Path or None
        Folder with sam, clip and adapter.safetensors; None for the files that ship.
    device : str
    limit : int or None
        Planes of each set at most, evenly spread; None for all.
    """

    data: Path
    run: Path | None = None
    device: str = "auto"
    limit: int | None = None

    @property
    def files(self) -> list[Path]:
        """SAM, CLIP and adapter."""
        if self.run is None:
            return [starter_file(part) for part in _PARTS]
        return [self.run / f"{part}.safetensors" for part in _PARTS]

    @cached_property
    def segmenter(self) -> Segmenter:
        """Loaded once."""
        sam, clip, adapter = map(str, self.files)
        return Segmenter(load_model(sam, clip), adapter, self.device)

    def planes(self, name: str, concept: str, split: str = "test") -> Iterator[LabelledPlane]:
        """Labelled planes of one concept of a set."""
        folder = self.data / name
        pairs = read_index(folder, Path("index.csv"), None, split, (), concept, concept)
        return iter(self.spread(list(labelled_planes(pairs))))

    def spread(self, items: list) -> list:
        """All of a list, or `limit` of it evenly spread."""
        if self.limit is None or len(items) <= self.limit:
            return items
        return [items[i * len(items) // self.limit] for i in range(self.limit)]

    def ask(
        self,
        name: str,
        concept: str,
        prompts: Literal["text", "point", "box"],
        target: Literal["concept", "instances"] | None = None,
        word: str | None = None,
    ) -> Evaluation:
        """The package's own evaluation of one question; the word is the concept by default."""
        question = Question(prompts, word or concept, target)
        return evaluate(self.segmenter, self.planes(name, concept), question)


def by_modality(result: Evaluation) -> dict[str, Evaluation]:
    """The whole, and each modality where there are several."""
    parts: dict[str, list] = {}
    for plane in result.planes:
        parts.setdefault(plane.source.modality, []).append(plane)
    split = {k: Evaluation(result.question, tuple(v)) for k, v in sorted(parts.items())}
    return {_WHOLE: result, **(split if len(split) > 1 else {})}


def _rows(
    what: str,
    name: str,
    result: Evaluation,
    score: Callable[[Evaluation], float | None],
    targets: dict[str, float],
    plain: dict[str, float] | None = None,
) -> list[Row]:
    """A row for the whole and one for each modality."""
    return [
        Row(
            what,
            name if part == _WHOLE else f"{name}, {part}",
            score(found),
            targets.get(part),
            count=found.n_objects if result.question.target == "object" else len(found.planes),
            plain=(plain or {}).get(part),
        )
        for part, found in by_modality(result).items()
    ]


def _iou(result: Evaluation) -> float | None:
    return result.mean_iou


def _dice(result: Evaluation) -> float | None:
    return result.dice


def _ap50(result: Evaluation) -> float | None:
    return result.ap50


def baseline(lab: Lab, name: str, concept: str) -> tuple[dict[str, float], dict[str, float]]:
    """Mean Dice and AP50 of Otsu and watershed, by modality and for the whole."""
    overlaps: dict[str, list[float]] = {}
    precisions: dict[str, list[float]] = {}
    for labelled in lab.planes(name, concept):
        modality = labelled.source.modality
        found = otsu_watershed(labelled.plane.rgb, bright=modality == "fluorescence")
        for part in (_WHOLE, modality):
            overlaps.setdefault(part, []).append(dice(found > 0, labelled.labels > 0))
            precisions.setdefault(part, []).append(average_precision(found, labelled.labels))
    return tuple({k: float(np.mean(v)) for k, v in d.items()} for d in (overlaps, precisions))


def clicks(lab: Lab) -> list[Row]:
    """One click on every nucleus."""
    found = lab.ask(NUCLEI, "nuclei", "point")
    return _rows("one click, IoU", NUCLEI, found, _iou, {_WHOLE: 0.80, "fluorescence": 0.84})


def boxes(lab: Lab) -> list[Row]:
    """A box around every nucleus."""
    found = lab.ask(NUCLEI, "nuclei", "box")
    return _rows("box, IoU", NUCLEI, found, _iou, {_WHOLE: 0.86})


def concept(lab: Lab) -> list[Row]:
    """The word nuclei, and other words for the same."""
    targets = {_WHOLE: 0.90, "fluorescence": 0.93, "histology": 0.80}
    plain, _ = baseline(lab, NUCLEI, "nuclei")
    usual = lab.ask(NUCLEI, "nuclei", "text", "concept")
    rows = _rows("'nuclei', Dice", NUCLEI, usual, _dice, targets, plain)
    for word in SYNONYMS:
        found = lab.ask(NUCLEI, "nuclei", "text", "concept", word)
        apart = abs(found.dice - usual.dice)
        rows.append(Row(f"'{word}' beside 'nuclei', Dice apart", NUCLEI, apart, 0.02, True))
    return rows


def instances(lab: Lab) -> list[Row]:
    """Every nucleus by one word."""
    _, plain = baseline(lab, NUCLEI, "nuclei")
    found = lab.ask(NUCLEI, "nuclei", "text", "instances")
    targets = {_WHOLE: 0.77, "fluorescence": 0.84}
    return _rows("every one of 'nuclei', AP50", NUCLEI, found, _ap50, targets, plain)


def phase(lab: Lab) -> list[Row]:
    """Cells in phase contrast: word, click and box."""
    plain = baseline(lab, PHASE, "cells")
    text = lab.ask(PHASE, "cells", "text", "concept")
    every = lab.ask(PHASE, "cells", "text", "instances")
    point, box = (lab.ask(PHASE, "cells", kind) for kind in ("point", "box"))
    return [
        *_rows("'cells', Dice", PHASE, text, _dice, {_WHOLE: 0.80}, plain[0]),
        *_rows("one click, IoU", PHASE, point, _iou, {_WHOLE: 0.70}),
        *_rows("box, IoU", PHASE, box, _iou, {_WHOLE: 0.80}),
        *_rows("every one of 'cells', AP50", PHASE, every, _ap50, {}, plain[1]),
    ]


def few_shot(lab: Lab) -> list[Row]:
    """The frozen starter on sets that nothing was trained on."""
    rows = []
    for name, word in FEW_SHOT:
        text = lab.ask(name, word, "text", "concept")
        rows += _rows(f"'{word}', Dice", name, text, _dice, {})
        if text.planes[0].source.kind == "semantic":
            continue
        every = lab.ask(name, word, "text", "instances")
        point, box = (lab.ask(name, word, kind) for kind in ("point", "box"))
        rows += _rows(f"every one of '{word}', AP50", name, every, _ap50, {})
        rows += _rows(f"one click on '{word}', IoU", name, point, _iou, {})
        rows += _rows(f"box around '{word}', IoU", name, box, _iou, {})
    return rows


def speed(lab: Lab) -> list[Row]:
    """Seconds and megabytes; only on an idle machine do they say something about the model.

    Two threads, or the one that OMP_NUM_THREADS=1 allows where other work wants the same cores.
    """
    threads = torch.get_num_threads()
    wanted = min(2, threads)
    torch.set_num_threads(wanted)
    try:
        word, closer, click, again = _word_and_click(lab)
        every, both, found = _hundred(lab)
    finally:
        torch.set_num_threads(threads)
    size = sum(path.stat().st_size for path in lab.files) / 1e6
    where = f"{lab.segmenter.device}, {wanted} thread" + "s" * (wanted > 1)
    return [
        Row("a word on a new 512 x 512 plane, median", where, word, 0.5, True, unit="s"),
        Row("... and the look at its quarters, median", where, word + closer, unit="s"),
        Row("a click after the first, median", where, 1000 * click, 40, True, unit="ms"),
        Row("... and its closer look, where it is small", where, 1000 * again, unit="ms"),
        Row(f"every one of 100 nuclei ({found} found)", where, every, 3, True, unit="s"),
        Row("... and the closer look, where they are small", where, both, unit="s"),
        Row("loading the model", where, _loading(lab, wanted), 1.5, True, unit="s"),
        Row("files", "disk", size, 30, True, unit="MB"),
    ]


def _word_and_click(lab: Lab) -> tuple[float, float, float, float]:
    """Medians over planes that were never seen, and clicks on the last of them.

    Of the first look for a word and the closer one, and of a click's first and of both.
    """
    words, clicks = [], []
    for seed in range(6):
        image = generate_family("fluorescence_nuclei", 20_000_000 + seed, 512).image
        plane = open_image(image).plane()
        words.append(_both_looks(lab, PredictRequest(plane, Prompts("nuclei"), "concept")))
    for at in ((y, x) for y in range(60, 500, 90) for x in range(60, 500, 90)):
        request = PredictRequest(plane, Prompts("nuclei", points=[at]), "object")
        clicks.append(_both_looks(lab, request))
    # The first of each pays for what later ones find in memory.
    word, closer, click, again = (
        statistics.median(look[i] for look in looks[1:])
        for looks in (words, clicks)
        for i in (0, 1)
    )
    return word, closer, click, click + again


def _both_looks(lab: Lab, request: PredictRequest) -> tuple[float, float, int]:
    """Seconds of the first look and of the closer one, and how many objects the first found."""
    start = time.perf_counter()
    found = lab.segmenter.answer(request, closely=False)
    first = time.perf_counter() - start
    lab.segmenter.closer(request, found)
    return first, time.perf_counter() - start - first, len(found.objects)


def hundred_nuclei(seed: int = 0) -> np.ndarray:
    """A plane of 512 x 512 with ten rows of ten soft bright discs."""
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[:512, :512]
    image = np.zeros((512, 512))
    for number in range(100):
        y, x = 30 + 50 * np.array(divmod(number, 10)) + rng.uniform(-5, 5, 2)
        away = np.hypot(yy - y, xx - x) / rng.uniform(11, 16)
        image = np.maximum(image, rng.uniform(0.5, 1) * expit(12 * (1 - away)))
    noisy = 20 + 180 * image + rng.normal(0, 4, image.shape)
    return noisy.clip(0, 255).astype(np.uint8)


def _hundred(lab: Lab) -> tuple[float, float, int]:
    """Median seconds for all instances of new planes of 100 nuclei, by the first look and by both.

    And how many the first look found in the last of them.
    """
    planes = (open_image(hundred_nuclei(seed)).plane() for seed in range(3))
    looks = [
        _both_looks(lab, PredictRequest(plane, Prompts("nuclei"), "instances")) for plane in planes
    ]
    first, closer = (statistics.median(look[i] for look in looks) for i in (0, 1))
    return first, first + closer, looks[-1][2]


def _loading(lab: Lab, threads: int) -> float:
    """Median seconds of three new processes, after the libraries were imported."""
    sam, clip, adapter = map(str, lab.files)
    program = (
        "import sys, time; import napari_clipsam.inference.segmenter as s; "
        "import open_clip, segment_anything; t = time.perf_counter(); "
        "m = s.load_model(sys.argv[1], sys.argv[2]); "
        "s.Segmenter(m, sys.argv[3], sys.argv[4]); print(time.perf_counter() - t)"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    taken = [
        subprocess.run(
            [sys.executable, "-c", program, sam, clip, adapter, lab.device],
            env=environment,
            capture_output=True,
            check=True,
            text=True,
        )
        for _ in range(3)
    ]
    return statistics.median(float(done.stdout) for done in taken)
