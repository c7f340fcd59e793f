"""A word on a plane: its mask, whether it is there at all, and its instances."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from napari_clipsam.errors import OutOfMemory
from napari_clipsam.inference.concept_windows import redraw_concept
from napari_clipsam.inference.devices import memory_guard
from napari_clipsam.inference.encoding import View
from napari_clipsam.inference.following import innermost
from napari_clipsam.inference.frames import closer_frames, owned_regions, quarters
from napari_clipsam.inference.instances import find_instances
from napari_clipsam.inference.masks import cut_to_box, full_logits, small_masks
from napari_clipsam.inference.overlaps import distinct, join_instances, union
from napari_clipsam.inference.refining import meant, redraw
from napari_clipsam.inference.requests import ObjectMask, Prediction
from napari_clipsam.prompts import Prompts
from napari_clipsam.semantics import concept_prompts, cosine_statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_clipsam.geometry import Frame
    from napari_clipsam.inference.decoding import PromptDecoder
    from napari_clipsam.inference.encoding import PlaneEncoder
    from napari_clipsam.inference.instances import InstanceSettings
    from napari_clipsam.inference.requests import Target
    from napari_clipsam.planes import Plane
    from napari_clipsam.semantics import Signals

__all__ = ["ConceptFinder", "shown_map"]

# Without an adapter as the paper's code does: 5 points above 0.8.
_POINTS, _THRESHOLD = 5, 0.8

# A part where all logits of the concept are below minus this is not worth a look.
_DOUBT = 2.0

# Instances that are redrawn are small below this share of `SamConfig.least_object`: of larger ones
# a closer look loses as many as it finds.
_LEAST_REDRAWN = 0.625

# A frame and the region of the plane it answers for; and what was found in it.
_Part = tuple["Frame", tuple[slice, slice]]
_Answer = tuple["Frame", tuple[slice, slice], list[ObjectMask]]


@dataclass(frozen=True, eq=False)
class _Found:
    """The concept in one frame."""

    logits: Tensor
    score: Tensor
    presence: float | None
    similarity: NDArray[np.float32]


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
        prompts: Prompts,
        word: str,
        target: Target,
        progress: Callable[[int, int], None] | None = None,
    ) -> Prediction:
        """Find a word in the whole plane or in tiles that cover it, and join the answers.

        Parameters
        ----------
        plane : Plane
        prompts : Prompts
            Points take the place of those drawn from the similarity map; the rest is not read.
        word : str
        target : {"concept", "instances"}
        progress : callable, optional
            Called with tiles done and tiles in all, where there are several; what it raises ends
            the search.

        Returns
        -------
        Prediction
            Without times.
        """
        unknown = self.encoder.unknown_words(word)
        if unknown:
            quoted = ", ".join(f"'{w}'" for w in unknown)
            note = f"The model has not learnt {quoted}. Use a known word, click one, or teach it."
            presence = None if self._threshold is None else 0.0
            return self._no_match(plane, word, target, presence, note)
        frames = self.encoder.concept_frames(plane.shape)
        presences: list[float] = []
        answers: list[_Answer] = []
        similarity = None
        for i, (frame, owned) in enumerate(zip(frames, owned_regions(frames), strict=True)):
            view = View(plane, frame)
            found = self._in_frame(view, word, prompts)
            if found.presence is not None:
                presences.append(found.presence)
            if self._is_there(found.presence):
                answers.append((frame, owned, self._objects(found, view, word, target, owned)))
            if len(frames) == 1:
                similarity = found.similarity
            elif progress is not None:
                progress(i + 1, len(frames))
        presence = max(presences, default=None)
        objects = self._join(answers, plane.shape, target, in_tiles=len(frames) > 1)
        if target == "instances":
            objects = self._redrawn(plane, objects)
        if not objects:
            note = self._why_nothing(word, presence, target)
            return self._no_match(plane, word, target, presence, note, similarity)
        return Prediction(
            plane.shape,
            target,
            tuple(objects),
            presence=presence,
            threshold=self._threshold,
            text=word,
            similarity=similarity,
        )

    def closer(
        self,
        plane: Plane,
        prompts: Prompts,
        found: Prediction,
        progress: Callable[[int, int], None] | None = None,
    ) -> Prediction | None:
        """Look again in enlarged parts of a plane.

        A concept is where its logits in the whole plane and in quarters of it add up to more than
        0: what is wrong at one scale is mostly right at another. Instances are looked for in a
        concept found so, and only where most of them look small.

        Parameters
        ----------
        plane : Plane
        prompts : Prompts
        found : Prediction
            What `find` found.
        progress : callable, optional
            Called with parts done and parts in all; what it raises ends the search.

        Returns
        -------
        Prediction or None
            None where there is nothing to gain, or no memory to look.
        """
        frames = self.encoder.concept_frames(plane.shape)
        # Tiles show a plane at its own scale.
        if not found.objects or len(frames) > 1:
            return None
        view = View(plane, frames[0])
        if found.target == "concept":
            parts = quarters(view.frame) if self.encoder.sees_two_scales else []
            look = self._at_two_scales
        else:
            boxes = [one.box for one in found.objects]
            least = self.encoder.least_object
            if self.decoder.refines:
                least = round(_LEAST_REDRAWN * least)
            parts = closer_frames(view.frame, boxes, least)
            look = self._in_parts
        if not parts:
            return None
        try:
            with memory_guard(self.encoder.device, self.encoder.dtype):
                objects = look(view, _in_turn(parts, progress), prompts, found.text or "")
        except OutOfMemory:
            self.encoder.clear()
            return None
        return replace(found, objects=tuple(objects)) if objects else None

    def _at_two_scales(
        self, view: View, parts: Iterable[_Part], prompts: Prompts, word: str
    ) -> list[ObjectMask]:
        """A concept by its logits in a view and in parts of it, if there is any."""
        whole = self._in_frame(view, word, prompts)
        logits = full_logits(whole.logits, view.frame)[0]
        for frame, owned in parts:
            part = self._in_frame(View(view.plane, frame), word, prompts)
            logits[owned] += _within(full_logits(part.logits, frame)[0], frame, owned)
        drawn = self._drawn(logits / 2, whole, view) > 0
        box, mask = cut_to_box(drawn.cpu().numpy(), view.frame.origin)
        return [ObjectMask(box, mask, _score(whole))] if mask.size else []

    def _drawn(self, logits: Tensor, found: _Found, view: View) -> Tensor:
        """Logits of a concept at the pixels (h, w) of a view, redrawn where that is possible."""
        if not self.decoder.refines_concepts:
            return logits
        return redraw_concept(
            self.decoder.refine_concept,
            view.plane.rgb[view.frame.slices],
            logits,
            found.similarity,
            view.frame.input_size,
        )

    def _in_parts(
        self, view: View, parts: Iterable[_Part], prompts: Prompts, word: str
    ) -> list[ObjectMask]:
        """Instances in parts of a view, inside the concept as the view and the part show it."""
        whole = full_logits(self._in_frame(view, word, prompts).logits, view.frame)[0]
        answers: list[_Answer] = []
        for frame, owned in parts:
            concept = _on_grid(whole[frame.slices], frame, self.decoder.mask_size)
            # Parts overlap, so each looks only where it answers.
            mine = _cells_of(owned, frame, self.decoder.mask_size)
            if (concept > -_DOUBT).cpu().numpy()[mine].any():
                part = View(view.plane, frame)
                if self.encoder.sees_two_scales:
                    found = self._in_frame(part, word, prompts)
                    concept = (concept + found.logits[0].float()) / 2
                    concept = self._cells(concept, found, part)
                answers.append((frame, owned, self._instances(concept, part, word, mine)))
        joined = self._join(answers, view.plane.shape, "instances", in_tiles=True)
        return self._redrawn(view.plane, joined)

    def _redrawn(self, plane: Plane, objects: list[ObjectMask]) -> list[ObjectMask]:
        """Instances as the refiner draws them, if there is one: of those that are one now the best.

        To it they are clicked in their middle, as what it learnt from was.
        """
        if not self.decoder.refines:
            return objects
        settings = self.settings
        clicks = [_clicked(one) for one in objects]
        drawn = [
            one
            for one in redraw(self.decoder.refine, plane.rgb, objects, clicks)
            if one.area and one.score >= settings.min_worth
        ]
        return [drawn[i] for i in distinct(drawn, settings.max_overlap)]

    @property
    def _threshold(self) -> float | None:
        """Presence below it means "no match"; None where the adapter has no presence."""
        adapter = self.encoder.adapter
        if adapter is None or not adapter.config.object_mode:
            return None
        return adapter.info.threshold

    def _is_there(self, presence: float | None) -> bool:
        threshold = self._threshold
        return threshold is None or presence is None or presence >= threshold

    def _why_nothing(self, word: str, presence: float | None, target: Target) -> str:
        if not self._is_there(presence):
            return f"No '{word}' found here (best {presence:.2f}, needs {self._threshold:.2f})."
        if target == "instances":
            return (
                f"No single object of '{word}' stands out here. Click one, or look for the concept."
            )
        return f"No '{word}' found here: no pixel was marked. Click one."

    def _no_match(
        self,
        plane: Plane,
        word: str,
        target: Target,
        presence: float | None,
        note: str,
        similarity: NDArray[np.float32] | None = None,
    ) -> Prediction:
        return Prediction(
            plane.shape,
            target,
            match=False,
            presence=presence,
            threshold=self._threshold,
            text=word,
            similarity=similarity,
            note=note,
        )

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
        points, kinds = self._points(made.points, prompts, view.frame)
        decoded = self.decoder.run(embedding, points, kinds, made.mask, "concept", multimask=False)
        presence = None
        if adapter is not None and self._threshold is not None:
            statistics = cosine_statistics(signals)
            logit = adapter.presence_logits(decoded.iou_token.float(), statistics)
            presence = float(torch.sigmoid(logit)[0])
        return _Found(decoded.logits[0], decoded.iou[0], presence, shown_map(signals))

    def _points(self, drawn: Tensor, prompts: Prompts, frame: Frame) -> tuple[Tensor, Tensor]:
        """Points (1, K, 2) in model pixels and their kinds (1, K), padded as SAM pads them.

        The user's positive points replace those drawn from the map (the paper's manual mode), the
        negative ones join them.
        """
        inside = _inside(prompts.points, frame)
        labels = torch.as_tensor(prompts.labels[inside], device=drawn.device)[None]
        xy = frame.to_model(prompts.points[inside])
        points = torch.as_tensor(xy, dtype=torch.float32, device=drawn.device)[None]
        if not labels.any():
            points = torch.cat([drawn, points], dim=1)
            labels = F.pad(labels, (drawn.shape[1], 0), value=1)
        return F.pad(points, (0, 0, 0, 1)), F.pad(labels, (0, 1), value=-1)

    def _objects(
        self, found: _Found, view: View, word: str, target: Target, owned: tuple[slice, slice]
    ) -> list[ObjectMask]:
        """Concept or instances of one frame; of a concept the part that the frame answers for."""
        if target == "concept":
            part = self._owned_part(found, view, owned)
            return [part] if part.area else []
        return self._instances(self._cells(found.logits[0].float(), found, view), view, word)

    def _cells(self, logits: Tensor, found: _Found, view: View) -> Tensor:
        """Logits of a concept (M, M), redrawn where that is possible."""
        if not self.decoder.refines_concepts:
            return logits
        drawn = self._drawn(full_logits(logits[None], view.frame)[0], found, view)
        return _on_grid(drawn, view.frame, self.decoder.mask_size)

    def _owned_part(self, found: _Found, view: View, owned: tuple[slice, slice]) -> ObjectMask:
        """The concept in the region that a frame answers for; the whole frame's can be refined."""
        frame = view.frame
        full = self._drawn(full_logits(found.logits, frame)[0], found, view)
        mine = (_within(full, frame, owned) > 0).cpu().numpy()
        box, mask = cut_to_box(mine, (owned[0].start, owned[1].start))
        if owned != frame.slices:
            return ObjectMask(box, mask, _score(found))
        low = found.logits[0].float().cpu().numpy()
        return ObjectMask(box, mask, _score(found), low, frame)

    def _instances(
        self,
        concept: Tensor,
        view: View,
        word: str,
        searched: NDArray[np.bool_] | None = None,
    ) -> list[ObjectMask]:
        """Instances in a view, inside the concept that logits (M, M) tell.

        They are searched in some of the cells (M, M), or in all.
        """
        frame, settings = view.frame, self.settings
        if self.decoder.refines:
            settings = replace(settings, min_score=settings.min_drawn_score)
        logits, scores = find_instances(
            concept,
            lambda xy: self.decoder.points(self.encoder.object_embedding(view, word), xy),
            frame.input_size,
            settings,
            _shown_cells(frame, concept.shape[-1]),
            searched,
        )
        choices = small_masks(logits, scores, frame)
        if not self.decoder.refines:
            return [best for best, *_ in choices]
        clicks = [_clicked(best) for best, *_ in choices]
        return meant(self.decoder.refine, view.plane.rgb, choices, clicks)

    def _join(
        self, answers: list[_Answer], shape: tuple[int, int], target: Target, in_tiles: bool
    ) -> list[ObjectMask]:
        """The answer for a plane out of those for its frames."""
        if not in_tiles:
            return [one for _, _, objects in answers for one in objects]
        if target == "instances":
            return join_instances(answers, shape, self.settings.max_overlap)
        parts = [one for _, _, objects in answers for one in objects]
        return [union(parts)] if parts else []


