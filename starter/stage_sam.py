"""Stage 1: a small SAM from points, boxes and corrections.

``python -m starter.stage_sam --data ../shared/data --out starter_run``

As SAM was trained: a first point or box, then clicks on the error with the previous mask; after a
single point three masks compete and only the best is corrected. A small extra output on the image
embedding (foreground, outline, offset to the centre) speeds up the trunk and is thrown away.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_clipsam.models.sam import Decoded, Sam, decode, embed_masks, embed_points
from napari_clipsam.training.losses import LossWeights, mask_loss, soft_iou
from napari_clipsam.training.simulate import (
    box_prompts,
    correction_points,
    inner_points,
    random_points,
)
from starter import config
from starter.batches import Batch, BatchMaker, Objects
from starter.loop import Run, arguments, autocast, training_store
from starter.validate import prompt_scores

__all__ = ["Clicks", "correction_rounds", "main"]

_WEIGHTS = LossWeights(bce=1.0, dice=1.0, iou=0.0, focal=10.0)
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


def round_loss(decoded: Decoded, objects: Objects, ambiguous: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of one round and the logits (N, h, w) to correct next.

    The single mask always learns; after one point the best of the three others does too. Every
    predicted quality learns the IoU its mask reached.
    """
    logits = decoded.logits.float()
    n, m = logits.shape[:2]
    target = objects.masks[:, None].expand(-1, m, -1, -1).flatten(0, 1)
    weight = objects.weights[:, None].expand(-1, m, -1, -1).flatten(0, 1)
    losses = mask_loss(logits.flatten(0, 1), target, _WEIGHTS, weight).view(n, m)
    best = losses[:, 1:].argmin(dim=1)
    multi = losses[:, 1:].gather(1, best[:, None])[:, 0]
    loss = losses[:, 0].mean() + (multi * ambiguous).sum() / ambiguous.sum().clamp_min(1)
    quality = soft_iou(logits.flatten(0, 1), target, weight).view(n, m)
    loss = loss + F.mse_loss(decoded.iou.float(), quality)
    chosen = torch.where(ambiguous, best + 1, torch.zeros_like(best))
    return loss, logits[torch.arange(n, device=logits.device), chosen]


