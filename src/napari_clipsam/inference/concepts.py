"""A word on a plane: its mask, whether it is there at all, and its instances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from napari_clipsam.inference.encoding import View
from napari_clipsam.inference.frames import owned_regions
from napari_clipsam.inference.instances import find_instances
from napari_clipsam.inference.masks import cut_to_box, full_logits, object_masks, small_masks
from napari_clipsam.inference.requests import ObjectMask, Prediction
from napari_clipsam.semantics import concept_prompts, cosine_statistics

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_clipsam.geometry import Frame
    from napari_clipsam.inference.decoding import PromptDecoder
    from napari_clipsam.inference.encoding import PlaneEncoder
    from napari_clipsam.inference.instances import InstanceSettings
    from napari_clipsam.inference.requests import Target
    from napari_clipsam.planes import Plane
    from napari_clipsam.prompts import Prompts

__all__ = ["ConceptFinder"]

# Without an adapter the paper's code draws 5 points above 0.8.
_POINTS, _THRESHOLD = 5, 0.8


@dataclass(frozen=True, eq=False)
class _Found:
    """The concept in one frame."""

    logits: Tensor
    score: Tensor
    presence: float | None
    similarity: NDArray[np.float32]
    embedding: Tensor


class ConceptFinder:
    """Finds concepts and their instances in the frames of a plane."""

    def __init__(
        self,
        encoder: PlaneEncoder,
        decoder: PromptDecoder,
        settings: InstanceSettings,
        seed: int,
    ) -> None:
        self.encoder, self.decoder = encoder, decoder
        self.settings, self.seed = settings, seed

    def find(
        self,
        plane: Plane,
        frames: list[Frame],
        prompts: Prompts,
        word: str,
        target: Target,
        progress: Callable[[int, int], None] | None = None,
    ) -> Prediction:
        """Find a word in every frame and join the answers."""
        threshold = self._threshold
        unknown = self.encoder.unknown_words(word)
        if unknown:
            quoted = ", ".join(f"'{w}'" for w in unknown)
            return Prediction(
                plane.shape,
                target,
                match=False,
                presence=0.0 if threshold is not None else None,
                threshold=threshold,
                note=f"The model has not learnt {quoted}. Use a known word, click one, or teach it.",
            )
        objects: list[ObjectMask] = []
        presences: list[float] = []
        similarity = None
        for i, (frame, owned) in enumerate(zip(frames, owned_regions(frames), strict=True)):
            found = self._in_frame(View(plane, frame), word, prompts)
            if found.presence is not None:
                presences.append(found.presence)
            there = threshold is None or found.presence is None or found.presence >= threshold
            if there:
                objects += self._objects(found, frame, target, owned, alone=len(frames) == 1)
            if len(frames) == 1:
                similarity = found.similarity
            elif progress is not None:
                progress(i + 1, len(frames))
        if len(frames) > 1:
            objects = _join(objects, plane.shape, target, self.settings.max_overlap)
        presence = max(presences) if presences else None
        match = threshold is None or presence is None or presence >= threshold
        note = (
            "" if match else f"No '{word}' found here (best {presence:.2f}, needs {threshold:.2f})."
        )
        return Prediction(
            plane.shape,
            target,
            tuple(objects),
            match=match,
            presence=presence,
            threshold=threshold,
            similarity=similarity,
            note=note,
        )

    @property
    def _threshold(self) -> float | None:
        adapter = self.encoder.adapter
        return None if adapter is None else adapter.info.threshold

    def _in_frame(self, view: View, word: str, prompts: Prompts) -> _Found:
        encoder, adapter = self.encoder, self.encoder.adapter
        signals = encoder.signals(view, word)
        embedding = encoder.embedding(view, word)
        made = concept_prompts(
            signals,
            view.frame.input_size,
            self.decoder.mask_size,
            _THRESHOLD if adapter is None else adapter.config.map_threshold,
            _POINTS if adapter is None else adapter.config.n_points,
            torch.Generator().manual_seed(self.seed),
            encoder.resized(view),
            as_logits=adapter is None,
        )
        points, kinds = made.points, torch.ones(made.points.shape[:2], device=encoder.device)
        inside = _inside(prompts.points, view.frame)
        if inside.any():
            # The user's own points replace those drawn from the map (the paper's manual mode).
            xy = view.frame.to_model(prompts.points[inside])
            points = torch.as_tensor(xy, dtype=torch.float32, device=encoder.device)[None]
            kinds = torch.as_tensor(prompts.labels[inside], device=encoder.device)[None]
        points = F.pad(points, (0, 0, 0, 1))
        kinds = F.pad(kinds.float(), (0, 1), value=-1.0).long()
        decoded = self.decoder.run(embedding, points, kinds, made.mask, "concept", multimask=False)
        presence = None
        if adapter is not None and adapter.config.object_mode and self._threshold is not None:
            statistics = cosine_statistics(signals)
            logit = adapter.presence_logits(decoded.iou_token.float(), statistics)
            presence = float(torch.sigmoid(logit)[0])
        shown = signals.valid[0].view(signals.grid)
        height, width = int(shown.any(1).sum()), int(shown.any(0).sum())
        similarity = signals.map()[0, 0, :height, :width].float().cpu().numpy()
        return _Found(decoded.logits[0], decoded.iou[0], presence, similarity, embedding)

    def _objects(
        self,
        found: _Found,
        frame: Frame,
        target: Target,
        owned: tuple[slice, slice],
        alone: bool,
    ) -> list[ObjectMask]:
        """Concept or instances of one frame, cut to the part of the plane it answers for."""
        if target == "concept":
            if alone:
                return object_masks(found.logits, found.score, frame)
            return [_owned_part(found, frame, owned)]
        logits, scores = find_instances(
            self._outside_removed(found.logits[0].float(), frame),
            lambda xy: self.decoder.points(found.embedding, xy),
            frame.input_size,
            self.settings,
        )
        objects = small_masks(logits, scores, frame)
        return objects if alone else [o for o in objects if _centre_in(o, owned)]

    def _outside_removed(self, logits: Tensor, frame: Frame) -> Tensor:
        """Logits with the padding set to background."""
        scale = logits.shape[-1] / frame.input_size
        h, w = (max(1, round(side * scale)) for side in frame.resized)
        cut = torch.full_like(logits, -10.0)
        cut[:h, :w] = logits[:h, :w]
        return cut


def _inside(points: NDArray[np.float64], frame: Frame) -> NDArray[np.bool_]:
    low = np.array(frame.origin) - 0.5
    return ((points >= low) & (points < low + np.array(frame.shape))).all(axis=1)


def _owned_part(found: _Found, frame: Frame, owned: tuple[slice, slice]) -> ObjectMask:
    """The concept inside the region a tile answers for."""
    y, x = frame.origin
    rows = slice(owned[0].start - y, owned[0].stop - y)
    cols = slice(owned[1].start - x, owned[1].stop - x)
    full = full_logits(found.logits[:1], frame)[0, rows, cols] > 0
    box, mask = cut_to_box(full.cpu().numpy(), (owned[0].start, owned[1].start))
    return ObjectMask(box, mask, float(found.score[0].clamp(0, 1)))


def _centre_in(found: ObjectMask, owned: tuple[slice, slice]) -> bool:
    y0, x0, y1, x1 = found.box
    cy, cx = (y0 + y1) / 2, (x0 + x1) / 2
    rows, cols = owned
    return rows.start <= cy < rows.stop and cols.start <= cx < cols.stop


def _join(
    objects: list[ObjectMask], shape: tuple[int, int], target: Target, max_overlap: float
) -> list[ObjectMask]:
    """One concept mask out of many tiles; instances without those seen by two tiles."""
    if target == "instances":
        return _without_twins(objects, max_overlap)
    objects = [o for o in objects if o.mask.size]
    if not objects:
        return []
    whole = np.zeros(shape, dtype=bool)
    for part in objects:
        whole[part.slices] |= part.mask
    box, mask = cut_to_box(whole, (0, 0))
    areas = np.array([o.area for o in objects], dtype=float)
    score = float(np.average([o.score for o in objects], weights=areas))
    return [ObjectMask(box, mask, score)]


def _without_twins(objects: list[ObjectMask], max_overlap: float) -> list[ObjectMask]:
    """Objects best first, without those that overlap a better one by more than allowed."""
    kept: list[ObjectMask] = []
    for candidate in sorted(objects, key=lambda o: -o.score):
        if all(_overlap(candidate, other) <= max_overlap for other in kept):
            kept.append(candidate)
    return kept


def _overlap(a: ObjectMask, b: ObjectMask) -> float:
    """Shared pixels over the smaller area."""
    y0, x0 = max(a.box[0], b.box[0]), max(a.box[1], b.box[1])
    y1, x1 = min(a.box[2], b.box[2]), min(a.box[3], b.box[3])
    if y1 <= y0 or x1 <= x0:
        return 0.0

    def part(o: ObjectMask) -> NDArray[np.bool_]:
        return o.mask[y0 - o.box[0] : y1 - o.box[0], x0 - o.box[1] : x1 - o.box[1]]

    return np.count_nonzero(part(a) & part(b)) / min(a.area, b.area)
