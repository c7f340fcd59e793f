"""A model and labelled planes small enough to be learnt in a second."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from tiny import CLIP_ARCHITECTURE, SAM_CONFIG

from napari_clipsam.models.clip import ClipConfig, build_clip
from napari_clipsam.models.registry import LoadedModel
from napari_clipsam.models.sam import Sam
from napari_clipsam.planes import Plane
from napari_clipsam.training.samples import Example, Split

__all__ = ["SIDE", "WINDOWED", "example", "split", "tiny_model"]

SIDE = 64
#: 8 x 8 tokens, of which a step may look at 4 x 4.
WINDOWED = replace(SAM_CONFIG, global_attn_indexes=(), window_size=2)


def tiny_model(seed: int = 0, windowed: bool = False) -> LoadedModel:
    """A LoadedModel of tiny networks as torch initialises them, which learn; without adapter.

    One that is `windowed` has no block that attends globally, so windows of it can be trained on.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sam = Sam(WINDOWED if windowed else SAM_CONFIG)
        clip = build_clip(ClipConfig(CLIP_ARCHITECTURE, input_size=64, surgery_blocks=2))
    return LoadedModel("tiny", sam.requires_grad_(False), clip.requires_grad_(False), None)


def example(
    number: int, words: tuple[str, ...] = ("blobs",), side: int = SIDE, objects: bool = True
) -> Example:
    """Two bright squares on a dark, noisy plane, elsewhere for each number."""
    rng = np.random.default_rng(number)
    labels = np.zeros((side, side), np.uint16)
    for i, left in enumerate((0, side // 2), start=1):
        size = side // 4 + int(rng.integers(side // 8))
        y, x = (int(rng.integers(side // 2 - size)) for _ in range(2))
        labels[y + side // 4 : y + side // 4 + size, left + x : left + x + size] = i
    grey = np.where(labels > 0, 190, 60) + rng.normal(0, 12, labels.shape)
    rgb = np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
    plane = Plane(rgb, f"{number:032x}", {"Z": number}, f"stack Z={number}")
    return Example(plane, labels, words, objects)


def split(train: int = 3, **changes: object) -> Split:
    """Some examples to learn from and one to measure on."""
    examples = [example(i, **changes) for i in range(train + 1)]
    return Split(tuple(examples[:-1]), (examples[-1],), f"slice {train}")
