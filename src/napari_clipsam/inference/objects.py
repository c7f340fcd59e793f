"""Objects by points, boxes and masks: where they are looked for, and several decoded at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from napari_clipsam.errors import PromptError
from napari_clipsam.inference.decoding import ObjectPrompt
from napari_clipsam.inference.encoding import View
from napari_clipsam.inference.frames import closer_frame, holds, object_frame
from napari_clipsam.inference.instances import stability
from napari_clipsam.inference.masks import mask_prompt, object_masks
from napari_clipsam.prompts import Prompts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_clipsam.geometry import Frame
    from napari_clipsam.inference.decoding import PromptDecoder
    from napari_clipsam.inference.encoding import PlaneEncoder
    from napari_clipsam.inference.requests import ObjectMask
    from napari_clipsam.models.decoder import Decoded
    from napari_clipsam.planes import Plane

__all__ = ["ObjectFinder", "Wanted", "is_cut"]

# Largest logit of a mask prompt: no decoder gives more, and float32 has an end.
_SUREST = 1e4


class Wanted(NamedTuple):
    """One object: its prompts, one box among them at most, its word, and its earlier mask."""

    prompts: Prompts
    word: str | None = None
    previous: ObjectMask | None = None


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
            Also do what `closer` does.

        Returns
        -------
        list of list of ObjectMask
            For each object its masks, best first: three after a single click, else one.

        Raises
        ------
        PromptError
            An earlier mask is empty and there is nothing else, or a mask prompt is too large.
        """
        found = self._decoded(plane, wanted, [self._placed(plane, one) for one in wanted])
        return self.closer(plane, wanted, found) if closely else found

    def closer(
        self, plane: Plane, wanted: Sequence[Wanted], found: Sequence[list[ObjectMask]]
    ) -> list[list[ObjectMask]]:
        """Look again, in enlarged parts of the plane, at clicked objects that were found small.

        Objects with a box are looked for so from the start, those with an earlier mask where that
        was found.

        Parameters
        ----------
        plane : Plane
        wanted : sequence of Wanted
        found : sequence of list of ObjectMask
            What `find` found.

        Returns
        -------
        list of list of ObjectMask
            The very lists of `found` where there is nothing better.
        """
        again: dict[int, Frame] = {}
        for i, (one, masks) in enumerate(zip(wanted, found, strict=True)):
            frame = self._closer_frame(plane, one, masks[0])
            if frame is not None:
                again[i] = frame
        chosen = [wanted[i] for i in again]
        placed = [
            (frame, ObjectPrompt(one.prompts.points, one.prompts.labels))
            for one, frame in zip(chosen, again.values(), strict=True)
        ]
        result = list(found)
        seen = self._decoded(plane, chosen, placed)
        for (i, frame), masks in zip(again.items(), seen, strict=True):
            if masks[0].area and not is_cut(masks[0], frame, plane.shape):
                result[i] = masks
        return result

    def frame(self, shape: tuple[int, int], prompts: Prompts) -> Frame:
        """Where an object is looked for; with an adapter never below the plane's own scale."""
        size = self.encoder.sam.config.input_size
        if self.encoder.adapter is None or self._squash:
            frame = object_frame(shape, prompts, size, self._squash)
        else:
            frame = object_frame(shape, prompts, size, whole=1.0)
        if not len(prompts.boxes):
            return frame
        box = np.concatenate([prompts.boxes[:, :2].min(axis=0), prompts.boxes[:, 2:].max(axis=0)])
        return closer_frame(frame, shape, prompts, box, self._least) or frame

    def is_closer(self, frame: Frame, shape: tuple[int, int]) -> bool:
        """Whether a frame shows less than planes are otherwise shown in."""
        whole = min(max(shape), self.encoder.sam.config.input_size)
        return bool(self._least) and max(frame.shape) < whole

    @property
    def _least(self) -> int:
        """See `SamConfig.least_object`; adapters are taught objects at the plane's own scale."""
        adapter = self.encoder.adapter
        if adapter is not None and adapter.config.own_objects:
            return 0
        return self.encoder.sam.config.least_object

    def _closer_frame(self, plane: Plane, wanted: Wanted, found: ObjectMask) -> Frame | None:
        """Where to look again for a clicked object; None where that is not called for."""
        prompts, frame = wanted.prompts, found.frame
        by_clicks = not len(prompts.boxes) and prompts.mask is None and wanted.previous is None
        if frame is None or not by_clicks or not found.area:
            return None
        return closer_frame(frame, plane.shape, prompts, found.box, self._least)

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
        return [found[i] for i in range(len(wanted))]

    @property
    def _squash(self) -> bool:
        adapter = self.encoder.adapter
        return adapter is not None and adapter.config.squash

    def _placed(self, plane: Plane, wanted: Wanted) -> tuple[Frame, ObjectPrompt]:
        prompts = wanted.prompts
        frame, mask = self._frame_and_mask(plane, prompts, wanted.previous)
        box = prompts.boxes[0] if len(prompts.boxes) else None
        return frame, ObjectPrompt(prompts.points, prompts.labels, box, mask)

    def _ranks(self, decoded: Decoded) -> Tensor:
        """What makes one mask of an ambiguous click better than another.

        With an adapter, which decodes what SAM never saw, the predicted quality alone errs more
        than times the stability of the mask (Kirillov et al., "Segment Anything", ICCV 2023, B).
        """
        quality, adapter = decoded.iou[0], self.encoder.adapter
        if adapter is None or not adapter.config.object_mode:
            return quality
        return quality.clamp(0, 1) * stability(decoded.logits[0].float())

    def _frame_and_mask(
        self, plane: Plane, prompts: Prompts, previous: ObjectMask | None
    ) -> tuple[Frame, NDArray[np.float32] | None]:
        """Where an object is looked for, and the mask prompt (M, M) for it."""
        shape, mask_size = plane.shape, self.decoder.mask_size
        if previous is None:
            frame = self.frame(shape, prompts)
            if prompts.mask is None:
                return frame, None
            mask = frame.mask_to_model(prompts.mask, mask_size)
            if not np.isfinite(mask).all():
                raise PromptError("The mask prompt has values beyond float32. Give smaller logits.")
            return frame, mask.clip(-_SUREST, _SUREST)
        geometry = self.encoder.sam.config.input_size, self._squash
        fits = (
            previous.logits is not None
            and previous.logits.shape == (mask_size, mask_size)
            and previous.frame is not None
            and (previous.frame.input_size, previous.frame.squash) == geometry
            and holds(previous.frame, prompts, shape)
        )
        if fits and previous.frame is not None:
            return previous.frame, previous.logits
        if not previous.area:
            if not prompts.has_object:
                raise PromptError("The earlier mask is empty. Give a point or a box as well.")
            return self.frame(shape, prompts), None
        boxes = np.concatenate([prompts.boxes, [previous.box]])
        frame = self.frame(shape, Prompts(points=prompts.points, boxes=boxes))
        return frame, mask_prompt(previous, frame, mask_size)


def is_cut(one: ObjectMask, frame: Frame, shape: tuple[int, int]) -> bool:
    """Whether a mask reaches an edge of its frame that is none of the plane: it may go on there."""
    (y0, x0, y1, x1), (rows, cols) = one.box, frame.slices
    return (
        (y0 == rows.start > 0)
        or (x0 == cols.start > 0)
        or (y1 == rows.stop < shape[0])
        or (x1 == cols.stop < shape[1])
    )
