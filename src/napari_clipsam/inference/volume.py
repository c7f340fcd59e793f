"""A word in a whole stack, larger than memory: read, encoded, decoded and written at once.

Planes go through in their order. While one is decoded the next ones are being read, and the last
one is being written; no more than a few are in memory, however deep the stack is.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import ndimage

from napari_clipsam.errors import PromptError
from napari_clipsam.inference.batching import PlaneBatches
from napari_clipsam.inference.requests import ObjectMask, PredictRequest
from napari_clipsam.inference.stacks import Linker, LinkSettings
from napari_clipsam.inference.volume_files import VolumeFile, VolumeLayout
from napari_clipsam.models.identity import tensor_identity
from napari_clipsam.prompts import Prompts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_clipsam.inference.segmenter import Segmenter
    from napari_clipsam.planes import Plane, Stack

__all__ = [
    "LabelLinker",
    "PlaneLabels",
    "VolumeProgress",
    "VolumeTask",
    "label_plane",
    "segment_volume",
]

# Planes read ahead, and results that wait to be written.
_AHEAD = 3
# Planes whose times say how long the others take.
_TIMED = 15


@dataclass(frozen=True, eq=False)
class VolumeTask:
    """What to find in a stack.

    Attributes
    ----------
    stack : Stack
    words : tuple of str
    target : {"concept", "instances"}
    links : LinkSettings
        When masks of two planes are one object.
    """

    stack: Stack
    words: tuple[str, ...]
    target: Literal["concept", "instances"] = "concept"
    links: LinkSettings = field(default_factory=LinkSettings)

    def __post_init__(self) -> None:
        if self.target not in ("concept", "instances"):
            raise PromptError("A word in a stack means all of it or every object, not one object.")
        if not self.words:
            raise PromptError("There is no word to look for. Give one, e.g. nuclei.")

    @property
    def letters(self) -> str:
        """Axes of the result."""
        return "".join(letter for letter in "TZ" if letter in self.stack.plane_axes) + "YX"

    @cached_property
    def layout(self) -> VolumeLayout:
        """Shape and type of the result."""
        stack = self.stack
        shape = tuple(stack.shape[stack.axes.index(letter)] for letter in self.letters)
        dtype = np.dtype(np.uint8 if self.target == "concept" else np.uint32)
        return VolumeLayout(self.letters, shape, dtype, dict(stack.spacing_um or {}))

    @cached_property
    def indices(self) -> list[dict[str, int]]:
        """The planes, in the order of `VolumeLayout.places`."""
        names = self.letters[:-2]
        return [dict(zip(names, place, strict=True)) for place in self.layout.places]

    @property
    def distance(self) -> float:
        """Distance of two slices in pixel sizes; 1 when unknown."""
        sizes = self.stack.spacing_um or {}
        if "Z" not in self.letters or not {"Z", "Y"} <= set(sizes):
            return 1.0
        return sizes["Z"] / sizes["Y"]

    def made_of(self, segmenter: Segmenter, word: str) -> dict[str, Any]:
        """All that the labels of a word depend on, as JSON values."""
        stack, model, adapter = self.stack, segmenter.model, segmenter.adapter
        return {
            "image": [stack.name, stack.axes, list(stack.shape), str(stack.dtype)],
            "channels": list(stack.channels),
            "normalisation": repr(stack.normalisation.limits),
            "word": word,
            "target": self.target,
            "links": asdict(self.links),
            "model": [model.sam.identity, model.clip.identity],
            "adapter": None if adapter is None else tensor_identity(adapter.state_dict()),
            "threshold": None if adapter is None else adapter.info.threshold,
        }


@dataclass(frozen=True, eq=False)
class PlaneLabels:
    """What was found of each word in one plane: labels from 1, before they are linked."""

    labels: tuple[NDArray[np.unsignedinteger], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class VolumeProgress:
    """A plane that is done.

    Attributes
    ----------
    done, total : int
        Planes, those of an earlier run among them.
    index : dict of str to int
        Of the plane.
    counts : dict of str to int
        Objects so far, by word; 1 for a concept that was found.
    seconds_left : float
    notes : tuple of str
        What a person should know.
    """

    done: int
    total: int
    index: Mapping[str, int]
    counts: Mapping[str, int]
    seconds_left: float
    notes: tuple[str, ...] = ()


class LabelLinker:
    """Gives the objects of plane after plane ids that stay; time points are linked apart.

    Parameters
    ----------
    task : VolumeTask
    file : VolumeFile
        What an earlier run wrote is taken up.
    """

    def __init__(self, task: VolumeTask, file: VolumeFile) -> None:
        self._task, self._count = task, file.count
        self._linker = Linker(task.distance, task.links, file.count)
        last = self._task.indices[file.done - 1] if file.done else {}
        for number in range(max(0, file.done - 1 - task.links.max_gap), file.done):
            index = task.indices[number]
            if _is_neighbour(index, last):
                ids, objects = _objects(file.read(number))
                self._linker.restore(_depth(index), objects, ids)
        self._last = last

    @property
    def count(self) -> int:
        """Objects so far."""
        return self._count

    def link(self, index: Mapping[str, int], labels: NDArray) -> NDArray:
        """Labels of the next plane with ids that stay."""
        if self._task.target == "concept":
            found = (labels > 0).astype(np.uint8)
            self._count = max(self._count, int(found.any()))
            return found
        if self._last and not _is_neighbour(index, self._last):
            self._linker.forget()
        self._last = dict(index)
        local, objects = _objects(labels)
        ids = self._linker.link(_depth(index), objects)
        table = np.zeros(max(local, default=0) + 1, np.uint32)
        table[list(local)] = ids
        self._count = self._linker.count
        return table[labels]


def segment_volume(
    segmenter: Segmenter,
    task: VolumeTask,
    outputs: Mapping[Any, Path],
    overwrite: bool = False,
) -> Generator[VolumeProgress, None, None]:
    """Find words in every plane of a stack and write their labels.

    Parameters
    ----------
    segmenter : Segmenter
    task : VolumeTask
    outputs : mapping of str to Path
        For each word an OME-Zarr (``.zarr``) or a TIFF.
    overwrite : bool

    Yields
    ------
    VolumeProgress
        After each plane. Where the consumer closes the generator, or the process is killed, the
        planes so far are kept, and the same call goes on after them.

    Raises
    ------
    OutputError
        A place cannot be written to, before any work; or the disk fails on the way.
    PlaneError
        A plane cannot be read; the planes before it are kept.
    """
    with _Files(segmenter, task, outputs, overwrite) as files:
        first = files.first
        with _ReadAhead(task.stack, task.indices[first:]) as planes:
            yield from files.take(_in_batches(segmenter, planes, task), first)


def label_plane(segmenter: Segmenter, plane: Plane, task: VolumeTask) -> PlaneLabels:
    """Find the words in one plane."""
    labels, notes = [], []
    for word in task.words:
        if plane.is_blank:
            labels.append(np.zeros(plane.shape, np.uint16))
            continue
        found = segmenter.answer(PredictRequest(plane, Prompts(word), task.target))
        whole = task.target == "instances"
        labels.append(found.labels() if whole else found.mask().astype(np.uint8))
        if found.note and found.match:
            notes.append(f"{plane.name}: {found.note}")
    return PlaneLabels(tuple(labels), tuple(notes))


class _Files:
    """The results of all words, linked here and written on a thread of their own."""

    def __init__(
        self,
        segmenter: Segmenter,
        task: VolumeTask,
        outputs: Mapping[Any, Path],
        overwrite: bool,
    ) -> None:
        self._task = task
        self._files: list[VolumeFile] = []
        layout = task.layout
        try:
            for word in task.words:
                made_of = task.made_of(segmenter, word)
                self._files.append(VolumeFile(outputs[word], layout, made_of, overwrite))
            self._linkers = [LabelLinker(task, file) for file in self._files]
        except BaseException:
            self._close()
            raise
        self.first = min(file.done for file in self._files)
        # Where each file goes on; it counts up only once a plane is on disk.
        self._starts = [file.done for file in self._files]
        self._writer = ThreadPoolExecutor(1, "clipsam volume")
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._writer.shutdown(wait=True, cancel_futures=False)
        self._close()

    def take(
        self, results: Iterator[PlaneLabels], first: int
    ) -> Generator[VolumeProgress, None, None]:
        """Link and write what comes, and finish."""
        indices = self._task.indices
        times: deque[float] = deque(maxlen=_TIMED)
        begun = time.perf_counter()
        for number, found in enumerate(results, start=first):
            for i, labels in enumerate(found.labels):
                if number >= self._starts[i]:
                    linked = self._linkers[i].link(indices[number], labels)
                    self._write(self._files[i], linked, self._linkers[i].count)
            now = time.perf_counter()
            times.append(now - begun)
            begun = now
            yield VolumeProgress(
                number + 1,
                len(indices),
                indices[number],
                self._counts(),
                median(times) * (len(indices) - number - 1),
                found.notes,
            )
            # What the consumer did meanwhile is no work of ours.
            begun = time.perf_counter()
        while self._waiting:
            self._waiting.popleft().result()
        for file in self._files:
            file.finish()
        if first == len(indices):
            # An earlier run was cut off when all was written: what it found is told now.
            yield VolumeProgress(first, first, indices[-1], self._counts(), 0.0)

    def _counts(self) -> dict[str, int]:
        return {w: one.count for w, one in zip(self._task.words, self._linkers, strict=True)}

    def _write(self, file: VolumeFile, labels: NDArray, count: int) -> None:
        while len(self._waiting) >= _AHEAD * len(self._files):
            self._waiting.popleft().result()
        self._waiting.append(self._writer.submit(file.write, labels, count))

    def _close(self) -> None:
        for file in self._files:
            file.close()


class _ReadAhead:
    """Planes of a stack, the next ones read on another thread while one is looked at."""

    def __init__(self, stack: Stack, indices: Sequence[Mapping[str, int]]) -> None:
        self._stack, self._indices = stack, indices
        self._pool = ThreadPoolExecutor(1, "clipsam reading")

    def __enter__(self) -> Iterator[Plane]:
        return self._planes()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _planes(self) -> Iterator[Plane]:
        waiting: deque[Future[Plane]] = deque()
        for index in self._indices:
            waiting.append(self._pool.submit(self._stack.plane, dict(index)))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _in_batches(
    segmenter: Segmenter, planes: Iterator[Plane], task: VolumeTask
) -> Iterator[PlaneLabels]:
    """Encode planes together, then ask each."""
    batches = PlaneBatches(segmenter)
    while batch := list(itertools.islice(planes, batches.size)):
        batches.encode(batch)
        yield from (label_plane(segmenter, plane, task) for plane in batch)


def _objects(labels: NDArray) -> tuple[list[int], list[ObjectMask]]:
    """Labels that are there, and their masks; as painted, so that a resumed run sees the same."""
    numbers, compact = np.unique(labels, return_inverse=True)
    compact = compact.reshape(labels.shape)
    if numbers.size and numbers[0] != 0:
        compact = compact + 1
    there = [int(number) for number in numbers if number]
    objects = []
    for i, where in enumerate(ndimage.find_objects(compact), start=1):
        rows, columns = where
        box = (rows.start, columns.start, rows.stop, columns.stop)
        objects.append(ObjectMask(box, compact[where] == i, 1.0))
    return there, objects


def _depth(index: Mapping[str, int]) -> int:
    """Number along the axis that objects are linked along: Z, else T."""
    return index.get("Z", index.get("T", 0))


def _is_neighbour(one: Mapping[str, int], other: Mapping[str, int]) -> bool:
    """Whether two planes belong to one stack or series."""
    axis = "Z" if "Z" in one else "T"
    return all(one[letter] == other[letter] for letter in one if letter != axis)
