"""A word on a plane: its mask, whether it is there at all, and its instances."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from napari_clipsam.errors import OutOfMemory
from napari_clipsam.inference.concept_decoding import ConceptDecoder, FoundConcept
from napari_clipsam.inference.devices import memory_guard
from napari_clipsam.inference.encoding import View
from napari_clipsam.inference.following import innermost
from napari_clipsam.inference.frames import closer_frames, owned_regions, quarters
from napari_clipsam.inference.grids import cells_of, on_grid, shown_cells, within
from napari_clipsam.inference.instances import find_instances
from napari_clipsam.inference.masks import cut_to_box, full_logits, small_masks
from napari_clipsam.inference.overlaps import distinct, join_instances, union
from napari_clipsam.inference.refining import meant, redraw
from napari_clipsam.inference.requests import ObjectMask, Prediction
from napari_clipsam.prompts import Prompts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from napari_clipsam.geometry import Frame
    from napari_clipsam.inference.concept_windows import ConceptMaps
    from napari_clipsam.inference.decoding import PromptDecoder
    from napari_clipsam.inference.encoding import PlaneEncoder
    from napari_clipsam.inference.instances import InstanceSettings
    from napari_clipsam.inference.requests import Target
    from napari_clipsam.planes import Plane

__all__ = ["ConceptFinder"]

# A part where all logits of the concept are below minus this is not worth a look.
_DOUBT = 2.0

# Instances that are redrawn are small below this share of `SamConfig.least_object`: of larger ones
# a closer look loses as many as it finds.
_LEAST_REDRAWN = 0.625

# A frame and the region of the plane it answers for; and what was found in it.
_Part = tuple["Frame", tuple[slice, slice]]
_Answer = tuple["Frame", tuple[slice, slice], list[ObjectMask]]


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
        self._concepts = ConceptDecoder(encoder, decoder, seed)

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
            presence = None if self._concepts.threshold is None else 0.0
            return self._no_match(plane, word, target, presence, note)
        frames = self.encoder.concept_frames(plane.shape)
        presences: list[float] = []
        answers: list[_Answer] = []
        similarity = None
        for i, (frame, owned) in enumerate(zip(frames, owned_regions(frames), strict=True)):
            view = View(plane, frame)
            found = self._concepts.decode(view, word, prompts)
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
            threshold=self._concepts.threshold,
            text=word,
            similarity=similarity,
        )

    def maps(
        self, plane: Plane, word: str, wanted: Callable[[Frame], bool]
    ) -> Iterator[tuple[Frame, ConceptMaps]]:
        """What a concept refiner sees in each frame of a plane that is wanted.

        Where a word is looked for at two scales, it sees the plane a second time like that.
        """
        if self.encoder.unknown_words(word):
            return
        frames, prompts = self.encoder.concept_frames(plane.shape), Prompts(word)
        for frame in filter(wanted, frames):
            view = View(plane, frame)
            found = self._concepts.decode(view, word, prompts)
            yield frame, self._concepts.maps(full_logits(found.logits[None], frame)[0], found, view)
            if len(frames) == 1 and self.encoder.sees_two_scales:
                parts = _in_turn(quarters(frame), None)
                logits = self._two_scales(found, view, parts, prompts, word)
                yield frame, self._concepts.maps(logits, found, view)

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
        whole = self._concepts.decode(view, word, prompts)
        logits = self._two_scales(whole, view, parts, prompts, word)
        drawn = self._concepts.drawn(logits, whole, view) > 0
        box, mask = cut_to_box(drawn.cpu().numpy(), view.frame.origin)
        return [ObjectMask(box, mask, whole.score)] if mask.size else []

    def _two_scales(
        self,
        whole: FoundConcept,
        view: View,
        parts: Iterable[_Part],
        prompts: Prompts,
        word: str,
    ) -> Tensor:
        """The mean of a concept's logits (h, w) in a view, as found there, and in parts of it."""
        logits = full_logits(whole.logits[None], view.frame)[0]
        for frame, owned in parts:
            part = self._concepts.decode(View(view.plane, frame), word, prompts)
            logits[owned] += within(full_logits(part.logits[None], frame)[0], frame, owned)
        return logits / 2

    def _in_parts(
        self, view: View, parts: Iterable[_Part], prompts: Prompts, word: str
    ) -> list[ObjectMask]:
        """Instances in parts of a view, inside the concept as the view and the part show it."""
        whole = full_logits(self._concepts.decode(view, word, prompts).logits[None], view.frame)[0]
        answers: list[_Answer] = []
        for frame, owned in parts:
            concept = on_grid(whole[frame.slices], frame, self.decoder.mask_size)
            # Parts overlap, so each looks only where it answers.
            mine = cells_of(owned, frame, self.decoder.mask_size)
            if (concept > -_DOUBT).cpu().numpy()[mine].any():
                part = View(view.plane, frame)
                if self.encoder.sees_two_scales:
                    found = self._concepts.decode(part, word, prompts)
                    concept = (concept + found.logits) / 2
                    concept = self._concepts.cells(concept, found, part)
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

    def _is_there(self, presence: float | None) -> bool:
        threshold = self._concepts.threshold
        return threshold is None or presence is None or presence >= threshold

    def _why_nothing(self, word: str, presence: float | None, target: Target) -> str:
        if not self._is_there(presence):
            needed = self._concepts.threshold
            return f"No '{word}' found here (best {presence:.2f}, needs {needed:.2f})."
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
            threshold=self._concepts.threshold,
            text=word,
            similarity=similarity,
            note=note,
        )

    def _objects(
        self, found: FoundConcept, view: View, word: str, target: Target, owned: tuple[slice, slice]
    ) -> list[ObjectMask]:
        """Concept or instances of one frame; of a concept the part that the frame answers for."""
        if target == "concept":
            part = self._owned_part(found, view, owned)
            return [part] if part.area else []
        return self._instances(self._concepts.cells(found.logits, found, view), view, word)

    def _owned_part(
        self, found: FoundConcept, view: View, owned: tuple[slice, slice]
    ) -> ObjectMask:
        """The concept in the region that a frame answers for; the whole frame's can be refined."""
        frame = view.frame
        full = self._concepts.drawn(full_logits(found.logits[None], frame)[0], found, view)
        mine = (within(full, frame, owned) > 0).cpu().numpy()
        box, mask = cut_to_box(mine, (owned[0].start, owned[1].start))
        if owned != frame.slices:
            return ObjectMask(box, mask, found.score)
        low = found.logits.cpu().numpy()
        return ObjectMask(box, mask, found.score, low, frame)

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
            shown_cells(frame, concept.shape[-1]),
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
