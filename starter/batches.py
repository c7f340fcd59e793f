"""Augmented batches made on the training device: warped crops, looks, objects to prompt for.

All images stay on the device as 8-bit tensors. A batch is a list of independent crops of random
place, scale, rotation and aspect, padded at the bottom and right like the product pads a plane.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from skimage.filters import threshold_otsu
from torch import Tensor

from napari_clipsam.models.sam import normalise_pixels
from starter.data import Sample

__all__ = ["Batch", "BatchMaker", "Objects", "Store", "load_store"]

_MIN_AREA = 24
_MAX_SHARE = 0.6


@dataclass(frozen=True, eq=False)
class _Item:
    """One image on the device: (3, H, W) uint8, labels and weights (C, H, W)."""

    image: Tensor
    half: Tensor | None
    labels: Tensor
    weights: Tensor
    sample: Sample
    names: tuple[str, ...]
    grey: bool


@dataclass(frozen=True, eq=False)
class Batch:
    """B augmented crops.

    Attributes
    ----------
    pixels : Tensor, shape (B, 3, S, S)
        Normalised, zero in the padding.
    valid : Tensor of bool, shape (B, S, S)
        Where the crop is; the rest is padding.
    labels, weights : list of Tensor, each (C_i, S, S)
        Ids (int32) and pixel weights (0 = unknown) of the concepts in `names[i]`.
    names : list of tuple of str
    samples : list of Sample
    """

    pixels: Tensor
    valid: Tensor
    labels: list[Tensor]
    weights: list[Tensor]
    names: list[tuple[str, ...]]
    samples: list[Sample]


@dataclass(frozen=True, eq=False)
class Objects:
    """N objects to prompt for: soft masks and weights (N, S / 2, S / 2), and their images (N,)."""

    masks: Tensor
    weights: Tensor
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
    return _Item(
        image,
        half,
        torch.from_numpy(np.stack(labels)).to(device),
        torch.from_numpy(np.stack(weights)).to(device),
        sample,
        tuple(names),
        grey,
    )


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
        torch.manual_seed(seed)

    def draw(self, count: int) -> Batch:
        """`count` independent crops."""
        chosen = self.rng.choice(len(self.store.items), count, p=self.store.chances)
        crops = [self._crop(self.store.items[i]) for i in chosen]
        items = [self.store.items[i] for i in chosen]
        return Batch(
            torch.stack([c[0] for c in crops]),
            torch.stack([c[1] for c in crops]),
            [c[2] for c in crops],
            [c[3] for c in crops],
            [item.names for item in items],
            [item.sample for item in items],
        )

    def objects(self, batch: Batch, per_image: int) -> Objects:
        """Choose up to `per_image` whole objects of every crop."""
        masks, weights, image = [], [], []
        for i, (labels, weight) in enumerate(zip(batch.labels, batch.weights, strict=True)):
            kinds = batch.samples[i].kinds
            usable = [c for c, name in enumerate(batch.names[i]) if kinds[name] != "semantic"]
            if not usable:
                continue
            c = int(self.rng.choice(usable))
            ids = self._visible_ids(labels[c])
            if not len(ids):
                continue
            picked = self.rng.choice(ids, min(per_image, len(ids)), replace=False)
            wanted = torch.as_tensor(picked, device=self.device)
            masks.append((labels[c][None] == wanted[:, None, None]).half())
            weights.append(weight[c][None].expand(len(picked), -1, -1).half())
            image += [i] * len(picked)
        pooled = [F.avg_pool2d(torch.cat(x)[:, None], 2)[:, 0] for x in (masks, weights)]
        return Objects(
            pooled[0].float(), (pooled[1] > 0.5).float(), torch.tensor(image, device=self.device)
        )

    def _visible_ids(self, labels: Tensor) -> np.ndarray:
        counts = torch.bincount(labels.flatten()).cpu().numpy()
        counts[0] = 0
        return np.flatnonzero((counts >= _MIN_AREA) & (counts <= _MAX_SHARE * labels.numel()))

    def _crop(self, item: _Item) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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
        planes = torch.cat([item.labels.float(), item.weights.float()])[None]
        warped = F.grid_sample(planes, grid, "nearest", "reflection", align_corners=False)[0]
        n = len(item.names)
        pad = (0, size - out_w, 0, size - out_h)
        pixels = normalise_pixels(_look(pixels, item.grey, rng))
        valid = torch.ones(out_h, out_w, dtype=torch.bool, device=self.device)
        return (
            F.pad(pixels, pad),
            F.pad(valid, pad),
            F.pad(warped[:n].int(), pad),
            F.pad(warped[n:], pad),
        )

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


def _look(pixels: Tensor, grey: bool, rng: np.random.Generator) -> Tensor:
    """Change how (3, h, w) pixels in 0..255 look: tone, stain, light, focus, noise."""
    x = pixels / 255
    if rng.random() < 0.12:
        x = 1 - x
    if rng.random() < 0.5:
        x = x.clamp_min(1e-4) ** math.exp(rng.uniform(-0.6, 0.6))
    if rng.random() < 0.25:
        x = x / x.amax().clamp_min(0.05)
    elif rng.random() < 0.25:
        x = x * rng.uniform(0.15, 1.0)
    if rng.random() < 0.5:
        x = (x - x.mean()) * math.exp(rng.uniform(-0.4, 0.4)) + x.mean() + rng.uniform(-0.08, 0.08)
    x = _recolour(x, grey, rng)
    if rng.random() < 0.2:
        low = torch.randn(1, 1, 3, 3, device=x.device) * rng.uniform(0.05, 0.35)
        x = x * (1 + F.interpolate(low, size=x.shape[1:], mode="bicubic", align_corners=False)[0])
    if rng.random() < 0.2:
        x = _blur(x, rng.uniform(0.4, 1.8))
    if rng.random() < 0.35:
        noise = torch.randn(1 if grey else 3, *x.shape[1:], device=x.device)
        x = x + noise * rng.uniform(0.005, 0.07)
    return (x.clamp(0, 1) * 255).round()


def _recolour(x: Tensor, grey: bool, rng: np.random.Generator) -> Tensor:
    draw = rng.random()
    if grey:
        if draw < 0.08:
            colour = torch.tensor(rng.dirichlet([0.4] * 3), dtype=x.dtype, device=x.device)
            return x * (colour / colour.max())[:, None, None]
        return x
    if draw < 0.15:
        return x.mean(dim=0, keepdim=True).expand(3, -1, -1)
    if draw < 0.6:
        mix = np.eye(3) + rng.normal(0, 0.12, (3, 3))
        mix = torch.tensor(mix / mix.sum(1, keepdims=True), dtype=x.dtype, device=x.device)
        gain = torch.tensor(rng.uniform(0.85, 1.15, 3), dtype=x.dtype, device=x.device)
        return torch.einsum("ij,jhw->ihw", mix, x) * gain[:, None, None]
    return x


def _blur(x: Tensor, sigma: float) -> Tensor:
    radius = max(1, round(2.5 * sigma))
    line = torch.exp(-(torch.arange(-radius, radius + 1, device=x.device) ** 2) / (2 * sigma**2))
    line = (line / line.sum()).to(x.dtype)
    x = F.conv2d(x[:, None], line.view(1, 1, -1, 1), padding=(radius, 0))
    return F.conv2d(x, line.view(1, 1, 1, -1), padding=(0, radius))[:, 0]