def correction_rounds(
    sam: Sam, embedding: Tensor, objects: Objects, rounds: int, extra: Tensor | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Prompt, decode and correct; gradients of each round flow into `embedding` at once.

    Parameters
    ----------
    sam : Sam or Adapter
        Brings ``prompt_encoder`` and ``mask_decoder``.
    embedding : Tensor, shape (B, C, G, G)
        A leaf; its ``grad`` is filled.
    extra : Tensor, shape (1, 1, C), optional
        A target token that joins the sparse prompts.

    Returns
    -------
    loss : Tensor
        Sum over the rounds, detached.
    ious : list of Tensor
        Mean IoU after each round.
    """
    size = sam.prompt_encoder.input_image_size[0]
    clicks = Clicks(objects, size)
    total = embedding.new_zeros(())
    ious = []
    for i in range(rounds):
        with autocast(embedding.device.type):
            sparse = embed_points(sam.prompt_encoder, clicks.coords, clicks.labels)
            if extra is not None:
                sparse = torch.cat([sparse, extra.expand(len(sparse), -1, -1)], dim=1)
            dense = embed_masks(sam.prompt_encoder, clicks.mask, len(sparse))
            pe = sam.prompt_encoder.get_dense_pe()
            decoded = decode(
                sam.mask_decoder, embedding[objects.image], pe, sparse, dense, multimask=None
            )
        loss, chosen = round_loss(
            decoded, objects, clicks.ambiguous if i == 0 else torch.zeros_like(clicks.ambiguous)
        )
        loss = loss / rounds
        loss.backward()
        total = total + loss.detach()
        ious.append(soft_iou(chosen, objects.masks, objects.weights).mean())
        clicks.correct(chosen, objects)
    return total, ious


def auxiliary_loss(output: Tensor, batch: Batch) -> Tensor:
    """Foreground, outline and centre offsets of one labelled concept of each crop."""
    losses = []
    half = output.shape[-1]
    line = torch.arange(half, device=output.device, dtype=torch.float32)
    for i, labels in enumerate(batch.labels):
        ids, known = _merged(labels, batch.weights[i])
        inside = (ids > 0).float()
        padded = F.pad(ids.float()[None, None], (1, 1, 1, 1), mode="replicate")
        low = -F.max_pool2d(-padded, 3, 1)[0, 0]
        high = F.max_pool2d(padded, 3, 1)[0, 0]
        outline = (low != high).float()
        logits = output[i].float()
        pixel = F.binary_cross_entropy_with_logits(
            logits[:2], torch.stack([inside, outline]), reduction="none"
        )
        count = torch.bincount(ids.flatten()).clamp_min(1).float()
        sums = [
            torch.zeros_like(count).index_add_(0, ids.flatten(), axis.expand(half, half).flatten())
            for axis in (line[:, None], line[None, :])
        ]
        centre = torch.stack([(s / count)[ids] for s in sums])
        here = torch.stack([line[:, None].expand(half, half), line[None, :].expand(half, half)])
        spread = count.sqrt()[ids].clamp_min(2)
        offset = F.smooth_l1_loss(logits[2:], (centre - here) / spread, reduction="none")
        losses.append(
            (pixel * known).mean() * 2
            + (offset * inside * known).sum() / (inside * known).sum().clamp_min(1)
        )
    return torch.stack(losses).mean()


def _merged(labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """One id map at half resolution of all concepts, small objects over large; and what is known."""
    labels, weights = labels[:, ::2, ::2], weights[:, ::2, ::2]
    tops = labels.flatten(1).amax(dim=1)
    areas = (labels > 0).flatten(1).sum(dim=1) / tops.clamp_min(1)
    merged = torch.zeros_like(labels[0])
    offset = 0
    for c in areas.argsort(descending=True).tolist():
        merged = torch.where(labels[c] > 0, labels[c] + offset, merged)
        offset += int(tops[c])
    return merged.long(), (weights.amin(dim=0) > 0).float()


def main(argv: list[str] | None = None) -> None:
    """Train, resume or finish stage 1."""
    parser = arguments(__doc__.splitlines()[0], steps=6000)
    parser.add_argument("--objects", type=int, default=10, help="objects of a crop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=8e-4)
    options = parser.parse_args(argv)
    torch.manual_seed(options.seed)
    sam = Sam(config.SAM).to(options.device)
    auxiliary = AuxiliaryHead(config.SAM.out_chans).to(options.device)
    model = nn.ModuleDict({"sam": sam, "auxiliary": auxiliary}).train()
    store = training_store(options)
    run = Run("sam", model, _groups(model, options.rate), options)
    maker = BatchMaker(store, config.SAM.input_size, options.seed + run.step)
    for step in run.steps():
        _step(run, maker, options)
        if (step + 1) % 1000 == 0:
            run.report(prompt_scores(run.average.model["sam"], options), "val")
            run.save()
    run.report(prompt_scores(run.average.model["sam"], options), "val")


def _step(run: Run, maker: BatchMaker, options: argparse.Namespace) -> None:
    sam, auxiliary = run.model["sam"], run.model["auxiliary"]
    batch = maker.draw(options.batch)
    objects = maker.objects(batch, options.objects)
    with autocast(options.device):
        embedding = sam.head(sam.trunk(batch.pixels, 0), 0)
        extra = auxiliary(embedding)
    extra_loss = auxiliary_loss(extra, batch)
    leaf = embedding.detach().requires_grad_()
    loss, ious = correction_rounds(sam, leaf, objects, options.rounds)
    torch.autograd.backward([embedding, 0.5 * extra_loss], [leaf.grad, None])
    run.update()
    run.log(loss=loss, extra=extra_loss, first=ious[0], last=ious[-1])


def _groups(model: nn.Module, rate: float) -> list[dict]:
    """Weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    return [
        {"params": matrices, "lr": rate, "weight_decay": 0.05},
        {"params": others, "lr": rate, "weight_decay": 0.0},
    ]


if __name__ == "__main__":
    main()
