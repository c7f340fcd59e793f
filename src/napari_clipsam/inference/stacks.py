"""A word in slice after slice, its objects linked by overlap."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

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
        In how many slices in a row an object may be missing and still be the same.
    lean : float
        How far an object may lean, in pixels for each pixel size between two slices.
    """

    min_overlap: float = 0.25
    max_gap: int = 0
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


class _Seen(NamedTuple):
    """Where an object was last: in which call, in which slice."""

    turn: int
    z: int
    mask: ObjectMask


class Linker:
    """Gives the masks of slice after slice ids that stay.

    Parameters
    ----------
    spacing : float
        Distance of two slices in pixel sizes.
    settings : LinkSettings
    count : int
        Highest id that was given before.

    Attributes
    ----------
    count : int
        Highest id so far.
    """

    def __init__(
        self, spacing: float = 1.0, settings: LinkSettings = LinkSettings(), count: int = 0
    ) -> None:
        self._spacing, self._settings = spacing, settings
        self._seen: dict[int, _Seen] = {}
        self._turn, self.count = 0, count

    def restore(self, z: int, objects: Sequence[ObjectMask], ids: Sequence[int]) -> None:
        """Take up a slice that was linked before, so that the next one goes on from it."""
        self._turn += 1
        for number, one in zip(ids, objects, strict=True):
            self._see(number, z, one)

    def forget(self) -> None:
        """Let the next slice continue nothing, as the first one of another stack."""
        self._seen.clear()

    def link(
        self, z: int, objects: Sequence[ObjectMask], known: Sequence[int] = (), passed: int = 0
    ) -> tuple[int, ...]:
        """Ids of the objects of a slice.

        Each is given the id of at most one object of the slice before, so that the sum of what they
        share is the greatest; then of those that are missing for longer. The rest get new ones.

        Which objects of two slices are one depends on these slices and those in between alone, and
        on the order of the objects in them. So slices may be linked in parts, and the parts joined.

        Parameters
        ----------
        z : int
        objects : sequence of ObjectMask
        known : sequence of int
            Ids of those that another linker has linked already, 0 for each of the others; empty
            where there are none.
        passed : int
            How many slices just before this one it has linked them to.
        """
        ids = list(known) or [0] * len(objects)
        self._turn += 1
        for gap in range(passed, self._settings.max_gap + 1):
            rows = [row for row, found in enumerate(ids) if not found]
            former = {i: one for i, one in self._seen.items() if one.turn == self._turn - 1 - gap}
            pairs = self._pairs(z, [objects[row] for row in rows], list(former.values()))
            for row, column in pairs:
                ids[rows[row]] = list(former)[column]
        for row, one in enumerate(objects):
            if not ids[row]:
                self.count += 1
                ids[row] = self.count
            self._see(ids[row], z, one)
        oldest = self._turn - self._settings.max_gap
        self._seen = {i: one for i, one in self._seen.items() if one.turn >= oldest}
        return tuple(ids)

    def _see(self, number: int, z: int, one: ObjectMask) -> None:
        # To the end, so that the order is that of slices and of the objects in them.
        self._seen.pop(number, None)
        self._seen[number] = _Seen(self._turn, z, one)

    def _pairs(
        self, z: int, objects: Sequence[ObjectMask], former: Sequence[_Seen]
    ) -> Iterator[tuple[int, int]]:
        """Which objects go on which former ones."""
        gains = np.zeros((len(objects), len(former)))
        for row, column in _meeting(objects, [one.mask for one in former]):
            gains[row, column] = self._gain(former[column], z, objects[row])
        for row, column in zip(*linear_sum_assignment(gains, maximize=True), strict=True):
            if gains[row, column] > 0:
                yield int(row), int(column)

    def _gain(self, former: _Seen, z: int, now: ObjectMask) -> float:
        """What two masks share; 0 where it is too little for one object."""
        shared = overlap(former.mask, now)
        lean = self._settings.lean * self._spacing * abs(z - former.z)
        area = min(former.mask.area, now.area)
        least = self._settings.min_overlap * overlap_of_leaning(area, lean)
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
