"""The results of a run over a stack: linked in the order of planes, written while others come."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_clipsam._machine import peak_memory
from napari_clipsam.errors import PlaneError
from napari_clipsam.inference.volume_files import VolumeFile
from napari_clipsam.inference.volume_links import LabelLinker

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_clipsam.inference.volume import VolumeTask

__all__ = ["PlaneLabels", "VolumeProgress", "VolumeResults"]

# Results of a word that wait to be written.
_WAITING = 3
# Planes whose times say how long the others take.
_TIMED = 15


@dataclass(frozen=True, eq=False)
class PlaneLabels:
    """What was found of each word in one plane.

    Attributes
    ----------
    labels : tuple of ndarray, shape (H, W)
        For each word, from 1.
    notes : tuple of str
        What a person should know.
    goes_on : bool
        Whether a number means the same object as in the plane before.
    seconds : float or None
        What the plane adds to the time of the run; None where it is what passed until it came.
    memory : int or None
        Most bytes that those who find planes have held so far; None where it is this process.
    """

    labels: tuple[NDArray[np.unsignedinteger], ...]
    notes: tuple[str, ...] = ()
    goes_on: bool = False
    seconds: float | None = None
    memory: int | None = None


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
        What a person should know, each said once.
    memory : int or None
        Most bytes that were held so far, where the system tells.
    """

    done: int
    total: int
    index: Mapping[str, int]
    counts: Mapping[str, int]
    seconds_left: float
    notes: tuple[str, ...] = ()
    memory: int | None = None


class VolumeResults:
    """The files of all words, linked here and written on a thread of their own.

    Parameters
    ----------
    task : VolumeTask
    made_of : mapping of str to mapping
        For each word all that its labels depend on, as JSON values.
    outputs : mapping of str to Path
    overwrite : bool

    Attributes
    ----------
    first : int
        The plane to go on with.

    Raises
    ------
    OutputError
        As for `VolumeFile`.
    """

    def __init__(
        self,
        task: VolumeTask,
        made_of: Mapping[str, Mapping[str, Any]],
        outputs: Mapping[Any, Path],
        overwrite: bool,
    ) -> None:
        self._task = task
        self._files: list[VolumeFile] = []
        try:
            for word in task.words:
                file = VolumeFile(outputs[word], task.layout, made_of[word], overwrite)
                self._files.append(file)
            self._linkers = [LabelLinker(task, file) for file in self._files]
        except BaseException:
            self._close()
            raise
        # Where each file goes on; it counts up only once a plane is on disk.
        self._starts = [file.done for file in self._files]
        self.first = min(self._starts)
        self._writer = ThreadPoolExecutor(1, "clipsam volume")
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> VolumeResults:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._writer.shutdown(wait=True, cancel_futures=False)
        self._close()

    def take(self, results: Iterator[PlaneLabels]) -> Generator[VolumeProgress, None, None]:
        """Link and write what comes, from plane `first` on, and finish.

        Raises
        ------
        PlaneError
            A plane cannot be read; it is said that those before it are kept.
        """
        indices = self._task.indices
        times: deque[float] = deque(maxlen=_TIMED)
        told: set[str] = set()
        begun = time.perf_counter()
        for number, found in enumerate(self._readable(results), start=self.first):
            for i, labels in enumerate(found.labels):
                if number >= self._starts[i]:
                    linked = self._linkers[i].link(indices[number], labels, found.goes_on)
                    self._write(self._files[i], linked, self._linkers[i].count)
            passed = time.perf_counter() - begun
            times.append(passed if found.seconds is None else found.seconds)
            yield VolumeProgress(
                number + 1,
                len(indices),
                indices[number],
                self._counts(),
                median(times) * (len(indices) - number - 1),
                tuple(note for note in found.notes if note not in told),
                peak_memory() if found.memory is None else found.memory,
            )
            told.update(found.notes)
            # What the consumer did meanwhile is no work of ours.
            begun = time.perf_counter()
        while self._waiting:
            self._waiting.popleft().result()
        for file in self._files:
            file.make_whole()
        for file in self._files:
            file.finish()
        if self.first == len(indices):
            # An earlier run was cut off when all was written: what it found is told now.
            yield VolumeProgress(self.first, self.first, indices[-1], self._counts(), 0.0)

    def _readable(self, results: Iterator[PlaneLabels]) -> Iterator[PlaneLabels]:
        """What comes; where no more can be read, say what becomes of the planes before."""
        number = self.first
        try:
            for found in results:
                number += 1
                yield found
        except PlaneError as error:
            kept = " The planes that are finished are kept." if number else ""
            raise PlaneError(f"{error}{kept}") from error

    def _counts(self) -> dict[str, int]:
        return {w: one.count for w, one in zip(self._task.words, self._linkers, strict=True)}

    def _write(self, file: VolumeFile, labels: NDArray, count: int) -> None:
        while len(self._waiting) >= _WAITING * len(self._files):
            self._waiting.popleft().result()
        self._waiting.append(self._writer.submit(file.write, labels, count))

    def _close(self) -> None:
        for file in self._files:
            file.close()
