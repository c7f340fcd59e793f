"""Stage 1: a small SAM from points, boxes and corrections.

``python -m starter.stage_sam --data ../shared/data --out build/starter_run``

As SAM was trained: a first point or box, then clicks on the error with the previous mask; after a
single point three masks compete and only the best is corrected. A small extra output on the image
embedding (foreground, outline, offset to the centre) speeds up the trunk and is thrown away.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_clipsam.models.decoder import Decoded, decode, embed_masks, embed_points
from napari_clipsam.models.sam import Sam
from napari_clipsam.models.weights import load_sam
from napari_clipsam.training.losses import LossWeights, bce_loss, mask_loss, soft_iou
from napari_clipsam.training.simulate import (
    box_prompts,
    correction_points,
    inner_points,
    random_points,
)
from starter import config
from starter.batches import Batch, BatchMaker, Objects, prefetch
from starter.loop import Run, arguments, autocast, matrices_apart, prepare, training_store
from starter.validate import prompt_scores
from starter.windows import Windows, place

__all__ = ["Clicks", "correction_rounds", "main", "windowed"]

_WEIGHTS = LossWeights(bce=0.0, dice=1.0, iou=0.0, focal=5.0)
_MASK_SIDE_MAX = 32.0


class AuxiliaryHead(nn.Module):
    """Per-pixel foreground, outline and centre offsets from the image embedding, at stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, 4 * 16, 1)

    def forward(self, embedding: Tensor) -> Tensor:
        """(B, C, G, G) to (B, 4, 4 G, 4 G)."""
        return F.pixel_shuffle(self.project(embedding), 4)


class Clicks:
    """Growing prompts of N objects: point and box tokens, and the mask of the round before."""

    def __init__(self, objects: Objects, input_size: int) -> None:
        masks = objects.masks
        n = len(masks)
        draw = torch.rand(n, device=masks.device)
        with_box = draw < 0.45
        with_point = (draw >= 0.45) | (draw < 0.1)
        boxes = box_prompts(masks, input_size, jitter=0.1)
        centred = torch.rand(n, device=masks.device)[:, None] < 0.5
        point = torch.where(
            centred, inner_points(masks, input_size), random_points(masks, input_size)
        )
        self.coords = torch.stack([point, boxes[:, :2], boxes[:, 2:]], dim=1)
        labels = torch.tensor([1, 2, 3], device=masks.device).expand(n, 3).clone()
        labels[~with_point, 0] = -1
        labels[~with_box, 1:] = -1
        self.labels = labels
        self.ambiguous = ~with_box
        self.mask: Tensor | None = None
        self.input_size = input_size

    def correct(self, decoded: Tensor, objects: Objects) -> None:
        """Add a click on the error of the chosen logits (N, h, w) and keep them as mask prompt."""
        logits = decoded.detach().float().clamp(-_MASK_SIDE_MAX, _MASK_SIDE_MAX)
        known = objects.weights > 0
        point, label = correction_points(
            (logits > 0) & known, objects.masks * known, self.input_size
        )
        self.coords = torch.cat([self.coords, point[:, None]], dim=1)
        self.labels = torch.cat([self.labels, label[:, None]], dim=1)
        self.mask = logits[:, None]


def round_loss(
    decoded: Decoded, objects: Objects, ambiguous: Tensor, weights: LossWeights, balance: float
) -> tuple[Tensor, Tensor]:
    """Loss of one round and the logits (N, h, w) to correct next.

    The single mask always learns; after one point the best of the three others does too. Every
    predicted quality learns the IoU its mask reached. To the terms of `weights` comes a
    cross-entropy in which `balance` bounds how much more an object counts than its surroundings.
    """
    logits = decoded.logits.float()
    n, m = logits.shape[:2]
    target = objects.masks[:, None].expand(-1, m, -1, -1).flatten(0, 1)
    weight = objects.weights[:, None].expand(-1, m, -1, -1).flatten(0, 1)
    losses = mask_loss(logits.flatten(0, 1), target, weights, weight)
    # Objects are small: without balance the first thing to learn is "nothing is anything".
    losses = losses + bce_loss(logits.flatten(0, 1), target, _balance(target, weight, balance))
    losses = losses.view(n, m)
    quality = soft_iou(logits.flatten(0, 1), target, weight).view(n, m)
    loss = losses[:, 0].mean() + F.mse_loss(decoded.iou.float(), quality)
    if m == 1:
        return loss, logits[:, 0]
    best = losses[:, 1:].argmin(dim=1)
    multi = losses[:, 1:].gather(1, best[:, None])[:, 0]
    loss = loss + (multi * ambiguous).sum() / ambiguous.sum().clamp_min(1)
    chosen = torch.where(ambiguous, best + 1, torch.zeros_like(best))
    return loss, logits[torch.arange(n, device=logits.device), chosen]


