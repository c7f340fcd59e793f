"""Fine-tuning an adapter on a few labelled planes: `fit`, a generator of events."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_clipsam.adapters.files import round_as_stored
from napari_clipsam.errors import OutOfMemory, OutputError, Stopped
from napari_clipsam.inference.devices import free_memory, memory_guard, training_dtype
from napari_clipsam.models.identity import tensor_identity
from napari_clipsam.training.checkpoint import load_state, run_fingerprint, save_state
from napari_clipsam.training.concept_refining import REFINE_SHARE, first_refiner, refine
from napari_clipsam.training.describing import describe, taught_before
from napari_clipsam.training.events import Reason, TrainEvent, TrainResult
from napari_clipsam.training.learner import HeadLearner
from napari_clipsam.training.learning import Means
from napari_clipsam.training.material import Material
from napari_clipsam.training.pacing import Pace
from napari_clipsam.training.scoring import Scorer
from napari_clipsam.training.settings import FitSettings
from napari_clipsam.training.settling import settle
from napari_clipsam.training.starting import prepare_adapter
from napari_clipsam.training.views import View, ViewMaker, encode_views
from napari_clipsam.training.words import WordLearner

if TYPE_CHECKING:
    from napari_clipsam.adapters.inject import Adapter
    from napari_clipsam.models.registry import LoadedModel
    from napari_clipsam.training.events import Stage
    from napari_clipsam.training.samples import Split

__all__ = ["fit"]

SCORES_A_RUN = 20
_SAVE_SECONDS, _TELL_SECONDS = 20.0, 0.5
BATCH = {"cpu": 1, "gpu": 4}
# Of what is left when the views are made, where CLIP is tuned.
WORDS_SHARE = 0.25

_DEFAULT = FitSettings()


def fit(
    model: LoadedModel,
    split: Split,
    settings: FitSettings = _DEFAULT,
    start: Adapter | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    stop: Callable[[], bool] = lambda: False,
    give_way: Callable[[], None] = lambda: None,
) -> Generator[TrainEvent, None, None]:
    """Teach an adapter what is labelled.

    Parameters
    ----------
    model : LoadedModel
        Used as it is, on its device; never changed.
    split : Split
        What is learnt from and what is measured on.
    settings : FitSettings
    start : Adapter, optional
        Gone on from, itself unchanged; without it a new adapter is made for the base.
    checkpoint : Path, optional
        File of the run's state, written whole now and then and at the end. Where it cannot be, a
        note says so and training goes on without.
    resume : bool
        Go on from `checkpoint`.
    stop : callable
        Asked between the blocks of the networks; once it says True the last event comes within a
        step, with the best adapter so far.
    give_way : callable
        Called as often; may block, or do other work.

    Yields
    ------
    TrainEvent
        The last one is "done" and brings the result.

    Raises
    ------
    Stopped
        It was stopped before there was anything to keep.
    ConfigError, AdapterError, WeightsError
        The start, the settings or the checkpoint do not fit.
    OutOfMemory
        Before there was anything to keep; later it ends the run with what was best.

    Notes
    -----
    With a budget of steps the same seed gives the same adapter on the same device; one of minutes
    depends on how many steps fit in.
    """
    return _Run(model, split, settings, start, checkpoint, resume, stop, give_way).events()


class _Run:
    """One run of `fit`; its methods in the order they happen."""

    def __init__(
        self,
        model: LoadedModel,
        split: Split,
        settings: FitSettings,
        start: Adapter | None,
        checkpoint: Path | None,
        resume: bool,
        stop: Callable[[], bool],
        give_way: Callable[[], None],
    ) -> None:
        self.model, self.split, self.settings, self.start = model, split, settings, start
        self.checkpoint, self.resume = checkpoint, resume
        self.stop, self.give_way = stop, give_way
        self.device = next(model.sam.parameters()).device
        self.dtype = training_dtype(self.device)
        planes = {e.plane.fingerprint for part in (split.train, split.held_out) for e in part}
        self.adapter = prepare_adapter(model, start, settings, len(planes))
        self.begin = {name: value.clone() for name, value in self.adapter.state_dict().items()}
        identity = "base" if start is None else tensor_identity(start.state_dict())
        self.fingerprint = run_fingerprint(model, split, settings, identity)
        self.learner: WordLearner | HeadLearner | None = None
        # Where the part that goes on began, as steps and seconds.
        self.began = (0, 0.0)
        self.pace = Pace(settings)
        # Of what was learnt, see `settling`.
        self.share = 1.0
        self.curve: list[TrainEvent] = []

    def events(self) -> Generator[TrainEvent, None, None]:
        """All that happens."""
        state = None
        if self.resume and self.checkpoint is not None:
            state = load_state(self.checkpoint, self.fingerprint, self.device)
        yield self._event("encode", note=" ".join(self.split.notes))
        with memory_guard(self.device, self.dtype):
            self.scorer = Scorer(self.model, self.split.held_out, self.settings.goal, self._check)
            begun = time.perf_counter()
            first = plain = self.scorer.measure(self.start)
            plane = (time.perf_counter() - begun) / len(self.split.held_out)
            if self.start is not None and self.start.config.redrawn_concepts:
                plain = self.scorer.measure(self.start, redrawn=False)
        held_out, learnt = len(self.split.held_out), len(self.split.train)
        self.settled_on = self.pace.reserve_settling(plane, held_out, learnt)
        # Where nothing is better the start is the result. The base is no adapter: without a start
        # the best that was trained is, and whether that is better is said.
        self.kept = copy.deepcopy(self.start or self.adapter)
        self.baseline = first.total
        # Until there is a refiner that knows what is taught, as little is redrawn of the start.
        self.plain = plain.total
        self.best = -math.inf if self.start is None else self.plain
        self.first_scores = self.best_scores = first
        self.best_step = -1
        yield self._event("encode", score=first.total, preview=first.preview)
        if state is not None:
            self._restore(state)
        reason, note = yield from self._guarded(self._taught(state))
        # Going on later repeats what follows.
        trouble = self._save()
        if reason not in ("stopped", "no memory"):
            ended, note = yield from self._guarded(self._polished(reason))
            reason = ended or reason
        yield self._finish(reason, " ".join(part for part in (note, trouble) if part))

    def _guarded(
        self, part: Generator[TrainEvent, None, Reason]
    ) -> Generator[TrainEvent, None, tuple[Reason, str]]:
        """Why a part of the run ended, and a note: what ends it early leaves the best so far."""
        try:
            return (yield from part), ""
        except Stopped:
            return "stopped", ""
        except OutOfMemory as error:
            return "no memory", f"{error} What was best before is kept."

    def _taught(self, state: dict[str, Any] | None) -> Generator[TrainEvent, None, Reason]:
        cached = self.settings.cache_trunk
        maker = ViewMaker(self.model, self.adapter, self.device, self.dtype, cached, self._check)
        views = yield from encode_views(
            maker, self.split.train, self.settings, lambda note: self._event("encode", note=note)
        )
        with memory_guard(self.device, self.dtype):
            material = self._material(views)
        return (yield from self._parts(material, state))

    def _polished(self, reason: Reason) -> Generator[TrainEvent, None, Reason]:
        """Settle, and teach a refiner what was learnt looks like; kept where it draws better."""
        # Better than the start or, of the base, the best there is.
        if self.best_step < 0:
            return reason
        with self.pace.reserved():
            self._settle()
        if not self.settings.refines:
            return reason
        refiner = yield from refine(
            self.model,
            self.kept,
            first_refiner(self.model.sam, self.start, self.settings.seed),
            self.split.train,
            self.settings,
            self.pace,
            self._check,
            lambda: self._event("refine"),
        )
        if refiner is None:
            return reason
        refined = copy.deepcopy(self.kept).with_refiner(refiner)
        round_as_stored(refined)
        with memory_guard(self.device, self.dtype):
            scores = self.scorer.measure(refined)
        if scores.total > self.best:
            self.kept, self.best, self.best_scores = refined, scores.total, scores
        yield self._event("refine", score=scores.total, preview=self.best_scores.preview)
        return reason

    def _check(self) -> None:
        self.give_way()
        if self.stop():
            raise Stopped("Training was stopped.")

    def _material(self, views: list[View]) -> Material:
        return Material(
            self.model,
            self.adapter,
            views,
            [example.words for example in self.split.train],
            self.settings.seed,
            self.device,
            self.dtype,
            BATCH["cpu" if self.device.type == "cpu" else "gpu"],
            self._check,
        )

    def _parts(
        self, material: Material, state: dict[str, Any] | None
    ) -> Generator[TrainEvent, None, Reason]:
        """First CLIP learns the words, then adapter and decoder what to make of them."""
        if state is None or state["part"] == "words":
            with memory_guard(self.device, self.dtype):
                words = WordLearner(material, self.settings.rate)
                if state is None:
                    words.fit_vectors()
            tuned = self.adapter.clip_tuning is not None
            if (reason := (yield from self._learn(words, state, WORDS_SHARE * tuned))) is not None:
                return reason
            state = None
        else:
            self.adapter.load_state_dict(state["learner"]["adapter"])
        with memory_guard(self.device, self.dtype):
            material.keep_dense(keep_pixels=not self.settings.cache_trunk)
            head = HeadLearner(material, self.settings)
        if state is None:
            yield self._measured(head, {})
        return (yield from self._learn(head, state, 1.0)) or "budget"

    def _learn(
        self, learner: WordLearner | HeadLearner, state: dict[str, Any] | None, share: float
    ) -> Generator[TrainEvent, None, Reason | None]:
        """Take steps for a share of what is left of the budget; measure and save now and then."""
        self.began = (self.pace.step, self.pace.seconds) if state is None else tuple(state["began"])
        begin = self.pace.share(*self.began)
        end = begin + share * (1 - REFINE_SHARE * self.settings.refines - begin)
        if state is not None:
            learner.restore(state["learner"])
        self.learner = learner
        with memory_guard(self.device, self.dtype):
            learner.fit_memory(free_memory(self.device) // 2)
        means = Means()
        saved = told = time.perf_counter()
        while (before := self.pace.progress) < end:
            self._check()
            with memory_guard(self.device, self.dtype):
                means.add(learner.step((before - begin) / (end - begin)))
            self.pace.step += 1
            now = time.perf_counter()
            due = int(self.pace.progress * SCORES_A_RUN) > int(before * SCORES_A_RUN)
            head = learner if due and isinstance(learner, HeadLearner) else None
            if head is None and now - told <= _TELL_SECONDS and now - saved <= _SAVE_SECONDS:
                continue
            # Only here the device is waited for.
            losses = means.take()
            if not math.isfinite(losses["loss"]):
                return "not finite"
            told = now
            if head is not None:
                yield self._measured(head, losses)
                if self._hopeless():
                    return "no better"
            else:
                yield self._event("train", losses=losses)
            if now - saved > _SAVE_SECONDS:
                if trouble := self._save():
                    yield self._event("train", note=f"{trouble} Teaching goes on.")
                saved = time.perf_counter()
        return None

    def _measured(self, learner: HeadLearner, losses: dict[str, float]) -> TrainEvent:
        """Score the averaged weights as a file would hold them, and keep them if they are best."""
        candidate = copy.deepcopy(learner.average)
        round_as_stored(candidate)
        with memory_guard(self.device, self.dtype):
            scores = self.scorer.measure(candidate)
        preview = None
        if scores.total > self.best:
            self.kept, self.best, self.best_scores = candidate, scores.total, scores
            self.best_step = self.pace.step
            preview = scores.preview if scores.total > self.baseline else None
        return self._event("train", losses=losses, score=scores.total, preview=preview)

    def _hopeless(self) -> bool:
        """Whether so many scores in a row brought nothing better that the rest will not."""
        scored = [e for e in self.curve if e.score is not None and e.stage == "train"]
        return sum(e.step > self.best_step for e in scored) >= self.settings.patience

    def _finish(self, reason: Reason, note: str) -> TrainEvent:
        improved = self.best > self.baseline
        if not improved and self.start is not None:
            self.kept, self.best_step = copy.deepcopy(self.start), -1
        kept = self.kept.eval().requires_grad_(False)
        if self.best_step >= 0:
            describe(
                kept,
                self.model,
                self.split,
                self.settings,
                taught_before(self.start),
                self.scorer,
                (self.first_scores, self.best_scores),
                self.best_step,
                self.share,
                self.pace.asking,
            )
        result = TrainResult(
            kept,
            self.baseline,
            self.best if self.best_step >= 0 else self.baseline,
            improved,
            self.best_scores.measure,
            self.split.tested_on,
            reason,
            tuple(self.curve),
            {
                "seconds": self.pace.seconds,
                "steps": self.pace.step,
                "planes": len(self.split.train),
            },
            # Stopped before it went on, a resumed run leaves the state that it had.
            resumable=self.checkpoint is not None and (self.learner is not None or self.resume),
        )
        preview = (self.best_scores if improved else self.first_scores).preview
        return self._event("done", preview=preview, note=note, result=result)

    def _settle(self) -> None:
        """Take as little of what was learnt as is as good."""
        examples = self.split.train
        if not self.settled_on or self.best <= self.plain:
            return
        chosen = np.linspace(0, len(examples) - 1, self.settled_on).round().astype(int)
        learnt = [examples[i] for i in chosen]
        with memory_guard(self.device, self.dtype):
            self.kept, self.best_scores, self.share = settle(
                self.begin,
                self.kept,
                self.best_scores,
                self.scorer,
                Scorer(self.model, learnt, self.settings.goal, self._check),
                self.plain,
            )
        self.best = self.best_scores.total

    def _save(self) -> str:
        """Write the state; returns what to say where it cannot be, which ends no training."""
        if self.checkpoint is None or self.learner is None:
            return ""
        state = {
            "part": "head" if isinstance(self.learner, HeadLearner) else "words",
            "began": self.began,
            "learner": self.learner.state(),
            "step": self.pace.step,
            "seconds": self.pace.seconds,
            "best": self.best,
            "best_step": self.best_step,
            "kept": self.kept.state_dict() if self.best_step >= 0 else None,
            "curve": [
                (e.step, e.progress, e.seconds, dict(e.losses), e.score, e.stage)
                for e in self.curve
            ],
        }
        try:
            save_state(self.checkpoint, self.fingerprint, state)
        except OutputError as error:
            self.checkpoint = None
            return f"{error} It could not be gone on from later."
        return ""

    def _restore(self, state: dict[str, Any]) -> None:
        """Take up steps, time, curve and the best adapter of an earlier part of the run."""
        self.pace.go_on(state["step"], state["seconds"])
        # A state of an earlier version does not tell stages.
        told = ((*one, "train")[:6] for one in state["curve"])
        self.curve = [
            TrainEvent(stage, step, progress, seconds, 0.0, losses, score, self.baseline)
            for step, progress, seconds, losses, score, stage in told
        ]
        if state["kept"] is not None:
            self.kept = copy.deepcopy(self.adapter)
            for example in self.split.train:
                for word in example.words:
                    self.kept.teach(word)
            self.kept.load_state_dict(state["kept"])
            self.best, self.best_step = state["best"], state["best_step"]
            self.best_scores = self.scorer.measure(self.kept)

    def _event(self, stage: Stage, **values: Any) -> TrainEvent:
        done = stage == "done"
        known = hasattr(self, "best")
        event = TrainEvent(
            stage,
            self.pace.step,
            1.0 if done else self.pace.progress,
            self.pace.seconds,
            0.0 if done else self.pace.left,
            baseline=self.baseline if known else None,
            best=max(self.best, self.baseline) if known else None,
            **values,
        )
        if event.losses or event.score is not None:
            self.curve.append(replace(event, preview=None))
        return event
