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
from napari_clipsam.errors import Stopped, WordError
from napari_clipsam.inference.devices import autocast, require_finite, synchronize
from napari_clipsam.inference.frames import concept_frames
from napari_clipsam.inference.texts import TextFile
from napari_clipsam.inference.transfer import to_device
from napari_clipsam.inference.trunks import TensorCache
from napari_clipsam.models.clip import Clip
from napari_clipsam.models.identity import tensor_identity
from napari_clipsam.models.sam import default_split, normalise_pixels
from napari_clipsam.semantics import Signals, make_signals, text_vector, valid_patches

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from napari_clipsam.adapters.inject import Adapter
    from napari_clipsam.geometry import Frame
    from napari_clipsam.inference.shelf import Shelf
    from napari_clipsam.models.sam import RunBlock, Sam
    from napari_clipsam.models.weights import ClipFile
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
    sam : Sam
        On `device`.
    language : Clip or ClipFile
        On `device`, or loaded there when the first word needs it.
    device : torch.device
    dtype : torch.dtype
        Of SAM's arithmetic; CLIP runs in float32. Below float32 the caches hold float16.
    cache_bytes : int
        Memory for trunks, and half of it again for dense features and image embeddings each.
    shelf : Shelf, optional
        Keeps trunks and dense features on disk as well.
    texts : Path, optional
        Folder for text features.
    run : callable, optional
        Runs a block of SAM's encoder, see `Sam.trunk`.

    Attributes
    ----------
    adapter : Adapter or None
        What conditions the head; swapped by `use_adapter`.
    adapter_key : hashable
        Tells its configuration and weights from those of any other; None without one.
    split : int
        Blocks in the trunk.
    calls : Counter
        Runs of trunk, clip, text, head and decode.
    seconds : dict of str to float
        Time by stage since `reset_clock`.
    check : callable or None
        See `Segmenter.check`.
    """

    def __init__(
        self,
        sam: Sam,
        language: Clip | ClipFile,
        device: torch.device,
        dtype: torch.dtype,
        cache_bytes: int,
        shelf: Shelf | None = None,
        texts: Path | None = None,
        run: RunBlock | None = None,
    ) -> None:
        self.sam, self._language, self._run = sam, language, run
        self.device, self.dtype = device, dtype
        self.adapter: Adapter | None = None
        self.split = default_split(sam.config.depth)
        self.calls: Counter[str] = Counter()
        self.seconds: dict[str, float] = {}
        kept = torch.float32 if dtype == torch.float32 else torch.float16
        trunks, dense = ("", "") if shelf is None else (sam.identity, language.identity)
        self._trunks = TensorCache(cache_bytes, kept, shelf, f"trunk {trunks} {dtype}")
        self._dense = TensorCache(cache_bytes // 2, kept, shelf, f"V {dense} {dtype}")
        self._embeddings = TensorCache(cache_bytes // 2, kept)
        # Trunk and CLIP see the same pixels one after the other.
        self._pixels = TensorCache(0)
        self._texts: dict[str | None, Tensor] = {}
        self._text_file = None if texts is None else TextFile(language, device, texts)
        self.adapter_key: Hashable = None
        # Tells the adapter's own CLIP attention from that of others.
        self._tuning: str | None = None
        self.check: Callable[[], None] | None = None
        self._away = 0.0
        self.reset_clock()

    @property
    def squash(self) -> bool:
        """Whether planes fill the square, whatever their aspect."""
        return self.adapter is not None and self.adapter.config.squash

    @property
    def least_object(self) -> int:
        """See `SamConfig.least_object`; adapters are taught objects at the plane's own scale."""
        if self.adapter is not None and self.adapter.config.own_objects:
            return 0
        return self.sam.config.least_object

    @property
    def sees_two_scales(self) -> bool:
        """Whether a word is looked for at two scales.

        Adapters are taught it at several, and the starter encodes a part in less than a second.
        Without an adapter something is marked in every part, as the paper's code does.
        """
        return self.adapter is not None and self.sam.config.least_object > 0

    def concept_frames(self, shape: tuple[int, int]) -> list[Frame]:
        """Where a word is looked for in a plane; see `frames.concept_frames`."""
        return concept_frames(shape, self.sam.config.input_size, self.squash)

    @property
    def clip(self) -> Clip:
        """The CLIP; loaded when it is first needed."""
        if isinstance(self._language, Clip):
            return self._language
        self._language = self._language.clip.to(self.device).eval().requires_grad_(False)
        return self._language

    def reset_clock(self, ahead: Mapping[str, float] | None = None) -> None:
        """Start counting seconds from zero, or from those spent ahead of what is asked."""
        self.seconds = dict.fromkeys(_STAGES, 0.0) | dict(ahead or {})

    def pause(self) -> None:
        """Call `check`, which may end the answer or ask for other answers meanwhile.

        Raises
        ------
        Stopped
            The adapter or the device was changed meanwhile.
        """
        if self.check is None:
            return
        start, away, seconds = time.perf_counter(), self._away, self.seconds
        before = self.adapter, self.adapter_key, self.device
        with torch.autocast(self.device.type, enabled=False):
            self.check()
        self.seconds, self._away = seconds, away + time.perf_counter() - start
        if before != (self.adapter, self.adapter_key, self.device):
            raise Stopped("The model was changed before the answer was there. Ask again.")

    def clear(self) -> None:
        """Forget everything cached, and give its memory back to the device."""
        for cache in (self._trunks, self._dense, self._embeddings, self._pixels):
            cache.clear()
        self._texts.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def move(self, device: torch.device) -> None:
        """Continue on another device."""
        self.clear()
        self.device = device
        # Its rounding is that of the former device.
        self._text_file = None
        for module in (self.sam, self._language, self.adapter):
            if isinstance(module, torch.nn.Module):
                module.to(device)

    def use_adapter(self, adapter: Adapter | None) -> None:
        """Swap the adapter.

        Caches stay: their keys name its configuration and weights, so that an adapter that comes
        back finds what it left, and one that was trained on in between does not.
        """
        self.adapter = adapter
        self._tuning = None
        if adapter is None:
            self.adapter_key = None
            # In fp32 it does not matter where the encoder is split, so the trunks are shared. Below
            # that it does, a little, and an answer must not depend on what was used before.
            if self.dtype != torch.float32:
                self.split = default_split(self.sam.config.depth)
            return
        weights = tensor_identity(adapter.state_dict())
        self.adapter_key = (weights, adapter.config, adapter.taught)
        self.split = adapter.split
        if adapter.clip_tuning is not None:
            self._tuning = tensor_identity(adapter.clip_tuning.state_dict())

    def trunk(self, view: View) -> Tensor:
        """Trunk tokens (1, G, G, C) of a view."""
        found = self._trunks.get(self._trunk_key(view), lambda: self._run_trunk([view]))
        return found.to(self.device).float()

    def dense(self, view: View) -> Tensor:
        """Dense CLIP features V (1, 1 + N, D) of a view, by the adapter's own attention if any."""
        found = self._dense.get(self._dense_key(view), lambda: self._run_dense([view]))
        return found.to(self.device).float()

    def most_views(self, words: int) -> int:
        """How many views, with so many words in each, the caches hold at once."""
        sam, grid = self.sam.config, self.sam.config.grid
        # An adapter may have objects decoded from the base's embedding.
        embeddings = 1 if self.adapter is None else words + 1
        held = [
            self._trunks.holds(grid, grid, sam.embed_dim),
            self._embeddings.holds(embeddings, grid, grid, sam.out_chans),
        ]
        if words:
            # Without any, CLIP may not even be loaded.
            held.append(self._dense.holds(1 + self.clip.grid**2, self.clip.dim))
        return min(held)

    def encode(self, views: Sequence[View], with_words: bool) -> None:
        """Make trunks, and with words dense features, of several views at once where not cached."""
        keys = [self._trunk_key(view) for view in views]
        self._trunks.fill(keys, lambda which: self._run_trunk([views[i] for i in which]))
        if with_words:
            keys = [self._dense_key(view) for view in views]
            self._dense.fill(keys, lambda which: self._run_dense([views[i] for i in which]))
        if len(views) > 1:
            # A batch of them is large, and trunk and CLIP have seen it.
            self._pixels.clear()

    def encode_words(self, views: Sequence[View], words: Sequence[str]) -> None:
        """Run the head once for all words in all views where not cached; trunks come first."""
        adapter = self.adapter
        said = [None] if adapter is None else dict.fromkeys(map(_word_key, words))
        pairs = [(view, word) for view in views for word in said]
        keys = [self._embedding_key(view, word) for view, word in pairs]
        self._embeddings.fill(
            keys, lambda which: self._run_head([pairs[i] for i in which], adapter)
        )

    def text(self, word: str) -> Tensor:
        """t (D,) of a word; a taught one has its learned vector added.

        Raises
        ------
        WordError
            The word is blank.
        """
        key = _word_key(word)
        feature = self._text(key, lambda: self._run_text(key))
        shared = self._text(None, lambda: self.clip.redundant(self.pause).float())
        delta = None if self.adapter is None else self.adapter.delta(key)
        return text_vector(feature, shared, delta)

    def _text(self, word: str | None, make: Callable[[], Tensor]) -> Tensor:
        """Feature (D,) of a word, or of what all words share for None."""
        if word not in self._texts:
            found = None if self._text_file is None else self._text_file.get(word)
            self._texts[word] = require_finite(make()) if found is None else found
            if found is None and self._text_file is not None:
                self._text_file.put(word, self._texts[word])
        return self._texts[word]

    def _run_text(self, word: str) -> Tensor:
        with self.timed("signals"):
            self.calls["text"] += 1
            # Words differ little from what all have in common: no reduced precision here.
            return self.clip.concept(word)

    def signals(self, view: View, word: str) -> Signals:
        """What CLIP says of a word in a view."""
        return self._signals([(view, word)])

    def embedding(self, view: View, word: str | None) -> Tensor:
        """Image embedding (1, C, G, G), conditioned where there is an adapter.

        Raises
        ------
        WordError
            There is an adapter, but no word.
        """
        adapter = self.adapter
        said = None if word is None or adapter is None else _word_key(word)
        key = self._embedding_key(view, said)
        return self._embeddings.get(key, lambda: self._run_head([(view, said)], adapter)).float()

    def object_embedding(self, view: View, word: str | None) -> Tensor:
        """What objects are decoded from: the base's where the adapter leaves them to it.

        Without a word that is so wherever the base decodes them.
        """
        adapter = self.adapter
        if adapter is None or (adapter.config.conditioned_objects and word is not None):
            return self.embedding(view, word)
        key = (*view.key, self.split, None, None)
        return self._embeddings.get(key, lambda: self._run_head([(view, None)], None)).float()

    def resized(self, view: View) -> Tensor:
        """Height and width (1, 2) of a view in model pixels."""
        return torch.tensor([view.frame.resized], device=self.device)

    def unknown_words(self, word: str) -> list[str]:
        """Words that neither CLIP's closed vocabulary nor the adapter has learnt."""
        if self.adapter is not None:
            key = _word_key(word)
            if self.adapter.delta(key) is not None:
                return []
            if key in {_word_key(known) for known in self.adapter.info.words}:
                return []
        return self.clip.unknown_words(word)

    def pixels(self, view: View) -> Tensor:
        """Normalised pixels (1, 3, S, S) of a view, zero in the padding."""
        return self._pixels.get(view.key, lambda: self._make_pixels(view))

    def _make_pixels(self, view: View) -> Tensor:
        rgb = to_device(torch.from_numpy(view.frame.image(view.plane.rgb)), self.device)
        pixels = normalise_pixels(rgb.permute(2, 0, 1).float())
        size = view.frame.input_size
        h, w = pixels.shape[1:]
        return F.pad(pixels, (0, size - w, 0, size - h))[None]

    def _trunk_key(self, view: View) -> Hashable:
        return (*view.key, self.split)

    def _dense_key(self, view: View) -> Hashable:
        return (*view.key, self._tuning)

    def _embedding_key(self, view: View, word: str | None) -> Hashable:
        return (*view.key, self.split, self.adapter_key, word)

    def _run_trunk(self, views: Sequence[View]) -> Tensor:
        with self.timed("trunk"), autocast(self.device, self.dtype):
            self.calls["trunk"] += 1
            pixels = self._stacked(views)
            return require_finite(self.sam.trunk(pixels, self.split, self.pause, self._run))

    def _run_dense(self, views: Sequence[View]) -> Tensor:
        # A similarity map is cut at a threshold, where half precision moves whole regions.
        with self.timed("signals"):
            self.calls["clip"] += 1
            tuning = tuning_of(self.adapter)
            return require_finite(self.clip.dense(self._stacked(views), tuning, self.pause))

    def _stacked(self, views: Sequence[View]) -> Tensor:
        if len(views) == 1:
            return self.pixels(views[0])
        keys = tuple(view.key for view in views)
        return self._pixels.get(
            keys, lambda: torch.cat([self._make_pixels(view) for view in views])
        )

    def _signals(self, pairs: Sequence[tuple[View, str]]) -> Signals:
        text = torch.stack([self.text(word) for _, word in pairs])
        dense = torch.cat([self.dense(view) for view, _ in pairs])
        with self.timed("signals"):
            normalisation = "channel" if self.adapter is None else self.adapter.config.normalisation
            resized = torch.cat([self.resized(view) for view, _ in pairs])
            valid = valid_patches(resized, self.sam.config.input_size, self.clip.grid)
            return make_signals(dense, text, normalisation, valid)

    def _run_head(
        self, pairs: Sequence[tuple[View, str | None]], adapter: Adapter | None
    ) -> Tensor:
        tokens = torch.cat([self.trunk(view) for view, _ in pairs])
        conditioning = None
        if adapter is not None:
            asked = [(view, word) for view, word in pairs if word is not None]
            if len(asked) < len(pairs):
                raise WordError("The adapter needs a word. Type what to look for, e.g. nuclei.")
            conditioning = self._signals(asked)
        with self.timed("head"), autocast(self.device, self.dtype):
            self.calls["head"] += 1
            adapters = None if adapter is None else adapter.condition(conditioning)
            return require_finite(
                self.sam.head(tokens, self.split, adapters, self.pause, run=self._run)
            )

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time of what runs inside to a stage."""
        start = time.perf_counter() - self._away
        yield
        synchronize(self.device)
        self.seconds[stage] += time.perf_counter() - self._away - start


def _word_key(word: str) -> str:
    """A word, whatever its case and spacing."""
    return " ".join(word.lower().split())
