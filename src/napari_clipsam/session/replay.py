"""A recorded session done again with another model or adapter: the same prompts, new masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

from napari_clipsam.inference.requests import ObjectMask, PredictRequest
from napari_clipsam.prompts import Prompts
from napari_clipsam.session.objects import PlaneKey, SessionObject, at_number
from napari_clipsam.session.restoring import Recipe

if TYPE_CHECKING:
    from napari_clipsam.inference.requests import Target
    from napari_clipsam.inference.segmenter import Segmenter
    from napari_clipsam.planes import Plane

__all__ = ["replay"]


def replay(
    recipes: Iterable[Recipe],
    segmenter: Segmenter,
    planes: Callable[[PlaneKey], Plane],
    model: str,
    adapter: str,
    spacing: Callable[[int], float] = lambda axis: 1.0,
    clip: str = "",
) -> Iterator[SessionObject]:
    """Make the objects of a session again.

    Objects are found with their own prompts, and followed to the slices that they were followed to.
    Objects that a word alone found ("every one") are looked for once in each slice, so there may be
    more or fewer of them than there were.

    Parameters
    ----------
    recipes : iterable of Recipe
        Of one image.
    segmenter : Segmenter
        With the other model or adapter.
    planes : callable
        Name of a plane to the plane.
    model, adapter : str
        Their names, for the new objects.
    spacing : callable
        Distance of two slices along an axis, in pixel sizes.
    clip : str
        Name of the CLIP, for the new objects.

    Yields
    ------
    SessionObject
        Not kept anywhere yet. Objects with prompts of their own keep their key, and have no masks
        where nothing was found.

    Raises
    ------
    ClipSamError
        As for `Segmenter.answer`.
    """
    again = _Replay(segmenter, planes, model, adapter, spacing, clip)
    words: dict[str, dict[PlaneKey, None]] = {}
    for recipe in recipes:
        if recipe.one.target == "instances" and not _pointed_at(recipe.one):
            words.setdefault(recipe.one.word or "", {}).update(dict.fromkeys(recipe.planes))
        else:
            yield again.one(recipe)
    for word, where in words.items():
        yield from again.every(word, list(where))


@dataclass(frozen=True)
class _Replay:
    segmenter: Segmenter
    planes: Callable[[PlaneKey], Plane]
    model: str
    adapter: str
    spacing: Callable[[int], float]
    clip: str

    def one(self, recipe: Recipe) -> SessionObject:
        """An object by its own prompts, then followed."""
        one = recipe.one
        target: Target = "concept" if one.target == "concept" else "object"
        masks: dict[PlaneKey, ObjectMask] = {}
        for plane, asked in one.prompts.items():
            if target == "concept" or asked.has_object:
                request = PredictRequest(self.planes(plane), asked, target)
                found = self.segmenter.answer(request).objects
                if found and found[0].area:
                    masks[plane] = found[0]
        for axis, run in _runs([*masks, *recipe.planes]):
            masks |= self._followed(one, axis, run, masks)
        return self._made(one, masks)

    def every(self, word: str, where: list[PlaneKey]) -> Iterator[SessionObject]:
        """Every object of a word, linked through the slices of a stack."""
        from napari_clipsam.inference.stacks import segment_stack

        asked = Prompts(word)
        left = set(where)
        for axis, run in _runs(where):
            found: dict[int, dict[PlaneKey, ObjectMask]] = {}
            by_number = {plane[axis] or 0: plane for plane in run if plane in left}
            left -= set(run)
            steps = segment_stack(
                self.segmenter,
                lambda z, by_number=by_number: self.planes(by_number[z]),  # type: ignore[misc]
                sorted(by_number),
                word,
                spacing=self.spacing(axis),
            )
            for step in steps:
                for number, mask in zip(step.ids, step.prediction.objects, strict=True):
                    found.setdefault(number, {})[by_number[step.z]] = mask
            yield from (self._new(asked, masks) for masks in found.values())
        for plane in (p for p in where if p in left):
            answer = self.segmenter.answer(PredictRequest(self.planes(plane), asked, "instances"))
            yield from (self._new(asked, {plane: mask}) for mask in answer.objects)

    def _followed(
        self,
        one: SessionObject,
        axis: int,
        run: list[PlaneKey],
        masks: Mapping[PlaneKey, ObjectMask],
    ) -> dict[PlaneKey, ObjectMask]:
        """An object in the slices beside those that it was found in."""
        from napari_clipsam.inference.propagation import propagate

        by_number = {plane[axis] or 0: plane for plane in run}
        seeds = {z: masks[plane] for z, plane in by_number.items() if plane in masks}
        if not seeds or len(seeds) == len(by_number):
            return {}
        first = run[0]
        steps = propagate(
            self.segmenter,
            lambda z: self.planes(at_number(first, axis, z)),
            {one.key: seeds},
            {},
            (min(by_number), max(by_number)),
            self.spacing(axis),
            words={one.key: one.word},
        )
        found = {step.z: step.found for step in steps if step.z not in seeds}
        return {by_number[z]: mask for z, mask in found.items() if mask and z in by_number}

    def _new(self, asked: Prompts, masks: dict[PlaneKey, ObjectMask]) -> SessionObject:
        prompts = dict.fromkeys(masks, asked)
        blank = SessionObject(
            uuid4().hex, 0, "", None, asked.text, "instances", prompts, {}, "", "", ""
        )
        return self._made(blank, masks)

    def _made(self, one: SessionObject, masks: dict[PlaneKey, ObjectMask]) -> SessionObject:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return replace(
            one,
            label=0,
            labels=None,
            masks=masks,
            model=self.model,
            adapter=self.adapter,
            clip=self.clip,
            created=now,
        )


def _pointed_at(one: SessionObject) -> bool:
    return any(asked.has_object for asked in one.prompts.values())


def _runs(planes: Iterable[PlaneKey]) -> Iterator[tuple[int, list[PlaneKey]]]:
    """Planes that differ along one axis only, the slices of a stack, with it; last axis first."""
    planes = list(dict.fromkeys(planes))
    for axis in reversed(range(len(planes[0]) if planes else 0)):
        stacks: dict[PlaneKey, list[PlaneKey]] = {}
        for plane in planes:
            if plane[axis] is not None:
                stacks.setdefault(at_number(plane, axis, -1), []).append(plane)
        yield from ((axis, run) for run in stacks.values() if len(run) > 1)
