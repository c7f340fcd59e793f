"""Stage 6: the refiner, which redraws masks from the pixels around them.

``python -m starter.stage_refiner --data ../shared/data --base build/starter_run``

All other networks are frozen. What they answer is computed once and kept in the folder of the run;
a step costs a CPU core a second.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_clipsam import Segmenter
from napari_clipsam.models.refiner import MaskRefiner
from napari_clipsam.models.registry import load_model
from starter.close_ups import CloseUps, as_shown, collect, draw
from starter.data import Sample
from starter.refiners import RefinerStage, refiner_arguments, train_refiner

__all__ = ["main"]

_VALIDATED = 256


def main(argv: list[str] | None = None) -> bool:
    """Train, resume or finish stage 6; whether its schedule is over."""
    parser = refiner_arguments(__doc__.splitlines()[0], batch=64)
    parser.add_argument("--objects", type=int, default=12, help="of a view")
    stage = RefinerStage("refiner", MaskRefiner, CloseUps, _collected, draw, _losses, _scores)
    return train_refiner(stage, parser.parse_args(argv))


def _losses(refiner: MaskRefiner, seen: Tensor, truth: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """BCE and Dice of the masks, the squared error of their worth, and the IoU they reach."""
    device = seen.device.type
    # Half precision takes two thirds of the time on CPUs that know it.
    with torch.autocast(device, dtype=torch.bfloat16):
        logits, worth = refiner(seen)
    logits, worth = logits.float(), worth.float()
    # Beside all objects there is nothing to draw.
    there = (truth > 0.5).flatten(1).any(dim=1).float()
    bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(dim=(1, 2))
    drawn = torch.sigmoid(logits)
    shared, both = (drawn * truth).sum(dim=(1, 2)), (drawn + truth).sum(dim=(1, 2))
    unlike = 1 - (2 * shared + 1) / (both + 1)
    with torch.no_grad():
        reached = _iou(logits, truth) * there
    mask = ((bce + unlike) * there).sum() / there.sum().clamp_min(1)
    error = ((worth - reached) ** 2).mean()
    iou = reached.sum() / there.sum().clamp_min(1)
    return mask + 2 * error, {"mask": mask, "worth": error, "iou": iou}


def _iou(logits: Tensor, truth: Tensor) -> Tensor:
    found, true = (logits > 0).flatten(1), (truth > 0.5).flatten(1)
    return (found & true).sum(dim=1) / (found | true).sum(dim=1).clamp_min(1)


@torch.no_grad()
def _scores(refiner: MaskRefiner, shown: CloseUps, device: str) -> dict[str, float]:
    """IoU of redrawn clicks and boxes, and what those and clicks beside objects are said to be."""
    boxed = ~shown.box[:, 0].isnan()
    there = (shown.truth > 127).flatten(1).any(dim=1)
    asked = {"click": (there & ~boxed, False), "choice": (there & ~boxed, True)}
    asked |= {"box": (there & boxed, False), "beside": (~there, False)}
    scores = {}
    for name, (which, choice) in asked.items():
        reached, worth = [], []
        for chosen in which.nonzero()[:, 0].split(_VALIDATED):
            seen, truth = as_shown(shown, chosen, choice)
            logits, said = refiner(seen.to(device))
            reached.append(_iou(logits.cpu(), truth))
            worth.append(said.cpu())
        if worth:
            scores |= {name: float(torch.cat(reached).mean())} if name != "beside" else {}
            scores[f"worth {name}"] = float(torch.cat(worth).mean())
    return scores


def _collected(
    options: argparse.Namespace, samples: list[Sample], shares: list[float], number: int
) -> CloseUps:
    base = Path(options.base)
    model = load_model(str(base / "sam.safetensors"), str(base / "clip.safetensors"))
    model.sam.refiner = None
    segmenter = Segmenter(model, None, options.device)
    rng = np.random.default_rng([options.seed, number])
    return collect(segmenter, samples, shares, options.views, options.objects, rng)


if __name__ == "__main__":
    main()
