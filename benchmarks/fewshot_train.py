"""The runs that train: an adapter is taught, saved, loaded again, and measured on test planes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from benchmarks.fewshot_data import LabelledSet
from benchmarks.fewshot_runs import SETS, VARIANTS, Budget, Run
from napari_clipsam import Prompts, Segmenter
from napari_clipsam.adapters.files import load_adapter, save_adapter
from napari_clipsam.adapters.inject import Adapter
from napari_clipsam.models.registry import LoadedModel
from napari_clipsam.training.evaluated import Question
from napari_clipsam.training.evaluation import evaluate
from napari_clipsam.training.labelled import LabelledPlane
from napari_clipsam.training.metrics import dice
from napari_clipsam.training.ranking import Uncertain, most_uncertain, rank_planes, spread
from napari_clipsam.training.samples import make_split
from napari_clipsam.training.settings import FitSettings
from napari_clipsam.training.trainer import fit

__all__ = [
    "CLICKS",
    "Bench",
    "choose_next",
    "frozen",
    "next_plane",
    "settings_of",
    "taught",
    "train",
]

#: Clicks a plane where an adapter is used with clicks.
CLICKS = 3
_CACHE = 1 << 29
#: Planes that are labelled in addition to the first one.
_MORE = 2
_NO_END = 1 << 30
#: Views that a minute of one core has time for (`views.ENCODE_SHARE`); a budget of steps leaves
#: their number open.
_VIEWS_A_MINUTE, _MOST_VIEWS = 18, 12


@dataclass(eq=False)
class Bench:
    """What all runs share.

    Attributes
    ----------
    model : LoadedModel
    starter : Adapter
        The adapter that comes with it.
    data : Path
    device : str
    """

    model: LoadedModel
    starter: Adapter
    data: Path
    device: str = "cpu"
    _sets: dict[str, LabelledSet] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # One for all runs: trunks of test planes are computed once.
        self.segmenter = Segmenter(self.model, self.starter, self.device, cache_bytes=_CACHE)

    def set(self, name: str) -> LabelledSet:
        """One of `SETS`, opened once."""
        if name not in self._sets:
            self._sets[name] = LabelledSet.open(SETS[name], self.data)
        return self._sets[name]


def frozen(bench: Bench, run: Run) -> dict[str, Any]:
    """The starter as it comes, asked by the word, and by each word it was made for.

    ``all_dice`` is what marking every pixel would score.
    """
    labelled = bench.set(run.set)
    bench.segmenter.set_adapter(bench.starter)
    scores = _scores(bench.segmenter, labelled.test_planes, labelled.word)
    others = {
        word: _dice(bench.segmenter, labelled.test_planes, word)
        for word in bench.starter.info.words
        if word != labelled.word
    }
    others[labelled.word] = scores["dice"]
    best = max(others, key=lambda word: others[word])
    everything = fmean(
        dice(np.ones(plane.labels.shape, bool), plane.labels > 0) for plane in labelled.test_planes
    )
    return {**scores, "best_word": best, "best_dice": others[best], "all_dice": everything}


def train(bench: Bench, run: Run) -> dict[str, Any]:
    """Teach one variant; ask it by its word, and where it tells something also by clicks."""
    labelled = bench.set(run.set)
    values = taught(bench, run, labelled.draw(run.shots, run.seed))
    if run.variant in ("base", "clicks"):
        planes = labelled.test_planes
        values["dice_clicks"] = _dice_by_clicks(bench.segmenter, planes, labelled.word, run.seed)
    return values


def next_plane(bench: Bench, run: Run, one: dict[str, Any] | None) -> dict[str, Any]:
    """Label more after a first plane; `one` is what the run with that plane alone found."""
    labelled = bench.set(run.set)
    first = labelled.draw(1, run.seed)
    if one is None:
        values = taught(bench, run, first)
        rest = [i for i, key in enumerate(labelled.pool) if key not in first]
        examples = {i: labelled.examples([labelled.pool[i]])[0] for i in rest}
        planes = ((i, example.plane) for i, example in examples.items())
        ranked = list(rank_planes(bench.segmenter, planes, labelled.word))
        values["ranked"] = [[one.key, one.uncertainty] for one in ranked]
        values["rest_dice"] = []
        for i in rest:
            bench.segmenter.set_plane(examples[i].plane)
            mask = bench.segmenter.predict(Prompts(text=labelled.word), "concept").mask()
            values["rest_dice"].append(dice(mask, examples[i].labels > 0))
        return values
    ranked = [Uncertain(key, value) for key, value in one["ranked"]]
    taken = labelled.pool.index(first[0])
    chosen = choose_next(run.variant, ranked, taken, run.seed)
    return taught(bench, run, [*first, *(labelled.pool[i] for i in chosen)])


def choose_next(variant: str, ranked: Sequence[Uncertain], taken: int, seed: int) -> list[int]:
    """The planes to label next, as keys of `ranked`."""
    if variant == "random":
        keys = sorted(int(str(one.key)) for one in ranked)
        drawn = np.random.default_rng(seed).choice(len(keys), _MORE, replace=False)
        return [keys[i] for i in drawn]
    ordered = spread(ranked, [taken]) if variant == "spread" else most_uncertain(ranked)
    picked = ordered[-_MORE:] if variant == "last" else ordered[:_MORE]
    return [int(str(one.key)) for one in picked]


def settings_of(bench: Bench, run: Run) -> FitSettings:
    """What the trainer is asked for."""
    variant = VARIANTS.get(run.variant, VARIANTS["starter"])
    depth, budget = bench.model.sam.config.depth, Budget.parse(run.budget)
    views = variant.times * _VIEWS_A_MINUTE // max(1, run.shots - 1)
    return FitSettings(
        minutes=None if budget.minutes is None else variant.times * budget.minutes,
        steps=None if budget.steps is None else variant.times * budget.steps,
        views=None if budget.steps is None else max(2, min(views, _MOST_VIEWS)),
        seed=run.seed,
        n_conditioned=depth if variant.all_blocks else None,
        # Some variants first lose what the base can do and recover late: none is ended early.
        patience=FitSettings.patience if variant.from_starter else _NO_END,
        # From the base the method itself is compared, without what redraws its masks.
        refine=variant.from_starter,
        **variant.settings,
    )


def taught(bench: Bench, run: Run, chosen: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Teach an adapter, load it from its file into the Segmenter and measure it."""
    labelled = bench.set(run.set)
    variant = VARIANTS.get(run.variant, VARIANTS["starter"])
    examples = labelled.examples(chosen)
    split = make_split(examples, seed=run.seed, goal="concept")
    started = time.perf_counter()
    begun = time.process_time()
    start = bench.starter if variant.from_starter else None
    result = None
    for event in fit(bench.model, split, settings_of(bench, run), start):
        result = event.result or result
    assert result is not None
    seconds, processor = time.perf_counter() - started, time.process_time() - begun
    with tempfile.TemporaryDirectory() as folder:
        path = save_adapter(result.adapter, Path(folder) / "taught.safetensors")
        size = path.stat().st_size
        bench.segmenter.set_adapter(load_adapter(path, bench.model.sam, bench.model.clip))
    return {
        **_scores(bench.segmenter, labelled.test_planes, labelled.word),
        "learnt_from": [example.plane.name for example in examples],
        "held_out": result.tested_on,
        "baseline": result.baseline,
        "best": result.best,
        "improved": result.improved,
        "ended": result.reason,
        "steps": result.facts["steps"],
        "seconds": seconds,
        "processor_seconds": processor,
        "threads": torch.get_num_threads(),
        "device": str(bench.segmenter.device),
        "file_bytes": size,
        "curve": [
            (round(event.seconds, 2), event.score)
            for event in result.curve
            if event.score is not None
        ],
    }


