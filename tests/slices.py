"""A world of labelled slices, and a segmenter that knows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from napari_clipsam.inference.masks import cut_to_box
from napari_clipsam.inference.requests import ObjectMask, Prediction, PredictRequest
from napari_clipsam.planes import Plane, open_image
from napari_clipsam.prompts import Prompts

__all__ = ["Asked", "FakeSegmenter", "disc", "planes_of"]


def disc(shape: tuple[int, int], y: float, x: float, radius: float) -> NDArray[np.bool_]:
    """Pixels whose centre lies in a disc."""
    yy, xx = np.indices(shape)
    return np.asarray((yy - y) ** 2 + (xx - x) ** 2 <= radius**2)


def planes_of(labels: NDArray[np.integer]) -> Callable[[int], Plane]:
    """Slices of a stack in which labels are bright."""
    stack = open_image(np.where(labels > 0, 200, 50).astype(np.uint8), axes="ZYX")
    return lambda z: stack.plane(z)


@dataclass(frozen=True, eq=False)
class Asked:
    """One question: the slice, and the mask it was to go on from."""

    z: int
    previous: ObjectMask | None
    text: str | None


@dataclass
class FakeSegmenter:
    """Answers with the true object at the click, or at the innermost point it is asked with.

    Attributes
    ----------
    labels : ndarray of int, shape (Z, H, W)
    score : callable
        Of a slice, given what was asked.
    dreams : bool
        Where there is nothing it says what the last mask was, as networks do.
    last_word : str or None
        What conditions answers without a word.
    """

    labels: NDArray[np.integer]
    score: Callable[[Asked], float] = lambda asked: 0.9
    dreams: bool = False
    adapter: object = None
    last_word: str | None = None
    asked: list[Asked] = field(default_factory=list)

    def answer(self, request: PredictRequest, previous: ObjectMask | None = None) -> Prediction:
        """One object."""
        z = request.plane.index["Z"]
        asked = Asked(z, previous, request.prompts.text)
        self.asked.append(asked)
        y, x = request.prompts.points[0].round().astype(int)
        value = self.labels[z, y, x]
        if value == 0 and len(request.prompts.boxes):
            y0, x0, y1, x1 = request.prompts.boxes[0].round().astype(int).clip(0)
            inside = self.labels[z, y0:y1, x0:x1]
            value = inside.max(initial=0)
        box, mask = cut_to_box(np.asarray(self.labels[z] == value) & (value > 0), (0, 0))
        if value == 0 and self.dreams and previous is not None:
            box, mask = previous.box, previous.mask
        found = ObjectMask(box, mask, self.score(asked))
        text = request.prompts.text or self.last_word
        return Prediction(request.plane.shape, "object", (found,), text=text)

    def answer_objects(
        self,
        plane: Plane,
        prompts: Sequence[Prompts],
        previous: Sequence[ObjectMask] | None = None,
        closely: bool = True,
        followed: bool = False,
    ) -> list[Prediction]:
        """Several."""
        return [
            self.answer(PredictRequest(plane, one, "object"), before)
            for one, before in zip(prompts, previous or [None] * len(prompts), strict=True)
        ]

    @property
    def slices(self) -> list[int]:
        """The slices that were asked about, in order."""
        return [asked.z for asked in self.asked]
