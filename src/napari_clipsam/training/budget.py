"""What a run will need, from one step on a made-up plane."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch

from napari_clipsam.inference.devices import memory_guard, synchronize, training_dtype
from napari_clipsam.planes import Plane
from napari_clipsam.training.concept_refining import (
    REFINE_SHARE,
    WINDOWS,
    RefinerLearner,
    first_refiner,
)
from napari_clipsam.training.concept_windows import KEPT, ConceptWindows
from napari_clipsam.training.describing import ABSENT_ASKED
from napari_clipsam.training.events import Estimate
from napari_clipsam.training.learner import WHOLE_FROM, HeadLearner
from napari_clipsam.training.learning import Learner, bytes_kept
from napari_clipsam.training.material import Material
from napari_clipsam.training.pacing import SETTLE_SHARE, SETTLED_ON
from napari_clipsam.training.samples import Example
from napari_clipsam.training.settling import SHARES
from napari_clipsam.training.starting import prepare_adapter
from napari_clipsam.training.trainer import (
    BATCH,
    SCORES_A_RUN,
    WORDS_SHARE,
)
from napari_clipsam.training.views import ENCODE_SHARE, ViewMaker, views_of_a_plane
from napari_clipsam.training.words import WordLearner

if TYPE_CHECKING:
    from napari_clipsam.adapters.inject import Adapter
    from napari_clipsam.models.registry import LoadedModel
    from napari_clipsam.training.settings import FitSettings

__all__ = ["Probe", "estimate", "probe", "step_memory"]

T = TypeVar("T")

_WORD = "nuclei"
# Trained, gradient, two moments, average, measured, best: copies of the adapter.
_COPIES = 7


class Probe(NamedTuple):
    """What was tried out, of a view, of a step of each part, and of a score.

    Seconds; ``words`` is 0 where CLIP is not tuned, ``refiner`` where nothing is refined.
    ``view_bytes``, ``step_bytes`` and ``adapter_bytes`` are what one view, one step and one copy of
    the weights take.
    """

    view: float
    words: float
    head: float
    refiner: float
    score: float
    view_bytes: int
    step_bytes: int
    adapter_bytes: int

    def estimate(self, n_planes: int, n_held_out: int, settings: FitSettings) -> Estimate:
        """What learning from so many planes, and measuring on so many others, needs."""
        n_views = n_planes * (settings.views or views_of_a_plane(n_planes))
        share = WORDS_SHARE if self.words else 0.0
        refined = REFINE_SHARE if self.refiner else 0.0
        step = share * self.words + (1 - share) * self.head
        step = (1 - refined) * step + refined * self.refiner
        scores = (1 - share) * (1 - refined) * SCORES_A_RUN * self.score * n_held_out
        # Settling sees planes it learnt from for the first time, and asks each for every share.
        settling = min(SETTLED_ON, n_planes + n_held_out) * (
            self.view + (1 + len(SHARES)) * self.score
        )
        asking = ABSENT_ASKED * n_held_out * self.score
        steps = settings.steps
        if settings.minutes is not None:
            budget = 60 * settings.minutes
            settling = min(settling, SETTLE_SHARE * budget)
            asking = min(asking, SETTLE_SHARE * budget)
            if settings.views is None:
                most = max(1, round(ENCODE_SHARE * budget / self.view))
                n_views = max(n_planes, min(n_views, most))
            left = budget - n_views * self.view - scores - settling - asking
            fits = max(1, int(left / step))
            steps = min(fits, steps or fits)
        seconds = n_views * self.view + (steps or 1) * step + scores + settling + asking
        memory = n_views * self.view_bytes + self.step_bytes + _COPIES * self.adapter_bytes
        return Estimate(seconds, memory, steps or 1)


def _nothing() -> None:
    return None


def estimate(
    model: LoadedModel,
    n_planes: int,
    n_held_out: int,
    settings: FitSettings,
    start: Adapter | None = None,
    check: Callable[[], None] = _nothing,
) -> Estimate:
    """Time and memory that `fit` will need; takes a few seconds itself.

    Parameters
    ----------
    model : LoadedModel
    n_planes, n_held_out : int
        Planes to learn from, and those to measure on.
    settings : FitSettings
    start : Adapter, optional
    check : callable
        Called between the blocks of the networks; what it raises ends the trial.

    Raises
    ------
    ConfigError, AdapterError
        As `fit` would.
    OutOfMemory
        One step does not fit.
    """
    found = probe(model, n_planes + n_held_out, settings, start, check)
    return found.estimate(n_planes, n_held_out, settings)


def step_memory(model: LoadedModel, settings: FitSettings, start: Adapter | None = None) -> int:
    """Bytes that one step keeps for its gradients, beyond weights: the peak of its activations.

    Counted by what autograd saves, so it holds for any device of the same precision.
    """
    return probe(model, 1, settings, start).step_bytes


def probe(
    model: LoadedModel,
    n_planes: int,
    settings: FitSettings,
    start: Adapter | None = None,
    check: Callable[[], None] = _nothing,
) -> Probe:
    """Try out what does not depend on the budget, with so many labelled planes in all."""
    device = next(model.sam.parameters()).device
    dtype = training_dtype(device)
    clock = _Clock(device, check)
    for network in (model.sam, model.clip):
        network.requires_grad_(False)
    with memory_guard(device, dtype):
        adapter = prepare_adapter(model, start, settings, n_planes)
        maker = ViewMaker(model, adapter, device, dtype, settings.cache_trunk, clock.check)
        view, view_seconds = clock.time(lambda: next(maker.views([_example()], 1, 0, False)))
        batch = BATCH["cpu" if device.type == "cpu" else "gpu"]
        material = Material(
            *(model, adapter, [view], [(_WORD,)], settings.seed, device, dtype, batch, clock.check)
        )
        networks = (model.sam, model.clip, adapter)
        learner: Learner
        words, kept = 0.0, 0
        if adapter.clip_tuning is not None:
            learner = WordLearner(material, settings.rate)
            kept = bytes_kept(lambda: learner.step(0.0), networks)
            words = clock.time(lambda: learner.step(0.0))[1]
        material.keep_dense(keep_pixels=not settings.cache_trunk)
        learner = HeadLearner(material, settings)
        # The whole, which the last steps see, keeps most.
        kept = max(kept, bytes_kept(lambda: learner.step(1.0), networks))
        part = clock.time(lambda: learner.step(0.0))[1]
        whole = clock.time(lambda: learner.step(1.0))[1]
        refiner = 0.0
        if settings.refines:
            maps = np.full((7, KEPT, KEPT), 128, np.uint8)
            windows = ConceptWindows([maps], WINDOWS, settings.seed, device)
            fresh = first_refiner(model.sam, start, settings.seed)
            last = RefinerLearner(windows, fresh, settings)
            kept = max(kept, bytes_kept(lambda: last.step(0.0), (fresh,)))
            refiner = clock.time(lambda: last.step(0.0))[1]
    head = WHOLE_FROM * part + (1 - WHOLE_FROM) * whole
    weights = sum(p.nbytes for p in adapter.parameters())
    # Of a step less than half is the way there, and a score has a trunk that is kept.
    return Probe(view_seconds, words, head, refiner, whole / 2, view.nbytes, kept, weights)


class _Clock:
    """Times work without what others do meanwhile."""

    def __init__(self, device: torch.device, check: Callable[[], None]) -> None:
        self._device, self._check = device, check
        self._away = 0.0

    def check(self) -> None:
        """Let others work, in their own precision."""
        start = time.perf_counter()
        with torch.autocast(self._device.type, enabled=False):
            self._check()
        self._away += time.perf_counter() - start

    def time(self, work: Callable[[], T]) -> tuple[T, float]:
        """The result of some work, and its seconds."""
        start, away = time.perf_counter(), self._away
        result = work()
        synchronize(self._device)
        return result, time.perf_counter() - start - (self._away - away)


def _example() -> Example:
    """A bright disk, a third of the plane wide."""
    line = np.linspace(-1, 1, 256)
    disk = line[:, None] ** 2 + line[None] ** 2 < 0.1
    rgb = np.where(disk[..., None], np.uint8(180), np.uint8(40)).repeat(3, axis=2)
    return Example(Plane(rgb, "0" * 32, {}, "probe"), disk.astype(np.uint8), (_WORD,))
