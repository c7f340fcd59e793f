"""Objects by points, boxes and masks: where they are looked for, and several decoded at once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from napari_clipsam.errors import OutOfMemory, PromptError
from napari_clipsam.inference.checks import split_boxes
from napari_clipsam.inference.decoding import ObjectPrompt
from napari_clipsam.inference.devices import memory_guard
from napari_clipsam.inference.encoding import View
from napari_clipsam.inference.following import largest_piece
from napari_clipsam.inference.frames import closer_frame, holds, object_frame
from napari_clipsam.inference.instances import stability
from napari_clipsam.inference.masks import mask_prompt, object_masks
from napari_clipsam.inference.refining import redraw, redraw_clicks
from napari_clipsam.prompts import Prompts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_clipsam.geometry import Frame
    from napari_clipsam.inference.decoding import PromptDecoder
    from napari_clipsam.inference.encoding import PlaneEncoder
    from napari_clipsam.inference.requests import ObjectMask, Prediction
    from napari_clipsam.models.decoder import Decoded
    from napari_clipsam.planes import Plane

__all__ = ["ObjectFinder", "Wanted", "is_cut"]

# Largest logit of a mask prompt: no decoder gives more, and float32 has an end.
_SUREST = 1e4


class Wanted(NamedTuple):
    """One object: its prompts, one box among them at most, its word, and its earlier mask.

    Where it is followed, that is of the slice before, and the box only says about where it is now.
    """

    prompts: Prompts
    word: str | None = None
    previous: ObjectMask | None = None
    followed: bool = False

    @property
    def drawn_by(self) -> Prompts:
        """Points and box that tell what is to be redrawn."""
        if not self.followed:
            return self.prompts
        return Prompts(points=self.prompts.points, labels=self.prompts.labels)


class ObjectFinder:
    """Finds objects in a plane, those with prompts of one kind in one frame together."""

    def __init__(self, encoder: PlaneEncoder, decoder: PromptDecoder) -> None:
        self.encoder, self.decoder = encoder, decoder

    def find(
        self, plane: Plane, wanted: Sequence[Wanted], closely: bool = True
    ) -> list[list[ObjectMask]]:
        """Find objects.

        Parameters
        ----------
        plane : Plane
        wanted : sequence of Wanted
        closely : bool
            Look at small boxes in enlarged parts, stay in those that earlier masks were found in,
            and do what `closer` does.

        Returns
        -------
        list of list of ObjectMask
            For each object its masks, best first: three after a single click, else one.

        Raises
        ------
        PromptError
            An earlier mask is empty and there is nothing else, or a mask prompt is too large.
        """
        placed = [self._placed(plane, one, closely) for one in wanted]
        found = self._whole(plane, wanted, self._decoded(plane, wanted, placed))
        return self.closer(plane, wanted, found) if closely else found

    def closer(
        self, plane: Plane, wanted: Sequence[Wanted], found: Sequence[list[ObjectMask]]
    ) -> list[list[ObjectMask]]:
        """Look again, in enlarged parts of the plane, at objects that look small.

        Those with an earlier mask are looked for where that was found, and left alone here.

        Parameters
        ----------
        plane : Plane
        wanted : sequence of Wanted
        found : sequence of list of ObjectMask
            What `find` found.

        Returns
        -------
        list of list of ObjectMask
            The very lists of `found` where there is nothing better, or no memory to look.
        """
        again: dict[int, tuple[Frame, ObjectPrompt]] = {}
        for i, (one, masks) in enumerate(zip(wanted, found, strict=True)):
            frame = self._closer_frame(plane, one, masks[0])
            if frame is not None:
                again[i] = frame, self._prompt_in(frame, one.prompts)
        result = list(found)
        try:
            with memory_guard(self.encoder.device, self.encoder.dtype):
                seen = self._decoded(plane, [wanted[i] for i in again], list(again.values()))
        except OutOfMemory:
            self.encoder.clear()
            return result
        for (i, (frame, _)), masks in zip(again.items(), seen, strict=True):
            if masks[0].area and not is_cut(masks[0], frame, plane.shape):
                result[i] = masks
        return result

    def closer_answer(
        self, plane: Plane, prompts: Prompts, answer: Prediction
    ) -> Prediction | None:
        """What `closer` makes of an answer to prompts; None where that is nothing new."""
        wanted = [Wanted(single, answer.text) for single in split_boxes(prompts)]
        before = [[one] for one in answer.objects]
        before[0] += answer.alternatives
        found = self.closer(plane, wanted, before)
        if all(new is old for new, old in zip(found, before, strict=True)):
            return None
        return replace(
            answer,
            objects=tuple(best for best, *_ in found),
            alternatives=tuple(other for _, *others in found for other in others),
        )

    def frame(self, shape: tuple[int, int], prompts: Prompts, closely: bool = False) -> Frame:
        """Where an object is looked for; with an adapter never below the plane's own scale.

        Closely, and that is only for boxes, it is an enlarged part where they are small. A refiner
        makes up for that.
        """
        size = self.encoder.sam.config.input_size
        if self.encoder.adapter is None or self.encoder.squash:
            frame = object_frame(shape, prompts, size, self.encoder.squash)
        else:
            frame = object_frame(shape, prompts, size, whole=1.0)
        if not closely or not len(prompts.boxes) or self.decoder.refines:
            return frame
        box = np.concatenate([prompts.boxes[:, :2].min(axis=0), prompts.boxes[:, 2:].max(axis=0)])
        return closer_frame(frame, shape, prompts, box, self.encoder.least_object) or frame

    def usual_frame(self, shape: tuple[int, int]) -> Frame:
        """Where what is clicked in the middle is looked for: the whole plane unless it is large."""
        middle = ((shape[0] - 1) / 2, (shape[1] - 1) / 2)
        return self.frame(shape, Prompts(points=[middle]))

    def is_closer(self, frame: Frame, shape: tuple[int, int]) -> bool:
        """Whether a frame shows less of a plane than is usual."""
        if not self.encoder.least_object:
            return False
        return max(frame.shape) < max(self.usual_frame(shape).shape)

    def _closer_frame(self, plane: Plane, wanted: Wanted, found: ObjectMask) -> Frame | None:
        """Where to look again for an object; None where that is not called for."""
        prompts, frame = wanted.prompts, found.frame
        if not self.encoder.least_object or wanted.previous is not None:
            return None
        if not found.area or frame is None or self.is_closer(frame, plane.shape):
            return None
        if len(prompts.boxes) and self.decoder.refines:
            return None
        box = prompts.boxes[0] if len(prompts.boxes) else largest_piece(found).box
        return closer_frame(frame, plane.shape, prompts, box, self.encoder.least_object)

    def _whole(
        self, plane: Plane, wanted: Sequence[Wanted], found: list[list[ObjectMask]]
    ) -> list[list[ObjectMask]]:
        """Look again, in the usual frame, at what outgrew the part that its earlier mask is in."""
        again: dict[int, tuple[Frame, ObjectPrompt]] = {}
        for i, (one, (best, *_)) in enumerate(zip(wanted, found, strict=True)):
            before, frame = one.previous, best.frame
            if before is None or not before.area or frame is None:
                continue
            if self.is_closer(frame, plane.shape) and is_cut(best, frame, plane.shape):
                again[i] = self._with_mask(plane, one.prompts, before, closely=False)
        seen = self._decoded(plane, [wanted[i] for i in again], list(again.values()))
        for i, masks in zip(again, seen, strict=True):
            found[i] = masks
        return found

    def _decoded(
        self,
        plane: Plane,
        wanted: Sequence[Wanted],
        placed: Sequence[tuple[Frame, ObjectPrompt]],
    ) -> list[list[ObjectMask]]:
        """Masks of objects, best first; those alike in frame, word and prompts are decoded as one.

        ``placed`` says of each its frame and its prompts.
        """
        together: dict[object, list[int]] = {}
        for i, (one, (frame, prompt)) in enumerate(zip(wanted, placed, strict=True)):
            together.setdefault((frame, one.word, prompt.kind), []).append(i)
        found: dict[int, list[ObjectMask]] = {}
        for members in together.values():
            frame, word = placed[members[0]][0], wanted[members[0]].word
            embedding = self.encoder.object_embedding(View(plane, frame), word)
            decoded = self.decoder.objects(embedding, [placed[i][1] for i in members], frame)
            for i, masks in zip(members, decoded, strict=True):
                order = self._ranks(masks).argsort(descending=True)
                found[i] = object_masks(masks.logits[0][order], masks.iou[0][order], frame)
        return self._redrawn(plane, wanted, [found[i] for i in range(len(wanted))])

    def _redrawn(
        self, plane: Plane, wanted: Sequence[Wanted], found: list[list[ObjectMask]]
    ) -> list[list[ObjectMask]]:
        """Masks as the refiner draws them, if there is one; of a click first what it means."""
        if not self.decoder.refines:
            return found
        refine, prompts = self.decoder.refine, [one.drawn_by for one in wanted]
        singles = [i for i, masks in enumerate(found) if len(masks) == 1]
        clicks = [i for i, masks in enumerate(found) if len(masks) > 1]
        one_each = redraw(
            refine, plane.rgb, [found[i][0] for i in singles], [prompts[i] for i in singles]
        )
        three_each = redraw_clicks(
            refine, plane.rgb, [found[i] for i in clicks], [prompts[i] for i in clicks]
        )
        result = dict(zip(clicks, three_each, strict=True))
        result.update(zip(singles, ([mask] for mask in one_each), strict=True))
        return [result[i] for i in range(len(found))]

    def _placed(self, plane: Plane, wanted: Wanted, closely: bool) -> tuple[Frame, ObjectPrompt]:
        """Where an object is looked for, and its prompts there."""
        prompts, previous = wanted.prompts, wanted.previous
        if previous is not None:
            return self._refining(plane, prompts, previous, closely)
        frame = self.frame(plane.shape, prompts, closely)
        return frame, self._prompt_in(frame, prompts)

    def _prompt_in(self, frame: Frame, prompts: Prompts) -> ObjectPrompt:
        """Prompts of one object, their mask as a frame shows it."""
        if prompts.mask is None:
            return _object_prompt(prompts)
        mask = frame.mask_to_model(prompts.mask, self.decoder.mask_size)
        if not np.isfinite(mask).all():
            raise PromptError("The mask prompt has values beyond float32. Give smaller logits.")
        return _object_prompt(prompts, mask.clip(-_SUREST, _SUREST))

    def _ranks(self, decoded: Decoded) -> Tensor:
        """What makes one mask of an ambiguous click better than another.

        With an adapter, which decodes what SAM never saw, the predicted quality alone errs more
        than times the stability of the mask (Kirillov et al., "Segment Anything", ICCV 2023, B).
        """
        quality, adapter = decoded.iou[0], self.encoder.adapter
        if adapter is None or not adapter.config.object_mode:
            return quality
        return quality.clamp(0, 1) * stability(decoded.logits[0].float())

    def _refining(
        self, plane: Plane, prompts: Prompts, previous: ObjectMask, closely: bool
    ) -> tuple[Frame, ObjectPrompt]:
        """The frame of an earlier mask, if it shows all prompts, else another one."""
        mask_size = self.decoder.mask_size
        geometry = self.encoder.sam.config.input_size, self.encoder.squash
        fits = (
            previous.logits is not None
            and previous.logits.shape == (mask_size, mask_size)
            and previous.frame is not None
            and (previous.frame.input_size, previous.frame.squash) == geometry
            and holds(previous.frame, prompts, plane.shape)
            and (closely or not self.is_closer(previous.frame, plane.shape))
        )
        if fits and previous.frame is not None:
            return previous.frame, _object_prompt(prompts, previous.logits)
        if previous.area:
            return self._with_mask(plane, prompts, previous, closely)
        if not prompts.has_object:
            raise PromptError("The earlier mask is empty. Give a point or a box as well.")
        return self.frame(plane.shape, prompts, closely), _object_prompt(prompts)

    def _with_mask(
        self, plane: Plane, prompts: Prompts, previous: ObjectMask, closely: bool
    ) -> tuple[Frame, ObjectPrompt]:
        """A frame that shows an earlier mask and all prompts, and the prompts with its pixels."""
        boxes = np.concatenate([prompts.boxes, [previous.box]])
        frame = self.frame(plane.shape, Prompts(points=prompts.points, boxes=boxes), closely)
        mask = mask_prompt(previous, frame, self.decoder.mask_size)
        return frame, _object_prompt(prompts, mask)


def _object_prompt(prompts: Prompts, mask: NDArray[np.float32] | None = None) -> ObjectPrompt:
    box = prompts.boxes[0] if len(prompts.boxes) else None
    return ObjectPrompt(prompts.points, prompts.labels, box, mask)


def is_cut(one: ObjectMask, frame: Frame, shape: tuple[int, int]) -> bool:
    """Whether a mask reaches an edge of its frame that is none of the plane: it may go on there.

    What counts is its largest piece.
    """
    (y0, x0, y1, x1), (rows, cols) = largest_piece(one).box, frame.slices
    return (
        (y0 == rows.start > 0)
        or (x0 == cols.start > 0)
        or (y1 == rows.stop < shape[0])
        or (x1 == cols.stop < shape[1])
    )
