"""Files that are whole or not there: labels as TIFF, and any other file written the same way."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ._axes import parse_axes
from .errors import OutputError

__all__ = ["check_output", "label_dtype", "replacing", "write_labels"]

#: ImageJ's format stops at 4 GB; a little is left for the pages' headers.
_IMAGEJ_BYTES = (1 << 32) - (1 << 26)


def label_dtype(largest: int) -> np.dtype:
    """Return the type that instance numbers up to ``largest`` are stored in.

    Parameters
    ----------
    largest : int
        The highest instance number.

    Returns
    -------
    numpy.dtype
        uint16 up to 65,535, else uint32.
    """
    return np.dtype(np.uint16 if largest < 1 << 16 else np.uint32)


def check_output(path: str | Path, overwrite: bool = False) -> Path:
    """Refuse an output that could not be written, before any work is done.

    Parameters
    ----------
    path : str or Path
    overwrite : bool
        Whether an existing file may be replaced.

    Returns
    -------
    Path

    Raises
    ------
    OutputError
        If the folder is missing or not writable, or the file exists and may not be replaced.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise OutputError(f"The folder {path.parent} does not exist. Make it, or choose another.")
    if path.is_dir():
        raise OutputError(f"{path} is a folder. Give the name of a file in it.")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists already. Choose another name, or give --overwrite.")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"The folder {path.parent} may not be written to. Choose another.")
    return path


@contextmanager
def replacing(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Write a file beside its place and move it there once it is whole.

    Whatever goes wrong, an old file stays as it was and no partial one is left behind.

    Parameters
    ----------
    path : str or Path
    overwrite : bool
        Whether an existing file may be replaced.

    Yields
    ------
    Path
        Where to write; it has the same suffix.

    Raises
    ------
    OutputError
        As for `check_output`, or if writing fails, for example because the disk is full.

    Examples
    --------
    >>> with replacing("result.json", overwrite=True) as part:
    ...     _ = part.write_text("{}")
    """
    path = check_output(path, overwrite)
    part = path.with_name(f".{uuid.uuid4().hex[:12]}{path.suffix}")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise OutputError(
            f"{path} could not be written ({error.strerror or error}). Free some space or choose "
            "another folder; what was there before is unchanged."
        ) from error
    finally:
        part.unlink(missing_ok=True)


def write_labels(
    path: str | Path,
    labels: ArrayLike,
    overwrite: bool = False,
    axes: str | None = None,
    spacing_um: Mapping[str, float] | None = None,
) -> Path:
    """Write labels as a zlib-compressed TIFF with its axes, readable by ImageJ.

    What ImageJ's own format cannot hold (uint32, 4 GB and more) is written as a plain TIFF that
    names its axes, without the pixel size.

    Parameters
    ----------
    path : str or Path
        Ends in ``.tif`` or ``.tiff``.
    labels : array_like
        Unsigned integers; bool becomes 0 and 1.
    overwrite : bool
        Whether an existing file may be replaced.
    axes : str, optional
        Letters out of T, Z, Y, X in the order of the data; YX, ZYX or TZYX when left out. The file
        has them in the order TZYX.
    spacing_um : mapping of str to float, optional
        Micrometres a pixel along Z, Y and X.

    Returns
    -------
    Path

    Raises
    ------
    OutputError
        If the labels are not unsigned integers of 2 to 4 dimensions, the name is not that of a
        TIFF, or as for `replacing`.
    PlaneError
        If the axes are not letters each used once.
    """
    import tifffile

    if Path(path).suffix.lower() not in (".tif", ".tiff"):
        raise OutputError(f"{path} is not the name of a TIFF. Let it end in .tif.")
    array, axes = _ordered(labels, axes)
    options: dict[str, Any] = {"imagej": False, "metadata": {"axes": axes}}
    # tifffile turns planes one pixel wide around in ImageJ's format.
    narrow = array.ndim > 2 and array.shape[-1] == 1
    if array.dtype in (np.uint8, np.uint16) and array.nbytes < _IMAGEJ_BYTES and not narrow:
        options = _imagej(axes, spacing_um or {})
    with replacing(path, overwrite) as part:
        tifffile.imwrite(part, array, compression="zlib", photometric="minisblack", **options)
    return Path(path)


def _ordered(labels: ArrayLike, axes: str | None) -> tuple[np.ndarray, str]:
    """Check labels and bring them into the order TZYX."""
    array = np.asarray(labels)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    if array.dtype.kind != "u" or array.dtype.itemsize > 4:
        raise OutputError(
            f"Labels of the type {array.dtype} cannot be written. Convert them first, for example "
            "labels.astype(label_dtype(labels.max()))."
        )
    given = "TZYX"[-array.ndim :] if axes is None else parse_axes(axes)
    ordered = "".join(letter for letter in "TZYX" if letter in given)
    if len(ordered) != array.ndim or len(given) != array.ndim or array.size == 0:
        raise OutputError(
            f"Labels of shape {array.shape} cannot be written with the axes {given!r}. Give 2 to 4 "
            "dimensions out of T, Z, Y, X, one letter each, none of them empty."
        )
    return array.transpose([given.index(letter) for letter in ordered]), ordered


def _imagej(axes: str, spacing_um: Mapping[str, float]) -> dict[str, Any]:
    """Options that make tifffile write ImageJ's hyperstack format."""
    metadata: dict[str, Any] = {"axes": axes}
    options: dict[str, Any] = {"imagej": True, "metadata": metadata}
    if "Y" in spacing_um and "X" in spacing_um:
        options["resolution"] = (1 / spacing_um["X"], 1 / spacing_um["Y"])
        metadata["unit"] = "um"
        if "Z" in spacing_um:
            metadata["spacing"] = spacing_um["Z"]
    return options
