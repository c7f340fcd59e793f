"""Objects followed from slice to slice, along z or time.

From every prompted slice an object is looked for in the next one, in both directions, with its last
mask, box and innermost point as prompts. Between two prompted slices it is followed from both until
they meet. It ends where the answer is poor or unlike that of the neighbouring slice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

from napari_clipsam.errors import ConfigError, PromptError, Stopped
from napari_clipsam.inference.following import (
    Contrast,
    check_spacing,
    contrast_of,
    meant,
    next_prompts,
    overlap,
    overlap_of_leaning,
    touching,
)
from napari_clipsam.inference.requests import ObjectMask
from napari_clipsam.prompts import Prompts

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from napari_clipsam.inference.segmenter import Segmenter
    from napari_clipsam.planes import Plane

__all__ = ["PropagationSettings", "PropagationStep", "propagate"]

T = TypeVar("T")


@dataclass(frozen=True)
class PropagationSettings:
    """When an object has ended.

    Attributes
    ----------
    min_score : float
        Least quality the model expects of a mask, as a share of that in the prompted slice.
    min_overlap : float
        Least intersection over union with the mask in the slice before, for one right above the
        other; an object that leans shares less, the more the farther apart slices are.
    min_contrast : float
        Least contrast to what surrounds the object, as a share of the greatest it had on the way;
        0 asks for none. An object that does not stand out in the first place is not judged by it.
    lean : float
        How far an outline may move sideways, in pixels, for each pixel size between two slices; 1
        is 45 degrees.
    """

    min_score: float = 0.5
    min_overlap: float = 0.3
    min_contrast: float = 0.4
    lean: float = 1.0

    def __post_init__(self) -> None:
        for name in ("min_score", "min_overlap", "min_contrast"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} is {value:g}. Give a value from 0 to 1.")
        if not (math.isfinite(self.lean) and self.lean >= 0):
            raise ConfigError(f"lean is {self.lean:g}. Give 0 or more, 1 for 45 degrees.")


@dataclass(frozen=True, eq=False)
class PropagationStep:
    """One object in one slice.

    Attributes
    ----------
    key : str
        Of the object.
    z : int
        Of the slice. Between two prompted slices an object that ended here from one side may still
        be found from the other: the last step of a slice counts.
    found : ObjectMask or None
        None where it ended.
    overlap : float
        Intersection over union with the mask it came from, 0..1.
    reason : str
        Why it ended, for people; empty where it was found.
    done, total : int
        Steps so far, this one among them, and steps in all if no other object ends early.
    """

    key: str
    z: int
    found: ObjectMask | None
    overlap: float
    reason: str
    done: int
    total: int


def propagate(
    segmenter: Segmenter,
    planes: Callable[[int], Plane],
    seeds: Mapping[str, Mapping[int, ObjectMask]],
    prompts: Mapping[str, Mapping[int, Prompts]],
    z_range: tuple[int, int],
    spacing: float = 1.0,
    settings: PropagationSettings = PropagationSettings(),
    words: Mapping[str, str | None] | None = None,
) -> Generator[PropagationStep, None, None]:
    """Follow objects from the slices that are known to those that are not.

    Parameters
    ----------
    segmenter : Segmenter
    planes : callable
        Number of a slice to its plane; all of one shape.
    seeds : mapping of str to mapping of int to ObjectMask
        Of each object its masks in some slices. They stay as they are; an empty one says that the
        object is not in that slice, and nothing goes past it.
    prompts : mapping of str to mapping of int to Prompts
        Prompts of each object; answered first where there is no mask in `seeds`.
    z_range : (int, int)
        First and last slice that may be touched.
    spacing : float
        Distance of two slices in pixel sizes; 1 when unknown.
    settings : PropagationSettings
    words : mapping of str to str, optional
        The word that conditions the answers for an object.

    Returns
    -------
    generator of PropagationStep
        Slices that several objects wait for come first, so that each is encoded once. The consumer
        may close it at any time. Masks found on the way come without logits, which would fill the
        memory.

    Raises
    ------
    ConfigError
        The range or the spacing makes no sense.
    PromptError
        No object has a mask or prompts in the range.
    Stopped
        The segmenter's adapter was changed meanwhile.
    """
    first, last = z_range
    if first > last:
        raise ConfigError(f"The range {first}..{last} is empty. Give the first slice first.")
    check_spacing(spacing)
    run = _Run(segmenter, planes, spacing, settings, words or {})
    known = {
        key: {
            z: meant(one, prompts.get(key, {}).get(z))
            for z, one in _inside(seeds.get(key, {}), z_range).items()
        }
        for key in {**seeds, **prompts}
    }
    asked = {
        key: {
            z: one
            for z, one in _inside(of_one, z_range).items()
            if one.has_object and z not in known[key]
        }
        for key, of_one in prompts.items()
    }
    if not any(known.values()) and not any(asked.values()):
        raise PromptError(
            f"No object is marked in slices {first} to {last}. Click one there, or widen the range."
        )
    return run.steps(known, asked, z_range)


@dataclass
class _Front:
    """Where an object was seen last, and which way it is followed."""

    start: int
    last: ObjectMask
    direction: int
    steps: int = 0
    alive: bool = True
    reference: Contrast | None = None

    def __post_init__(self) -> None:
        self.score = self.last.score


@dataclass
class _Stretch:
    """Slices low..high of an object that are not known, with a front at one end or at both."""

    key: str
    low: int
    high: int
    up: _Front | None = None
    down: _Front | None = None

    def waiting(self) -> list[tuple[int, _Front]]:
        """Fronts with the slice each comes to next; where they meet, the nearer one alone."""
        if self.low > self.high:
            return []
        ends = ((self.low, self.up), (self.high, self.down))
        alive = [(z, front) for z, front in ends if front is not None and front.alive]
        if len(alive) == 2 and self.low == self.high:
            return [min(alive, key=lambda end: end[1].steps)]
        return alive

    def passed(self, front: _Front, found: ObjectMask | None) -> None:
        """Take the answer for the slice a front came to."""
        if found is None:
            front.alive = False
            return
        front.last = found
        front.steps += 1
        if front.direction > 0:
            self.low += 1
        else:
            self.high -= 1

    @property
    def left(self) -> int:
        """Slices that may still be looked at."""
        return self.high - self.low + 1 if self.waiting() else 0


def _stretches(
    key: str, known: Mapping[int, ObjectMask], z_range: tuple[int, int]
) -> list[_Stretch]:
    """What lies before, between and after the known slices."""
    stretches = []
    edges: list[int | None] = [None, *sorted(known), None]
    for before, after in pairwise(edges):
        low = z_range[0] if before is None else before + 1
        high = z_range[1] if after is None else after - 1
        up, down = (
            None if z is None or not known[z].area else _Front(z, known[z], direction)
            for z, direction in ((before, 1), (after, -1))
        )
        stretches.append(_Stretch(key, low, high, up, down))
    return stretches


class _Run:
    """One call of `propagate`."""

    def __init__(
        self,
        segmenter: Segmenter,
        planes: Callable[[int], Plane],
        spacing: float,
        settings: PropagationSettings,
        words: Mapping[str, str | None],
    ) -> None:
        self._segmenter, self._planes = segmenter, planes
        self._settings, self._words = settings, dict(words)
        self._adapter = segmenter.adapter
        self._lean = settings.lean * spacing
        self._done = 0

    def steps(
        self,
        known: Mapping[str, dict[int, ObjectMask]],
        asked: Mapping[str, Mapping[int, Prompts]],
        z_range: tuple[int, int],
    ) -> Generator[PropagationStep, None, None]:
        """Answer what was asked, then follow what is known."""
        marked = [key for key in known if known[key] or asked.get(key)]
        left = sum(z_range[1] - z_range[0] + 1 - len(known[key]) for key in marked)
        for z in sorted({z for of_one in asked.values() for z in of_one}):
            plane = self._planes(z)
            here = {key: of_one[z] for key, of_one in asked.items() if z in of_one}
            answers = self._ask(plane, list(here), list(here.values()))
            for key, answer in zip(here, answers, strict=True):
                left -= 1
                found = meant(answer, here[key])
                known[key][z] = found
                yield self._step(key, z, found, 1.0, "", left)
        stretches = [stretch for key in known for stretch in _stretches(key, known[key], z_range)]
        while waiting := _by_slice(stretches):
            z = _next(waiting)
            plane = self._planes(z)
            keys, fronts = zip(
                *((stretch.key, front) for stretch, front in waiting[z]), strict=True
            )
            last = [front.last for front in fronts]
            asked_now = [next_prompts(one, self._lean) for one in last]
            answers = self._ask(plane, keys, asked_now, last)
            for (stretch, front), answer in zip(waiting[z], answers, strict=True):
                found, shared, reason = self._follow(plane, front, answer)
                stretch.passed(front, None if reason else found)
                left = sum(one.left for one in stretches)
                # Logits of every step would fill the memory; the pixels can be refined as well.
                bare = None if reason else replace(found, logits=None, frame=None)
                yield self._step(stretch.key, z, bare, shared, reason, left)

    def _ask(
        self,
        plane: Plane,
        keys: Sequence[str],
        prompts: Sequence[Prompts],
        previous: Sequence[ObjectMask] | None = None,
    ) -> list[ObjectMask]:
        """One mask for each of several objects."""
        if self._segmenter.adapter is not self._adapter:
            raise Stopped("The adapter was changed while objects were followed. Follow them again.")
        said = [
            Prompts(p.text or self._words.get(key), p.points, p.labels, p.boxes, p.mask)
            for key, p in zip(keys, prompts, strict=True)
        ]
        # What is followed shares the frames of its plane: enlarged parts would be encoded for each.
        followed = previous is not None
        answers = self._segmenter.answer_objects(
            plane, said, previous, closely=not followed, followed=followed
        )
        # Without a word an adapter takes its last one, which others may change meanwhile.
        self._words.update((key, one.text) for key, one in zip(keys, answers, strict=True))
        return [one.objects[0] for one in answers]

    def _follow(
        self, plane: Plane, front: _Front, answer: ObjectMask
    ) -> tuple[ObjectMask, float, str]:
        """The object in the next slice, what it shares with the last, and why it ended if so."""
        settings, last = self._settings, front.last
        if front.reference is None:
            front.reference = contrast_of(self._planes(front.start), last)
        found = touching(answer, last)
        shared, contrast = overlap(found, last), contrast_of(plane, found)
        kept = _kept_contrast(front.reference, contrast)
        least = settings.min_overlap * overlap_of_leaning(last.area, self._lean)
        reason = ""
        if not found.area:
            reason = "Nothing of it is left."
        elif found.score < settings.min_score * front.score:
            reason = f"The score fell from {front.score:.2f} to {found.score:.2f}."
        elif shared < least:
            reason = f"It shares only {shared:.0%} with the slice before."
        elif kept < settings.min_contrast:
            reason = f"It fades: {max(kept, 0):.0%} of its contrast is left."
        elif contrast is not None and kept > 1:
            front.reference = contrast
        return found, shared, reason

    def _step(
        self, key: str, z: int, found: ObjectMask | None, shared: float, reason: str, left: int
    ) -> PropagationStep:
        self._done += 1
        return PropagationStep(key, z, found, shared, reason, self._done, self._done + left)


def _kept_contrast(reference: Contrast | None, now: Contrast | None) -> float:
    """Share of the contrast that is left; 1 where there is nothing to compare."""
    if reference is None or now is None or not reference.tells:
        return 1.0
    return reference.share(now)


def _by_slice(stretches: Sequence[_Stretch]) -> dict[int, list[tuple[_Stretch, _Front]]]:
    """Who waits for which slice."""
    waiting: dict[int, list[tuple[_Stretch, _Front]]] = {}
    for stretch in stretches:
        for z, front in stretch.waiting():
            waiting.setdefault(z, []).append((stretch, front))
    return waiting


def _next(waiting: Mapping[int, Sequence[tuple[_Stretch, _Front]]]) -> int:
    """The slice most fronts wait for; of several the one that is nearest to a start."""
    return min(waiting, key=lambda z: (-len(waiting[z]), min(f.steps for _, f in waiting[z]), z))


def _inside(of_one: Mapping[int, T], z_range: tuple[int, int]) -> dict[int, T]:
    return {z: value for z, value in of_one.items() if z_range[0] <= z <= z_range[1]}
