"""A trainer that learns in no time, and a Teach controller with it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from napari.components import ViewerModel
from plugin.fakes import FakeEngine
from tiny import tiny_clip, tiny_sam

from napari_clipsam._plugin.chosen import Chosen
from napari_clipsam._plugin.engine import Lent, Loaded, Setup
from napari_clipsam._plugin.runner import SyncRunner
from napari_clipsam._plugin.settings import Settings
from napari_clipsam._plugin.teaching import TeachController
from napari_clipsam._plugin.training_thread import SyncTrainer
from napari_clipsam.adapters.base import AdapterConfig
from napari_clipsam.adapters.files import read_header
from napari_clipsam.adapters.inject import Adapter, build_adapter
from napari_clipsam.models.registry import LoadedModel
from napari_clipsam.training.events import Estimate, Preview, Reason, TrainEvent, TrainResult
from napari_clipsam.training.ranking import Uncertain
from napari_clipsam.training.samples import Split
from napari_clipsam.training.settings import FitSettings

TODAY = date(2026, 11, 22)
#: What a result on mitochondria is called.
NAME = "mitochondria (em, 22 Nov)"
MEASURES = {"concept": "Dice", "object": "IoU", "both": "Dice and IoU"}


@functools.cache
def tiny_model() -> LoadedModel:
    return LoadedModel("starter", tiny_sam(), tiny_clip(), None)


def tiny_adapter() -> Adapter:
    model = tiny_model()
    return build_adapter(AdapterConfig(n_conditioned=1, reduction=4), model.sam, model.clip, 0)


@dataclass
class Asked:
    """What the trainer was asked for."""

    split: Split
    settings: FitSettings
    start: Adapter | None
    checkpoint: Path | None
    resume: bool


@dataclass
class FakeFit:
    """Answers with a score after each step; `scores` come one after the other.

    `on_start` is called first and `on_step` before each; `error` is raised after the last one;
    `saves` says whether its state can be written.
    """

    scores: tuple[float, ...] = (0.6, 0.78)
    baseline: float = 0.41
    reason: Reason = "budget"
    error: Exception | None = None
    saves: bool = True
    on_start: Callable[[], None] = lambda: None
    on_step: Callable[[], None] = lambda: None
    asked: list[Asked] = field(default_factory=list)

    def __call__(
        self,
        model: LoadedModel,
        split: Split,
        settings: FitSettings,
        start: Adapter | None = None,
        checkpoint: Path | None = None,
        resume: bool = False,
        stop: Callable[[], bool] = lambda: False,
        give_way: Callable[[], None] = lambda: None,
    ) -> Iterator[TrainEvent]:
        self.asked.append(Asked(split, settings, start, checkpoint, resume))
        self.on_start()
        best, reason, curve = self.baseline, self.reason, []
        resumable = False

        def told(stage: Any, step: int, score: float | None, new: bool) -> TrainEvent:
            example = split.held_out[0]
            mask = example.labels > step
            share = step / max(1, len(self.scores))
            event = TrainEvent(
                stage,
                step,
                share,
                60.0 * step,
                60.0 * (len(self.scores) - step),
                {"mask": 1 / (1 + step), "presence": 0.1} if step else {},
                score,
                self.baseline,
                best,
                Preview(example, mask) if new else None,
            )
            curve.append(replace(event, preview=None))
            return event

        yield told("encode", 0, self.baseline, new=True)
        for step, score in enumerate(self.scores, start=1):
            self.on_step()
            give_way()
            if checkpoint is not None and self.saves:
                checkpoint.write_bytes(b"state")
                resumable = True
            if stop():
                reason = "stopped"
                break
            is_new = score > best
            best = max(best, score)
            yield told("train", step, score, is_new)
        if self.error is not None:
            raise self.error
        adapter = tiny_adapter().with_info(words=split.train[0].words)
        measure = MEASURES[settings.goal]
        improved = best > self.baseline
        result = TrainResult(
            adapter,
            self.baseline,
            best,
            improved,
            measure,
            split.tested_on,
            reason,
            tuple(curve),
            {"seconds": 120.0, "steps": len(curve) - 1, "planes": len(split.train)},
            resumable=resumable,
        )
        yield TrainEvent("done", 2, 1.0, 120.0, baseline=self.baseline, best=best, result=result)


@dataclass
class TeachEngine(FakeEngine):
    """Lends a tiny model; the higher the number of a slice, the less sure it is there."""

    estimated: list[tuple[Any, ...]] = field(default_factory=list)
    ranked: list[Any] = field(default_factory=list)

    def load(self, setup: Setup) -> Iterator[Loaded]:
        for loaded in super().load(setup):
            self.ready = replace(loaded, words=(*loaded.words, *self._taught(setup.adapter)))
            yield self.ready

    def _taught(self, adapter: str) -> tuple[str, ...]:
        if adapter in self.in_memory:
            return self.in_memory[adapter].info.words
        return read_header(Path(adapter)).info.words if Path(adapter).is_file() else ()

    def lend(self, setup: Setup) -> Iterator[Loaded | Lent]:
        yield from self.load(setup)
        yield Lent(tiny_model(), None if setup.adapter == "none" else tiny_adapter())

    def estimate(
        self, setup: Setup, n_planes: int, n_held_out: int, settings: FitSettings
    ) -> Iterator[Any]:
        yield from self.load(setup)
        self.estimated.append(
            (n_planes, n_held_out, settings.goal, settings.minutes, settings.steps)
        )
        yield Estimate(160.0, 2_100_000_000, 300)

    def rank(self, setup: Setup, planes: Any, word: str) -> Iterator[Any]:
        for key, _ in planes:
            self.ranked.append((key, word))
            yield Uncertain(key, key / 100)


def stack_with_labels(
    viewer: ViewerModel, labelled: tuple[int, ...] = (3, 7, 12), depth: int = 20
) -> np.ndarray:
    """Adds "em" and "mito": a disc in each labelled slice; returns the labels."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 200, (depth, 40, 50)).astype(np.uint8)
    labels = np.zeros(image.shape, np.uint16)
    labels[list(labelled), 10:30, 12:36] = 1
    labels[list(labelled), 32:38, 2:12] = 2
    viewer.add_image(image, name="em", scale=(4, 2, 2))
    viewer.add_labels(labels, name="mito", scale=(4, 2, 2))
    return labels


def make_teacher(
    viewer: ViewerModel,
    fit: Any = None,
    runner: Any = None,
    trainer: Any = None,
    chosen: Chosen | None = None,
) -> TeachController:
    runner = runner or SyncRunner()
    return TeachController(
        viewer,
        runner,
        TeachEngine(runner.check),
        trainer or SyncTrainer(),
        chosen or Chosen(),
        lambda: Settings(),
        fit or FakeFit(),
        lambda: TODAY,
    )


def hint(teacher: Any) -> str:
    return "" if teacher.state.hint is None else teacher.state.hint.text


def engine(teacher: TeachController) -> TeachEngine:
    assert isinstance(teacher.engine, TeachEngine)
    return teacher.engine


def fit_of(teacher: TeachController) -> FakeFit:
    assert isinstance(teacher.fit, FakeFit)
    return teacher.fit


def paint(layer: Any, number: int, pixels: int) -> None:
    """Paint some pixels of a slice, as the brush does."""
    y, x = np.divmod(np.arange(pixels), layer.data.shape[2])
    with layer.block_history():
        layer.data_setitem((np.full(pixels, number), y, x), 1)
