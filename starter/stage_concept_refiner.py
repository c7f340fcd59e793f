"""Stage 7: the concept refiner, which redraws a word's mask from the pixels of the plane.

``python -m starter.stage_concept_refiner --data ../shared/data --base build/starter_run``

All other networks are frozen. What they answer is computed once and kept in the folder of the run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_clipsam import Segmenter
from napari_clipsam.adapters.files import load_adapter
from napari_clipsam.models.refiner import ConceptRefiner
from napari_clipsam.models.registry import load_model
from starter.concept_windows import ConceptWindows, as_shown, collect, draw
from starter.data import Sample
from starter.refiners import RefinerStage, refiner_arguments, train_refiner

__all__ = ["main"]

_VALIDATED = 64


def main(argv: list[str] | None = None) -> bool:
    """Train, resume or finish stage 7; whether its schedule is over."""
    parser = refiner_arguments(__doc__.splitlines()[0], batch=32)
    parser.add_argument("--windows", type=int, default=3, help="of a word in a view")
    stage = RefinerStage(
        "concept_refiner", ConceptRefiner, ConceptWindows, _collected, draw, _losses, _scores
    )
    return train_refiner(stage, parser.parse_args(argv))


def _losses(
    refiner: ConceptRefiner, seen: Tensor, truth: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """BCE, and one minus the Dice of all windows of a batch together, some of which are empty."""
    # Half precision takes two thirds of the time on CPUs that know it.
    with torch.autocast(seen.device.type, dtype=torch.bfloat16):
        logits = refiner(seen)
    logits = logits.float()
    drawn = torch.sigmoid(logits)
    bce = F.binary_cross_entropy_with_logits(logits, truth)
    unlike = 1 - (2 * (drawn * truth).sum() + 1) / ((drawn + truth).sum() + 1)
    return bce + unlike, {"bce": bce, "dice loss": unlike}


@torch.no_grad()
def _scores(refiner: ConceptRefiner, shown: ConceptWindows, device: str) -> dict[str, float]:
    """Dice of windows that show the concept, before and after."""
    before, after = [], []
    for chosen in torch.arange(len(shown.truth)).split(_VALIDATED):
        seen, truth = as_shown(shown, chosen)
        there = (truth > 0.5).flatten(1).any(dim=1)
        for scores, mask in (
            (before, seen[:, 3] > 0.5),
            (after, refiner(seen.to(device)).cpu() > 0),
        ):
            scores.append(_dice(mask[there], truth[there] > 0.5))
    return {"dice before": float(torch.cat(before).mean()), "dice": float(torch.cat(after).mean())}


def _dice(found: Tensor, true: Tensor) -> Tensor:
    shared = (found & true).flatten(1).sum(dim=1)
    return 2 * shared / (found.flatten(1).sum(dim=1) + true.flatten(1).sum(dim=1))


def _collected(
    options: argparse.Namespace, samples: list[Sample], shares: list[float], number: int
) -> ConceptWindows:
    base = Path(options.base)
    model = load_model(str(base / "sam.safetensors"), str(base / "clip.safetensors"))
    model.sam.concept_refiner = None
    adapter = load_adapter(base / "adapter.safetensors", model.sam, model.clip)
    # What it would miss is drawn, too.
    segmenter = Segmenter(model, adapter.with_info(threshold=0.0), options.device)
    rng = np.random.default_rng([options.seed, number])
    return collect(segmenter, samples, shares, options.views, options.windows, rng)


if __name__ == "__main__":
    main()
