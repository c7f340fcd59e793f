"""What is trained on: views of labelled planes, the frozen part of the encoder run once for each.

A view is a plane, or a part of one, as the model's square input shows it. The first of every plane
is what the Segmenter will see (its frames); the others are cropped, turned and lit otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from napari_clipsam.geometry import Frame, whole_plane
from napari_clipsam.inference.devices import (
    autocast,
    free_memory,
    memory_guard,
    require_finite,
)
from napari_clipsam.inference.frames import concept_frames, is_large
from napari_clipsam.inference.transfer import to_device
from napari_clipsam.models.sam import normalise_pixels
from napari_clipsam.training.augment import Crop, draw_crop, relight

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from napari_clipsam.adapters.inject import Adapter
    from napari_clipsam.models.registry import LoadedModel
    from napari_clipsam.training.events import TrainEvent
    from napari_clipsam.training.samples import Example
    from napari_clipsam.training.settings import FitSettings

__all__ = [
    "ENCODE_SHARE",
    "Batch",
    "View",
    "ViewMaker",
    "encode_views",
    "gather",
    "large_enough",
    "views_of_a_plane",
]

# Views of a plane and in all; the share of the time that making them may take.
_MOST_VIEWS, _ALL_VIEWS, ENCODE_SHARE = 12, 64, 0.15
_TELL_SECONDS = 0.5

#: Views of a plane too large to be shown whole, before any is augmented.
_TILES = 4
# Of an object that is asked for.
_LEAST_CELLS = 4


@dataclass(frozen=True, eq=False)
class View:
    """A view as it is kept; half precision, on the device.

    G tokens along a side of the input, M = 4 G cells of a mask, S pixels.

    Attributes
    ----------
    example : int
        Which example it shows.
    resized : (int, int)
        Height and width of what it shows, model pixels.
    pixels : Tensor of uint8, shape (3, S, S), or None
        Where trunk or CLIP are run again for each step.
    tokens : Tensor, shape (G, G, C), or None
        The trunk's.
    dense : Tensor, shape (1 + N, D), or None
        CLIP's V.
    concept : Tensor, shape (M, M)
        Share of each cell that the structure covers, 0..1.
    known : Tensor, shape (M, M)
        1 where labels count, 0 elsewhere and in the padding.
    ids : Tensor of int32, shape (M, M)
        Numbers of the objects, 0 elsewhere and where objects are not told apart.
    is_known : bool
        Whether all it shows of the plane is known, so that what is not labelled is not there.
    """

    example: int
    resized: tuple[int, int]
    pixels: Tensor | None
    tokens: Tensor | None
    dense: Tensor | None
    concept: Tensor
    known: Tensor
    ids: Tensor
    is_known: bool

    @property
    def nbytes(self) -> int:
        """Memory it takes."""
        parts = (self.pixels, self.tokens, self.dense, self.concept, self.known, self.ids)
        return sum(part.nbytes for part in parts if part is not None)

    @cached_property
    def objects(self) -> tuple[int, ...]:
        """Numbers of the objects that are large enough to be asked for."""
        return large_enough(self.ids, self.known)

    @cached_property
    def shows(self) -> bool:
        """Whether any of the structure is in it, and known."""
        return bool(((self.concept > 0.5) & (self.known > 0)).any())

    @cached_property
    def is_empty(self) -> bool:
        """Whether the structure is surely not in it: what is too thin to be shown may be."""
        return self.is_known and not self.concept.any()


@dataclass(frozen=True, eq=False)
class Batch:
    """B views, stacked, float32; see `View`.

    ``resized`` (B, 2), ``pixels`` (B, 3, S, S) normalised or None, ``tokens`` (B, G, G, C) or None,
    ``dense`` (B, 1 + N, D) or None, ``concept``, ``known``, ``ids`` (B, M, M). ``objects``: of each
    view the numbers of those that are large enough to be asked for.
    """

    resized: Tensor
    pixels: Tensor | None
    tokens: Tensor | None
    dense: Tensor | None
    concept: Tensor
    known: Tensor
    ids: Tensor
    objects: tuple[tuple[int, ...], ...]


class ViewMaker:
    """Makes views of examples.

    Parameters
    ----------
    model : LoadedModel
    adapter : Adapter
        Says where the encoder is split, whether planes are squashed and whether CLIP is tuned.
    device : torch.device
    dtype : torch.dtype
        Of the networks' arithmetic.
    cache_trunk : bool
    check : callable
        Called between the blocks of the networks.
    """

    def __init__(
        self,
        model: LoadedModel,
        adapter: Adapter,
        device: torch.device,
        dtype: torch.dtype,
        cache_trunk: bool,
        check: Callable[[], None],
    ) -> None:
        self.sam, self.clip = model.sam, model.clip
        self.adapter, self.device, self.dtype = adapter, device, dtype
        self.cache_trunk, self.check = cache_trunk, check
        self.size = model.sam.config.input_size
        self.cells = int(model.sam.prompt_encoder.mask_input_size[0])

    def views(
        self, examples: Sequence[Example], count: int, seed: int, own_scale: bool
    ) -> Iterator[View]:
        """Make `count` views of every example, the plain ones of all examples first.

        Parameters
        ----------
        examples : sequence of Example
        count : int
        seed : int
            The views of an example depend on it and on the example's place alone.
        own_scale : bool
            Whether large planes are also cropped to the scale at which objects are looked for.
        """
        rngs = [np.random.default_rng([seed, i]) for i in range(len(examples))]
        plain = [self._plain(example, rng) for example, rng in zip(examples, rngs, strict=True)]
        for number in range(max(count, *map(len, plain))):
            for i, example in enumerate(examples):
                if number < len(plain[i]):
                    yield self._view(i, example, plain[i][number], None)
                elif number < count:
                    crop = self._crop(example, rngs[i], own_scale and number % 2 == 1)
                    yield self._view(i, example, crop, rngs[i])

    def _plain(self, example: Example, rng: np.random.Generator) -> list[Crop]:
        """The plane as it will be shown, or a few of its tiles with something in them."""
        frames = concept_frames(example.plane.shape, self.size, self.adapter.config.squash)
        crops = [Crop(*frame.slices) for frame in frames]
        if len(crops) <= _TILES:
            return crops
        shown = _shown(example)
        telling = [crop for crop in crops if shown[crop.rows, crop.columns].any()] or crops
        chosen = rng.choice(len(telling), min(_TILES, len(telling)), replace=False)
        return [telling[i] for i in sorted(chosen)]

    def _crop(self, example: Example, rng: np.random.Generator, own_scale: bool) -> Crop:
        longest = max(example.plane.shape)
        tiled = own_scale or is_large(example.plane.shape, self.size)
        side = min(longest, self.size) if tiled else longest
        return draw_crop(_shown(example), rng, side)

    @torch.no_grad()
    def _view(
        self, index: int, example: Example, crop: Crop, rng: np.random.Generator | None
    ) -> View:
        rgb = crop.of(example.plane.rgb)
        if rng is not None:
            rgb = relight(rgb, rng)
        frame = whole_plane(rgb.shape[:2], self.size, self.adapter.config.squash)
        pixels = self._pixels(rgb, frame)
        concept, known, ids, is_known = self._targets(example, crop, frame)
        tuned = self.adapter.clip_tuning is not None
        tokens = dense = None
        normal = _normalised(pixels[None], [frame.resized])
        if self.cache_trunk:
            with autocast(self.device, self.dtype):
                tokens = require_finite(self.sam.trunk(normal, self.adapter.split, self.check))
        if not tuned:
            # In float32 as in use, where half precision moves whole regions of a map.
            dense = require_finite(self.clip.dense(normal, None, self.check))
        return View(
            index,
            frame.resized,
            pixels if tuned or not self.cache_trunk else None,
            None if tokens is None else tokens[0].half(),
            None if dense is None else dense[0].half(),
            concept,
            known,
            ids,
            is_known,
        )

    def _pixels(self, rgb: NDArray[np.uint8], frame: Frame) -> Tensor:
        small = torch.from_numpy(frame.image(rgb)).permute(2, 0, 1)
        height, width = small.shape[1:]
        return F.pad(small, (0, self.size - width, 0, self.size - height)).to(self.device)

    def _targets(
        self, example: Example, crop: Crop, frame: Frame
    ) -> tuple[Tensor, Tensor, Tensor, bool]:
        labels = torch.from_numpy(crop.of(example.labels).astype(np.int32))
        known = torch.ones(labels.shape)
        if example.known is not None:
            known = torch.from_numpy(crop.of(example.known).astype(np.float32))
        rows, columns = (max(1, round(n * self.cells / self.size)) for n in frame.resized)
        concept = _resized((labels > 0).float(), (rows, columns))
        known = (_resized(known, (rows, columns)) > 0.99).float()
        ids = F.interpolate(labels[None, None].double(), (rows, columns), mode="nearest-exact")
        if not example.objects:
            ids = torch.zeros_like(ids)
        room = (0, self.cells - columns, 0, self.cells - rows)
        return (
            F.pad(concept, room).half().to(self.device),
            F.pad(known, room).half().to(self.device),
            F.pad(ids[0, 0].int(), room).to(self.device),
            bool(known.all()),
        )


def views_of_a_plane(n_planes: int) -> int:
    """Views each of so many planes is seen in, where neither time nor memory is short."""
    return max(2, min(_MOST_VIEWS, _ALL_VIEWS // n_planes))


def encode_views(
    maker: ViewMaker,
    examples: Sequence[Example],
    settings: FitSettings,
    tell: Callable[[str], TrainEvent],
) -> Generator[TrainEvent, None, list[View]]:
    """Make the views of a run: with a budget of time, as many as a part of it allows.

    `tell` makes an event of a note, which may be empty; these are given now and then.
    """
    count = settings.views or views_of_a_plane(len(examples))
    stream = maker.views(examples, count, settings.seed, settings.goal != "concept")
    room = free_memory(maker.device) // 4
    allowed = ENCODE_SHARE * 60 * (settings.minutes or 0.0)
    views: list[View] = []
    begun = told = time.perf_counter()
    used = 0
    while True:
        with memory_guard(maker.device, maker.dtype):
            view = next(stream, None)
        if view is None:
            return views
        views.append(view)
        used += view.nbytes
        now = time.perf_counter()
        if now - told > _TELL_SECONDS:
            told = now
            yield tell("")
        in_time = settings.minutes is None or now - begun < allowed
        if settings.views or len(views) < len(examples) or (in_time and used < room):
            continue
        if used >= room:
            yield tell(
                f"Free memory allows {len(views)} views of the slices; more would teach more."
            )
        return views


def gather(views: Sequence[View]) -> Batch:
    """Stack views."""

    def stacked(parts: list[Tensor | None]) -> Tensor | None:
        there = [part for part in parts if part is not None]
        return torch.stack(there).float() if there else None

    pixels = stacked([view.pixels for view in views])
    device = views[0].concept.device
    resized = to_device(torch.tensor([view.resized for view in views]), device)
    if pixels is not None:
        pixels = _normalised(pixels, [view.resized for view in views])
    return Batch(
        resized,
        pixels,
        stacked([view.tokens for view in views]),
        stacked([view.dense for view in views]),
        torch.stack([view.concept for view in views]).float(),
        torch.stack([view.known for view in views]).float(),
        torch.stack([view.ids for view in views]),
        tuple(view.objects for view in views),
    )


def large_enough(ids: Tensor, known: Tensor) -> tuple[int, ...]:
    """Numbers of the objects that cover enough known cells, for ids and known (M, M)."""
    numbers, cells = ids[known > 0].unique(return_counts=True)
    return tuple(numbers[(numbers > 0) & (cells >= _LEAST_CELLS)].tolist())


def _shown(example: Example) -> NDArray[np.bool_]:
    shown = example.labels > 0
    return shown if example.known is None else shown & example.known


def _resized(values: Tensor, shape: tuple[int, int]) -> Tensor:
    """Mean over each cell; bilinear where cells are smaller than pixels."""
    smaller = shape[0] <= values.shape[0] and shape[1] <= values.shape[1]
    if smaller:
        return F.interpolate(values[None, None], shape, mode="area")[0, 0]
    return F.interpolate(values[None, None], shape, mode="bilinear", align_corners=False)[0, 0]


def _normalised(pixels: Tensor, resized: Sequence[tuple[int, int]]) -> Tensor:
    """Pixels (B, 3, S, S) as the networks take them; what does not show the plane is 0."""
    line = torch.arange(pixels.shape[-1], device=pixels.device)
    inside = [(line < height)[:, None] & (line < width)[None] for height, width in resized]
    return normalise_pixels(pixels.float()) * torch.stack(inside)[:, None]
