"""Labelled planes out of files: all of them, or a few that are spread well."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from napari_clipsam.training.labelled import LabelledImage, LabelledPlane, open_pair
from napari_clipsam.training.usable import MIN_STRUCTURE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_clipsam.planes import LabelStack, Stack

__all__ = ["LabelledFile", "picked"]


class LabelledFile:
    """An image or stack with its labels, opened when it is needed and read plane by plane.

    Parameters
    ----------
    pair : LabelledImage
    axes, channels : optional
        As for `labelled.open_pair`.
    """

    def __init__(
        self, pair: LabelledImage, axes: str | None = None, channels: Sequence[int] | None = None
    ) -> None:
        self.pair = pair
        self._how = axes, channels

    def __len__(self) -> int:
        return len(self._indices)

    def labels(self, number: int) -> NDArray[np.integer]:
        """Labels (H, W) of a plane, by its number in the order of `Stack.planes`."""
        labels = self._opened[1]
        index = self._indices[number]
        return labels.plane({k: n for k, n in index.items() if k in labels.plane_axes})

    def is_labelled(self, number: int) -> bool:
        """Whether a plane has labels enough to teach anything."""
        return int(np.count_nonzero(self.labels(number))) >= MIN_STRUCTURE

    def plane(self, number: int) -> LabelledPlane:
        """A plane with its labels, named after the file."""
        plane = self._opened[0].plane(self._indices[number])
        numbers = [f"{letter}={n}" for letter, n in plane.index.items()]
        plane = replace(plane, name=" ".join([self.pair.name, *numbers]))
        return LabelledPlane(self.pair, plane, self.labels(number))

    @cached_property
    def _opened(self) -> tuple[Stack, LabelStack]:
        return open_pair(self.pair, *self._how)

    @cached_property
    def _indices(self) -> list[dict[str, int]]:
        return list(self._opened[0].planes())


def picked(files: Sequence[LabelledFile], shots: int, seed: int) -> list[list[int]]:
    """Draw planes that have labels, reading labels only until there are enough.

    The images come in a drawn order. Each gives an equal share; in a stack that is divided into as
    many runs of slices as are wanted of it, and one is drawn from each. What one cannot give others
    do.

    Parameters
    ----------
    files : sequence of LabelledFile
    shots : int
        Planes in all.
    seed : int

    Returns
    -------
    list of list of int
        Of every file the numbers of its planes, rising; fewer in all where there are not more.
    """
    generator = np.random.default_rng(seed)
    order = [int(i) for i in generator.permutation(len(files))]
    found: list[list[int]] = [[] for _ in files]
    left: list[tuple[int, Iterator[int]]] = []
    wanted = shots
    for position, i in enumerate(order):
        if not wanted:
            break
        share = -(-wanted // (len(order) - position))
        rest: list[int] = []
        for run in _runs(len(files[i]), share, generator):
            hit = next((k for k, n in enumerate(run) if files[i].is_labelled(n)), None)
            if hit is not None:
                found[i].append(run[hit])
                rest += run[hit + 1 :]
        wanted -= len(found[i])
        left.append((i, (int(n) for n in generator.permutation(rest))))
    for i, numbers in left:
        for number in numbers:
            if wanted and files[i].is_labelled(number):
                found[i].append(number)
                wanted -= 1
    return [sorted(numbers) for numbers in found]


def _runs(length: int, count: int, generator: np.random.Generator) -> list[list[int]]:
    """Numbers below `length` in up to `count` runs, each in a drawn order."""
    count = min(count, length)
    edges = [k * length // count for k in range(count + 1)]
    return [
        [int(n) for n in low + generator.permutation(high - low)] for low, high in pairwise(edges)
    ]
