"""Stage 2: a small CLIP whose patches know words.

``python -m starter.stage_clip --data ../shared/data --out build/starter_run``

Dense image-text alignment: the cosine of every surgery patch with the text vector of a phrase is
trained to say how much of the patch the phrase covers, its maximum whether the concept is
in the image at all. Phrases are synonyms in templates, absent concepts and unseen terms; the CLS
token learns the modality. What is unlabelled but may be visible is neither asked for nor counted.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_clipsam.models.clip import Clip, build_clip, redundant_feature, templates
from napari_clipsam.semantics import text_vector
from starter import config, phrases
from starter.batches import Batch, BatchMaker, prefetch
from starter.loop import Run, arguments, autocast, prepare, training_store
from starter.validate import word_scores

__all__ = ["Asked", "ask", "main"]

_TERMS_PER_BATCH = 12


class Asked:
    """Texts asked of every image of a batch, with what each image knows about them.

    Attributes
    ----------
    texts : list of str
        P phrases.
    cover, known : Tensor, shape (B, P, g, g)
        Share of each patch that the concept covers, and where that is known (0 or 1).
    present : Tensor, shape (B, P)
        1 present, 0 absent, -1 unknown.
    """

    def __init__(self, texts: list[str], cover: Tensor, known: Tensor, present: Tensor) -> None:
        self.texts, self.cover, self.known, self.present = texts, cover, known, present


def ask(batch: Batch, grid: int, rng: np.random.Generator) -> Asked:
    """Two phrases for every concept of the recipe and some unseen terms, for every image."""
    concepts = [c for c in phrases.CONCEPTS for _ in range(2)]
    texts = [phrases.phrase(c, rng) for c in concepts]
    terms = list(rng.choice(phrases.ABSENT["train"], _TERMS_PER_BATCH, replace=False))
    b, device = len(batch.samples), batch.pixels.device
    cell = batch.pixels.shape[-1] // grid
    covers = F.avg_pool2d((batch.labels > 0).float()[:, None], cell)[:, 0]
    valid = (F.avg_pool2d(batch.valid[:, None].float(), cell)[:, 0] > 0.5).float()
    crops = torch.tensor([crop for crop, _ in batch.rows], device=device)
    knowns = (F.avg_pool2d(batch.weights[:, None], cell)[:, 0] > 0.9) * valid[crops]
    shown = (covers.flatten(1).amax(dim=1) > 0.4).tolist()
    # One lookup for all: rows of label maps, then of whole crops, then one of nothing.
    n_rows, nothing = len(batch.rows), len(batch.rows) + b
    empty = torch.zeros(1, grid, grid, device=device)
    cover_of = torch.cat([covers, torch.zeros_like(valid), empty])
    known_of = torch.cat([knowns, valid, empty])
    index = np.full((b, len(concepts) + len(terms)), nothing)
    present = np.full(index.shape, -1.0, np.float32)
    row_of = {key: r for r, key in enumerate(batch.rows)}
    for i, sample in enumerate(batch.samples):
        kinds, hidden = list(sample.kinds), sample.unlabelled
        absent = set(phrases.absent_concepts(kinds, hidden))
        absent |= set(phrases.absent_terms(kinds, hidden, "train", sample.modality))
        for p, name in enumerate([*concepts, *terms]):
            row = row_of.get((i, name))
            if row is not None:
                index[i, p], present[i, p] = row, 1.0 if shown[row] else -1.0
            elif name in absent:
                index[i, p], present[i, p] = n_rows + i, 0.0
    lookup = torch.tensor(index, device=device)
    return Asked(
        [*texts, *map(str, terms)],
        cover_of[lookup],
        known_of[lookup],
        torch.tensor(present, device=device),
    )


class Matcher(nn.Module):
    """Scales of the cosines while training: dense, presence and modality."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([2.5, 2.5, 2.5]))
        self.bias = nn.Parameter(torch.tensor([-3.0, -3.0, 0.0]))

    def forward(self, cosine: Tensor, kind: int) -> Tensor:
        """Log-odds of a cosine."""
        return cosine * self.scale[kind].exp() + self.bias[kind]


def text_vectors(clip: Clip, ids: Tensor, template_ids: Tensor) -> Tensor:
    """t of token ids (P, context), with gradient through the redundant feature too."""
    return text_vector(clip.encode_ids(ids), redundant_feature(clip.encode_ids(template_ids)))


