"""A word in slice after slice, its objects linked by overlap."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment

from napari_clipsam.errors import ConfigError, PromptError, Stopped
from napari_clipsam.inference.following import check_spacing, overlap, overlap_of_leaning
from napari_clipsam.inference.requests import PredictRequest
from napari_clipsam.prompts import Prompts

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from napari_clipsam.inference.requests import ObjectMask, Prediction, Target
    from napari_clipsam.inference.segmenter import Segmenter
    from napari_clipsam.planes import Plane

__all__ = ["LinkSettings", "Linker", "StackStep", "segment_stack"]


@dataclass(frozen=True)
class LinkSettings:
    """When masks of two slices are one object.

    Attributes
    ----------
    min_overlap : float
        Least intersection over union of two masks right above each other; where an object leans
        they share less, the more the farther apart slices are.
    max_gap : int
        In how many slices in a row an object may be missing.
    lean : float
        How far an object may lean, in pixels for each pixel size between two slices.
    """

    min_overlap: float = 0.25
    max_gap: int = 1
    lean: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.min_overlap <= 1:
            raise ConfigError(
                f"min_overlap is {self.min_overlap:g}. Give a value above 0, up to 1."
            )
        if self.max_gap < 0:
            raise ConfigError(f"max_gap is {self.max_gap}. Give 0 or more slices.")
        if not (math.isfinite(self.lean) and self.lean >= 0):
            raise ConfigError(f"lean is {self.lean:g}. Give 0 or more, 1 for 45 degrees.")


@dataclass(frozen=True, eq=False)
class StackStep:
    """The answer for one slice.

    Attributes
    ----------
    z : int
        Of the slice.
    prediction : Prediction
    ids : tuple of int
        From 1; one for each of `prediction.objects`, the same in all slices for one object.
    """

    z: int
    prediction: Prediction
    ids: tuple[int, ...]


class Linker:
    """Gives the masks of slice after slice ids that stay.

    Parameters
    ----------
    spacing : float
        Distance of two slices in pixel sizes.
    settings : LinkSettings
    """

    def __init__(self, spacing: float = 1.0, settings: LinkSettings = LinkSettings()) -> None:
        self._spacing, self._settings = spacing, settings
        self._seen: dict[int, tuple[int, ObjectMask]] = {}
        self._count = 0

    def link(self, z: int, objects: Sequence[ObjectMask]) -> tuple[int, ...]:
        """Ids of the objects of a slice.

        Each is given the id of at most one earlier object, so that the sum of what they share is
        the greatest; the rest get new ones.
        """
        reach = self._settings.max_gap + 1
        near = {i: (at, one) for i, (at, one) in self._seen.items() if abs(z - at) <= reach}
        former = list(near.items())
        gains = np.zeros((len(objects), len(former)))
        for row, column in _meeting(objects, [one for _, (_, one) in former]):
            at, one = former[column][1]
            gains[row, column] = self._gain(one, objects[row], abs(z - at))
        ids = [0] * len(objects)
        for row, column in zip(*linear_sum_assignment(gains, maximize=True), strict=True):
            if gains[row, column] > 0:
                ids[row] = former[column][0]
        for row, one in enumerate(objects):
            if not ids[row]:
                self._count += 1
                ids[row] = self._count
            near[ids[row]] = (z, one)
        self._seen = near
        return tuple(ids)

    def _gain(self, former: ObjectMask, now: ObjectMask, slices: int) -> float:
        """What two masks share; 0 where it is too little for one object."""
        shared = overlap(former, now)
        lean = self._settings.lean * self._spacing * slices
        least = self._settings.min_overlap * overlap_of_leaning(min(former.area, now.area), lean)
        return shared if shared > 0 and shared >= least else 0.0


def _meeting(
    objects: Sequence[ObjectMask], others: Sequence[ObjectMask]
) -> Iterator[tuple[int, int]]:
    """Pairs whose boxes share pixels."""
    if objects and others:
        a, b = (np.array([one.box for one in side]) for side in (objects, others))
        low = np.maximum(a[:, None, :2], b[None, :, :2])
        high = np.minimum(a[:, None, 2:], b[None, :, 2:])
        yield from map(tuple, np.argwhere((low < high).all(axis=2)).tolist())


def segment_stack(
    segmenter: Segmenter,
    planes: Callable[[int], Plane],
    zs: Iterable[int],
    word: str,
    target: Target = "instances",
    spacing: float = 1.0,
    settings: LinkSettings = LinkSettings(),
) -> Generator[StackStep, None, None]:
    """Find a word in slice after slice.

    Parameters
    ----------
    segmenter : Segmenter
    planes : callable
        Number of a slice to its plane.
    zs : iterable of int
        The slices, in the order in which they are linked.
    word : str
    target : {"concept", "instances"}
        A concept has one id throughout.
    spacing : float
        Distance of two neighbouring slices in pixel sizes; 1 when unknown.
    settings : LinkSettings

    Returns
    -------
    generator of StackStep
        The consumer may close it at any time.

    Raises
    ------
    ConfigError
        The spacing makes no sense.
    PromptError
        The target is an object.
    Stopped
        The segmenter's adapter was changed meanwhile.
    """
    if target not in ("concept", "instances"):
        raise PromptError(
            "A word in a stack means all of it or every object. To follow one object, click it and "
            "use propagate(...)."
        )
    check_spacing(spacing)
    return _steps(segmenter, planes, zs, Prompts(word), target, Linker(spacing, settings))


def _steps(
    segmenter: Segmenter,
    planes: Callable[[int], Plane],
    zs: Iterable[int],
    prompts: Prompts,
    target: Target,
    linker: Linker,
) -> Generator[StackStep, None, None]:
    adapter = segmenter.adapter
    for z in zs:
        if segmenter.adapter is not adapter:
            raise Stopped("The adapter was changed on the way. Segment the rest again.")
        found = segmenter.answer(PredictRequest(planes(z), prompts, target))
        if target == "concept":
            ids: tuple[int, ...] = (1,) * len(found.objects)
        else:
            ids = linker.link(z, found.objects)
        yield StackStep(z, found, ids)
