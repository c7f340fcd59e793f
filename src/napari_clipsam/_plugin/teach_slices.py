"""Which slices are learnt from: what is labelled, what the user chose, what is tested on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_clipsam.errors import ConfigError, InputError, PlaneError
from napari_clipsam.planes import Plane
from napari_clipsam.session.objects import number_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from napari_clipsam._plugin.teach_pair import Slices
    from napari_clipsam.training.samples import Example, SliceLabels, Split
    from napari_clipsam.training.settings import Goal

__all__ = [
    "Looked",
    "Picked",
    "examples_of",
    "held_out_of",
    "look",
    "parse",
    "tested_of",
    "written",
]

_ENTRY = re.compile(r"(\d+)(?:-(\d+))?(~?)")
#: Pixels of labels that are held at a time only to say what would be tested on.
_MOST_PIXELS = 1 << 28


@dataclass(frozen=True)
class Picked:
    """Slices to learn from.

    Attributes
    ----------
    numbers : tuple of int
        All of them, rising.
    partial : tuple of int
        Those where only some of the structure is labelled.
    """

    numbers: tuple[int, ...]
    partial: tuple[int, ...] = ()

    def __str__(self) -> str:
        return written(self.numbers, self.partial)


@dataclass(frozen=True)
class Looked:
    """What there is to learn from.

    Attributes
    ----------
    labels : SliceLabels
        All slices of the stack, as they are labelled.
    picked : Picked
        Those to learn from.
    tested : tuple of int
        Slices that would be tested on; empty for a part of the only one.
    tested_on : str
        The same in words; "" where nothing can be learnt.
    is_guess : bool
        Whether another slice may be tested on in the end: labels of very many were not compared.
    notes : tuple of str
    fault : InputError or None
        Why nothing can be learnt.
    """

    labels: SliceLabels
    picked: Picked
    tested: tuple[int, ...] = ()
    tested_on: str = ""
    is_guess: bool = False
    notes: tuple[str, ...] = ()
    fault: InputError | None = None


def parse(text: str, count: int) -> Picked:
    """Read slices as people write them: "3, 7-9, 12~".

    Raises
    ------
    ConfigError
        It cannot be read, or names slices that are not there.
    """
    numbers: dict[int, bool] = {}
    tight = re.sub(r"\s*([-–~])", r"\1", re.sub(r"([-–])\s*", "-", text))
    for entry in filter(None, re.split(r"[,;\s]+", tight)):
        found = _ENTRY.fullmatch(entry)
        if found is None:
            raise ConfigError(f"'{entry}' is no slice. Write numbers and ranges, such as 3, 7-9.")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            first, last = last, first
        if last >= count:
            raise ConfigError(f"There is no slice {last}. Write numbers from 0 to {count - 1}.")
        numbers.update(dict.fromkeys(range(first, last + 1), bool(found[3])))
    return Picked(tuple(sorted(numbers)), tuple(sorted(n for n, part in numbers.items() if part)))


def written(numbers: Iterable[int], partial: Iterable[int] = ()) -> str:
    """Slices as `parse` reads them; "~" marks those that are partly labelled."""
    some = set(partial)
    whole = [number for number in numbers if number not in some]
    entries = [(int(re.split("-", run)[0]), run) for run in number_runs(whole)]
    return ", ".join(run for _, run in sorted([*entries, *((n, f"{n}~") for n in some)]))


def look(
    source: Slices,
    picked: Picked | None,
    tested: tuple[int, ...] | None,
    goal: Goal,
    check: Callable[[], None],
) -> Iterator[Looked]:
    """See what is labelled, and what would be tested on; reads labels alone.

    Parameters
    ----------
    source : Slices
    picked, tested : optional
        What the user chose, if he did.
    goal : {"concept", "object", "both"}
    check : callable
        Called between slices; may do more urgent work, or raise.

    Yields
    ------
    Looked
    """
    from napari_clipsam.training.samples import labelled_slices, make_split

    def read(number: int) -> NDArray[np.integer]:
        check()
        return source.labels(number)

    labels = labelled_slices(read, source.count)
    chosen = picked or Picked(labels.used, labels.partial)
    try:
        _check_chosen(chosen, labels, tested)
        if not _is_small(source, chosen):
            yield _guessed(source, labels, chosen, tested)
            return
        examples = _examples(chosen, read, source.pixelless)
        held_out = held_out_of(chosen, tested)
        split = make_split(examples, held_out, goal=goal)
    except InputError as error:
        yield Looked(labels, chosen, fault=error)
        return
    yield Looked(labels, chosen, tested_of(split, source), split.tested_on, notes=split.notes)


def tested_of(split: Split, source: Slices) -> tuple[int, ...]:
    """Slices that are tested on alone; none where that is a part of the only one."""
    of_train = {source.number(example.plane) for example in split.train}
    held = {source.number(example.plane) for example in split.held_out}
    return tuple(sorted(held - of_train))


def examples_of(
    source: Slices,
    picked: Picked,
    words: tuple[str, ...],
    check: Callable[[], None],
) -> list[Example]:
    """Read slices and their labels."""

    def read(number: int) -> NDArray[np.integer]:
        check()
        return source.labels(number)

    def plane(number: int) -> Plane:
        check()
        return source.plane(number)

    return _examples(picked, read, plane, words)


def _examples(
    picked: Picked,
    read: Callable[[int], NDArray[np.integer]],
    plane: Callable[[int], Plane],
    words: tuple[str, ...] = ("structure",),
) -> list[Example]:
    from napari_clipsam.training.parts import count_parts
    from napari_clipsam.training.samples import Example, known_pixels

    labels = {number: read(number) for number in picked.numbers}
    several = any(len(np.unique(one[one > 0])) > 1 for one in labels.values())
    told_apart = several or all(count_parts(one > 0) <= 1 for one in labels.values())
    return [
        Example(
            plane(number),
            labels[number],
            words,
            told_apart,
            known_pixels(labels[number]) if number in picked.partial else None,
        )
        for number in picked.numbers
    ]


def held_out_of(picked: Picked, tested: tuple[int, ...] | None) -> float | list[int]:
    """What `make_split` is to hold out: the usual share, or indices of slices."""
    if tested is None:
        return 0.2
    return [picked.numbers.index(number) for number in tested]


def _check_chosen(picked: Picked, labels: SliceLabels, tested: tuple[int, ...] | None) -> None:
    empty = [number for number in picked.numbers if number in labels.unlabelled]
    if empty:
        raise PlaneError(
            f"Slice {empty[0]} has no labels. Paint the structure there, or leave it out."
        )
    apart = [number for number in tested or () if number not in picked.numbers]
    if apart:
        raise ConfigError(
            f"Slice {apart[0]} is to be tested on, but is not among the labelled slices. Add it "
            "to them."
        )


def _guessed(
    source: Slices, labels: SliceLabels, picked: Picked, tested: tuple[int, ...] | None
) -> Looked:
    """What is likely tested on where there are too many labels to compare them."""
    from napari_clipsam.training.naming import name_planes

    numbers = picked.numbers
    if len(numbers) == 1 and not tested:
        where = name_planes([source.pixelless(numbers[0])])
        return Looked(labels, picked, tested_on=f"a quarter of {where}", is_guess=True)
    held = tested or numbers[-max(1, round(0.2 * len(numbers))) :]
    return Looked(labels, picked, held, f"slices {written(held)}", is_guess=tested is None)


def _is_small(source: Slices, picked: Picked) -> bool:
    height, width = source.shape
    return height * width * len(picked.numbers) <= _MOST_PIXELS