def losses(matcher: Matcher, dense: Tensor, text: Tensor, asked: Asked) -> dict[str, Tensor]:
    """Dense and presence terms for V (B, 1 + N, D) and t (P, D)."""
    unit = F.normalize(dense.float(), dim=-1)
    cosine = torch.einsum("bnd,pd->bpn", unit[:, 1:], text.float())
    known = asked.known.flatten(2)
    cover = asked.cover.flatten(2)
    logits = matcher(cosine, 0)
    values = F.binary_cross_entropy_with_logits(logits, cover, reduction="none")
    # Present concepts are few beside absent ones; each side weighs half.
    is_present = (asked.present == 1)[:, :, None].float()
    dense_loss = sum(
        (values * known * side).sum() / (known * side).sum().clamp_min(1)
        for side in (is_present, 1 - is_present)
    )
    overlap = (logits.sigmoid() * cover * known).sum(2)
    total = (logits.sigmoid() * known).sum(2) + (cover * known).sum(2)
    dice = 1 - (2 * overlap + 1) / (total + 1)
    dice = (dice * is_present[..., 0]).sum() / is_present.sum().clamp_min(1)
    top = cosine.masked_fill(known == 0, -1).topk(8, dim=2).values.mean(dim=2)
    sides = [asked.present == 1, asked.present == 0]
    image = F.binary_cross_entropy_with_logits(
        matcher(top, 1), asked.present.clamp_min(0), reduction="none"
    )
    image_loss = sum((image * s).sum() / s.sum().clamp_min(1) for s in sides)
    return {"dense": dense_loss, "dice": dice, "image": image_loss}


def modality_loss(matcher: Matcher, dense: Tensor, text: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy of the CLS token with one phrase of every modality."""
    names = list(phrases.MODALITIES)
    target = torch.tensor([names.index(s.modality) for s in batch.samples], device=dense.device)
    cosine = F.normalize(dense[:, 0].float(), dim=-1) @ text.float().T
    return F.cross_entropy(matcher(cosine, 2), target)


def main(argv: list[str] | None = None) -> bool:
    """Train, resume or finish stage 2; whether its schedule is over."""
    parser = arguments(__doc__.splitlines()[0], steps=5000)
    parser.add_argument("--rate", type=float, default=6e-4)
    options = parser.parse_args(argv)
    prepare(options)
    clip = build_clip(config.clip_config()).to(options.device)
    model = nn.ModuleDict({"clip": clip, "matcher": Matcher().to(options.device)}).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "lr": options.rate, "weight_decay": 0.05},
        {"params": [p for p in parameters if p.ndim <= 1], "lr": options.rate, "weight_decay": 0.0},
    ]
    template_ids = clip.tokenize([t.format("") for t in templates()]).to(options.device)
    store = training_store(options)
    run = Run("clip", model, groups, options)
    maker = BatchMaker(store, config.SAM.input_size, options.seed + run.step)
    batches = prefetch(lambda: _draw(maker, clip.grid, options.batch), options.device)
    for _ in run.steps():
        _step(run, *next(batches), template_ids)
        if run.validates:
            run.report(word_scores(run.average.model["clip"], options), "val")
    if run.done == 1:
        run.report(word_scores(run.average.model["clip"], options), "val")
    return run.done == 1


def _draw(maker: BatchMaker, grid: int, count: int) -> tuple[Batch, Asked, list[str]]:
    batch = maker.draw(count)
    named = [str(maker.rng.choice(texts)) for texts in phrases.MODALITIES.values()]
    return batch, ask(batch, grid, maker.rng), named


def _step(run: Run, batch: Batch, asked: Asked, named: list[str], template_ids: Tensor) -> None:
    clip, matcher = run.model["clip"], run.model["matcher"]
    ids = clip.tokenize([*asked.texts, *named]).to(batch.pixels.device)
    with autocast(batch.pixels.device.type):
        dense = clip.dense(batch.pixels)
        text = text_vectors(clip, ids, template_ids)
    terms = losses(matcher, dense, text[: len(asked.texts)], asked)
    terms["modality"] = modality_loss(matcher, dense, text[len(asked.texts) :], batch)
    weights = {"dense": 1.0, "dice": 0.5, "image": 0.5, "modality": 0.1}
    sum(weights[k] * v for k, v in terms.items()).backward()
    run.update()
    run.log(**terms)


if __name__ == "__main__":
    main()