def _scores(segmenter: Segmenter, planes: Sequence[LabelledPlane], word: str) -> dict[str, Any]:
    """Text-only scores of the adapter in use, with its own presence threshold.

    ``dice_any`` is the Dice if no plane were refused.
    """
    adapter = segmenter.adapter
    assert adapter is not None
    threshold = adapter.info.threshold
    found = evaluate(segmenter, planes, Question("text", word))
    segmenter.set_adapter(adapter.with_info(threshold=0.0))
    anything = _dice(segmenter, planes, word)
    segmenter.set_adapter(adapter.with_info(threshold=threshold))
    presences = [plane.presence for plane in found.planes if plane.presence is not None]
    return {
        "dice": found.dice,
        "dice_any": anything,
        "iou": found.mean_iou,
        "dices": [plane.dice for plane in found.planes],
        "presence": fmean(presences) if presences else None,
        "threshold": threshold,
        "matches": sum(plane.match for plane in found.planes),
        "tested": len(found.planes),
    }


def _dice(segmenter: Segmenter, planes: Sequence[LabelledPlane], word: str) -> float:
    found = evaluate(segmenter, planes, Question("text", word)).dice
    assert found is not None
    return found


def _dice_by_clicks(
    segmenter: Segmenter, planes: Sequence[LabelledPlane], word: str, seed: int
) -> float:
    """Dice where each plane is asked by the word and a few clicks drawn inside the structure."""
    rng = np.random.default_rng(seed)
    overlaps = []
    for labelled in planes:
        inside = np.argwhere(labelled.labels > 0)
        points = inside[rng.choice(len(inside), CLICKS, replace=False)]
        segmenter.set_plane(labelled.plane)
        mask = segmenter.predict(Prompts(word, points=points), "concept").mask()
        overlaps.append(dice(mask, labelled.labels > 0))
    return fmean(overlaps)
