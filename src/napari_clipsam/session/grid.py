"""How an image's axes are named and how large its pixels are, for files of other programs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from napari_clipsam._readers.base import MICROMETRES
from napari_clipsam.errors import OutputError
from napari_clipsam.session.objects import PlaneKey, plane_axes

__all__ = ["Grid"]

_LETTERS = "TCZYX"


@dataclass(frozen=True)
class Grid:
    """Shape, names and sizes of an image's axes, without colours.

    Attributes
    ----------
    shape : tuple of int
    scale : tuple of float
        Size of a pixel along each axis; empty when unknown.
    unit : str
        Of the scale along Z, Y and X, e.g. "micrometer"; "pixel" when unknown.
    names : tuple of str
        Of the axes; those of napari's `axis_labels`. Unless they are letters out of T, C, Z, Y, X
        with Y and X among them, the axes are taken to be the last of these.
    """

    shape: tuple[int, ...]
    scale: tuple[float, ...] = ()
    unit: str = "pixel"
    names: tuple[str, ...] = ()

    @property
    def letters(self) -> str:
        """One of T, C, Z, Y, X for each axis.

        Raises
        ------
        OutputError
            There are fewer than 2 axes or more than 5.
        """
        if not 2 <= len(self.shape) <= len(_LETTERS):
            raise OutputError(
                f"Data with {len(self.shape)} axes cannot be exported. Export 2 to 5 axes."
            )
        given = "".join(name.strip().upper() for name in self.names)
        named = len(given) == len(self.names) == len(self.shape) == len(set(given))
        if named and {"Y", "X"} <= set(given) <= set(_LETTERS):
            return given
        return {4: "TZYX"}.get(len(self.shape), _LETTERS[-len(self.shape) :])

    @property
    def spacing_um(self) -> dict[str, float]:
        """Micrometres a pixel along Z, Y and X; empty when unknown."""
        size = MICROMETRES.get(self.unit)
        if size is None or len(self.scale) != len(self.shape):
            return {}
        pairs = zip(self.letters, self.scale, strict=True)
        return {letter: abs(value) * size for letter, value in pairs if letter in "ZYX"}

    def area_um2(self, plane: PlaneKey, pixels: int) -> float | None:
        """Area of pixels of a plane; None where it is unknown or the plane is not of space."""
        size = self.spacing_um
        letters = [self.letters[axis] for axis in plane_axes(plane)]
        known = all(letter in size for letter in letters)
        return pixels * math.prod(size[letter] for letter in letters) if known else None

    def volume_um3(self, pixels: int) -> float | None:
        """Volume of pixels; None where it is unknown or there is no depth."""
        size = self.spacing_um
        known = {"Z", "Y", "X"} <= set(size)
        return pixels * math.prod(size.values()) if known else None
