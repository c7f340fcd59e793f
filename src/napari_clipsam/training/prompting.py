"""One training step's loss: a word and clicks as the product will ask, decoded and compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from napari_clipsam.inference.transfer import to_device
from napari_clipsam.models.decoder import Decoded, decode, embed_masks, embed_points
from napari_clipsam.semantics import concept_prompts, cosine_statistics, point_draws
from napari_clipsam.training.losses import LossWeights, mask_loss, soft_iou
from napari_clipsam.training.simulate import (
    box_prompts,
    correction_points,
    inner_points,
    random_points,
)
from napari_clipsam.training.views import large_enough

if TYPE_CHECKING:
    from torch import Tensor

    from napari_clipsam.adapters.inject import Adapter
    from napari_clipsam.semantics import Signals
    from napari_clipsam.training.views import Batch
    from napari_clipsam.training.windows import Window

__all__ = ["ABSENT_SHARE", "Conditioned", "concept_terms", "object_terms"]

#: How often a word is asked that is not there.
ABSENT_SHARE = 0.25

_CORNERS = (2, 3)
_MOST_CLICKS = 5


@dataclass(frozen=True, eq=False)
class Conditioned:
    """B views conditioned by a word each.

    Attributes
    ----------
    embedding : Tensor, shape (B, C, S, S)
        Of the window.
    signals : Signals
        Of the whole views.
    named : tuple of bool
        Of each view whether the word names what is labelled.
    present : Tensor of bool, shape (B,)
        The same on the device, which need not be asked for it.
    window : Window
        The part that is trained on; prompts keep their places in the whole.
    """

    embedding: Tensor
    signals: Signals
    named: tuple[bool, ...]
    present: Tensor
    window: Window


def concept_terms(
    adapter: Adapter,
    seen: Conditioned,
    batch: Batch,
    by_clicks: bool,
    loss: LossWeights,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Loss terms of all that a word names: ``mask``, ``quality`` where it is there, ``presence``.

    Parameters
    ----------
    by_clicks : bool
        Whether 1 to 5 clicks take the place of the points drawn from the similarity map (the
        paper's manual mode); the mask is then corrected once by a click on its error.
    """
    encoder, config = adapter.prompt_encoder, adapter.config
    size = encoder.input_image_size[0]
    made = concept_prompts(
        seen.signals,
        size,
        encoder.mask_input_size[0],
        config.map_threshold,
        config.n_points,
        to_device(point_draws(generator, len(seen.named), config.n_points), seen.embedding.device),
        batch.resized,
    )
    window = seen.window
    known = window.cut(batch.known) * seen.present[:, None, None]
    target = window.cut(batch.concept) * known
    covering = _covering(batch)
    offset = window.offset(target)
    points, labels = made.points, torch.ones_like(made.points[..., 0], dtype=torch.long)
    if by_clicks:
        count = int(torch.randint(1, _MOST_CLICKS + 1, (), generator=generator))
        own = _like(generator, target)
        drawn = [random_points(target, window.pixels, own) + offset for _ in range(count)]
        # An absent word has nothing to click on: it keeps the points of its map.
        drawn_points = torch.stack(drawn, dim=1)
        some = seen.present[:, None, None]
        points = torch.where(some, drawn_points, made.points[:, :1].expand_as(drawn_points))
        labels = torch.ones_like(points[..., 0], dtype=torch.long)
    terms: dict[str, Tensor] = {}
    for round_number in range(2 if by_clicks else 1):
        decoded = _decode(
            adapter, seen.embedding, window, points, labels, window.cut(made.mask), "concept"
        )
        found = {}
        if any(seen.named):
            found = _mask_terms(decoded, target, known, covering, seen.present, loss)
        terms = {k: terms[k] + v if k in terms else v for k, v in found.items()}
        if round_number == 0:
            token = decoded.iou_token
        if by_clicks and round_number == 0:
            wrong = (decoded.logits[:, 0].detach() > 0) & (known > 0)
            xy, kind = correction_points(wrong, target, window.pixels, _like(generator, target))
            points = torch.cat([points, (xy + offset)[:, None]], dim=1)
            labels = torch.cat([labels, kind[:, None]], dim=1)
    if by_clicks:
        terms = {k: v / 2 for k, v in terms.items()}
    if config.object_mode:
        logits = adapter.presence_logits(token.float(), cosine_statistics(seen.signals))
        terms["presence"] = F.binary_cross_entropy_with_logits(
            logits, seen.present.float(), weight=_balance(seen.present)
        )
    return terms


