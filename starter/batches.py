"""Augmented batches made on the training device: warped crops, looks, objects to prompt for.

All images stay on the device as 8-bit tensors. A batch is a list of independent crops of random
place, scale, rotation and aspect, padded at the bottom and right like the product pads a plane.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from skimage.filters import threshold_otsu
from torch import Tensor

from napari_clipsam.models.sam import normalise_pixels
from starter.data import Sample

__all__ = [
    "Batch",
    "BatchMaker",
    "Objects",
    "Store",
    "allotted",
    "blur",
    "change_look",
    "load_store",
    "prefetch",
]

_MIN_AREA = 24
_MAX_SHARE = 0.6


@dataclass(frozen=True, eq=False)
class _Item:
    """One image on the device: (3, H, W) uint8; ids, then weights, of C concepts (2 C, H, W)."""

    image: Tensor
    half: Tensor | None
    planes: Tensor
    sample: Sample
    names: tuple[str, ...]
    grey: bool


@dataclass(frozen=True, eq=False)
class Batch:
    """B augmented crops with R label maps, one for every (crop, concept).

    Attributes
    ----------
    pixels : Tensor, shape (B, 3, S, S)
        Normalised, zero in the padding.
    valid : Tensor of bool, shape (B, S, S)
        Where the crop is; the rest is padding.
    labels, weights : Tensor, shape (R, S, S)
        Ids (int32) and pixel weights (0 = unknown).
    rows : list of (int, str)
        Crop and concept of each label map; the rows of a crop follow each other.
    samples : list of Sample
        Of each crop.
    """

    pixels: Tensor
    valid: Tensor
    labels: Tensor
    weights: Tensor
    rows: list[tuple[int, str]]
    samples: list[Sample]

    def kind(self, row: int) -> str:
        """Kind of label of a row: instance, semantic or boxes."""
        crop, name = self.rows[row]
        return self.samples[crop].kinds[name]


@dataclass(frozen=True, eq=False)
class Objects:
    """N objects to prompt for.

    Attributes
    ----------
    masks, weights : Tensor, shape (N, S / 2, S / 2)
        Soft masks and known pixels.
    row, image : Tensor of int64, shape (N,)
        Label map and crop of each.
    """

    masks: Tensor
    weights: Tensor
    row: Tensor
    image: Tensor


@dataclass(frozen=True, eq=False)
class Store:
    """Images on the device and how often each is drawn."""

    items: list[_Item]
    chances: np.ndarray


def load_store(groups: Sequence[tuple[float, Sequence[Sample]]], device: str) -> Store:
    """Move samples to the device.

    Parameters
    ----------
    groups : sequence of (share, samples)
        The share of all draws a group gets; within it the styles share equally by the square root
        of their size, so that rare looks are seen.
    """
    items: list[_Item] = []
    chances: list[float] = []
    for share, samples in groups:
        styles = [s.source.rsplit("/", 1)[0] for s in samples]
        size = {style: styles.count(style) for style in set(styles)}
        total = sum(math.sqrt(n) for n in size.values())
        for sample, style in zip(samples, styles, strict=True):
            items.append(_to_item(sample, device))
            chances.append(share / total / math.sqrt(size[style]))
    weights = np.array(chances)
    return Store(items, weights / weights.sum())


def _to_item(sample: Sample, device: str) -> _Item:
    labels, weights, names = [], [], []
    for name in sample.kinds:
        if name in sample.concepts:
            labels.append(sample.concepts[name].astype(np.int32))
            weights.append(np.ones(sample.image.shape[:2], np.uint8))
        else:
            marked, known = _outline_boxes(sample, name)
            labels.append(marked)
            weights.append(known)
        names.append(name)
    image = torch.from_numpy(np.ascontiguousarray(sample.image.transpose(2, 0, 1))).to(device)
    half = None
    if max(image.shape[1:]) > 700:
        half = F.avg_pool2d(image[None].float(), 2)[0].round().to(torch.uint8)
    grey = bool((image[0] == image[1]).all() and (image[1] == image[2]).all())
    planes = np.concatenate([np.stack(labels), np.stack(weights)]).astype(np.float32)
    return _Item(image, half, torch.from_numpy(planes).to(device), sample, tuple(names), grey)


def _outline_boxes(sample: Sample, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Stand-in masks for boxed blood cells: the stained foreground within each box's ellipse.

    What is certain is labelled, what is not gets weight 0: a rim around each ellipse, and, where a
    concept is only partly boxed, all stained foreground that no box explains.
    """
    green = sample.image[..., 1].astype(float)
    stained = ndimage.binary_fill_holes(green < threshold_otsu(green))
    shape = green.shape
    labels = np.zeros(shape, np.int32)
    known = np.ones(shape, np.uint8)
    explained = np.zeros(shape, bool)
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    for other, boxes in sample.boxes.items():
        for i, (y0, x0, y1, x1) in enumerate(boxes, start=1):
            r = ((yy - (y0 + y1 - 1) / 2) / max((y1 - y0) / 2, 1)) ** 2 + (
                (xx - (x0 + x1 - 1) / 2) / max((x1 - x0) / 2, 1)
            ) ** 2
            explained |= r < 1.2
            if other == name:
                inside = (r < 1.0) & (stained | (r < 0.4))
                labels[inside] = i
                known[(r >= 0.8) & (r < 1.3) & (inside == stained)] = 0
    if name in sample.partial:
        known[stained & ~explained] = 0
    return labels, known


