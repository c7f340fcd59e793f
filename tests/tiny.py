"""Networks of a few thousand weights, fixed by a seed, whose every part changes the result."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from napari_clipsam.models.clip import Clip, ClipConfig, build_clip
from napari_clipsam.models.sam import Sam, SamConfig

__all__ = ["CLIP_ARCHITECTURE", "SAM_CONFIG", "randomise", "tiny_clip", "tiny_sam"]

#: 8 x 8 tokens in windows of 3, so that windows need padding; block 1 of 3 is global.
SAM_CONFIG = SamConfig(
    embed_dim=32,
    depth=3,
    num_heads=2,
    global_attn_indexes=(1,),
    input_size=64,
    patch_size=8,
    window_size=3,
    out_chans=32,
    decoder_mlp_dim=32,
    decoder_heads=2,
    iou_hidden_dim=16,
    mask_in_chans=8,
)
CLIP_ARCHITECTURE = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 32,
        "patch_size": 8,
        "width": 32,
        "layers": 3,
        "head_width": 16,
    },
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 8,
        "heads": 2,
        "layers": 1,
    },
    "quick_gelu": True,
}


def randomise(module: nn.Module, seed: int, spread: float = 0.2) -> None:
    """Fill all weights in place from a seed; positions and biases too, which start at zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator) * spread
            value.copy_(noise + 1 if "norm" in name and name.endswith("weight") else noise)


def tiny_sam(seed: int = 0, **changes: object) -> Sam:
    """SAM of `SAM_CONFIG`, or with some of its fields changed."""
    with torch.random.fork_rng(devices=[]):
        sam = Sam(replace(SAM_CONFIG, **changes))
    randomise(sam, seed)
    return sam


def tiny_clip(seed: int = 0, **changes: object) -> Clip:
    """CLIP of `CLIP_ARCHITECTURE` on 64 pixels (8 x 8 patches), two of three blocks surgical.

    `changes` are fields of `ClipConfig`.
    """
    config = replace(ClipConfig(CLIP_ARCHITECTURE, input_size=64, surgery_blocks=2), **changes)
    with torch.random.fork_rng(devices=[]):
        clip = build_clip(config)
    randomise(clip.model, seed)
    return clip
