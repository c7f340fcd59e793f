"""Stage 5: SAM's quality head alone, which learns what is no object.

``python -m starter.stage_quality --data ../shared/data --base build/starter_run``

The stages before ask for masks of objects only, so what they expect of a mask between objects is
left to chance, and "every one" asks there, too. All but the head is frozen: masks stay as they are,
and what it reads is computed once.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_clipsam.models.decoder import Decoded, decode, embed_masks, embed_points
from napari_clipsam.models.sam import Sam
from napari_clipsam.models.weights import load_sam
from napari_clipsam.training.losses import soft_iou
from starter import config
from starter.batches import BatchMaker, Objects
from starter.loop import Run, arguments, matrices_apart, prepare, training_store
from starter.stage_sam import Clicks, merged_ids
from starter.validate import prompt_scores

__all__ = ["Judged", "judge", "main", "overlap_with_any"]

_TOKENS = "quality_tokens.pt"
# Decoded at once.
_CHUNK = 8
# Of the points on no object, so many lie within some pixels of one.
_NEAR, _RIM = 0.4, 15


class Judged(NamedTuple):
    """Masks of N prompts and what they are worth.

    ``tokens`` (N, C) is what the quality is read from, ``iou`` (N, 4) what each mask reached,
    ``counts`` (N, 4) whether there was such a mask, and ``together`` (N, 1) whether only their mean
    is to be learnt.
    """

    tokens: Tensor
    iou: Tensor
    counts: Tensor
    together: Tensor


def main(argv: list[str] | None = None) -> bool:
    """Train, resume or finish stage 5; whether its schedule is over."""
    parser = arguments(__doc__.splitlines()[0], steps=4000)
    parser.set_defaults(batch=128)
    parser.add_argument("--base", default="build/starter_run", help="folder of the frozen networks")
    parser.add_argument("--objects", type=int, default=12, help="objects of a crop")
    parser.add_argument("--elsewhere", type=int, default=12, help="points of a crop on no object")
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--crops", type=int, default=700, help="whose prompts are decoded")
    options = parser.parse_args(argv)
    prepare(options)
    sam = load_sam(Path(options.base) / "sam.safetensors").to(options.device)
    sam.requires_grad_(False)
    head = sam.mask_decoder.iou_prediction_head.requires_grad_().train()
    run = Run("quality", head, matrices_apart(head, options.rate), options)
    known = _known(sam, options)
    generator = torch.Generator().manual_seed(options.seed + run.step)
    for _ in run.steps():
        drawn = torch.randint(len(known.tokens), (options.batch,), generator=generator)
        tokens, iou, counts, together = (part[drawn].to(options.device) for part in known)
        error = head(tokens) - iou
        # Where there is no object it does not matter which mask is best, and would teach it wrong.
        error = torch.where(together, error.mean(dim=1, keepdim=True), error)
        loss = (error**2 * counts).sum() / counts.sum()
        loss.backward()
        run.update()
        run.log(loss=loss)
        if run.validates:
            _validate(run, options)
    if run.done == 1:
        _validate(run, options)
    return run.done == 1


def _validate(run: Run, options: argparse.Namespace) -> None:
    """Report the scores of the base where the averaged head chooses among its masks."""
    sam = load_sam(Path(options.base) / "sam.safetensors").to(options.device)
    sam.mask_decoder.iou_prediction_head = run.average.model
    run.report(prompt_scores(sam, options), "val")


def _known(sam: Sam, options: argparse.Namespace) -> Judged:
    """What the head learns from; decoded once and kept in the folder of the run."""
    path = Path(options.out) / _TOKENS
    if not path.exists():
        maker = BatchMaker(training_store(options), config.SAM.input_size, options.seed)
        parts = [
            judge(sam, maker, options.objects, options.elsewhere) for _ in range(options.crops)
        ]
        torch.save([torch.cat(part).cpu() for part in zip(*parts, strict=True)], path)
    return Judged(*torch.load(path, weights_only=True))


@torch.no_grad()
def judge(sam: Sam, maker: BatchMaker, objects: int, elsewhere: int) -> Judged:
    """Decode prompts on the objects of one crop, corrections of them, and points on none."""
    batch = maker.draw(1)
    embedding = sam.head(sam.trunk(batch.pixels, 0), 0).float()
    ids, known = merged_ids(batch)
    free = (ids == 0) & (known > 0) & batch.valid[:, ::2, ::2]
    parts = _on_objects(sam, embedding, maker.objects(batch, objects))
    parts.append(_elsewhere(sam, embedding, ids[0], free[0], elsewhere))
    return Judged(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _on_objects(sam: Sam, embedding: Tensor, objects: Objects) -> list[Judged]:
    """First prompts of objects, of which all four masks count, and clicks that correct the best."""
    n = len(objects.masks)
    if not n:
        return []
    clicks = Clicks(objects, config.SAM.input_size)
    first = _decoded(sam, embedding, clicks.coords, clicks.labels, None, multimask=None)
    iou = torch.stack(
        [soft_iou(first.logits[:, i], objects.masks, objects.weights) for i in range(4)], dim=1
    )
    best = torch.where(clicks.ambiguous, iou[:, 1:].argmax(dim=1) + 1, 0)
    clicks.correct(first.logits[torch.arange(n), best], objects)
    then = _decoded(sam, embedding, clicks.coords, clicks.labels, clicks.mask, multimask=False)
    corrected = soft_iou(then.logits[:, 0], objects.masks, objects.weights)
    single = F.pad(torch.ones_like(corrected)[:, None], (0, 3))
    return [
        _judged(first.iou_token, iou, torch.ones_like(iou), together=False),
        _judged(then.iou_token, F.pad(corrected[:, None], (0, 3)), single, together=False),
    ]


def _elsewhere(sam: Sam, embedding: Tensor, ids: Tensor, free: Tensor, count: int) -> Judged:
    """Single clicks where `free` (h, w) is, beside the objects of `ids` or far from all."""
    near = free & (F.max_pool2d((ids > 0).float()[None], _RIM, 1, _RIM // 2)[0] > 0)
    beside = round(_NEAR * count)
    cells = torch.cat([_drawn(near, beside), _drawn(free, count - beside)])
    scale = config.SAM.input_size / ids.shape[-1]
    points = (cells.flip(1).float() + 0.5) * scale - 0.5
    coords = F.pad(points[:, None], (0, 0, 0, 1))
    labels = torch.tensor([1, -1], device=ids.device).expand(len(points), 2)
    found = _decoded(sam, embedding, coords, labels, None, multimask=None)
    iou = overlap_with_any(found.logits, ids)
    return _judged(found.iou_token, iou, torch.ones_like(iou), together=True)


def _judged(tokens: Tensor, iou: Tensor, counts: Tensor, together: bool) -> Judged:
    return Judged(tokens, iou, counts, torch.full_like(iou[:, :1], together, dtype=torch.bool))


def _drawn(where: Tensor, count: int) -> Tensor:
    """Some cells (y, x) of a map at random; none of an empty one."""
    cells = where.nonzero()
    return cells[torch.randint(len(cells), (count,))] if len(cells) else cells


def overlap_with_any(logits: Tensor, ids: Tensor) -> Tensor:
    """IoU (N, M) of each mask with the object it overlaps best; 0 where there is none.

    Parameters
    ----------
    logits : Tensor, shape (N, M, h, w)
    ids : Tensor of int64, shape (h, w)
        0 is no object.
    """
    one_hot = F.one_hot(ids.flatten()).float()
    masks = (logits > 0).float().flatten(2)
    shared = masks @ one_hot
    union = masks.sum(dim=2, keepdim=True) + one_hot.sum(dim=0) - shared
    return F.pad(shared / union.clamp_min(1), (0, 1))[..., 1:].amax(dim=2)


def _decoded(
    sam: Sam,
    embedding: Tensor,
    coords: Tensor,
    labels: Tensor,
    mask: Tensor | None,
    multimask: bool | None,
) -> Decoded:
    """Prompts of one crop, decoded some at a time."""
    pe, parts = sam.prompt_encoder.get_dense_pe(), []
    # At least once, so that what no prompt gives has its shape.
    for first in range(0, max(len(coords), 1), _CHUNK):
        some = slice(first, first + _CHUNK)
        sparse = embed_points(sam.prompt_encoder, coords[some], labels[some])
        dense = embed_masks(
            sam.prompt_encoder, None if mask is None else mask[some], len(coords[some])
        )
        parts.append(decode(sam.mask_decoder, embedding, pe, sparse, dense, multimask))
    return Decoded(*(torch.cat(part) for part in zip(*parts, strict=True)))


if __name__ == "__main__":
    main()
