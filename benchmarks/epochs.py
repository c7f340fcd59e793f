"""An epoch of fine-tuning as the trainer runs it, ready to be timed."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch

from napari_clipsam.inference.devices import training_dtype
from napari_clipsam.training.learner import HeadLearner
from napari_clipsam.training.material import Material
from napari_clipsam.training.settings import FitSettings
from napari_clipsam.training.starting import prepare_adapter
from napari_clipsam.training.views import ViewMaker, gather

if TYPE_CHECKING:
    from napari_clipsam.adapters.inject import Adapter
    from napari_clipsam.models.registry import LoadedModel
    from napari_clipsam.training.samples import Split

__all__ = ["Epoch"]


class Epoch:
    """The second part of a training, ready to see each of its views once.

    Parameters
    ----------
    model : LoadedModel
    start : Adapter
    split : Split
    device : torch.device
    cache_trunk : bool
        Whether trunks are kept or computed again in each step.
    views : int
        Of each plane.

    Attributes
    ----------
    views : list of View
    """

    def __init__(
        self,
        model: LoadedModel,
        start: Adapter,
        split: Split,
        device: torch.device,
        cache_trunk: bool,
        views: int,
    ) -> None:
        settings = FitSettings(cache_trunk=cache_trunk)
        dtype = training_dtype(device)
        adapter = prepare_adapter(model, start, settings, len(split.train))
        maker = ViewMaker(model, adapter, device, dtype, cache_trunk, _nothing)
        self.views = list(maker.views(split.train, views, 0, own_scale=False))
        words = [example.words for example in split.train]
        self._material = Material(
            *(model, adapter, self.views, words, 0, device, dtype, 1, _nothing)
        )
        self._pixels = [gather([view]).pixels for view in self.views]
        self._material.keep_dense(keep_pixels=not cache_trunk)
        order = itertools.cycle(self._material.views)
        self._material.draw = lambda: [next(order)]  # type: ignore[method-assign]
        self._learner = HeadLearner(self._material, settings)

    def run(self, whole: bool) -> None:
        """Take a step on each view: on all of it, or as over a whole training."""
        for i in range(len(self.views)):
            progress = 1.0 if whole else i / len(self.views)
            assert self._learner.step(progress) is not None

    @torch.no_grad()
    def clip(self) -> None:
        """Run CLIP on each view."""
        model, tuning = self._material.model, self._material.adapter.clip_tuning
        for pixels in self._pixels:
            assert pixels is not None
            model.clip.dense(pixels, tuning)


def _nothing() -> None: ...
