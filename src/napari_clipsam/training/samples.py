"""Labelled planes as examples to learn from, and the part of them that is held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from napari_clipsam.errors import ConfigError, PlaneError
from napari_clipsam.training.holding_out import chosen_units, units_of
from napari_clipsam.training.naming import name_planes
from napari_clipsam.training.parts import count_parts, known_pixels, quarter
from napari_clipsam.training.picking import LabelledFile, picked
from napari_clipsam.training.usable import (
    MIN_STRUCTURE,
    area_of,
    check_words,
    checked,
    usable_examples,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from napari_clipsam.planes import Plane
    from napari_clipsam.training.labelled import LabelledImage
    from napari_clipsam.training.settings import Goal

__all__ = [
    "MIN_STRUCTURE",
    "Example",
    "SliceLabels",
    "Split",
    "check_words",
    "examples_from_pairs",
    "known_pixels",
    "labelled_slices",
    "make_split",
]

#: Share of the usual labelled area below which a slice is partly labelled, and share of the
#: neighbouring slice's area that an outer slice of a structure that ends keeps.
_LOW, _FALLING = 0.25, 0.25


@dataclass(frozen=True, eq=False)
class Example:
    """One plane and what is labelled in it.

    Attributes
    ----------
    plane : Plane
    labels : ndarray of int, shape (H, W)
        0 is background.
    words : tuple of str
        What the labelled structure is called; the first is asked when scores are measured.
    objects : bool
        Whether the numbers of the labels tell objects apart.
    known : ndarray of bool, shape (H, W), or None
        Pixels whose label counts; all when None. Others are neither learnt nor measured.
    """

    plane: Plane
    labels: NDArray[np.integer]
    words: tuple[str, ...]
    objects: bool = True
    known: NDArray[np.bool_] | None = None


@dataclass(frozen=True, eq=False)
class Split:
    """Examples to learn from and examples to measure on.

    Attributes
    ----------
    train, held_out : tuple of Example
        Neither is empty. They share no plane, unless there is one plane only: then they are parts
        of it, told apart by `Example.known`.
    tested_on : str
        For people, e.g. ``"slice 12"`` or ``"a quarter of slice 3"``.
    notes : tuple of str
        What was left out or treated in a special way, one sentence each.
    """

    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
    tested_on: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SliceLabels:
    """Which slices of a stack of labels were painted; numbers rise.

    Attributes
    ----------
    labelled : tuple of int
        The whole structure was painted.
    partial : tuple of int
        Evidently only some of it was.
    unlabelled : tuple of int
        Nothing was, or the slice was not chosen.
    areas : mapping of int to int
        Painted pixels of the slices that were read.
    """

    labelled: tuple[int, ...] = ()
    partial: tuple[int, ...] = ()
    unlabelled: tuple[int, ...] = ()
    areas: Mapping[int, int] = field(default_factory=dict)

    @property
    def used(self) -> tuple[int, ...]:
        """Slices to learn from, those that are partly labelled among them."""
        return tuple(sorted(self.labelled + self.partial))


def labelled_slices(
    read: Callable[[int], NDArray[np.integer]], count: int, chosen: Sequence[int] | None = None
) -> SliceLabels:
    """Tell labelled, partly labelled and unlabelled slices of a stack of labels apart.

    A slice is partly labelled if its labels cover less than a quarter of the median over all
    labelled slices. There have to be three of these or more, and it must not be where the structure
    ends by itself: there the area falls from slice to slice, each with at least a quarter of the
    one before.

    Parameters
    ----------
    read : callable
        Labels (H, W) of a slice, 0 where nothing is painted; called once a slice.
    count : int
        Slices in the stack.
    chosen : sequence of int, optional
        Slices that the user says are labelled, and wholly; no other is read.

    Returns
    -------
    SliceLabels

    Raises
    ------
    ConfigError
        A chosen slice is not there.
    PlaneError
        A chosen slice has no labels.
    """
    wanted = range(count) if chosen is None else sorted(set(chosen))
    for number in wanted:
        if not 0 <= number < count:
            raise ConfigError(f"There is no slice {number}. Choose from 0 to {count - 1}.")
    areas = {number: int(np.count_nonzero(read(number))) for number in wanted}
    painted = {number: area for number, area in areas.items() if area}
    if chosen is not None and len(painted) < len(areas):
        empty = next(number for number in areas if number not in painted)
        raise PlaneError(f"Slice {empty} has no labels. Paint the structure, or do not choose it.")
    partial = set() if chosen is not None else _partly_labelled(painted)
    return SliceLabels(
        tuple(number for number in painted if number not in partial),
        tuple(sorted(partial)),
        tuple(number for number in range(count) if number not in painted),
        areas,
    )


def make_split(
    examples: Sequence[Example],
    hold_out: float | Sequence[int] = 0.2,
    seed: int = 0,
    goal: Goal | None = None,
) -> Split:
    """Choose what is held out to measure on: whole planes, none of them learnt from as well.

    Slices of one stack are held out in a row at one end, that with the larger gap to the others; of
    several images or stacks some are drawn, stacks whole where the share allows it. Of a single
    plane it is a quarter.

    Parameters
    ----------
    examples : sequence of Example
        In stack order. Several of one plane (with other words) stay together.
    hold_out : float or sequence of int
        A share of the planes, or indices into `examples`.
    seed : int
        Of what is drawn.
    goal : {"concept", "object", "both"}, optional
        What is to be learnt; examples that cannot teach it are left out.

    Returns
    -------
    Split

    Raises
    ------
    PlaneError
        There is nothing to learn from: no labels, labels of another shape, hardly any pixels, or no
        background.
    ConfigError
        The share is not between 0 and 1, an index is out of range, nothing is left to learn from,
        or objects are to be learnt from labels that do not tell them apart.
    WordError
        As for `check_words`.
    """
    if not examples:
        raise PlaneError(
            f"No slice is labelled. Paint the structure in one or more, {MIN_STRUCTURE} pixels at "
            "least."
        )
    examples = [checked(example) for example in examples]
    wanted = None if isinstance(hold_out, int | float) else list(hold_out)
    _check_hold_out(hold_out, len(examples))
    usable, notes = usable_examples(examples, goal, wanted or ())
    planes = [examples[index].plane for index in usable]
    units = units_of(planes, [area_of(examples[index]) for index in usable])
    partial = [examples[index].plane for index in usable if examples[index].known is not None]
    if partial:
        named = name_planes(partial)
        notes.append(f"Only some is labelled in {named}: what is far from any label is left open.")
    if wanted is not None:
        held = {usable.index(index) for index in wanted}
        held = {i for unit in units if held & set(unit.members) for i in unit.members}
    elif len(units) == 1:
        return _within(tuple(examples[index] for index in usable), notes)
    else:
        assert isinstance(hold_out, int | float)
        whole = [examples[index].known is None for index in usable]
        held = chosen_units(units, float(hold_out), whole, seed)
    if len(held) == len(usable):
        raise ConfigError(
            "All labelled slices are held out, so none is left to learn from. Hold out fewer."
        )
    return Split(
        tuple(examples[index] for i, index in enumerate(usable) if i not in held),
        tuple(examples[index] for i, index in enumerate(usable) if i in held),
        name_planes([planes[i] for i in sorted(held)]),
        tuple(notes),
    )


def examples_from_pairs(
    pairs: Sequence[LabelledImage],
    words: Sequence[str],
    axes: str | None = None,
    channels: Sequence[int] | None = None,
    shots: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Example]:
    """Read the labelled planes of images and stacks; planes without labels are left out.

    Parameters
    ----------
    pairs : sequence of LabelledImage
    words : sequence of str
        What is labelled, in one or several words for the same.
    axes, channels : optional
        As for `labelled.open_pair`.
    shots : int, optional
        How many labelled planes in all, drawn at random, in stacks spread over the depth. Labels
        are read until there are enough, and no other image is but the sample of pixels that a
        stack is normalised by.
    seed : int
    progress : callable, optional
        Called with planes whose labels were read, and planes in all; not with `shots`.

    Returns
    -------
    list of Example
        In the order of the pairs and of their planes; fewer than `shots` where there are not more.

    Raises
    ------
    PlaneError
        A file cannot be read, or an image and its labels do not fit.
    ConfigError
        `shots` is below 1.
    WordError
        As for `check_words`.
    """
    words = check_words(words)
    if shots is not None and shots < 1:
        raise ConfigError(f"{shots} labelled slices cannot be learnt from. Give 1 or more.")
    files = [LabelledFile(pair, axes, channels) for pair in pairs]
    slices = [None] * len(files) if shots is None else picked(files, shots, seed)
    found: list[tuple[str, Example]] = []
    total = 0 if progress is None or shots is not None else sum(map(len, files))
    done = 0
    for file, numbers in zip(files, slices, strict=True):

        def read(number: int, file: LabelledFile = file, before: int = done) -> NDArray:
            if progress is not None and total:
                progress(before + number + 1, total)
            return file.labels(number)

        found += [(file.pair.kind, example) for example in _examples_of(file, words, numbers, read)]
        done += len(file) if total else 0
    unknown = [example for kind, example in found if not kind]
    apart = {"": not _is_semantic(unknown), "semantic": False}
    return [replace(example, objects=apart.get(kind, True)) for kind, example in found]


def _examples_of(
    file: LabelledFile,
    words: tuple[str, ...],
    numbers: Sequence[int] | None,
    read: Callable[[int], NDArray[np.integer]],
) -> Iterator[Example]:
    """Labelled planes of one file: all there are, or those of some numbers."""
    if numbers is None:
        slices = labelled_slices(read, len(file))
        numbers, partial = slices.used, set(slices.partial)
    else:
        partial = _partly_labelled({n: int(np.count_nonzero(read(n))) for n in numbers})
    for number in numbers:
        labelled = file.plane(number)
        known = known_pixels(labelled.labels) if number in partial else None
        yield Example(labelled.plane, labelled.labels, words, known=known)


def _is_semantic(examples: Sequence[Example]) -> bool:
    """Whether labels that nobody describes have one number for several objects."""
    numbers: set[int] = set()
    for example in examples:
        numbers.update(np.unique(example.labels[example.labels > 0]).tolist())
    return len(numbers) == 1 and any(count_parts(example.labels > 0) > 1 for example in examples)


def _partly_labelled(areas: Mapping[int, int]) -> set[int]:
    """Slices with labels that are far too few (see `labelled_slices`)."""
    if len(areas) < 3:
        return set()
    low = {number for number, area in areas.items() if area < _LOW * median(areas.values())}
    whole = areas.keys() - low
    # From the whole slices outwards, so that each is judged by one that is known to be whole.
    for number in sorted(low, key=lambda number: -areas[number]):
        for inner, outer in ((number - 1, number + 1), (number + 1, number - 1)):
            falls = inner in whole and areas[number] >= _FALLING * areas[inner]
            if falls and areas.get(outer, 0) <= areas[number]:
                whole.add(number)
    return low - whole


def _check_hold_out(hold_out: float | Sequence[int], count: int) -> None:
    if isinstance(hold_out, int | float):
        if not 0 < hold_out < 1:
            raise ConfigError(f"The held-out share is {hold_out:g}. Give one between 0 and 1.")
        return
    if not hold_out:
        raise ConfigError("No slice to test on is chosen. Choose one, or let the program choose.")
    for index in hold_out:
        if not 0 <= index < count:
            raise ConfigError(
                f"There is no labelled slice with the index {index}. Choose from 0 to {count - 1}."
            )


def _within(examples: tuple[Example, ...], notes: Sequence[str]) -> Split:
    """Hold out a quarter of the one plane there is."""
    structure = np.any([example.labels > 0 for example in examples], axis=0)
    masks = [example.known for example in examples if example.known is not None]
    known = np.any(masks, axis=0) if len(masks) == len(examples) else None
    parts = quarter(structure, known, MIN_STRUCTURE)

    def within(part: NDArray[np.bool_]) -> tuple[Example, ...]:
        return tuple(
            replace(e, known=part if e.known is None else part & e.known) for e in examples
        )

    share = "a quarter" if parts.is_quarter else "a part"
    tested_on = f"{share} of {name_planes([examples[0].plane])}"
    return Split(within(parts.train), within(parts.held_out), tested_on, tuple(notes))
