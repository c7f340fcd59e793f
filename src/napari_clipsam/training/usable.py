"""Which examples can teach anything, and what to do about those that cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from napari_clipsam.errors import ConfigError, InputError, PlaneError, WordError
from napari_clipsam.training.naming import name_planes

if TYPE_CHECKING:
    from napari_clipsam.planes import Plane
    from napari_clipsam.training.samples import Example
    from napari_clipsam.training.settings import Goal

__all__ = ["MIN_STRUCTURE", "area_of", "check_words", "checked", "usable_examples"]

#: Fewer labelled pixels in a plane teach nothing.
MIN_STRUCTURE = 10


def check_words(words: Sequence[str]) -> tuple[str, ...]:
    """Words without spaces around them.

    Raises
    ------
    WordError
        There is none, one is blank, or one comes twice, whatever its case and spacing.
    """
    tidy = tuple(" ".join(word.split()) for word in words)
    if not tidy or "" in tidy:
        raise WordError("The word is empty. Say what the labels show, e.g. mitochondria.")
    seen: set[str] = set()
    for word in tidy:
        if word.casefold() in seen:
            raise WordError(f"The word '{word}' is given twice. Give every word once.")
        seen.add(word.casefold())
    return tidy


def area_of(example: Example) -> int:
    """Labelled pixels that count."""
    structure = example.labels > 0
    return int(np.count_nonzero(structure if example.known is None else structure & example.known))


def checked(example: Example) -> Example:
    """An example whose labels fit its plane, with tidy words.

    Raises
    ------
    PlaneError
        The labels have another shape.
    WordError
        As for `check_words`.
    """
    if example.labels.shape != example.plane.shape:
        raise PlaneError(
            f"The labels of {example.plane.name} have the shape {example.labels.shape}, its image "
            f"{example.plane.shape}. Give labels of the image's own size."
        )
    return replace(example, words=check_words(example.words))


def usable_examples(
    examples: Sequence[Example], goal: Goal | None, wanted: Sequence[int]
) -> tuple[list[int], list[str]]:
    """Indices of the examples that can teach something, and why others cannot.

    Parameters
    ----------
    examples : sequence of Example
    goal : {"concept", "object", "both"}, optional
    wanted : sequence of int
        Those that have to be usable.

    Raises
    ------
    PlaneError
        None is, or one of those wanted is not.
    ConfigError
        Objects are to be learnt from labels that do not tell them apart.
    """
    faults = [_fault(example, goal) for example in examples]
    usable = [index for index, fault in enumerate(faults) if fault is None]
    for index, fault in enumerate(faults):
        if fault is not None and (not usable or index in wanted):
            raise fault.error
    notes: dict[str, list[Plane]] = {}
    for example, fault in zip(examples, faults, strict=True):
        if fault is not None:
            notes.setdefault(fault.reason, []).append(example.plane)
    if goal in ("object", "both") and not any(examples[index].objects for index in usable):
        raise ConfigError(
            "The labels have one number for all objects, so there are none to tell apart. Learn "
            "all of it, or label each object with a number of its own."
        )
    return usable, [f"Left out: {name_planes(of)}, {why}." for why, of in notes.items()]


@dataclass(frozen=True)
class _Fault:
    """Why an example is of no use: in a few words, and as what to raise where all are."""

    reason: str
    error: InputError


def _fault(example: Example, goal: Goal | None) -> _Fault | None:
    where = name_planes([example.plane])
    area = area_of(example)
    if area == 0:
        error = PlaneError(f"There are no labels in {where}. Paint the structure there.")
        return _Fault("where nothing is labelled", error)
    if area < MIN_STRUCTURE:
        error = PlaneError(
            f"The labels in {where} have only {area} pixel{'' if area == 1 else 's'}. Paint the "
            f"whole structure, {MIN_STRUCTURE} pixels or more."
        )
        return _Fault(f"where fewer than {MIN_STRUCTURE} pixels are labelled", error)
    counted = example.labels if example.known is None else example.labels[example.known]
    told_apart = example.objects and goal != "concept" and counted.min() != counted.max()
    if area == counted.size and not told_apart:
        error = PlaneError(
            f"The label covers all of {where}, so there is nothing to tell it from. Erase it where "
            "the structure is not."
        )
        return _Fault("where the label covers everything", error)
    return None
