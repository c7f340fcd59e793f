"""Names of planes for people: "slice 12", "slices 11 and 12", "a.png"."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from napari_clipsam.planes import Plane

__all__ = ["name_planes", "stack_name"]

#: More names than these make nobody wiser.
_MOST = 4


def stack_name(plane: Plane) -> str:
    """Name of the image or stack a plane is from, without its number in it."""
    number = "".join(f" {letter}={n}" for letter, n in plane.index.items())
    return plane.name.removesuffix(number)


def name_planes(planes: Sequence[Plane]) -> str:
    """Name planes by their numbers in a stack, images by their names.

    Parameters
    ----------
    planes : sequence of Plane
        One or more; a plane that comes twice is named once.

    Returns
    -------
    str
    """
    stacks = list(dict.fromkeys(stack_name(plane) for plane in planes))
    if not any(plane.index for plane in planes):
        return _listed(stacks) if len(stacks) <= _MOST else f"{len(stacks)} images"
    if len(stacks) > 1:
        slices = list(dict.fromkeys(plane.name for plane in planes))
        if len(slices) <= _MOST:
            return _listed(slices)
        return f"{len(slices)} slices of {len(stacks)} images"
    numbers = list(dict.fromkeys(tuple(plane.index.items()) for plane in planes))
    letters = [letter for letter, _ in numbers[0]]
    alike = [len({number[axis] for number in numbers}) == 1 for axis in range(len(letters))]
    varying = [axis for axis, same in enumerate(alike) if not same] or [len(letters) - 1]
    held = ", ".join(f"{k}={n}" for axis, (k, n) in enumerate(numbers[0]) if axis not in varying)
    if varying == [len(letters) - 1]:
        named = _runs(sorted(number[-1][1] for number in numbers))
    elif len(numbers) <= _MOST:
        chosen = [[number[axis] for axis in varying] for number in numbers]
        named = [", ".join(f"{letter}={n}" for letter, n in number) for number in chosen]
    else:
        return f"{len(numbers)} slices"
    several = len(numbers) > 1
    return f"slice{'s' if several else ''} {_listed(named)}" + (f" of {held}" if held else "")


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _runs(numbers: Iterable[int]) -> list[str]:
    """Rising numbers, three in a row or more as one entry."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return [
        name
        for run in runs
        for name in ([f"{run[0]} to {run[-1]}"] if len(run) > 2 else map(str, run))
    ]
