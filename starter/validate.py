"""Scores on the validation split while training, with the product's own geometry."""

from __future__ import annotations

import argparse
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_clipsam.geometry import Frame, whole_plane
from napari_clipsam.models.clip import Clip
from napari_clipsam.models.decoder import decode, embed_masks, embed_points
from napari_clipsam.models.sam import Sam, normalise_pixels
from napari_clipsam.semantics import Signals, cosine_statistics, make_signals, text_vector
from napari_clipsam.training.metrics import dice, innermost_pixel, tight_box
from starter import phrases
from starter.data import Sample, load_split
from starter.frozen import Frozen, decode_concept

if TYPE_CHECKING:
    from napari_clipsam.adapters.inject import Adapter

__all__ = [
    "concept_scores",
    "model_pixels",
    "prompt_scores",
    "to_data",
    "validation_samples",
    "word_scores",
]

_OBJECTS = 30


@cache
def validation_samples(data: str, limit: int = 48) -> list[Sample]:
    """A fixed part of the validation images with instance labels, all styles among them."""
    samples = load_split(data, ["dsb2018_nuclei", "usiigaci_phase_contrast"], "val")
    samples.sort(key=lambda s: s.source)
    return samples[:: max(1, len(samples) // limit)]


def model_pixels(image: np.ndarray, size: int, device: str) -> tuple[Tensor, Frame]:
    """Padded, normalised pixels (1, 3, S, S) of an image, and its frame."""
    frame = whole_plane(image.shape[:2], size)
    rgb = torch.from_numpy(frame.image(image)).permute(2, 0, 1).float().to(device)
    pixels = normalise_pixels(rgb)
    h, w = rgb.shape[1:]
    return F.pad(pixels, (0, size - w, 0, size - h))[None], frame


def to_data(logits: Tensor, frame: Frame, size: int) -> np.ndarray:
    """Low-resolution logits (N, h, h) to masks (N, H, W) of the image."""
    full = F.interpolate(logits[:, None].float(), (size, size), mode="bilinear")
    h, w = frame.resized
    full = F.interpolate(full[:, :, :h, :w], frame.shape, mode="bilinear")
    return (full[:, 0] > 0).cpu().numpy()


@torch.inference_mode()
def prompt_scores(
    sam: Sam,
    options: argparse.Namespace,
    adapter: Adapter | None = None,
    frozen: Frozen | None = None,
) -> dict[str, float]:
    """Mean IoU over objects after one click and after a box, by modality.

    Some objects of a crowded image stand for all of it, so that it weighs as `evaluate` weighs it.
    With an adapter its decoder answers, conditioned by the concept of each image.
    """
    size = sam.config.input_size
    scores: dict[str, list[float]] = {}
    weights: dict[str, list[float]] = {}
    for sample in validation_samples(options.data):
        name = next(iter(sample.concepts))
        labels = sample.concepts[name]
        areas = np.bincount(labels.ravel())
        areas[0] = 0
        every = np.flatnonzero(areas >= 20)
        if not len(every):
            continue
        ids = every[np.linspace(0, len(every) - 1, min(len(every), _OBJECTS)).astype(int)]
        pixels, frame = model_pixels(sample.image, size, options.device)
        conditioning = None
        if adapter is not None and frozen is not None:
            signals = _signals(frozen, adapter, frozen.clip.dense(pixels), name, frame)
            conditioning = adapter.condition(signals)
        split = 0 if adapter is None else adapter.split
        embedding = sam.head(sam.trunk(pixels, split), split, conditioning)
        masks = np.stack([labels == i for i in ids])
        points = np.array([innermost_pixel(m) for m in masks], float)
        boxes = np.array([tight_box(m) for m in masks], float)
        click = torch.tensor(frame.to_model(points), dtype=torch.float32)[:, None]
        corners = torch.tensor(frame.box_to_model(boxes), dtype=torch.float32).view(-1, 2, 2)
        for kind, coords, label in (("click", click, (1,)), ("box", corners, (2, 3))):
            marks = torch.tensor(label).expand(len(ids), -1)
            found = _best(
                adapter if adapter is not None and adapter.config.own_objects else sam,
                embedding,
                coords.to(options.device),
                marks.to(options.device),
            )
            predicted = to_data(found, frame, size)
            overlap = (predicted & masks).sum((1, 2)) / (predicted | masks).sum((1, 2))
            for key in (kind, f"{kind} {sample.modality.split()[0]}"):
                scores.setdefault(key, []).extend(overlap)
                weights.setdefault(key, []).extend([len(every) / len(ids)] * len(ids))
    return {k: float(np.average(v, weights=weights[k])) for k, v in sorted(scores.items())}


def _best(model: Sam | Adapter, embedding: Tensor, coords: Tensor, labels: Tensor) -> Tensor:
    """The mask a user would get: best of three for one click, the single one for a box."""
    multimask = coords.shape[1] == 1
    if multimask:
        # SAM pads points that come without a box.
        coords, labels = F.pad(coords, (0, 0, 0, 1)), F.pad(labels, (0, 1), value=-1)
    sparse = embed_points(model.prompt_encoder, coords, labels)
    if not isinstance(model, Sam):
        sparse = torch.cat([sparse, model.target_tokens("object", len(sparse))], dim=1)
    dense = embed_masks(model.prompt_encoder, None, len(sparse))
    pe = model.prompt_encoder.get_dense_pe()
    decoded = decode(model.mask_decoder, embedding, pe, sparse, dense, multimask)
    best = decoded.iou.argmax(dim=1)
    return decoded.logits[torch.arange(len(best)), best]


@torch.inference_mode()
def word_scores(clip: Clip, options: argparse.Namespace) -> dict[str, float]:
    """How well patches match words: best Dice of the map, AUROC of the top cosine."""
    clip._redundant = None
    known, overlaps, present, absent = phrases.CONCEPTS, [], [], []
    texts = {c: text_vector(clip.concept(words[0]), clip.redundant()) for c, words in known.items()}
    for sample in validation_samples(options.data):
        pixels, _ = model_pixels(sample.image, clip.config.input_size, options.device)
        h, w = whole_plane(sample.image.shape[:2], clip.config.input_size).resized
        cell = clip.config.input_size // clip.grid
        rows, cols = max(1, h // cell), max(1, w // cell)
        unit = F.normalize(clip.dense(pixels)[0, 1:], dim=-1).view(clip.grid, clip.grid, -1)
        cosine = {c: (unit[:rows, :cols] @ t).cpu() for c, t in texts.items()}
        tops = {
            c: float(v.flatten().topk(min(8, v.numel())).values.mean()) for c, v in cosine.items()
        }
        for concept, labels in sample.concepts.items():
            present.append(tops[concept])
            mask = torch.from_numpy((labels > 0).astype(np.float32))[None, None]
            mask = F.interpolate(mask, (rows, cols), mode="area")[0, 0]
            levels = cosine[concept].quantile(torch.linspace(0.3, 0.98, 18))
            found = [(cosine[concept] > level).float() for level in levels]
            overlaps.append(
                max(
                    float(2 * (f * mask).sum() / (f.sum() + mask.sum()).clamp_min(1)) for f in found
                )
            )
        names = phrases.absent_concepts(list(sample.kinds), sample.unlabelled)
        absent += [tops[c] for c in names]
    order = np.array(present)[:, None] - np.array(absent)[None]
    return {
        "map dice": float(np.mean(overlaps)),
        "presence auroc": float((order > 0).mean() + 0.5 * (order == 0).mean()),
    }


def concept_scores(
    adapter: Adapter, frozen: Frozen, options: argparse.Namespace
) -> dict[str, float]:
    """Dice of concept masks from text alone by modality, and how presence tells absent words."""
    return concept_outcomes(adapter, frozen, options)[0]


@torch.inference_mode()
def concept_outcomes(
    adapter: Adapter, frozen: Frozen, options: argparse.Namespace
) -> tuple[dict[str, float], list[float], list[float]]:
    """Scores, and the presence log-odds of words that are there and of words that are not."""
    sam, clip = frozen.sam, frozen.clip
    size = sam.config.input_size
    scores: dict[str, list[float]] = {}
    present: list[float] = []
    absent: list[float] = []
    generator = torch.Generator(options.device).manual_seed(0)
    for sample in validation_samples(options.data):
        pixels, frame = model_pixels(sample.image, size, options.device)
        resized = torch.tensor([frame.resized], device=options.device)
        tokens, dense = sam.trunk(pixels, adapter.split), clip.dense(pixels)
        names = [*sample.concepts, *phrases.absent_concepts(list(sample.kinds), sample.unlabelled)]
        for name in names:
            signals = _signals(frozen, adapter, dense, name, frame)
            embedding = sam.head(tokens, adapter.split, adapter.condition(signals))
            decoded = decode_concept(adapter, embedding, signals, resized, generator)
            logit = adapter.presence_logits(decoded.iou_token, cosine_statistics(signals))
            (present if name in sample.concepts else absent).append(float(logit))
            if name in sample.concepts:
                found = to_data(decoded.logits[:, 0], frame, size)[0]
                value = dice(found, sample.concepts[name] > 0)
                scores.setdefault("dice", []).append(value)
                scores.setdefault(f"dice {sample.modality.split()[0]}", []).append(value)
    means = {k: float(np.mean(v)) for k, v in sorted(scores.items())}
    if present and absent:
        order = np.array(present)[:, None] - np.array(absent)[None]
        means["presence auroc"] = float((order > 0).mean() + 0.5 * (order == 0).mean())
    return means, present, absent


def _signals(frozen: Frozen, adapter: Adapter, dense: Tensor, name: str, frame: Frame) -> Signals:
    """Signals of one concept's bare word in one image."""
    grid = frozen.clip.grid
    cell = frame.input_size // grid
    h, w = frame.resized
    valid = torch.zeros(1, grid, grid, dtype=torch.bool, device=dense.device)
    valid[:, : -(-h // cell), : -(-w // cell)] = True
    text = text_vector(frozen.concepts[name], frozen.clip.redundant())[None]
    return make_signals(dense, text, adapter.config.normalisation, valid.flatten(1))
