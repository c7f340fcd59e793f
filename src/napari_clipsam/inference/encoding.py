"""Planes and words to image embeddings, each stage computed once and cached by what it depends on.

A new click re-uses everything here; a new word re-runs text and head; a new plane everything.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from napari_clipsam.adapters.inject import tuning_of
from napari_clipsam.errors import WordError
from napari_clipsam.inference.devices import autocast
from napari_clipsam.inference.trunks import TensorCache
from napari_clipsam.models.sam import default_split, normalise_pixels
from napari_clipsam.semantics import Signals, make_signals, text_vector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from napari_clipsam.adapters.inject import Adapter
    from napari_clipsam.geometry import Frame
    from napari_clipsam.models.clip import Clip
    from napari_clipsam.models.sam import Sam
    from napari_clipsam.planes import Plane

__all__ = ["PlaneEncoder", "View"]

_STAGES = ("trunk", "signals", "head", "decode")


@dataclass(frozen=True)
class View:
    """A frame of a plane: what is encoded, and the key it is cached by."""

    plane: Plane
    frame: Frame

    @property
    def key(self) -> tuple[str, Frame]:
        """Pixels, normalisation and geometry."""
        return self.plane.fingerprint, self.frame


class PlaneEncoder:
    """Runs trunk, CLIP and head for views and words.

    Parameters
    ----------
    sam, clip : Sam, Clip
        On `device`.
    device : torch.device
    dtype : torch.dtype
        Of the networks' arithmetic; below float32 the caches hold float16.
    cache_bytes : int
        Memory for trunks, and half of it again for dense features and image embeddings each.

    Attributes
    ----------
    adapter : Adapter or None
        What conditions the head; assign to swap.
    calls : Counter
        Runs of trunk, clip, text, head and decode.
    seconds : dict of str to float
        Time by stage since `reset_clock`.
    """

    def __init__(
        self, sam: Sam, clip: Clip, device: torch.device, dtype: torch.dtype, cache_bytes: int
    ) -> None:
        self.sam, self.clip = sam, clip
        self.device, self.dtype = device, dtype
        self.adapter: Adapter | None = None
        self.split = default_split(sam.config.depth)
        self.calls: Counter[str] = Counter()
        self.seconds: dict[str, float] = {}
        kept = torch.float32 if dtype == torch.float32 else torch.float16
        self._trunks = TensorCache(cache_bytes, kept)
        self._dense = TensorCache(cache_bytes // 2, kept)
        self._embeddings = TensorCache(cache_bytes // 2, kept)
        self._texts: dict[str, Tensor] = {}
        self.reset_clock()

    def reset_clock(self) -> None:
        """Start counting seconds from zero."""
        self.seconds = dict.fromkeys(_STAGES, 0.0)

    def clear(self) -> None:
        """Forget everything cached."""
        for cache in (self._trunks, self._dense, self._embeddings):
            cache.clear()
        self._texts.clear()

    def use_adapter(self, adapter: Adapter | None) -> None:
        """Swap the adapter; caches stay, since their keys name the adapter."""
        self.adapter = adapter
        if adapter is not None:
            # Without an adapter the last split stays, so that the trunks are shared.
            self.split = adapter.split

    def trunk(self, view: View) -> Tensor:
        """Trunk tokens (1, G, G, C) of a view."""
        key = (*view.key, self.sam.identity, self.split)
        return self._trunks.get(key, lambda: self._run_trunk(view)).float()

    def dense(self, view: View) -> Tensor:
        """Dense CLIP features V (1, 1 + N, D) of a view, with the adapter's attention if it has any."""
        own = None if tuning_of(self.adapter) is None else id(self.adapter)
        key = (*view.key, self.clip.identity, own)
        return self._dense.get(key, lambda: self._run_dense(view)).float()

    def text(self, word: str) -> Tensor:
        """t (D,) of a word; a taught one has its learned vector added.

        Raises
        ------
        WordError
            The word is blank.
        """
        if word not in self._texts:
            with self.timed("signals"), autocast(self.device, self.dtype):
                self.calls["text"] += 1
                self._texts[word] = self.clip.concept(word).float()
        delta = None if self.adapter is None else self.adapter.delta(word)
        return text_vector(self._texts[word], self.clip.redundant().float(), delta)

    def signals(self, view: View, word: str) -> Signals:
        """What CLIP says of a word in a view."""
        text = self.text(word)
        dense = self.dense(view)
        with self.timed("signals"):
            normalisation = "channel" if self.adapter is None else self.adapter.config.normalisation
            return make_signals(dense, text[None], normalisation, self._valid(view))

    def embedding(self, view: View, word: str | None) -> Tensor:
        """Image embedding (1, C, G, G), conditioned where there are a word and an adapter."""
        who = None if self.adapter is None else id(self.adapter)
        key = (*view.key, self.sam.identity, self.split, who, word if who else None)
        return self._embeddings.get(key, lambda: self._run_head(view, word)).float()

    def resized(self, view: View) -> Tensor:
        """Height and width (1, 2) of a view in model pixels."""
        return torch.tensor([view.frame.resized], device=self.device)

    def unknown_words(self, word: str) -> list[str]:
        """Words that neither CLIP's closed vocabulary nor the adapter has learnt."""
        if self.adapter is not None and self.adapter.delta(word) is not None:
            return []
        return self.clip.unknown_words(word)

    def _pixels(self, view: View) -> Tensor:
        rgb = torch.from_numpy(view.frame.image(view.plane.rgb)).permute(2, 0, 1)
        pixels = normalise_pixels(rgb.to(self.device, torch.float32))
        size = view.frame.input_size
        h, w = pixels.shape[1:]
        return F.pad(pixels, (0, size - w, 0, size - h))[None]

    def _valid(self, view: View) -> Tensor:
        """Patches (1, N) that show any of the plane."""
        grid = self.clip.grid
        cell = view.frame.input_size / grid
        h, w = view.frame.resized
        line = torch.arange(grid, device=self.device) * cell
        return ((line < h)[:, None] & (line < w)[None, :]).flatten()[None]

    def _run_trunk(self, view: View) -> Tensor:
        with self.timed("trunk"), autocast(self.device, self.dtype):
            self.calls["trunk"] += 1
            return self.sam.trunk(self._pixels(view), self.split)

    def _run_dense(self, view: View) -> Tensor:
        with self.timed("signals"), autocast(self.device, self.dtype):
            self.calls["clip"] += 1
            return self.clip.dense(self._pixels(view), tuning_of(self.adapter))

    def _run_head(self, view: View, word: str | None) -> Tensor:
        tokens = self.trunk(view)
        conditioning = None
        if self.adapter is not None:
            if word is None:
                raise WordError("The adapter needs a word. Type what to look for, e.g. nuclei.")
            conditioning = self.signals(view, word)
        with self.timed("head"), autocast(self.device, self.dtype):
            self.calls["head"] += 1
            adapters = None if self.adapter is None else self.adapter.condition(conditioning)
            return self.sam.head(tokens, self.split, adapters)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[stage] += time.perf_counter() - start