def _clicked(one: ObjectMask) -> Prompts:
    """A click in the middle of a mask."""
    return Prompts(points=[innermost(one)])


def _in_turn(parts: list[Frame], progress: Callable[[int, int], None] | None) -> Iterator[_Part]:
    """Parts of a plane one by one; before each it is told how many are done."""
    for i, (frame, owned) in enumerate(zip(parts, owned_regions(parts), strict=True)):
        if progress is not None:
            progress(i, len(parts))
        yield frame, owned


def shown_map(signals: Signals) -> NDArray[np.float32]:
    """The similarity map (h, w) of the patches that show the plane, 0..1."""
    shown = signals.valid[0].view(signals.grid)
    height, width = int(shown.any(1).sum()), int(shown.any(0).sum())
    return signals.map()[0, 0, :height, :width].float().cpu().numpy()


def _shown_cells(frame: Frame, size: int) -> tuple[int, int]:
    """Rows and columns of logits (size, size) that show a frame; the rest is padding."""
    rows, cols = (max(1, round(side * size / frame.input_size)) for side in frame.resized)
    return rows, cols


def _on_grid(values: Tensor, frame: Frame, size: int) -> Tensor:
    """Values at the pixels (h, w) of a frame, on the grid (size, size) of its logits."""
    rows, cols = _shown_cells(frame, size)
    cells = F.interpolate(values[None, None], (rows, cols), mode="bilinear", align_corners=False)
    return F.pad(cells[0, 0], (0, size - cols, 0, size - rows))


def _cells_of(region: tuple[slice, slice], frame: Frame, size: int) -> NDArray[np.bool_]:
    """The cells (size, size) of a frame's logits that show a region of the plane."""
    mask = np.zeros((size, size), dtype=bool)
    cells = []
    for part, start, length, shown in zip(
        region, frame.origin, frame.shape, _shown_cells(frame, size), strict=True
    ):
        scale = shown / length
        first, last = (part.start - start) * scale, (part.stop - start) * scale
        cells.append(slice(math.floor(first), math.ceil(last)))
    mask[tuple(cells)] = True
    return mask


def _inside(points: NDArray[np.float64], frame: Frame) -> NDArray[np.bool_]:
    low = np.array(frame.origin) - 0.5
    return ((points >= low) & (points <= low + np.array(frame.shape))).all(axis=1)


def _within(values: Tensor, frame: Frame, region: tuple[slice, slice]) -> Tensor:
    """Of values at the pixels (h, w) of a frame those in a region of the plane."""
    rows, cols = (
        slice(part.start - start, part.stop - start)
        for part, start in zip(region, frame.origin, strict=True)
    )
    return values[rows, cols]


def _score(found: _Found) -> float:
    return float(found.score[0].clamp(0, 1))
