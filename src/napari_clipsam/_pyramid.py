"""Label images as OME-Zarr 0.5 with coarser levels, written plane by plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LabelPyramid"]

_CHUNK = 512
_SMALLEST = 256  # pixels: a plane this small needs no coarser level
_TYPES = {"T": "time", "C": "channel", "Z": "space", "Y": "space", "X": "space"}


class LabelPyramid:
    """A label image of several resolutions; coarser ones take every second pixel.

    So no label is invented. Chunks hold one plane, or a part of it.

    Parameters
    ----------
    arrays : sequence of zarr.Array
        The finest first.
    """

    def __init__(self, arrays: Sequence[Any]) -> None:
        self._arrays = list(arrays)

    @classmethod
    def create(
        cls,
        path: Path,
        shape: Sequence[int],
        letters: str,
        dtype: Any,
        name: str,
        scale: Sequence[float],
        spacing_um: Mapping[str, float],
    ) -> LabelPyramid:
        """Make a folder with empty levels and their metadata.

        Parameters
        ----------
        path : Path
        shape : sequence of int
        letters : str
            Axes in the order T, C, Z, Y, X.
        dtype : numpy dtype
        name : str
        scale : sequence of float
            Size of a pixel along each axis where `spacing_um` does not tell.
        spacing_um : mapping of str to float
        """
        import zarr

        group = zarr.open_group(path, mode="w", zarr_format=3)
        levels = _levels(shape)
        group.attrs["ome"] = _ome(name, letters, scale, spacing_um, levels)
        return cls(
            [
                group.create_array(
                    str(level),
                    shape=(size := _level_shape(shape, level)),
                    dtype=dtype,
                    chunks=(*(1 for _ in size[:-2]), *(min(n, _CHUNK) for n in size[-2:])),
                    dimension_names=[letter.lower() for letter in letters],
                    fill_value=0,
                )
                for level in range(levels)
            ]
        )

    @classmethod
    def open(cls, path: Path) -> LabelPyramid:
        """Open one that was made by `create`, to go on with it."""
        import zarr

        group = zarr.open_group(path, mode="r+", zarr_format=3)
        return cls([group[name] for name in sorted(group.array_keys(), key=int)])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the finest level."""
        return tuple(self._arrays[0].shape)

    def write(self, held: tuple[int, ...], plane: NDArray[np.integer]) -> None:
        """Write a plane (H, W), at the place `held` along the leading axes, into all levels."""
        for level, array in enumerate(self._arrays):
            array[held] = plane[:: 1 << level, :: 1 << level]

    def read(self, held: tuple[int, ...]) -> NDArray[np.integer]:
        """Read a plane of the finest level."""
        return np.asarray(self._arrays[0][held])


def _levels(shape: Sequence[int]) -> int:
    """How many levels there are, the finest included."""
    levels = 1
    while max(_level_shape(shape, levels - 1)[-2:]) > _SMALLEST:
        levels += 1
    return levels


def _level_shape(shape: Sequence[int], level: int) -> tuple[int, ...]:
    return (*shape[:-2], *(-(-size // (1 << level)) for size in shape[-2:]))


def _ome(
    name: str,
    letters: str,
    scale: Sequence[float],
    spacing_um: Mapping[str, float],
    levels: int,
) -> dict[str, Any]:
    """Metadata as version 0.5 of the specification has it."""
    axes = [
        {
            "name": letter.lower(),
            "type": _TYPES[letter],
            **({"unit": "micrometer"} if letter in spacing_um else {}),
        }
        for letter in letters
    ]
    sizes = [
        spacing_um.get(letter, abs(float(size)) or 1.0)
        for letter, size in zip(letters, scale, strict=True)
    ]
    datasets = [
        {
            "path": str(level),
            "coordinateTransformations": [
                {"type": "scale", "scale": [*sizes[:-2], *(s * (1 << level) for s in sizes[-2:])]}
            ],
        }
        for level in range(levels)
    ]
    multiscale = {"name": name, "axes": axes, "datasets": datasets, "type": "nearest"}
    return {"version": "0.5", "multiscales": [multiscale], "image-label": {}}
