"""A word in a whole stack, larger than memory: read, encoded, decoded and written at once.

Planes go through in their order. While one is decoded the next ones are being read, and the last
one is being written; no more than a few are in memory, however deep the stack is.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_clipsam.errors import PlaneError, PromptError
from napari_clipsam.inference.batching import PlaneBatches
from napari_clipsam.inference.requests import PredictRequest
from napari_clipsam.inference.stacks import LinkSettings
from napari_clipsam.inference.volume_files import VolumeLayout
from napari_clipsam.inference.volume_results import PlaneLabels, VolumeProgress, VolumeResults
from napari_clipsam.models.identity import tensor_identity
from napari_clipsam.prompts import Prompts

if TYPE_CHECKING:
    from napari_clipsam.inference.segmenter import Segmenter
    from napari_clipsam.planes import Plane, Stack

__all__ = [
    "PlaneLabels",
    "VolumeProgress",
    "VolumeTask",
    "check_one_shape",
    "find_planes",
    "label_plane",
    "segment_volume",
]

# Planes read ahead: so many, or the next batch; fewer where their 8-bit colours take more bytes.
_AHEAD, _AHEAD_BYTES = 3, 256 << 20


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
    spacing : float or None
        Distance of two slices in pixel sizes; None for what the stack says.

    Raises
    ------
    PromptError
        There is no word, or the target is one object.
    PlaneError
        The file holds planes of different shapes.
    """

    stack: Stack
    words: tuple[str, ...]
    target: Literal["concept", "instances"] = "concept"
    links: LinkSettings = field(default_factory=LinkSettings)
    spacing: float | None = None

    def __post_init__(self) -> None:
        if self.target not in ("concept", "instances"):
            raise PromptError("A word in a stack means all of it or every object, not one object.")
        if not self.words:
            raise PromptError("There is no word to look for. Give one, e.g. nuclei.")
        # Beside one picture others of any shape may lie, such as a preview of it.
        if self.stack.plane_axes:
            check_one_shape(self.stack)

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
        if self.spacing is not None:
            return self.spacing
        sizes = self.stack.spacing_um or {}
        if "Z" not in self.letters or not {"Z", "Y"} <= set(sizes):
            return 1.0
        return sizes["Z"] / sizes["Y"]

    def made_of(self, segmenter: Segmenter, word: str) -> dict[str, Any]:
        """All that the labels of a word depend on, as JSON values."""
        stack, model, adapter = self.stack, segmenter.model, segmenter.adapter
        return {
            "image": [stack.name, stack.axes, list(stack.shape), str(stack.dtype)],
            "pixels": self._sample(),
            "channels": list(stack.channels),
            "normalisation": repr(stack.normalisation.limits),
            "word": word,
            "target": self.target,
            "links": {**asdict(self.links), "distance": self.distance},
            **segmenter.settings,
            "model": [model.sam.identity, model.clip.identity],
            "adapter": None if adapter is None else tensor_identity(adapter.state_dict()),
            "threshold": None if adapter is None else adapter.info.threshold,
        }

    def _sample(self) -> list[str]:
        """What the first plane and the one in the middle show, to notice another image."""
        picks = sorted({0, len(self.indices) // 2})
        return [self.stack.plane(self.indices[pick]).fingerprint for pick in picks]


def check_one_shape(stack: Stack) -> None:
    """Refuse a file whose planes differ in shape, of which only the first ones would be seen.

    Raises
    ------
    PlaneError
    """
    for shape in getattr(stack.source, "other_shapes", ()):
        if shape[-2:] != stack.plane_shape:
            one, other = (f"{high} x {wide}" for high, wide in (stack.plane_shape, shape[-2:]))
            raise PlaneError(
                f"{stack.name} has planes of different shapes: {one} and {other}. Save those of "
                "one shape as a stack of their own."
            )


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
    made_of = {word: task.made_of(segmenter, word) for word in task.words}
    with VolumeResults(task, made_of, outputs, overwrite) as results:
        planes = task.indices[results.first :]
        with closing(
            find_planes(segmenter, task, planes, PlaneBatches(segmenter, task.words))
        ) as found:
            yield from results.take(found)


def find_planes(
    segmenter: Segmenter,
    task: VolumeTask,
    indices: Sequence[Mapping[str, int]],
    batches: PlaneBatches,
) -> Generator[PlaneLabels, None, None]:
    """Find the words in some planes, the next ones read and encoded together."""
    height, width = task.stack.plane_shape
    most = _AHEAD_BYTES // (3 * height * width)
    knows = any(not segmenter.unknown_words(word) for word in task.words)
    left = len(indices)

    def held(count: int) -> int:
        return max(1, min(count, most))

    with _ReadAhead(task.stack, indices, lambda: held(max(_AHEAD, batches.size))) as planes:
        while batch := list(itertools.islice(planes, held(batches.size))):
            if knows:
                batches.encode(batch)
            for plane in batch:
                found = label_plane(segmenter, plane, task)
                left -= 1
                if not left:
                    # What is being written may still fail, and no plane comes to tell it with.
                    segmenter.flush()
                yield replace(found, notes=(*segmenter.take_troubles(), *found.notes))


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
        if segmenter.unknown_words(word):
            notes.append(found.note)  # it is the same for all planes
        elif found.note and found.match:
            notes.append(f"{plane.name}: {found.note}")
        elif found.trouble:
            notes.append(found.trouble)
    return PlaneLabels(tuple(labels), tuple(notes))


class _ReadAhead:
    """Planes of a stack, the next ones read on another thread while one is looked at.

    Parameters
    ----------
    stack : Stack
    indices : sequence of mapping
    ahead : callable
        How many planes to read ahead now.
    """

    def __init__(
        self, stack: Stack, indices: Sequence[Mapping[str, int]], ahead: Callable[[], int]
    ) -> None:
        self._stack, self._indices, self._ahead = stack, indices, ahead
        self._pool = ThreadPoolExecutor(1, "clipsam reading")

    def __enter__(self) -> Iterator[Plane]:
        return self._planes()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _planes(self) -> Iterator[Plane]:
        waiting: deque[Future[Plane]] = deque()
        left = iter(self._indices)
        while True:
            missing = self._ahead() + 1 - len(waiting)
            for index in itertools.islice(left, max(0, missing)):
                waiting.append(self._pool.submit(self._stack.plane, dict(index)))
            if not waiting:
                return
            yield waiting.popleft().result()