def object_terms(
    adapter: Adapter,
    seen: Conditioned,
    batch: Batch,
    count: int,
    rounds: int,
    loss: LossWeights,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Loss terms of single objects under their own word: ``object`` and ``object_quality``.

    Empty without objects.

    Each is asked by one click, by a box with jitter, or by both; `rounds` - 1 clicks on the error
    of the mask before follow, with that mask as prompt. The first answer to a lone click may be
    any of the decoder's masks, as SAM was trained.
    """
    window = seen.window
    chosen = _choose(seen, batch, count, generator)
    if chosen is None:
        return {}
    view, masks, known = chosen
    size, offset = window.pixels, window.offset(masks)
    own = _like(generator, masks)
    boxed = bool(torch.rand((), generator=generator) < 0.4)
    clicked = not boxed or bool(torch.rand((), generator=generator) < 0.25)
    inner = bool(torch.rand((), generator=generator) < 0.5)
    points, labels = masks.new_zeros(len(masks), 0, 2), view.new_zeros(len(masks), 0)
    if clicked:
        draw = inner_points if inner else random_points
        points = (draw(masks, size, own) + offset)[:, None]
        labels = torch.ones_like(points[..., 0], dtype=torch.long)
    corners = None
    if boxed:
        corners = box_prompts(masks, size, generator=own).view(-1, 2, 2) + offset
    mask = None
    terms: dict[str, Tensor] = {}
    for number in range(rounds):
        ambiguous = number == 0 and not boxed
        decoded = _decode(
            adapter,
            seen.embedding[view],
            window,
            points,
            labels,
            mask,
            "object",
            corners,
            ambiguous,
        )
        logits, found = _best_terms(decoded, masks, known, loss)
        terms = {k: terms[k] + v if k in terms else v for k, v in found.items()}
        mask = logits.detach()[:, None].clamp(-32, 32)
        if number + 1 < rounds:
            wrong = (mask[:, 0] > 0) & (known > 0)
            xy, kind = correction_points(wrong, masks, size, own)
            points = torch.cat([points, (xy + offset)[:, None]], dim=1)
            labels = torch.cat([labels, kind[:, None]], dim=1)
    return {k: v / rounds for k, v in terms.items()}


def _decode(
    adapter: Adapter,
    embedding: Tensor,
    window: Window,
    points: Tensor,
    labels: Tensor,
    mask: Tensor | None,
    target: str,
    corners: Tensor | None = None,
    multimask: bool = False,
) -> Decoded:
    """Decode N prompts as `PromptDecoder` puts them: without a box, SAM pads the points."""
    n, encoder = len(embedding), adapter.prompt_encoder
    if corners is None:
        points, labels = F.pad(points, (0, 0, 0, 1)), F.pad(labels, (0, 1), value=-1)
    else:
        kinds = to_device(torch.tensor(_CORNERS), labels.device).expand(n, 2)
        points, labels = torch.cat([points, corners], dim=1), torch.cat([labels, kinds], dim=1)
    sparse = embed_points(encoder, points, labels)
    sparse = torch.cat([sparse, adapter.target_tokens(target, n)], dim=1)  # type: ignore[arg-type]
    dense = embed_masks(encoder, mask, n)
    if mask is None:
        dense = window.cut(dense)
    places = window.cut(encoder.get_dense_pe())
    return decode(adapter.mask_decoder, embedding, places, sparse, dense, multimask)


def _covering(batch: Batch) -> Tensor:
    """Whether the structure covers most of a view (B,).

    Marking everything then scores well, so what is to be found is the gaps.
    """
    cells = batch.known.sum(dim=(1, 2))
    return (batch.concept * batch.known).sum(dim=(1, 2)) > cells / 2


def _mask_terms(
    decoded: Decoded,
    target: Tensor,
    known: Tensor,
    covering: Tensor,
    present: Tensor,
    weights: LossWeights,
) -> dict[str, Tensor]:
    """Mean over the views in which the word is there."""
    logits, share = decoded.logits.float()[:, 0], present.float()
    gaps = covering[:, None, None]
    losses = mask_loss(
        torch.where(gaps, -logits, logits),
        torch.where(gaps, known - target, target),
        weights,
        known,
    )
    quality = soft_iou(logits, target, known)
    errors = (decoded.iou.float()[:, 0] - quality).square()
    total = share.sum()
    return {"mask": (losses * share).sum() / total, "quality": (errors * share).sum() / total}


def _best_terms(
    decoded: Decoded, masks: Tensor, known: Tensor, weights: LossWeights
) -> tuple[Tensor, dict[str, Tensor]]:
    """The best mask (N, M, M) of each object and the terms of it."""
    n, count = decoded.logits.shape[:2]
    logits = decoded.logits.float().flatten(0, 1)
    repeated = masks.repeat_interleave(count, 0), known.repeat_interleave(count, 0)
    losses = mask_loss(logits, repeated[0], weights, repeated[1]).view(n, count)
    quality = soft_iou(logits, *repeated).view(n, count)
    best = losses.detach().argmin(dim=1)
    rows = torch.arange(n, device=best.device)
    return logits.view(n, count, *logits.shape[1:])[rows, best], {
        "object": losses[rows, best].mean(),
        "object_quality": (decoded.iou.float() - quality).square().mean(),
    }


def _choose(
    seen: Conditioned, batch: Batch, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Up to `count` objects of each view: view (N,), masks and known cells (N, M, M)."""
    window = seen.window
    ids, known = window.cut(batch.ids), window.cut(batch.known)
    views: list[int] = []
    chosen: list[int] = []
    for i, named in enumerate(seen.named):
        if not named:
            continue
        whole = window.side == window.grid
        there = batch.objects[i] if whole else large_enough(ids[i], known[i])
        order = torch.randperm(len(there), generator=generator)[:count].tolist()
        chosen += [there[number] for number in order]
        views += [i] * len(order)
    if not chosen:
        return None
    view, numbers = to_device(torch.tensor([views, chosen]), ids.device)
    counted = known[view]
    return view, (ids[view] == numbers[:, None, None]).float() * counted, counted


def _balance(present: Tensor) -> Tensor:
    """Weights that make present and absent words count the same over many batches."""
    return torch.where(present, 0.5 / (1 - ABSENT_SHARE), 0.5 / ABSENT_SHARE)


def _like(generator: torch.Generator, tensor: Tensor) -> torch.Generator:
    """A generator on a tensor's device, seeded from one on the CPU."""
    if tensor.device.type == "cpu":
        return generator
    seed = int(torch.randint(1 << 31, (), generator=generator))
    return torch.Generator(tensor.device).manual_seed(seed)