def _balance(target: Tensor, weight: Tensor, limit: float) -> Tensor:
    """Pixel weights that let the object count for more, by the root of the imbalance."""
    inside = (target * weight).sum(dim=(1, 2), keepdim=True).clamp_min(1)
    outside = ((1 - target) * weight).sum(dim=(1, 2), keepdim=True)
    factor = (outside / inside).sqrt().clamp(1, limit)
    return weight * (1 + (factor - 1) * target)


def correction_rounds(
    sam: nn.Module,
    embedding: Tensor,
    objects: Objects,
    rounds: int,
    extra: Tensor | None = None,
    weights: LossWeights = _WEIGHTS,
    balance: float = 2.0,
    windows: Windows | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Prompt, decode and correct; gradients of each round flow into `embedding` at once.

    Parameters
    ----------
    sam : Module
        Brings ``prompt_encoder`` and ``mask_decoder``.
    embedding : Tensor, shape (B, C, G, G)
        A leaf; its ``grad`` is filled if it asks for it.
    extra : Tensor, shape (1, 1, C), optional
        A target token that joins the sparse prompts.
    weights, balance : LossWeights, float
        See `round_loss`.
    windows : Windows, optional
        The parts of the canvases that `embedding` and the objects' masks show.

    Returns
    -------
    loss : Tensor
        Sum over the rounds, detached.
    ious : list of Tensor
        Mean IoU after each round.
    """
    size = sam.prompt_encoder.input_image_size[0]
    pe, offset = sam.prompt_encoder.get_dense_pe(), embedding.new_zeros(1, 1, 2)
    if windows is not None and windows.side < windows.grid:
        size = windows.pixels
        offset = windows.offset(objects.image)[:, None]
        pe = windows.cut(pe.expand(len(objects.image), -1, -1, -1), objects.image)
    clicks = Clicks(objects, size)
    total = embedding.new_zeros(())
    ious = []
    for i in range(rounds):
        with autocast(embedding.device.type):
            sparse = embed_points(sam.prompt_encoder, clicks.coords + offset, clicks.labels)
            if extra is not None:
                sparse = torch.cat([sparse, extra.expand(len(sparse), -1, -1)], dim=1)
            dense = embed_masks(sam.prompt_encoder, clicks.mask, len(sparse))
            dense = dense[..., : pe.shape[-2], : pe.shape[-1]]
            decoded = decode(
                sam.mask_decoder,
                embedding[objects.image],
                pe,
                sparse,
                dense,
                None if i == 0 else False,
            )
        loss, chosen = round_loss(decoded, objects, clicks.ambiguous, weights, balance)
        loss = loss / rounds
        loss.backward()
        total = total + loss.detach()
        ious.append(soft_iou(chosen, objects.masks, objects.weights).mean())
        clicks.correct(chosen, objects)
    return total, ious


def auxiliary_loss(output: Tensor, ids: Tensor, known: Tensor) -> Tensor:
    """Foreground, outline and centre offsets of all objects.

    Parameters
    ----------
    output : Tensor, shape (B, 4, h, h)
    ids : Tensor of int64, shape (B, h, h)
    known : Tensor, shape (B, h, h)
    """
    b, h, _ = ids.shape
    output = output.float()
    inside = (ids > 0).float()
    padded = F.pad(ids.float()[:, None], (1, 1, 1, 1), mode="replicate")
    outline = (F.max_pool2d(padded, 3, 1) != -F.max_pool2d(-padded, 3, 1))[:, 0].float()
    pixel = F.binary_cross_entropy_with_logits(
        output[:, :2], torch.stack([inside, outline], dim=1), reduction="none"
    )
    top = int(ids.amax()) + 1
    flat = (ids + torch.arange(b, device=ids.device)[:, None, None] * top).flatten()
    count = torch.bincount(flat, minlength=b * top).clamp_min(1).float()
    line = torch.arange(h, device=ids.device, dtype=torch.float32)
    here = torch.stack([line[:, None].expand(h, h), line[None, :].expand(h, h)])
    centre = torch.stack(
        [
            torch.zeros_like(count).index_add_(0, flat, axis.expand(b, h, h).flatten()) / count
            for axis in here
        ]
    )
    offset = centre[:, flat].view(2, b, h, h).transpose(0, 1) - here
    spread = count.sqrt()[flat].view(b, 1, h, h).clamp_min(2)
    pull = F.smooth_l1_loss(output[:, 2:], offset / spread, reduction="none")
    where = (inside * known)[:, None]
    return 2 * (pixel * known[:, None]).mean() + (pull * where).sum() / where.sum().clamp_min(1)


def merged_ids(batch: Batch) -> tuple[Tensor, Tensor]:
    """One id map (B, S / 2, S / 2) of all concepts of a crop, and where all is known.

    Small objects lie over large ones: a nucleus over its cell.
    """
    labels, weights = batch.labels[:, ::2, ::2].long(), batch.weights[:, ::2, ::2]
    tops = labels.flatten(1).amax(dim=1)
    covered = (labels > 0).flatten(1).sum(dim=1)
    areas = (covered / tops.clamp_min(1)).tolist()
    tops = tops.tolist()
    merged, known = [], []
    for crop in range(len(batch.samples)):
        rows = [r for r, (c, _) in enumerate(batch.rows) if c == crop]
        over = torch.zeros_like(labels[0])
        offset = 0
        for r in sorted(rows, key=areas.__getitem__, reverse=True):
            over = torch.where(labels[r] > 0, labels[r] + offset, over)
            offset += int(tops[r])
        merged.append(over)
        known.append(weights[rows[0] : rows[-1] + 1].amin(dim=0))
    return torch.stack(merged), (torch.stack(known) > 0).float()


def main(argv: list[str] | None = None) -> bool:
    """Train, resume or finish stage 1; whether its schedule is over."""
    parser = arguments(__doc__.splitlines()[0], steps=6000)
    parser.add_argument("--objects", type=int, default=10, help="objects of a crop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=6e-4)
    parser.add_argument("--balance", type=float, default=16.0, help="16 from nothing, 2 to refine")
    parser.add_argument("--start", default=None, help="weights file to go on from")
    parser.add_argument("--window", type=int, default=config.SAM.grid, help="tokens trained on")
    parser.add_argument("--whole-from", type=float, default=1.0, help="share of the schedule")
    options = parser.parse_args(argv)
    prepare(options)
    sam = Sam(config.SAM) if options.start is None else load_sam(options.start)
    sam = sam.to(options.device)
    auxiliary = AuxiliaryHead(config.SAM.out_chans).to(options.device)
    model = nn.ModuleDict({"sam": sam, "auxiliary": auxiliary}).train()
    store = training_store(options)
    run = Run("sam", model, matrices_apart(model, options.rate), options)
    maker = BatchMaker(store, config.SAM.input_size, options.seed + run.step)
    batches = prefetch(lambda: _draw(maker, options, run.done), options.device)
    for step in run.steps():
        # One, two or three rounds in turn: the first click matters most.
        _step(run, *next(batches), 1 + step % options.rounds, options.balance)
        if run.validates:
            run.report(prompt_scores(run.average.model["sam"], options), "val")
    if run.done == 1:
        run.report(prompt_scores(run.average.model["sam"], options), "val")
    return run.done == 1


def _draw(
    maker: BatchMaker, options: argparse.Namespace, done: float
) -> tuple[Tensor, Objects, tuple[Tensor, Tensor], Windows]:
    """A batch, in windows for the first part of the schedule: as many objects at less cost.

    The last part shows whole canvases, as the product does.
    """
    side = options.window if done < options.whole_from else config.SAM.grid
    while True:
        batch = maker.draw(options.batch)
        windows, objects, (merged, known) = windowed(maker, batch, side, options.objects)
        # A few crops may show no object at all, and a step needs one.
        if len(objects.masks):
            seen = windows.cut(merged), windows.cut(known)
            return windows.cut(batch.pixels), objects, seen, windows


def windowed(
    maker: BatchMaker, batch: Batch, side: int, per_crop: int
) -> tuple[Windows, Objects, tuple[Tensor, Tensor]]:
    """Windows of the crops where there is something to see, objects in them, and `merged_ids`."""
    merged, known = merged_ids(batch)
    windows = place(merged > 0, side, config.SAM, maker.rng)
    return windows, maker.objects(_cut(batch, windows), per_crop), (merged, known)


def _cut(batch: Batch, windows: Windows) -> Batch:
    """The windows of the crops as a batch of their own."""
    crops = torch.tensor([crop for crop, _ in batch.rows], device=batch.labels.device)
    return replace(
        batch,
        pixels=windows.cut(batch.pixels),
        valid=windows.cut(batch.valid),
        labels=windows.cut(batch.labels, crops),
        weights=windows.cut(batch.weights, crops),
    )


def _step(
    run: Run,
    pixels: Tensor,
    objects: Objects,
    merged: tuple[Tensor, Tensor],
    windows: Windows,
    rounds: int,
    balance: float,
) -> None:
    sam, auxiliary = run.model["sam"], run.model["auxiliary"]
    with autocast(pixels.device.type):
        embedding = sam.head(sam.trunk(pixels, 0), 0)
        extra = auxiliary(embedding)
    extra_loss = auxiliary_loss(extra, *merged)
    leaf = embedding.detach().requires_grad_()
    loss, ious = correction_rounds(sam, leaf, objects, rounds, balance=balance, windows=windows)
    torch.autograd.backward([embedding, 0.5 * extra_loss], [leaf.grad, None])
    run.update()
    run.log(loss=loss, extra=extra_loss, first=ious[0], last=ious[-1])


if __name__ == "__main__":
    main()
