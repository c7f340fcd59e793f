"""Stage 6: the refiner, which redraws masks from the pixels around them.

``python -m starter.stage_refiner --data ../shared/data --base build/starter_run``

All other networks are frozen. What they answer is computed once and kept in the folder of the run;
a step costs a CPU core a second.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_clipsam import Segmenter
from napari_clipsam.models.refiner import MaskRefiner
from napari_clipsam.models.registry import load_model
from starter import config, validate
from starter.close_ups import CloseUps, as_shown, collect, draw
from starter.data import Sample
from starter.loop import Run, arguments, matrices_apart, prepare, training_store

__all__ = ["main"]

_VALIDATED = 256


def main(argv: list[str] | None = None) -> bool:
    """Train, resume or finish stage 6; whether its schedule is over."""
    parser = arguments(__doc__.splitlines()[0], steps=6000)
    parser.set_defaults(batch=64, generated=300, shares=(0.55, 0.17, 0.0, 0.28))
    parser.add_argument("--base", default="build/starter_run", help="folder of the frozen networks")
    parser.add_argument("--views", type=int, default=2, help="of each image")
    parser.add_argument("--objects", type=int, default=12, help="of a view")
    parser.add_argument("--rate", type=float, default=3e-3)
    options = parser.parse_args(argv)
    prepare(options)
    known, shown = _known(options, "train"), _known(options, "val")
    refiner = MaskRefiner(config.REFINER).to(options.device, memory_format=torch.channels_last)
    run = Run("refiner", refiner.train(), matrices_apart(refiner, options.rate), options)
    rng = np.random.default_rng(options.seed + run.step)
    generator = torch.Generator().manual_seed(options.seed + run.step)
    for _ in run.steps():
        chosen = torch.multinomial(known.chance, options.batch, True, generator=generator)
        seen, truth = draw(known, chosen, rng, generator)
        terms = _losses(refiner, seen.to(options.device), truth.to(options.device))
        (terms["mask"] + 2 * terms["worth"]).backward()
        run.update()
        run.log(**terms)
        if run.validates:
            run.report(_scores(run.average.model, shown, options.device), "val")
    if run.done == 1:
        run.report(_scores(run.average.model, shown, options.device), "val")
    return run.done == 1


def _losses(refiner: MaskRefiner, seen: Tensor, truth: Tensor) -> dict[str, Tensor]:
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
    return {
        "mask": ((bce + unlike) * there).sum() / there.sum().clamp_min(1),
        "worth": ((worth - reached) ** 2).mean(),
        "iou": reached.sum() / there.sum().clamp_min(1),
    }


def _iou(logits: Tensor, truth: Tensor) -> Tensor:
    found, true = (logits > 0).flatten(1), (truth > 0.5).flatten(1)
    return (found & true).sum(dim=1) / (found | true).sum(dim=1).clamp_min(1)


@torch.no_grad()
def _scores(refiner: MaskRefiner, shown: CloseUps, device: str) -> dict[str, float]:
    """IoU of redrawn clicks and boxes, and what those and clicks beside objects are said to be."""
    reached, worth, meant = [], [], []
    for chosen in torch.arange(len(shown.mask)).split(_VALIDATED):
        seen, truth = as_shown(shown, chosen)
        logits, said = refiner(seen.to(device))
        reached.append(_iou(logits.cpu(), truth))
        worth.append(said.cpu())
        meant.append((truth > 0.5).flatten(1).any(dim=1))
    iou, said, there = torch.cat(reached), torch.cat(worth), torch.cat(meant)
    boxed = ~shown.box[:, 0].isnan()
    parts = {"click": there & ~boxed, "box": there & boxed}
    return {
        **{name: float(iou[part].mean()) for name, part in parts.items()},
        "worth of objects": float(said[there].mean()),
        "worth beside": float(said[~there].mean()),
    }


def _known(options: argparse.Namespace, split: str) -> CloseUps:
    """What the frozen SAM answers in one split; computed once and kept in the folder of the run."""
    path = Path(options.out) / f"close_ups_{split}.pt"
    if not path.exists():
        if split == "train":
            store = training_store(options)
            samples, chances = [item.sample for item in store.items], store.chances
        else:
            samples = validate.validation_samples(options.data)
            chances = np.full(len(samples), 1 / max(1, len(samples)))
        parts = [
            (options, samples[i :: options.workers], chances[i :: options.workers].tolist(), i)
            for i in range(options.workers)
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save([torch.cat(column) for column in zip(*_in_processes(parts), strict=True)], path)
    return CloseUps(*torch.load(path, weights_only=True))


def _in_processes(parts: list[tuple]) -> list[list[Tensor]]:
    """Close-ups of parts of the samples, each collected in a process of its own."""
    if len(parts) == 1:
        return [_collected(*parts[0])]
    with ProcessPoolExecutor(len(parts), get_context("spawn")) as pool:
        # Tensors would be sent through files that stay open.
        found = pool.map(_as_arrays, parts)
        return [[torch.from_numpy(array) for array in arrays] for arrays in found]


def _as_arrays(part: tuple) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in _collected(*part)]


def _collected(
    options: argparse.Namespace, samples: list[Sample], chances: list[float], number: int
) -> CloseUps:
    base = Path(options.base)
    model = load_model(str(base / "sam.safetensors"), str(base / "clip.safetensors"))
    model.sam.refiner = None
    segmenter = Segmenter(model, None, options.device)
    rng = np.random.default_rng([options.seed, number])
    return collect(segmenter, samples, chances, options.views, options.objects, rng)


if __name__ == "__main__":
    main()
