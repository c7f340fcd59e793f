"""Stage 4: the decoder of stage 1's SAM alone, on embeddings that are computed once.

``python -m starter.stage_decoder --data ../shared/data --base build/starter_run``

Most of a step of stage 1 is spent on the decoder, so on a CPU this is how to go on with it. Trunk
and head stay as they are, and with them the words that adapters find.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from napari_clipsam.models.sam import Sam
from napari_clipsam.models.weights import load_sam
from napari_clipsam.training.losses import LossWeights
from starter import config
from starter.batches import Batch, BatchMaker, Objects, prefetch
from starter.crops import CropStore
from starter.frozen import Features
from starter.loop import Run, arguments, autocast, matrices_apart, prepare, training_store
from starter.stage_sam import correction_rounds, windowed
from starter.validate import prompt_scores
from starter.windows import Windows

__all__ = ["Prompted", "main"]

#: Every object counts alike, whatever its size, as in the scores.
_WEIGHTS = LossWeights(bce=0.0, dice=1.0, iou=1.0)


class Prompted(nn.Module):
    """The parts of a SAM that turn an embedding and prompts into masks."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.prompt_encoder, self.mask_decoder = sam.prompt_encoder, sam.mask_decoder


def main(argv: list[str] | None = None) -> bool:
    """Train, resume or finish stage 4; whether its schedule is over."""
    parser = arguments(__doc__.splitlines()[0], steps=4000)
    parser.add_argument("--base", default="build/starter_run", help="folder of the frozen networks")
    parser.add_argument("--objects", type=int, default=8, help="objects of a crop")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--crops", type=int, default=500, help="whose embeddings are computed")
    parser.add_argument("--window", type=int, default=32, help="tokens trained on")
    options = parser.parse_args(argv)
    prepare(options)
    sam = load_sam(Path(options.base) / "sam.safetensors").to(options.device)
    sam.requires_grad_(False)
    decoder = Prompted(sam).requires_grad_().train()
    run = Run("decoder", decoder, matrices_apart(decoder, options.rate), options)
    maker = BatchMaker(training_store(options), config.SAM.input_size, options.seed + run.step)
    kept = CropStore(maker, lambda batch: _embedded(sam, batch), options.crops)
    batches = prefetch(lambda: _draw(maker, kept, options), options.device)
    for step in run.steps():
        embedding, objects, windows = next(batches)
        loss, ious = correction_rounds(
            decoder,
            embedding,
            objects,
            1 + step % options.rounds,
            weights=_WEIGHTS,
            balance=1.0,
            windows=windows,
        )
        run.update()
        run.log(loss=loss, first=ious[0], last=ious[-1])
        if run.validates:
            _validate(run, options)
    if run.done == 1:
        _validate(run, options)
    return run.done == 1


def _validate(run: Run, options: argparse.Namespace) -> None:
    """Report the scores of the base with the averaged decoder."""
    sam = load_sam(Path(options.base) / "sam.safetensors").to(options.device)
    sam.load_state_dict(sam.state_dict() | run.average.model.state_dict())
    run.report(prompt_scores(sam, options), "val")


@torch.no_grad()
def _embedded(sam: Sam, batch: Batch) -> Features:
    """Image embeddings, channels last, in the place of tokens."""
    with autocast(batch.pixels.device.type):
        embedding = sam.head(sam.trunk(batch.pixels, 0), 0).float()
    return Features(embedding.permute(0, 2, 3, 1), embedding.new_zeros(len(embedding), 0))


def _draw(
    maker: BatchMaker, kept: CropStore, options: argparse.Namespace
) -> tuple[Tensor, Objects, Windows]:
    """Embeddings of windows of some crops, and objects in them."""
    while True:
        batch, features = kept.draw(options.batch)
        windows, objects, _ = windowed(maker, batch, options.window, options.objects)
        # A few crops may show no object at all, and a step needs one.
        if len(objects.masks):
            return windows.cut(features.tokens.permute(0, 3, 1, 2)), objects, windows


if __name__ == "__main__":
    main()
