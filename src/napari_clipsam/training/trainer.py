"""Fine-tuning an adapter on a few labelled planes: `fit`, a generator of events."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from napari_clipsam.adapters.files import round_as_stored
from napari_clipsam.errors import OutputError, Stopped
from napari_clipsam.inference.devices import free_memory, memory_guard, training_dtype
from napari_clipsam.models.identity import tensor_identity
from napari_clipsam.training.checkpoint import load_state, run_fingerprint, save_state
from napari_clipsam.training.events import TrainEvent, TrainResult
from napari_clipsam.training.learner import HeadLearner
from napari_clipsam.training.material import Material
from napari_clipsam.training.scoring import MEASURES, Scorer, choose_threshold
from napari_clipsam.training.settings import FitSettings
from napari_clipsam.training.starting import absent_words, prepare_adapter
from napari_clipsam.training.views import View, ViewMaker
from napari_clipsam.training.words import WordLearner

if TYPE_CHECKING:
    from napari_clipsam.adapters.inject import Adapter
    from napari_clipsam.models.registry import LoadedModel
    from napari_clipsam.training.events import Stage
    from napari_clipsam.training.samples import Split

__all__ = ["fit"]

Reason = Literal["budget", "stopped", "no better", "not finite"]

_SCORES_A_RUN = 20
_SAVE_SECONDS, _TELL_SECONDS, _STOP_SECONDS = 20.0, 0.5, 0.5
_ABSENT_ASKED = 8
# Views of a plane and in all; the share of the time that making them may take.
_MOST_VIEWS, _ALL_VIEWS, ENCODE_SHARE = 12, 64, 0.15
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
) -> Iterator[TrainEvent]:
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

    Notes
    -----
    With a budget of steps the same seed gives the same adapter on the same device; one of minutes
    depends on how many steps fit in.
    """
    return _Run(model, split, settings, start, checkpoint, resume, stop, give_way).events()


