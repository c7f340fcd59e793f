"""Stage 3: the adapter that ships, on the frozen networks of stages 1 and 2.

``python -m starter.stage_adapter --data ../shared/data --base build/starter_run``

Every (crop, text) pair sees the prompts the product will make (`semantics.concept_prompts`):
concept masks from text alone, objects of that concept from clicks and boxes under the same text,
absent texts for presence. Two-concept crops ask for both, so that only the word tells them apart.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_clipsam.adapters.files import load_adapter
from napari_clipsam.adapters.inject import Adapter, build_adapter
from napari_clipsam.models.decoder import Decoded
from napari_clipsam.models.sam import BlockAdapter, SamConfig
from napari_clipsam.semantics import (
    Signals,
    cosine_statistics,
    make_signals,
    text_vector,
)
from napari_clipsam.training.losses import mask_loss, soft_iou
from starter import config, phrases
from starter.batches import Batch, BatchMaker, Objects, prefetch
from starter.crops import CropStore
from starter.frozen import Features, Frozen, decode_concept
from starter.loop import Run, arguments, autocast, prepare, training_store
from starter.stage_sam import correction_rounds
from starter.validate import concept_scores
from starter.windows import Windows, place

__all__ = ["Pairs", "main"]

_DECODER = ("mask_decoder", "prompt_encoder")


@dataclass(frozen=True, eq=False)
class Pairs:
    """P (crop, text) pairs of a batch.

    Attributes
    ----------
    texts : list of str
    plain : list of str or None
        The canonical concept where the bare word is asked, so that its synonyms are averaged.
    crop : Tensor of int64, shape (P,)
    row : Tensor of int64, shape (P,)
        Label map of the concept, -1 where the text names nothing in the crop.
    """

    texts: list[str]
    plain: list[str | None]
    crop: Tensor
    row: Tensor


def draw_pairs(batch: Batch, rng: np.random.Generator) -> Pairs:
    """Two texts of every crop: one that is there, and another concept or an absent text."""
    shown = (batch.labels > 0).flatten(1).sum(dim=1).cpu().numpy() > 60
    texts: list[str] = []
    plain: list[str | None] = []
    crops: list[int] = []
    rows: list[int] = []
    for crop, sample in enumerate(batch.samples):
        there = [r for r, (c, _) in enumerate(batch.rows) if c == crop and shown[r]]
        chosen = list(rng.permutation(there))[: 1 + int(rng.random() < 0.6)]
        for r in chosen:
            name = batch.rows[r][1]
            bare = rng.random() < 0.4
            texts.append(name if bare else phrases.phrase(name, rng, sample.modality))
            plain.append(name if bare else None)
        missing = 2 - len(chosen)
        kinds = list(sample.kinds)
        if missing:
            texts += phrases.absent_phrases(
                kinds, sample.unlabelled, rng, n=missing, modality=sample.modality
            )
            plain += [None] * missing
        crops += [crop, crop]
        rows += [*map(int, chosen), *[-1] * missing]
    device = batch.pixels.device
    return Pairs(
        texts, plain, torch.tensor(crops, device=device), torch.tensor(rows, device=device)
    )


@torch.no_grad()
def see(
    frozen: Frozen, batch: Batch, pairs: Pairs, adapter: Adapter, features: Features
) -> tuple[Tensor, Signals, Tensor]:
    """Trunk tokens and signals of the pairs, and the crops' heights and widths (P, 2)."""
    with autocast(batch.pixels.device.type):
        spoken = frozen.clip.encode_texts(pairs.texts)
    concepts = [
        frozen.concepts[name] if name else spoken[i].float() for i, name in enumerate(pairs.plain)
    ]
    text = text_vector(torch.stack(concepts), frozen.clip.redundant())
    cell = batch.valid.shape[-1] // frozen.clip.grid
    valid = F.max_pool2d(batch.valid[:, None].float(), cell)[:, 0].flatten(1) > 0
    resized = torch.stack([batch.valid.any(2).sum(1), batch.valid.any(1).sum(1)], dim=1)
    signals = make_signals(
        features.dense.float()[pairs.crop], text, adapter.config.normalisation, valid[pairs.crop]
    )
    return features.tokens[pairs.crop], signals, resized[pairs.crop]


