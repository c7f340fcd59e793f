"""Frozen values that go into a prediction and come out of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from napari_clipsam.outputs import label_dtype

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_clipsam.geometry import Frame
    from napari_clipsam.planes import Plane
    from napari_clipsam.prompts import Prompts

__all__ = ["ObjectMask", "PredictRequest", "Prediction", "Target"]

Target = Literal["concept", "object", "instances"]


@dataclass(frozen=True, eq=False)
class PredictRequest:
    """Everything one prediction depends on, besides the model.

    Attributes
    ----------
    plane : Plane
    prompts : Prompts
        Word, points, boxes, mask.
    target : {"concept", "object", "instances"}, optional
        A word alone means concept, any point, box or mask means object.
    """

    plane: Plane
    prompts: Prompts
    target: Target | None = None


@dataclass(frozen=True, eq=False)
class ObjectMask:
    """One mask, cut to its box.

    Attributes
    ----------
    box : (int, int, int, int)
        Half-open (y0, x0, y1, x1) in data pixels; all 0 for an empty mask.
    mask : ndarray of bool, shape (y1 - y0, x1 - x0)
    score : float
        Quality the model expects (IoU), 0..1.
    logits : ndarray of float32, shape (M, M), or None
        Low-resolution logits over the model's input, to refine the mask with; None where a plane
        was seen in tiles.
    frame : Frame or None
        Where `logits` lie in the plane; None without them.
    """

    box: tuple[int, int, int, int]
    mask: NDArray[np.bool_]
    score: float
    logits: NDArray[np.float32] | None = None
    frame: Frame | None = None

    @property
    def area(self) -> int:
        """Pixels."""
        return int(np.count_nonzero(self.mask))

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns of the box, to index a plane."""
        y0, x0, y1, x1 = self.box
        return slice(y0, y1), slice(x0, x1)

    def inside(self, window: tuple[int, int, int, int]) -> NDArray[np.bool_]:
        """The part of the mask in a half-open window of the plane; empty where they do not meet."""
        y0, x0, y1, x1 = self.box
        rows = slice(max(window[0] - y0, 0), max(min(window[2], y1) - y0, 0))
        cols = slice(max(window[1] - x0, 0), max(min(window[3], x1) - x0, 0))
        return self.mask[rows, cols]

    def shared(self, other: ObjectMask) -> int:
        """Pixels in both masks."""
        return int(np.count_nonzero(self.inside(other.box) & other.inside(self.box)))


@dataclass(frozen=True, eq=False)
class Prediction:
    """The answer to one request.

    Attributes
    ----------
    shape : (int, int)
        Height and width of the plane.
    target : {"concept", "object", "instances"}
    objects : tuple of ObjectMask
        One for a concept, one for an object or each of several boxes, any number of instances, best
        first; empty for "no match". The mask of an object may be empty.
    alternatives : tuple of ObjectMask
        After one ambiguous click: the other masks, best first.
    match : bool
        False when the word was not found: its presence is below the threshold, the model does not
        know it, or no pixel was marked.
    presence, threshold : float or None
        Probability that the concept is in the plane, and where "no match" begins; None where the
        model that answered has no presence.
    text : str or None
        The word that conditioned the answer; an adapter's last one where none was given.
    similarity : ndarray of float32, shape (h, w), or None
        Similarity map 0..1 over the plane, at the resolution of CLIP's patches; None without a word
        and where a plane was seen in tiles.
    seconds : dict of str to float
        Time in ``trunk``, ``signals``, ``head`` and ``decode``; 0 for what a cache gave.
    note : str
        What a person should know, e.g. why there is no match; may be empty.
    trouble : str
        The part of ``note`` that is about the cache on disk or the device, not about the plane.
    """

    shape: tuple[int, int]
    target: Target
    objects: tuple[ObjectMask, ...] = ()
    alternatives: tuple[ObjectMask, ...] = ()
    match: bool = True
    presence: float | None = None
    threshold: float | None = None
    text: str | None = None
    similarity: NDArray[np.float32] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    note: str = ""
    trouble: str = ""

    @property
    def scores(self) -> list[float]:
        """Score of every object."""
        return [o.score for o in self.objects]

    def mask(self) -> NDArray[np.bool_]:
        """Union of all objects, (H, W)."""
        union = np.zeros(self.shape, dtype=bool)
        for found in self.objects:
            union[found.slices] |= found.mask
        return union

    def labels(self) -> NDArray[np.unsignedinteger]:
        """Ids 1..n in the order of `objects`, (H, W); where two overlap the better score wins."""
        labels = np.zeros(self.shape, dtype=label_dtype(len(self.objects)))
        # The best is written last, and the first of equals after the others.
        for i in sorted(range(len(self.objects)), key=lambda i: (self.objects[i].score, -i)):
            found = self.objects[i]
            labels[found.slices][found.mask] = i + 1
        return labels
