"""What a run will need, from one step on a made-up plane."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch

from napari_clipsam.inference.devices import memory_guard, synchronize, training_dtype
from napari_clipsam.planes import Plane
from napari_clipsam.training.events import Estimate
from napari_clipsam.training.learner import HeadLearner
from napari_clipsam.training.learning import Learner, bytes_kept
from napari_clipsam.training.material import Material
from napari_clipsam.training.samples import Example
from napari_clipsam.training.starting import prepare_adapter
from napari_clipsam.training.trainer import BATCH, ENCODE_SHARE, WORDS_SHARE, views_of_a_plane
from napari_clipsam.training.views import ViewMaker
from napari_clipsam.training.words import WordLearner

if TYPE_CHECKING:
    from napari_clipsam.adapters.inject import Adapter
    from napari_clipsam.models.registry import LoadedModel
    from napari_clipsam.training.settings import FitSettings

__all__ = ["estimate", "step_memory"]

T = TypeVar("T")

_WORD = "nuclei"
# Gradient, two moments, average, best: copies of the adapter while it is trained.
_COPIES = 5


class _Probe(NamedTuple):
    """Seconds of a view, of a step of each part (0 where CLIP is not tuned), and bytes."""

    view: float
    words: float
    head: float
    view_bytes: int
    step_bytes: int
    adapter_bytes: int


def _nothing() -> None:
    return None


def estimate(
    model: LoadedModel,
    n_planes: int,
    settings: FitSettings,
    start: Adapter | None = None,
    check: Callable[[], None] = _nothing,
) -> Estimate:
    """Time and memory that `fit` will need; takes a few seconds itself.

    Parameters
    ----------
    model : LoadedModel
    n_planes : int
        Planes to learn from.
    settings : FitSettings
    start : Adapter, optional
    check : callable
        Called between the blocks of the networks; what it raises ends the trial, and what it takes
        counts as time.

    Raises
    ------
    ConfigError, AdapterError
        As `fit` would.
    OutOfMemory
        One step does not fit.
    """
    probe = _probe(model, settings, start, n_planes, check)
    n_views = n_planes * (settings.views or views_of_a_plane(n_planes))
    share = WORDS_SHARE if probe.words else 0.0
    step = share * probe.words + (1 - share) * probe.head
    if settings.minutes is not None:
        budget = 60 * settings.minutes
        if settings.views is None:
            most = max(1, round(ENCODE_SHARE * budget / probe.view))
            n_views = max(n_planes, min(n_views, most))
        steps = max(1, int((budget - n_views * probe.view) / step))
        steps = min(steps, settings.steps or steps)
    else:
        steps = settings.steps or 1
    seconds = n_views * probe.view + steps * step
    memory = n_views * probe.view_bytes + probe.step_bytes + _COPIES * probe.adapter_bytes
    return Estimate(seconds, memory, steps)


def step_memory(model: LoadedModel, settings: FitSettings, start: Adapter | None = None) -> int:
    """Bytes that one step keeps for its gradients, beyond weights: the peak of its activations.

    Counted by what autograd saves, so it holds for any device of the same precision.
    """
    return _probe(model, settings, start, 1, _nothing).step_bytes


def _probe(
    model: LoadedModel,
    settings: FitSettings,
    start: Adapter | None,
    n_planes: int,
    check: Callable[[], None],
) -> _Probe:
    device = next(model.sam.parameters()).device
    dtype = training_dtype(device)
    for network in (model.sam, model.clip):
        network.requires_grad_(False)
    with memory_guard(device, dtype):
        adapter = prepare_adapter(model, start, settings, n_planes)
        maker = ViewMaker(model, adapter, device, dtype, settings.cache_trunk, check)
        view, view_seconds = _timed(lambda: next(maker.views([_example()], 1, 0, False)), device)
        material = Material(
            model,
            adapter,
            [view],
            [(_WORD,)],
            settings.seed,
            device,
            dtype,
            BATCH["cpu" if device.type == "cpu" else "gpu"],
            check,
        )
        networks = (model.sam, model.clip, adapter)
        learner: Learner
        words, kept = 0.0, 0
        if adapter.clip_tuning is not None:
            learner = WordLearner(material, settings.rate)
            kept = bytes_kept(lambda: learner.step(0.0), networks)
            words = _timed(lambda: learner.step(0.0), device)[1]
            material.keep_dense(keep_pixels=not settings.cache_trunk)
        learner = HeadLearner(material, settings)
        # The whole, which the last steps see, keeps most.
        kept = max(kept, bytes_kept(lambda: learner.step(1.0), networks))
        head = _timed(lambda: learner.step(0.0), device)[1]
    weights = sum(p.nbytes for p in adapter.parameters())
    return _Probe(view_seconds, words, head, view.nbytes, kept, weights)


def _timed(work: Callable[[], T], device: torch.device) -> tuple[T, float]:
    start = time.perf_counter()
    result = work()
    synchronize(device)
    return result, time.perf_counter() - start


def _example() -> Example:
    """A bright disk, a third of the plane wide."""
    line = np.linspace(-1, 1, 256)
    disk = line[:, None] ** 2 + line[None] ** 2 < 0.1
    rgb = np.where(disk[..., None], np.uint8(180), np.uint8(40)).repeat(3, axis=2)
    return Example(Plane(rgb, "0" * 32, {}, "probe"), disk.astype(np.uint8), (_WORD,))