class BatchMaker:
    """Draws augmented batches from a store.

    Parameters
    ----------
    store : Store
    size : int
        Side of the model's input.
    seed : int
    """

    def __init__(self, store: Store, size: int, seed: int) -> None:
        self.store = store
        self.size = size
        self.rng = np.random.default_rng(seed)
        self.device = store.items[0].image.device
        self.generator = torch.Generator(self.device).manual_seed(seed)

    def draw(self, count: int) -> Batch:
        """`count` independent crops."""
        chosen = self.rng.choice(len(self.store.items), count, p=self.store.chances)
        items = [self.store.items[i] for i in chosen]
        crops = [self._crop(item) for item in items]
        pixels = torch.stack([c[0] for c in crops])
        heights = torch.tensor([c[2] for c in crops], device=self.device)[:, None, None]
        widths = torch.tensor([c[3] for c in crops], device=self.device)[:, None, None]
        line = torch.arange(self.size, device=self.device)
        valid = (line[:, None] < heights) & (line[None, :] < widths)
        shown = change_look(pixels, valid, [item.grey for item in items], self.rng, self.generator)
        planes = [c[1].unflatten(0, (2, -1)) for c in crops]
        return Batch(
            normalise_pixels(shown) * valid[:, None],
            valid,
            torch.cat([p[0] for p in planes]).int(),
            torch.cat([p[1] for p in planes]),
            [(i, name) for i, item in enumerate(items) for name in item.names],
            [item.sample for item in items],
        )

    def objects(self, batch: Batch, per_row: int, rows: Sequence[int] | None = None) -> Objects:
        """Choose about `per_row` objects of label maps; by default of one map of each crop."""
        if rows is None:
            rows = self._one_row_each(batch)
        rows = [r for r in rows if batch.kind(r) != "semantic"]
        masks, weights, index = self.choose(batch.labels[rows], batch.weights[rows], per_row)
        of_row = torch.tensor(rows, device=self.device, dtype=torch.long)
        crop_of = torch.tensor([c for c, _ in batch.rows], device=self.device, dtype=torch.long)
        return Objects(masks, weights, of_row[index], crop_of[of_row[index]])

    def choose(
        self, labels: Tensor, weights: Tensor, per_map: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Soft masks and weights (N, H / 2, H / 2) of chosen objects, and whose they are.

        Labels and weights are (R, H, H) of instances; `per_map` is the mean over the maps at most.
        """
        index, wanted = [], []
        visible = _visible_ids(labels)
        for i, (ids, number) in enumerate(zip(visible, allotted(visible, per_map), strict=True)):
            picked = self.rng.choice(ids, number, replace=False)
            index += [i] * len(picked)
            wanted += picked.tolist()
        chosen = torch.tensor(index, device=self.device, dtype=torch.long)
        target = torch.tensor(wanted, device=self.device, dtype=torch.int32)
        masks = (labels[chosen] == target[:, None, None]).half()
        soft = F.avg_pool2d(masks[:, None], 2)[:, 0].float()
        return soft, weights[chosen, ::2, ::2], chosen

    def _one_row_each(self, batch: Batch) -> list[int]:
        usable: dict[int, list[int]] = {}
        for r, (crop, _) in enumerate(batch.rows):
            if batch.kind(r) != "semantic":
                usable.setdefault(crop, []).append(r)
        return [int(self.rng.choice(rows)) for rows in usable.values()]

    def _crop(self, item: _Item) -> tuple[Tensor, Tensor, int, int]:
        rng, size = self.rng, self.size
        _, height, width = item.image.shape
        long_side = max(height, width)
        # Half of the crops show the plane as the product shows it; the others zoom in.
        if rng.random() < 0.5:
            window = long_side * rng.uniform(0.85, 1.15)
        else:
            low = min(96.0, 0.6 * long_side)
            window = math.exp(rng.uniform(math.log(low), math.log(long_side)))
        aspect = height / width if rng.random() < 0.5 else math.exp(rng.uniform(-0.5, 0.5))
        if rng.random() < 0.3:
            aspect = 1.0
        out_h = size if aspect >= 1 else max(32, round(size * aspect))
        out_w = size if aspect <= 1 else max(32, round(size / aspect))
        scale = window / size * math.exp(rng.uniform(-0.08, 0.08))
        grid = self._grid(item, out_h, out_w, scale)
        source = item.image if item.half is None or scale < 1.4 else item.half
        pixels = F.grid_sample(
            source[None].float(), grid, "bilinear", "reflection", align_corners=False
        )[0]
        planes = F.grid_sample(
            item.planes[None], grid, "nearest", "reflection", align_corners=False
        )
        pad = (0, size - out_w, 0, size - out_h)
        return F.pad(pixels, pad), F.pad(planes[0], pad), out_h, out_w

    def _grid(self, item: _Item, out_h: int, out_w: int, scale: float) -> Tensor:
        """Sampling grid (1, out_h, out_w, 2) of a random rotation, flip and place."""
        rng = self.rng
        _, height, width = item.image.shape
        angle = rng.integers(4) * math.pi / 2
        if rng.random() < 0.4:
            angle += rng.uniform(-math.pi / 4, math.pi / 4)
        cos, sin = math.cos(angle), math.sin(angle)
        flip = rng.choice((-1.0, 1.0))
        half_h, half_w = out_h * scale / 2, out_w * scale / 2
        reach_y = abs(sin) * half_w + abs(cos) * half_h
        reach_x = abs(cos) * half_w + abs(sin) * half_h
        cy = rng.uniform(min(reach_y, height / 2), max(height - reach_y, height / 2))
        cx = rng.uniform(min(reach_x, width / 2), max(width - reach_x, width / 2))
        theta = torch.tensor(
            [
                [flip * cos * half_w * 2 / width, -sin * half_h * 2 / width, 2 * cx / width - 1],
                [flip * sin * half_w * 2 / height, cos * half_h * 2 / height, 2 * cy / height - 1],
            ],
            dtype=torch.float32,
            device=self.device,
        )
        return F.affine_grid(theta[None], [1, 1, out_h, out_w], align_corners=False)


def allotted(visible: Sequence[np.ndarray], per_map: int) -> list[int]:
    """How many of the objects of each map: by the root of how many there are.

    Scores are means over objects, most of which are in crowded images.
    """
    counts = np.array([len(ids) for ids in visible])
    if not counts.any():
        return [0] * len(counts)
    roots = np.sqrt(counts)
    shares = roots * per_map * len(counts) / roots.sum()
    return np.minimum(counts, np.maximum(1, shares.astype(int))).tolist()


def _visible_ids(labels: Tensor) -> list[np.ndarray]:
    """Ids of each map (R, H, W) that are neither a sliver nor most of it."""
    count = len(labels)
    if not count:
        return []
    top = int(labels.amax()) + 1
    offsets = torch.arange(count, device=labels.device)[:, None, None] * top
    counts = torch.bincount((labels.long() + offsets).flatten(), minlength=top * count)
    table = counts.view(count, top).cpu().numpy()
    table[:, 0] = 0
    limit = _MAX_SHARE * labels[0].numel()
    return [np.flatnonzero((row >= _MIN_AREA) & (row <= limit)) for row in table]


def change_look(
    pixels: Tensor,
    valid: Tensor,
    grey: Sequence[bool],
    rng: np.random.Generator,
    generator: torch.Generator,
) -> Tensor:
    """Change how (B, 3, S, S) pixels in 0..255 look: tone, stain, light, focus, noise.

    Grey images stay grey, or become one colour.
    """
    b, device = len(pixels), pixels.device

    def per_crop(values: np.ndarray) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device).view(b, 1, 1, 1)

    def sometimes(chance: float, values: np.ndarray, otherwise: float) -> Tensor:
        return per_crop(np.where(rng.random(b) < chance, values, otherwise))

    inside = valid[:, None].float()
    x = pixels / 255
    inverted = sometimes(0.12, np.ones(b), 0.0)
    x = inverted + (1 - 2 * inverted) * x
    x = x.clamp_min(1e-4) ** sometimes(0.5, np.exp(rng.uniform(-0.6, 0.6, b)), 1.0)
    top = (x * inside).amax(dim=(1, 2, 3), keepdim=True).clamp_min(0.05)
    x = x / torch.where(sometimes(0.25, np.ones(b), 0.0) > 0, top, torch.ones_like(top))
    x = x * sometimes(0.2, rng.uniform(0.15, 1.0, b), 1.0)
    mean = (x * inside).sum((1, 2, 3), keepdim=True) / (3 * inside.sum((1, 2, 3), keepdim=True))
    contrast = sometimes(0.5, np.exp(rng.uniform(-0.4, 0.4, b)), 1.0)
    x = (x - mean) * contrast + mean + sometimes(0.5, rng.uniform(-0.08, 0.08, b), 0.0)
    mix = torch.tensor(_colour_mixes(grey, rng), dtype=torch.float32, device=device)
    x = torch.einsum("bij,bjhw->bihw", mix, x)
    low = torch.randn(b, 1, 3, 3, device=device, generator=generator)
    light = F.interpolate(low, size=x.shape[2:], mode="bicubic", align_corners=False)
    x = x * (1 + light * sometimes(0.2, rng.uniform(0.05, 0.35, b), 0.0))
    blurred = rng.random() < 0.5
    if blurred:
        chosen = sometimes(0.35, np.ones(b), 0.0)
        x = x + chosen * (blur(x, rng.uniform(0.4, 1.8)) - x)
    noise = torch.randn(x.shape, device=device, generator=generator)
    same = per_crop(np.array(grey, float))
    noise = noise + same * (noise[:, :1] - noise)
    x = x + noise * sometimes(0.35, rng.uniform(0.005, 0.07, b), 0.0)
    return (x.clamp(0, 1) * 255).round()


def _colour_mixes(grey: Sequence[bool], rng: np.random.Generator) -> np.ndarray:
    """A (3, 3) channel mix for every crop: a stain shift, grey, a pseudo-colour, or nothing."""
    mixes = np.tile(np.eye(3), (len(grey), 1, 1))
    for mix, is_grey in zip(mixes, grey, strict=True):
        draw = rng.random()
        if is_grey:
            if draw < 0.08:
                colour = rng.dirichlet([0.4] * 3)
                mix *= (colour / colour.max())[:, None]
        elif draw < 0.15:
            mix[:] = 1 / 3
        elif draw < 0.6:
            shifted = np.eye(3) + rng.normal(0, 0.12, (3, 3))
            mix[:] = shifted / shifted.sum(1, keepdims=True) * rng.uniform(0.85, 1.15, (3, 1))
    return mixes


def blur(x: Tensor, sigma: float) -> Tensor:
    """Blur (N, C, H, W) by a Gaussian."""
    radius = max(1, round(2.5 * sigma))
    line = torch.exp(-(torch.arange(-radius, radius + 1, device=x.device) ** 2) / (2 * sigma**2))
    line = (line / line.sum()).to(x.dtype)
    flat = x.flatten(0, 1)[:, None]
    flat = F.conv2d(flat, line.view(1, 1, -1, 1), padding=(radius, 0))
    return F.conv2d(flat, line.view(1, 1, 1, -1), padding=(0, radius)).view_as(x)


def prefetch(make: Callable[[], tuple], device: str) -> Iterator[tuple]:
    """Endless results of `make`; on a GPU made ahead, in a thread and on a stream of their own."""
    if device != "cuda":
        while True:
            yield make()
    ready: queue.Queue[tuple | BaseException] = queue.Queue(maxsize=2)
    threading.Thread(target=_produce, args=(make, ready), daemon=True).start()
    while True:
        made = ready.get()
        if isinstance(made, BaseException):
            raise made
        for tensor in _tensors(made):
            # Made on another stream: its memory must not be reused while this one reads it.
            tensor.record_stream(torch.cuda.current_stream())
        yield made


def _produce(make: Callable[[], tuple], ready: queue.Queue) -> None:
    stream = torch.cuda.Stream()
    try:
        with torch.cuda.stream(stream):
            while True:
                made = make()
                stream.synchronize()
                ready.put(made)
    except BaseException as error:  # noqa: BLE001 - raised again in the thread that trains
        ready.put(error)


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif hasattr(value, "__dict__"):
        yield from _tensors(list(vars(value).values()))
