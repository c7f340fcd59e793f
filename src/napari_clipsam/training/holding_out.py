"""Which planes are held out: as little like those that are learnt from as can be."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from napari_clipsam.training.naming import stack_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_clipsam.planes import Plane

__all__ = ["Unit", "chosen_units", "units_of"]

#: Share of the usual labelled area that a plane to measure on should have.
_ENOUGH = 0.25


@dataclass(frozen=True)
class Unit:
    """Examples that are on one side together: those of one plane.

    Attributes
    ----------
    members : tuple of int
        Positions of the examples.
    stack : str
        Name of the image or stack.
    at : int
        Number in the stack, 0 for an image.
    area : int
        Labelled pixels.
    """

    members: tuple[int, ...]
    stack: str
    at: int
    area: int


def units_of(planes: Sequence[Plane], areas: Sequence[int]) -> list[Unit]:
    """Bring the planes of examples together where they are one, or alike.

    Slices of one stack are numbered along the axis that most of them differ in; those with the same
    number (such as one depth at several times) are one unit. Other planes are told apart by their
    pixels.
    """
    along = {name: _axis(planes, name) for name in {stack_name(plane) for plane in planes}}
    found: dict[tuple[str, int], list[int]] = {}
    by_pixels: dict[str, tuple[str, int]] = {}
    for position, plane in enumerate(planes):
        name = stack_name(plane)
        letter = along[name]
        key = (name, -1 if letter is None else plane.index[letter])
        if letter is None:
            key = (plane.fingerprint, 0)
        # The same pixels under another name are the same plane.
        key = by_pixels.setdefault(plane.fingerprint, key)
        found.setdefault(key, []).append(position)
    return [
        Unit(tuple(members), name, at, max(areas[i] for i in members))
        for (name, at), members in found.items()
    ]


def chosen_units(units: Sequence[Unit], share: float, whole: Sequence[bool], seed: int) -> set[int]:
    """Positions of the examples to hold out.

    Parameters
    ----------
    units : sequence of Unit
        Two or more.
    share : float
        Of the units, 0..1; at least one is held out and one is not.
    whole : sequence of bool
        Of every example, whether all of its structure is labelled.
    seed : int

    Returns
    -------
    set of int
    """
    count = min(max(1, round(share * len(units))), len(units) - 1)
    stacks: dict[str, list[Unit]] = {}
    for unit in units:
        stacks.setdefault(unit.stack, []).append(unit)
    names = list(stacks)
    drawn = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    held: list[Unit] = []
    if len(names) > 1:
        for name in drawn:
            if len(stacks[name]) <= count - len(held):
                held += stacks[name]
    if not held:
        held = _end(stacks[drawn[0]], count, whole)
    return {member for unit in held for member in unit.members}


def _end(stack: Sequence[Unit], count: int, whole: Sequence[bool]) -> list[Unit]:
    """The `count` slices at one end of a stack that tell most.

    Wholly labelled ones that show enough come first, then those with the larger gap to the rest,
    then those that show more; between equal ends it is the last.
    """
    ordered = sorted(stack, key=lambda unit: unit.at)
    good = _good(stack, whole)
    ends = (
        (ordered[:count], ordered[count].at - ordered[count - 1].at),
        (ordered[-count:], ordered[-count].at - ordered[-count - 1].at),
    )
    ranked = [
        (sum(good[unit] for unit in units), gap, sum(unit.area for unit in units))
        for units, gap in ends
    ]
    return ends[0 if ranked[0] > ranked[1] else 1][0]


def _good(units: Sequence[Unit], whole: Sequence[bool]) -> dict[Unit, bool]:
    enough = _ENOUGH * median(unit.area for unit in units)
    return {
        unit: unit.area >= enough and all(whole[member] for member in unit.members)
        for unit in units
    }


def _axis(planes: Sequence[Plane], name: str) -> str | None:
    """The axis that most planes of a stack differ in; None for a single image."""
    indices = [plane.index for plane in planes if stack_name(plane) == name]
    letters = [letter for letter in indices[0] if all(letter in index for index in indices)]
    if not letters:
        return None
    return max(reversed(letters), key=lambda letter: len({index[letter] for index in indices}))