def choose_windows(
    batch: Batch, pairs: Pairs, side: int, shape: SamConfig, rng: np.random.Generator
) -> Windows:
    """A window of every pair, on its concept where there is one."""
    there = (pairs.row >= 0)[:, None, None]
    concept = batch.labels[pairs.row.clamp_min(0)] > 0
    return place(torch.where(there, concept, batch.valid[pairs.crop]), side, shape, rng)


def concept_loss(
    decoded: Decoded, batch: Batch, pairs: Pairs, windows: Windows
) -> tuple[Tensor, Tensor]:
    """Mask and quality loss of the pairs that are there, and their mean IoU."""
    there = pairs.row >= 0
    rows = pairs.row[there]
    target = F.avg_pool2d((batch.labels[rows] > 0).float()[:, None], 2)[:, 0]
    weight = (F.avg_pool2d(batch.weights[rows][:, None], 2)[:, 0] > 0.5).float()
    target, weight = (windows.cut(m, there.nonzero()[:, 0]) for m in (target, weight))
    logits = decoded.logits.float()[there, 0]
    quality = soft_iou(logits, target, weight)
    loss = mask_loss(logits, target, pixel_weight=weight).mean()
    return loss + F.mse_loss(decoded.iou.float()[there, 0], quality), quality.mean()


def presence_loss(logits: Tensor, pairs: Pairs) -> Tensor:
    """Binary cross-entropy with present : absent = 1 : 1."""
    there = (pairs.row >= 0).float()
    values = F.binary_cross_entropy_with_logits(logits, there, reduction="none")
    return sum((values * s).sum() / s.sum().clamp_min(1) for s in (there, 1 - there)) / 2


def main(argv: list[str] | None = None) -> bool:
    """Train, resume or finish stage 3; whether its schedule is over."""
    parser = arguments(__doc__.splitlines()[0], steps=4000)
    parser.add_argument("--base", default="build/starter_run", help="folder of the frozen networks")
    parser.add_argument("--objects", type=int, default=4, help="objects of a pair")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--start", default=None, help="adapter file to go on from")
    parser.add_argument("--decoder-share", type=float, default=1.0, help="kept of its decoder")
    parser.add_argument("--decoder-rate", type=float, default=0.25, help="share of the rate")
    parser.add_argument("--crops", type=int, default=0, help="compute features of so many once")
    parser.add_argument("--window", type=int, default=config.SAM.grid, help="tokens trained on")
    parser.add_argument("--whole-from", type=float, default=1.0, help="share of the schedule")
    options = parser.parse_args(argv)
    prepare(options)
    frozen = Frozen(Path(options.base), options.device)
    adapter = _start(frozen, options).to(options.device).train()
    decoder, others = _split(adapter)
    groups = [
        {"params": others, "lr": options.rate, "weight_decay": 1e-3},
        {"params": decoder, "lr": options.decoder_rate * options.rate, "weight_decay": 1e-3},
    ]
    store = training_store(options)
    run = Run("adapter", adapter, groups, options)
    maker = BatchMaker(store, config.SAM.input_size, options.seed + 100 + run.step)
    kept = None
    if options.crops:
        kept = CropStore(maker, lambda b: frozen.features(b, adapter.split), options.crops)
    batches = prefetch(lambda: _draw(maker, kept, options, run.done), options.device)
    generator = torch.Generator(options.device).manual_seed(options.seed + run.step)
    for step in run.steps():
        _step(run, frozen, *next(batches), generator, 1 + step % options.rounds)
        if run.validates:
            run.report(concept_scores(run.average.model, frozen, options), "val")
    if run.done == 1:
        run.report(concept_scores(run.average.model, frozen, options), "val")
    return run.done == 1


