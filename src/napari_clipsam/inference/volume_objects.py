"""Single objects in a stack, marked in some slices and followed through the others."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_clipsam.errors import PromptError
from napari_clipsam.inference.propagation import PropagationSettings, propagate
from napari_clipsam.inference.requests import ObjectMask, PredictRequest
from napari_clipsam.inference.volume import VolumeProgress, VolumeTask
from napari_clipsam.inference.volume_files import VolumeFile
from napari_clipsam.prompts import Prompts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_clipsam.inference.segmenter import Segmenter
    from napari_clipsam.planes import Plane, Stack

__all__ = ["ObjectTask", "segment_objects"]


@dataclass(frozen=True, eq=False)
class ObjectTask:
    """Objects to find in a stack of slices.

    Attributes
    ----------
    stack : Stack
        With slices along Z, or along T alone.
    objects : tuple of mapping of int to Prompts
        For each object its prompts in some slices.
    word : str or None
        What conditions the answers.
    follow : bool
        Whether objects are followed through the slices without prompts.
    settings : PropagationSettings
    """

    stack: Stack
    objects: tuple[Mapping[int, Prompts], ...]
    word: str | None = None
    follow: bool = False
    settings: PropagationSettings = field(default_factory=PropagationSettings)

    def __post_init__(self) -> None:
        axes = self.stack.plane_axes
        longer = [k for k in axes if self.stack.shape[self.stack.axes.index(k)] > 1]
        if len(longer) > 1:
            raise PromptError(
                f"Objects are followed along one axis, but {self.stack.name} has {axes}. Give one "
                "time point of it."
            )
        if not self.objects:
            raise PromptError("No object is marked. Give a point or a box.")
        count = len(self.stack)
        for z in sorted({z for one in self.objects for z in one}):
            if not 0 <= z < count:
                raise PromptError(f"There is no slice {z}: the stack has 0 to {count - 1}.")
        for one in self.objects:
            for prompts in one.values():
                prompts.check_inside(self.stack.plane_shape)

    @cached_property
    def labels(self) -> VolumeTask:
        """Axes and places of the result."""
        return VolumeTask(self.stack, (self.word or "object",), "instances")

    def plane(self, z: int) -> Plane:
        """A slice by its number."""
        return self.stack.plane(self.labels.indices[z])

    def made_of(self, segmenter: Segmenter) -> dict[str, Any]:
        """All that the labels depend on, as JSON values."""
        asked = [
            {z: [p.points.tolist(), p.labels.tolist(), p.boxes.tolist()] for z, p in one.items()}
            for one in self.objects
        ]
        common = self.labels.made_of(segmenter, self.word or "")
        return {**common, "objects": asked, "follow": self.follow, "settings": repr(self.settings)}


def segment_objects(
    segmenter: Segmenter, task: ObjectTask, output: Path, overwrite: bool = False
) -> Generator[VolumeProgress, None, None]:
    """Find marked objects and write them as labels 1, 2, ... in the order they were given.

    Masks, cut to their boxes, are kept until all objects are found; then slices are written one
    by one. Where two objects overlap, the better score wins.

    Yields
    ------
    VolumeProgress
        After each answer.

    Raises
    ------
    OutputError
        The place cannot be written to, before any work; or the disk fails on the way.
    """
    file = VolumeFile(output, task.labels.layout, task.made_of(segmenter), overwrite)
    try:
        masks: list[dict[int, ObjectMask]] = [{} for _ in task.objects]
        find = _followed if task.follow else _answered
        for number, z, mask, done, total in find(segmenter, task):
            if mask is None:
                masks[number].pop(z, None)
            else:
                masks[number][z] = mask
            counts = {
                task.word or "object": sum(any(m.area for m in one.values()) for one in masks)
            }
            yield VolumeProgress(done, total, {"Z": z}, counts, float("nan"))
        paint = partial(_painted, masks, task.stack.plane_shape)
        for z in range(file.done, len(task.stack)):
            file.write(paint(z), len(masks))
        file.make_whole()
        file.finish()
    finally:
        file.close()


_Found = Generator[tuple[int, int, "ObjectMask | None", int, int], None, None]


def _answered(segmenter: Segmenter, task: ObjectTask) -> _Found:
    """Each object in the slices where it is marked."""
    asked = [(i, z, p) for i, one in enumerate(task.objects) for z, p in one.items()]
    asked.sort(key=lambda question: question[1])
    for done, (number, z, prompts) in enumerate(asked, start=1):
        said = Prompts(task.word, prompts.points, prompts.labels, prompts.boxes)
        found = segmenter.answer(PredictRequest(task.plane(z), said, "object"))
        yield number, z, found.objects[0], done, len(asked)


def _followed(segmenter: Segmenter, task: ObjectTask) -> _Found:
    """Each object in all slices it reaches."""
    names = [str(number) for number in range(len(task.objects))]
    steps = propagate(
        segmenter,
        task.plane,
        {},
        dict(zip(names, task.objects, strict=True)),
        (0, len(task.stack) - 1),
        task.labels.distance,
        task.settings,
        dict.fromkeys(names, task.word),
    )
    for step in steps:
        yield int(step.key), step.z, step.found, step.done, step.total


def _painted(
    masks: Sequence[Mapping[int, ObjectMask]], shape: tuple[int, int], z: int
) -> NDArray[np.uint32]:
    """The labels of a slice."""
    labels = np.zeros(shape, np.uint32)
    there = [(one[z].score, number) for number, one in enumerate(masks, start=1) if z in one]
    for _, number in sorted(there, key=lambda pair: (pair[0], -pair[1])):
        mask = masks[number - 1][z]
        labels[mask.slices][mask.mask] = number
    return labels
