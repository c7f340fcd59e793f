"""What both parts of a run learn from: views, the words for them, CLIP's signals of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from napari_clipsam.errors import PlaneError
from napari_clipsam.semantics import Signals, make_signals, text_vector, valid_patches
from napari_clipsam.training.starting import absent_words
from napari_clipsam.training.views import Batch, View, gather

if TYPE_CHECKING:
    from torch import Tensor

    from napari_clipsam.adapters.inject import Adapter
    from napari_clipsam.models.registry import LoadedModel

__all__ = ["Material"]

_SHOWING = 0.9


class Material:
    """Views of the examples and the words they are asked with.

    Parameters
    ----------
    model : LoadedModel
    adapter : Adapter
        The one that is trained; it is taught the words.
    views : sequence of View
    words : sequence of tuple of str
        What the structure in each example is called.
    seed : int
    device : torch.device
    dtype : torch.dtype
        Of SAM's arithmetic; as in use, CLIP runs in float32.
    batch : int
        Views a step.
    check : callable
        Called between the blocks of the networks; what it raises leaves a step undone.

    Attributes
    ----------
    generator : torch.Generator
        Of all that is drawn.
    taught : list of str
        All words, each once.
    absent : list of str
        Words for what is not there.
    """

    def __init__(
        self,
        model: LoadedModel,
        adapter: Adapter,
        views: Sequence[View],
        words: Sequence[tuple[str, ...]],
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
        batch: int,
        check: Callable[[], None],
    ) -> None:
        self.model, self.adapter = model, adapter
        # What is known of a view has to say whether the word is there.
        self.views = [view for view in views if view.shows or view.is_empty]
        if not any(view.shows for view in self.views):
            raise PlaneError(
                f"What is labelled is too thin to be seen: a plane is shown to the model at "
                f"{model.sam.config.input_size} pixels. Label something larger, or teach it on a "
                "smaller part of the image."
            )
        self.words = list(words)
        self.device, self.dtype, self.batch, self.check = device, dtype, batch, check
        self.generator = torch.Generator().manual_seed(seed)
        self.taught = list(dict.fromkeys(word for group in words for word in group))
        self.absent = absent_words(model, [*self.taught, *adapter.taught])
        with torch.no_grad():
            asked = [*self.taught, *self.absent]
            self.features = {word: model.clip.concept(word).float() for word in asked}
            self.redundant = model.clip.redundant().float()
        for word in self.taught:
            adapter.teach(word)
        self._showing = [i for i, view in enumerate(self.views) if view.shows]

    def draw(self) -> list[View]:
        """Views of a step, most of which show the structure."""
        pool: Sequence[int] = range(len(self.views))
        if self._showing and self.chance(_SHOWING):
            pool = self._showing
        return [self.views[self.pick(pool)] for _ in range(self.batch)]

    def pick(self, pool: Sequence) -> int:
        """One of a pool."""
        return pool[int(torch.randint(len(pool), (), generator=self.generator))]

    def chance(self, share: float) -> bool:
        """True so often."""
        return bool(torch.rand((), generator=self.generator) < share)

    def signals(self, batch: Batch, words: Sequence[str]) -> Signals:
        """CLIP's signals of views and a word each; CLIP is run where V is not kept."""
        dense = batch.dense
        if dense is None:
            assert batch.pixels is not None
            tuning = self.adapter.clip_tuning
            dense = self.model.clip.dense(batch.pixels, tuning, self.check)
        texts = [
            text_vector(self.features[word], self.redundant, self.adapter.delta(word))
            for word in words
        ]
        size, grid = self.model.sam.config.input_size, self.model.clip.grid
        valid = valid_patches(batch.resized, size, grid)
        normalisation = self.adapter.config.normalisation
        return make_signals(dense.float(), torch.stack(texts), normalisation, valid)

    @torch.no_grad()
    def dense_of(self, view: View) -> Tensor:
        """V (1 + N, D) of a view by the adapter's own CLIP, half precision."""
        if view.dense is not None:
            return view.dense
        pixels = gather([view]).pixels
        assert pixels is not None
        return self.model.clip.dense(pixels, self.adapter.clip_tuning, self.check)[0].half()

    def keep_dense(self, keep_pixels: bool) -> None:
        """Compute V of all views once, after CLIP was tuned."""
        self.views = [
            replace(view, dense=self.dense_of(view), pixels=view.pixels if keep_pixels else None)
            for view in self.views
        ]