def _start(frozen: Frozen, options: argparse.Namespace) -> Adapter:
    """A fresh adapter, or one to go on from, its decoder taken some way back to the base's.

    The base's decoder answers clicks best, so what words ask for should be learnt around it.
    """
    adapter = build_adapter(config.ADAPTER, frozen.sam, frozen.clip, options.seed)
    if options.start is None:
        return adapter
    base = adapter.state_dict()
    start = load_adapter(options.start, frozen.sam, frozen.clip).state_dict()
    for name, value in start.items():
        if name.startswith(_DECODER):
            start[name] = torch.lerp(base[name].to(value), value, options.decoder_share)
    adapter.load_state_dict(start)
    return adapter


def _split(adapter: Adapter) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters of decoder and prompt encoder, and all others."""
    named = list(adapter.named_parameters())
    return [p for n, p in named if n.startswith(_DECODER)], [
        p for n, p in named if not n.startswith(_DECODER)
    ]


def _draw(
    maker: BatchMaker, kept: CropStore | None, options: argparse.Namespace, done: float
) -> tuple[Batch, Features | None, Pairs, Windows, Objects]:
    if kept is None:
        batch, features = maker.draw(options.batch), None
    else:
        batch, features = kept.draw(options.batch)
    pairs = draw_pairs(batch, maker.rng)
    side = options.window if done < options.whole_from else config.SAM.grid
    windows = choose_windows(batch, pairs, side, config.SAM, maker.rng)
    return batch, features, pairs, windows, _objects(maker, batch, pairs, windows, options.objects)


def _objects(
    maker: BatchMaker, batch: Batch, pairs: Pairs, windows: Windows, count: int
) -> Objects:
    """Objects of the pairs' concepts in their windows; `image` is the pair's index."""
    rows = pairs.row.tolist()
    usable = [p for p, r in enumerate(rows) if r >= 0 and batch.kind(r) != "semantic"]
    pair = torch.tensor(usable, device=pairs.row.device, dtype=torch.long)
    labels, weights = (
        windows.cut(maps[pairs.row[pair]], pair) for maps in (batch.labels, batch.weights)
    )
    masks, known, index = maker.choose(labels, weights, count)
    return Objects(masks, known, pairs.row[pair[index]], pair[index])


def _conditioning(adapter: Adapter, signals: Signals, windows: Windows) -> list[BlockAdapter]:
    """The adapter bound to signals of whole canvases, cut to the windows."""
    bound = adapter.condition(signals)
    if windows.side == windows.grid:
        return bound
    return [replace(b, injection=windows.cut_last(b.injection)) for b in bound]


def _step(
    run: Run,
    frozen: Frozen,
    batch: Batch,
    features: Features | None,
    pairs: Pairs,
    windows: Windows,
    objects: Objects,
    generator: torch.Generator,
    rounds: int,
) -> None:
    adapter = run.model
    device = pairs.row.device.type
    features = features or frozen.features(batch, adapter.split)
    tokens, signals, resized = see(frozen, batch, pairs, adapter, features)
    with autocast(device):
        conditioning = _conditioning(adapter, signals, windows)
        embedding = frozen.sam.head(windows.cut_last(tokens), adapter.split, conditioning)
    leaf = embedding.detach().requires_grad_()
    with autocast(device):
        decoded = decode_concept(adapter, leaf, signals, resized, generator, windows)
    mask_term, concept_iou = concept_loss(decoded, batch, pairs, windows)
    statistics = cosine_statistics(signals)
    presence = adapter.presence_logits(decoded.iou_token.float(), statistics)
    presence_term = presence_loss(presence, pairs)
    (2 * mask_term + 0.5 * presence_term).backward()
    logged = {"concept": mask_term, "concept_iou": concept_iou, "presence": presence_term}
    if len(objects.masks):
        target = adapter.target_tokens("object", 1)
        loss, ious = correction_rounds(adapter, leaf, objects, rounds, target, windows=windows)
        logged |= {"object": loss, "first": ious[0]}
    embedding.backward(leaf.grad)
    run.update()
    run.log(**logged)


if __name__ == "__main__":
    main()