def views_of_a_plane(n_planes: int) -> int:
    """Views each of so many planes is seen in, where neither time nor memory is short."""
    return max(2, min(_MOST_VIEWS, _ALL_VIEWS // n_planes))


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
        self.model, self.split, self.settings = model, split, settings
        self.checkpoint, self.resume = checkpoint, resume
        self.stop, self.give_way = stop, give_way
        self.device = next(model.sam.parameters()).device
        self.dtype = training_dtype(self.device)
        self.adapter = prepare_adapter(model, start, settings, len(split.train))
        identity = "base" if start is None else tensor_identity(start.state_dict())
        self.fingerprint = run_fingerprint(model, split, settings, identity)
        self.learned_before = self.adapter.taught
        self.learner: WordLearner | HeadLearner | None = None
        self.begin = 0.0
        self.step = 0
        self.before = 0.0
        self.started = time.perf_counter()
        self.curve: list[TrainEvent] = []

    def events(self) -> Iterator[TrainEvent]:
        """All that happens."""
        state = None
        if self.resume and self.checkpoint is not None:
            state = load_state(self.checkpoint, self.fingerprint, self.device)
        yield self._event("encode", note=" ".join(self.split.notes))
        with memory_guard(self.device, self.dtype):
            self.scorer = Scorer(self.model, self.split.held_out, self.settings.goal, self._check)
            first = self.scorer.measure(self.adapter)
        self.kept = copy.deepcopy(self.adapter)
        self.baseline = self.best = first.total
        self.first_scores = self.best_scores = first
        self.best_step = -1
        yield self._event("encode", score=first.total, preview=first.preview)
        if state is not None:
            self._restore(state)
        reason: Reason = "stopped"
        # What ends a run early leaves the best adapter so far.
        with contextlib.suppress(Stopped):
            views = yield from self._encode()
            material = Material(
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
            reason = yield from self._parts(material, state)
        yield self._finish(reason)

    @property
    def seconds(self) -> float:
        """Time spent, in earlier parts of the run too."""
        return self.before + time.perf_counter() - self.started

    @property
    def progress(self) -> float:
        """Share of the budget that is used."""
        done = 0.0
        if self.settings.steps is not None:
            done = self.step / self.settings.steps
        if self.settings.minutes is not None:
            done = max(done, self.seconds / (60 * self.settings.minutes))
        return min(1.0, done)

    def _check(self) -> None:
        self.give_way()
        if self.stop():
            raise Stopped("Training was stopped.")

    def _encode(self) -> Generator[TrainEvent, None, list[View]]:
        """Make the views: with a budget of time, as many as a part of it allows."""
        settings, examples = self.settings, self.split.train
        maker = ViewMaker(
            self.model, self.adapter, self.device, self.dtype, settings.cache_trunk, self._check
        )
        count = settings.views or views_of_a_plane(len(examples))
        stream = maker.views(examples, count, settings.seed, settings.goal != "concept")
        room = free_memory(self.device) // 4
        allowed = ENCODE_SHARE * 60 * (settings.minutes or 0.0)
        views: list[View] = []
        begun = told = time.perf_counter()
        used = 0
        while True:
            with memory_guard(self.device, self.dtype):
                view = next(stream, None)
            if view is None:
                return views
            views.append(view)
            used += view.nbytes
            now = time.perf_counter()
            if now - told > _TELL_SECONDS:
                told = now
                yield self._event("encode")
            in_time = settings.minutes is None or now - begun < allowed
            if settings.views or len(views) < len(examples) or (in_time and used < room):
                continue
            return views

    def _parts(
        self, material: Material, state: dict[str, Any] | None
    ) -> Generator[TrainEvent, None, Reason]:
        """First CLIP learns the words, then adapter and decoder what to make of them."""
        tuned = self.adapter.clip_tuning is not None
        if state is None or state["part"] == "words":
            words = WordLearner(material, self.settings.rate)
            begin = self.progress if state is None else state["begin"]
            if state is None:
                words.fit_vectors()
            else:
                words.restore(state["learner"])
            end = begin + WORDS_SHARE * (1 - begin) if tuned else begin
            if (reason := (yield from self._learn(words, begin, end))) is not None:
                return reason
            state = None
        else:
            self.adapter.load_state_dict(state["learner"]["adapter"])
        material.keep_dense(keep_pixels=not self.settings.cache_trunk)
        head = HeadLearner(material, self.settings)
        begin = self.progress if state is None else state["begin"]
        if state is None:
            yield self._measured(head, {})
        else:
            head.restore(state["learner"])
        return (yield from self._learn(head, begin, 1.0)) or "budget"

    def _learn(
        self, learner: WordLearner | HeadLearner, begin: float, end: float
    ) -> Generator[TrainEvent, None, Reason | None]:
        """Take steps until `end` of the budget; measure and save now and then."""
        self.learner, self.begin = learner, begin
        with memory_guard(self.device, self.dtype):
            learner.fit_memory(free_memory(self.device) // 2)
        means = _Means()
        saved = told = time.perf_counter()
        measured = self.progress
        while self.progress < end:
            self._check()
            done = (self.progress - begin) / (end - begin)
            with memory_guard(self.device, self.dtype):
                terms = learner.step(done)
            if terms is None:
                return "not finite"
            self.step += 1
            means.add(terms)
            now = time.perf_counter()
            due = self.progress - measured >= 1 / _SCORES_A_RUN or self.progress >= 1.0
            if due and isinstance(learner, HeadLearner):
                measured = self.progress
                yield self._measured(learner, means.take())
                if self._hopeless():
                    return "no better"
                told = now
            elif now - told > _TELL_SECONDS:
                told = now
                yield self._event("train", losses=means.take())
            if now - saved > _SAVE_SECONDS:
                if trouble := self._save():
                    yield self._event("train", note=trouble)
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
            self.best_step, preview = self.step, scores.preview
        return self._event("train", losses=losses, score=scores.total, preview=preview)

    def _hopeless(self) -> bool:
        """Whether so many scores in a row brought nothing better that the rest will not."""
        scored = [e for e in self.curve if e.score is not None and e.stage == "train"]
        return sum(e.step > self.best_step for e in scored) >= self.settings.patience

    def _finish(self, reason: Reason) -> TrainEvent:
        trouble = self._save()
        improved = self.best > self.baseline
        kept = self.kept.eval().requires_grad_(False)
        if improved:
            self._describe(kept)
        result = TrainResult(
            kept,
            self.baseline,
            self.best,
            improved,
            MEASURES[self.settings.goal],
            self.split.tested_on,
            reason,
            tuple(self.curve),
            {"seconds": self.seconds, "steps": self.step, "planes": len(self.split.train)},
        )
        return self._event("done", preview=self.best_scores.preview, note=trouble, result=result)

    def _describe(self, adapter: Adapter) -> None:
        """Words, presence threshold, provenance and scores; the same for the same seed."""
        new = dict.fromkeys(word for e in self.split.train for word in reversed(e.words))
        adapter.info = replace(
            adapter.info,
            words=tuple(dict.fromkeys([*self.learned_before, *new])),
            threshold=self._threshold(adapter, list(new)),
            provenance={
                "model": self.model.name,
                "settings": self.settings.to_json(),
                "planes": [example.plane.name for example in self.split.train],
                "steps": self.best_step,
            },
            scores={
                "tested_on": self.split.tested_on,
                "before": self.first_scores.to_json(),
                "after": self.best_scores.to_json(),
            },
        )

    def _threshold(self, adapter: Adapter, words: list[str]) -> float | None:
        if not adapter.config.object_mode:
            return None
        asked = absent_words(self.model, words)[:_ABSENT_ASKED]
        seconds = _STOP_SECONDS if self.stop() else float("inf")
        absent = self.scorer.presences(adapter, asked, seconds)
        return choose_threshold(self.best_scores.presence, absent)

    def _save(self) -> str:
        """Write the state; a disk that is full ends no training: what to say of it."""
        if self.checkpoint is None or self.learner is None:
            return ""
        state = {
            "part": "head" if isinstance(self.learner, HeadLearner) else "words",
            "begin": self.begin,
            "learner": self.learner.state(),
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "best_step": self.best_step,
            "kept": self.kept.state_dict() if self.best_step >= 0 else None,
            "curve": [(e.step, e.progress, e.seconds, dict(e.losses), e.score) for e in self.curve],
        }
        try:
            save_state(self.checkpoint, self.fingerprint, state)
        except OutputError as error:
            self.checkpoint = None
            return f"{error} Training goes on, but could not be resumed."
        return ""

    def _restore(self, state: dict[str, Any]) -> None:
        """Take up steps, time, curve and the best adapter of an earlier part of the run."""
        self.step, self.before = state["step"], state["seconds"]
        self.started = time.perf_counter()
        self.curve = [
            TrainEvent("train", step, progress, seconds, 0.0, losses, score, self.baseline)
            for step, progress, seconds, losses, score in state["curve"]
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
        progress = self.progress if stage != "done" else 1.0
        known = hasattr(self, "best")
        event = TrainEvent(
            stage,
            self.step,
            progress,
            self.seconds,
            self._left(progress),
            baseline=self.baseline if known else None,
            best=self.best if known else None,
            **values,
        )
        if event.losses or event.score is not None:
            self.curve.append(replace(event, preview=None))
        return event

    def _left(self, progress: float) -> float:
        if self.settings.minutes is not None and self.settings.steps is None:
            return (1 - progress) * 60 * self.settings.minutes
        return self.seconds / progress * (1 - progress) if progress > 0 else 0.0


class _Means:
    """Means of loss terms since they were last taken."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, terms: dict[str, float]) -> None:
        for name, value in terms.items():
            self._values.setdefault(name, []).append(value)

    def take(self) -> dict[str, float]:
        means = {name: fmean(values) for name, values in self._values.items()}
        self._values.clear()
        return means
