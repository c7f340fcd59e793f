"""The frozen networks of stages 1 and 2, and how an adapter decodes a concept on them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_clipsam.adapters.inject import Adapter
from napari_clipsam.models.clip import Clip
from napari_clipsam.models.decoder import Decoded, decode, embed_masks, embed_points
from napari_clipsam.models.sam import Sam
from napari_clipsam.models.weights import load_clip, load_sam
from napari_clipsam.semantics import Signals, concept_prompts
from starter import phrases
from starter.batches import Batch
from starter.loop import autocast
from starter.windows import Windows

__all__ = ["Features", "Frozen", "decode_concept"]


class Features(NamedTuple):
    """What the frozen networks see of B crops: tokens (B, G, G, C) and V (B, 1 + N, D)."""

    tokens: Tensor
    dense: Tensor


class Frozen:
    """The networks of the stages before, with the text feature of every concept."""

    def __init__(self, base: Path, device: str) -> None:
        self.sam: Sam = load_sam(base / "sam.safetensors").to(device).requires_grad_(False)
        self.clip: Clip = load_clip(base / "clip.safetensors").to(device).requires_grad_(False)
        self.concepts = {
            name: self.clip.concept(words[0]) for name, words in phrases.CONCEPTS.items()
        }

    @torch.no_grad()
    def features(self, batch: Batch, split: int) -> Features:
        """Trunk tokens and dense CLIP features of the crops of a batch."""
        with autocast(batch.pixels.device.type):
            return Features(self.sam.trunk(batch.pixels, split), self.clip.dense(batch.pixels))


def decode_concept(
    adapter: Adapter,
    embedding: Tensor,
    signals: Signals,
    resized: Tensor,
    generator: torch.Generator,
    windows: Windows | None = None,
) -> Decoded:
    """The concept mask of every pair, prompted as the product prompts it.

    With windows, `embedding` shows only a part of each canvas, and so do the logits.
    """
    settings, encoder = adapter.config, adapter.prompt_encoder
    prompts = concept_prompts(
        signals,
        encoder.input_image_size[0],
        encoder.mask_input_size[0],
        settings.map_threshold,
        settings.n_points,
        generator,
        resized,
    )
    n = len(embedding)
    # As the product does: SAM pads the points of a prompt that has no box.
    points = F.pad(prompts.points, (0, 0, 0, 1))
    labels = F.pad(torch.ones(n, settings.n_points, device=embedding.device), (0, 1), value=-1.0)
    sparse = embed_points(encoder, points, labels.long())
    sparse = torch.cat([sparse, adapter.target_tokens("concept", n)], dim=1)
    mask, pe = prompts.mask, encoder.get_dense_pe()
    if windows is not None:
        mask, pe = windows.cut(mask), windows.cut(pe.expand(n, -1, -1, -1))
    dense = embed_masks(encoder, mask, n)
    return decode(adapter.mask_decoder, embedding, pe, sparse, dense, multimask=False)
