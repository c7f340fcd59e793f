"""Objects of plane after plane as one, whether planes come singly or in blocks linked elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from napari_clipsam.inference.requests import ObjectMask
from napari_clipsam.inference.stacks import Linker

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_clipsam.inference.volume import VolumeTask
    from napari_clipsam.inference.volume_files import VolumeFile

__all__ = ["LabelLinker"]


class LabelLinker:
    """Gives the objects of plane after plane ids that stay; time points are linked apart.

    Of a block that another linker has linked, only what is new in its first planes is compared with
    what ended before them; the rest is a table from its numbers to ids. The ids are those of a run
    that links plane by plane.

    Parameters
    ----------
    task : VolumeTask
    file : VolumeFile, optional
        What an earlier run wrote is taken up.
    """

    def __init__(self, task: VolumeTask, file: VolumeFile | None = None) -> None:
        done, self._count = (0, 0) if file is None else (file.done, file.count)
        self._task = task
        self._linker = Linker(task.distance, task.links, self._count)
        last = task.indices[done - 1] if done else {}
        for number in range(max(0, done - 1 - task.links.max_gap), done):
            index = task.indices[number]
            if file is not None and _is_neighbour(index, last):
                ids, objects = _objects(file.read(number))
                self._linker.restore(_depth(index), objects, ids)
        self._last: Mapping[str, int] = last
        # Of the block that is under way: its numbers to ids, and how many planes of it were linked.
        self._table = np.zeros(1, np.uint32)
        self._passed = 0

    @property
    def count(self) -> int:
        """Objects so far."""
        return self._count

    def link(
        self, index: Mapping[str, int], labels: NDArray[np.unsignedinteger], goes_on: bool = False
    ) -> NDArray[np.unsignedinteger]:
        """Labels of the next plane with ids that stay.

        Parameters
        ----------
        index : mapping of str to int
        labels : ndarray, shape (H, W)
        goes_on : bool
            Whether a number means the same object as in the plane before.
        """
        if self._task.target == "concept":
            found = (labels > 0).astype(np.uint8)
            self._count = max(self._count, int(found.any()))
            return found
        if self._last and not _is_neighbour(index, self._last):
            self._linker.forget()
        self._last = dict(index)
        if not goes_on:
            self._table, self._passed = np.zeros(1, np.uint32), 0
        numbers, objects = _objects(labels)
        self._widen(max(numbers, default=0))
        known = self._table[numbers].tolist()
        self._table[numbers] = self._linker.link(_depth(index), objects, known, self._passed)
        self._passed += 1
        self._count = self._linker.count
        return self._table[labels]

    def _widen(self, largest: int) -> None:
        missing = largest + 1 - len(self._table)
        if missing > 0:
            self._table = np.append(self._table, np.zeros(missing, np.uint32))


def _objects(labels: NDArray[np.integer]) -> tuple[list[int], list[ObjectMask]]:
    """Labels that are there and their masks as painted, in the order of their first pixels.

    No numbering decides, so that a run that is gone on with, or shared out, sees the same.
    """
    found = []
    for number, where in enumerate(ndimage.find_objects(labels.astype(np.int64)), start=1):
        if where is not None:
            rows, columns = where
            mask = labels[where] == number
            first = (rows.start, columns.start + int(mask[0].argmax()))
            box = (rows.start, columns.start, rows.stop, columns.stop)
            found.append((first, number, ObjectMask(box, mask, 1.0)))
    found.sort(key=lambda one: one[0])
    return [number for _, number, _ in found], [one for _, _, one in found]


def _depth(index: Mapping[str, int]) -> int:
    """Number along the axis that objects are linked along: Z, else T."""
    return index.get("Z", index.get("T", 0))


def _is_neighbour(one: Mapping[str, int], other: Mapping[str, int]) -> bool:
    """Whether two planes belong to one stack or series."""
    axis = "Z" if "Z" in one else "T"
    return all(one[letter] == other[letter] for letter in one if letter != axis)
