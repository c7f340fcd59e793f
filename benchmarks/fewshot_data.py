"""Planes to learn from and planes to test on, which never are the same."""

from __future__ import annotations

import csv
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from napari_clipsam.training.labelled import LabelledPlane, read_index
from napari_clipsam.training.picking import LabelledFile, picked
from napari_clipsam.training.samples import Example

if TYPE_CHECKING:
    from benchmarks.fewshot_runs import Source
    from napari_clipsam.training.labelled import LabelledImage

__all__ = ["MOST_TESTED", "LabelledSet", "evenly"]

#: Planes a set is tested on at most, spread evenly over the test split.
MOST_TESTED = 8
#: Where all is test split: slices tested on, and how far from these any other has to be.
TESTED, APART = 5, 3


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """The labelled planes of one word in a data set.

    Attributes
    ----------
    word : str
    train : tuple of LabelledFile
        Offer only planes that may be learnt from.
    tested : tuple of (LabelledFile, int)
        The planes to test on, as file and number in it.
    """

    word: str
    train: tuple[LabelledFile, ...]
    tested: tuple[tuple[LabelledFile, int], ...]

    @classmethod
    def open(cls, source: Source, data: Path) -> LabelledSet:
        """Choose the planes; the same ones every time."""
        folder = data / source.folder
        pairs = {
            split: read_index(folder, Path("index.csv"), split=split, concept=source.word)
            for split in _splits(folder)
        }
        files = [LabelledFile(pair) for pair in pairs["test"]]
        test = [(file, n) for file in files for n in range(len(file)) if file.is_labelled(n)]
        if "train" in pairs:
            train = tuple(LabelledFile(pair) for pair in pairs["train"])
            return cls(source.word, train, tuple(evenly(test, MOST_TESTED)))
        tested = evenly(test, TESTED)
        numbers = {n for _, n in tested}
        return cls(source.word, tuple(_Away(p, numbers) for p in pairs["test"]), tuple(tested))

    @cached_property
    def test_planes(self) -> list[LabelledPlane]:
        """What is tested on."""
        return [file.plane(number) for file, number in self.tested]

    @cached_property
    def pool(self) -> list[tuple[int, int]]:
        """All planes that may be learnt from, as index into `train` and number in the file."""
        return [
            (i, n)
            for i, file in enumerate(self.train)
            for n in range(len(file))
            if file.is_labelled(n)
        ]

    def draw(self, shots: int, seed: int) -> list[tuple[int, int]]:
        """Choose planes to learn from as `napari-clipsam finetune --shots` does."""
        numbers = picked(self.train, shots, seed)
        return [(i, n) for i, chosen in enumerate(numbers) for n in chosen]

    def examples(self, chosen: Sequence[tuple[int, int]]) -> list[Example]:
        """The chosen planes with their labels, in stack order."""
        return [self._example(self.train[i].plane(n)) for i, n in sorted(chosen)]

    def _example(self, plane: LabelledPlane) -> Example:
        objects = plane.source.kind != "semantic"
        return Example(plane.plane, plane.labels, (self.word,), objects)


class _Away(LabelledFile):
    """A stack of which only slices far enough from those tested on are offered."""

    def __init__(self, pair: LabelledImage, tested: Collection[int]) -> None:
        super().__init__(pair)
        self._tested = tested

    def is_labelled(self, number: int) -> bool:
        near = any(abs(number - tested) < APART for tested in self._tested)
        return not near and super().is_labelled(number)


def evenly(items: Sequence, most: int) -> list:
    """Up to `most` items in even steps, from the middle of each step."""
    count = min(most, len(items))
    return [items[int((i + 0.5) * len(items) / count)] for i in range(count)]


def _splits(folder: Path) -> list[str]:
    with (folder / "index.csv").open(newline="", encoding="utf-8") as file:
        splits = {row["split"] for row in csv.DictReader(file)}
    return sorted(splits & {"train", "test"})
