"""What every reader shares: the contract, arrays, levels, units and one kind of error."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import PlaneError

__all__ = [
    "DECODER_ERRORS",
    "MICROMETRES",
    "ArraySource",
    "Index",
    "Source",
    "check_level",
    "decoding",
    "only_level_0",
]

#: One entry a dimension: a number drops it, a slice (with a step) keeps it.
Index = tuple[int | slice, ...]

#: What decoders raise on bytes that are not what they should be.
DECODER_ERRORS = (
    ArithmeticError,
    AssertionError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)

#: Micrometres in the units that ImageJ, OME-TIFF and OME-Zarr write.
MICROMETRES = {
    "angstrom": 1e-4,
    "cm": 1e4,
    "m": 1e6,
    "meter": 1e6,
    "micrometer": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "millimeter": 1e3,
    "mm": 1e3,
    "nanometer": 1e-3,
    "nm": 1e-3,
    "um": 1.0,
    "\u00b5m": 1.0,
    "\u03bcm": 1.0,
    "\\u00b5m": 1.0,
}


class Source(Protocol):
    """An image that is read piece by piece.

    Attributes
    ----------
    name : str
        For messages and results.
    shape : tuple of int
    dtype : numpy.dtype
    axes : str or None
        What the file says about its axes; letters as it has them.
    spacing_um : dict of str to float, or None
        Micrometres a pixel for Z, Y, X, as far as known.
    """

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    @property
    def axes(self) -> str | None: ...

    @property
    def spacing_um(self) -> dict[str, float] | None: ...

    def read(self, index: Index) -> NDArray:
        """Read one piece: an int drops a dimension, a slice (with a step) keeps it."""
        ...


class ArraySource:
    """An array-like: numpy, dask, zarr, h5py.

    Parameters
    ----------
    array : array_like
        With ``shape``, ``dtype`` and basic indexing.
    name : str
    axes : str, optional
    spacing_um : dict of str to float, optional
    """

    def __init__(
        self,
        array: Any,
        name: str = "image",
        axes: str | None = None,
        spacing_um: dict[str, float] | None = None,
    ) -> None:
        try:
            self.dtype = np.dtype(array.dtype)
        except TypeError:
            raise PlaneError(
                f"An array of the type {array.dtype} cannot be read. Give a numpy, dask or zarr "
                "array, for example tensor.numpy()."
            ) from None
        self._array = array
        self.name = name
        self.shape = tuple(int(length) for length in array.shape)
        self.axes = axes
        self.spacing_um = spacing_um

    def read(self, index: Index) -> NDArray:
        """Read one piece (see `Source`)."""
        with decoding(self.name):
            piece = self._array[index]
            if hasattr(piece, "__dask_graph__"):
                # napari's dask cache is told of every computation, and takes but one thread.
                piece = piece.compute(callbacks=())
            return np.asarray(piece)


def check_level(level: int, count: int, name: object) -> None:
    if not 0 <= level < count:
        raise PlaneError(
            f"{name} has no resolution level {level}. Give one from 0 (the finest) to {count - 1}."
        )


def only_level_0(level: int, name: str) -> None:
    if level != 0:
        raise PlaneError(f"{name[:1].upper()}{name[1:]} has no resolution levels. Give level 0.")


@contextmanager
def decoding(name: object) -> Iterator[None]:
    """Turn whatever a decoder raises into one error that says what to do."""
    try:
        yield
    except DECODER_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PlaneError(
            f"{name} cannot be read ({reason}). It may be incomplete or of a kind that is not "
            "supported: open it in another program and save it as TIFF, PNG or OME-Zarr."
        ) from error
