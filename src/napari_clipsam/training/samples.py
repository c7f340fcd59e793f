"""Labelled planes as examples to learn from, and the part of them that is held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_clipsam.planes import Plane

__all__ = ["Example", "Split"]


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
