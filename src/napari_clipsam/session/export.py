"""Files for other programs: labels as TIFF and OME-Zarr, objects as table and COCO.

Each is written whole or not at all.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from napari_clipsam._pyramid import LabelPyramid
from napari_clipsam.errors import OutputError
from napari_clipsam.outputs import label_dtype, write_labels
from napari_clipsam.session.grid import Grid
from napari_clipsam.session.tables import as_painted, write_coco, write_table

__all__ = ["Grid", "as_painted", "write_coco", "write_ome_zarr", "write_table", "write_tiff"]


def write_tiff(path: str | Path, labels: Any, grid: Grid, overwrite: bool = False) -> Path:
    """Write labels as a TIFF with axes and pixel size, as `outputs.write_labels` does.

    Parameters
    ----------
    path : str or Path
    labels : array of int
        2 to 4 axes, none of them channels.
    grid : Grid
    overwrite : bool
        Whether an existing file may be replaced.

    Raises
    ------
    OutputError
        A label is negative or beyond uint32, or as for `outputs.write_labels`.
    """
    array = np.asarray(labels)
    low, high = int(array.min(initial=0)), int(array.max(initial=0))
    if low < 0 or high >= 1 << 32:
        raise OutputError(
            f"Labels from {low} to {high} do not fit a TIFF, which holds 0 to {(1 << 32) - 1}. "
            "Change these labels, or export as OME-Zarr."
        )
    # A type that can hold the labels already is kept.
    if array.dtype.kind != "u" or array.dtype.itemsize > 4:
        array = array.astype(label_dtype(high))
    return write_labels(path, array, overwrite, grid.letters, grid.spacing_um)


def write_ome_zarr(path: str | Path, labels: Any, grid: Grid, overwrite: bool = False) -> Path:
    """Write labels as an OME-Zarr 0.5 label image with coarser levels, plane by plane.

    Axes are brought into the order T, C, Z, Y, X. Coarser levels take every second pixel, so that
    no label is invented.

    Parameters
    ----------
    path : str or Path
        A folder, usually ending in ``.ome.zarr``.
    labels : array of int
        2 to 5 axes; read plane by plane.
    grid : Grid
    overwrite : bool
        Whether an existing OME-Zarr may be replaced; never another folder.

    Raises
    ------
    OutputError
        The path exists and may not be replaced, cannot be written to, or the axes do not suit.
    """
    path, letters = Path(path), grid.letters
    order = [letters.index(letter) for letter in "TCZYX" if letter in letters]
    shape = tuple(labels.shape[axis] for axis in order)
    scale = grid.scale if len(grid.scale) == len(letters) else (1.0,) * len(letters)
    with _replacing_folder(path, overwrite) as part:
        pyramid = LabelPyramid.create(
            part,
            shape,
            "".join(letters[axis] for axis in order),
            labels.dtype,
            path.name.partition(".")[0],
            [scale[axis] for axis in order],
            grid.spacing_um,
        )
        y, x = order[-2:]
        for held in np.ndindex(shape[:-2]):
            index: list[int | slice] = [slice(None)] * len(shape)
            for axis, k in zip(order[:-2], held, strict=True):
                index[axis] = k
            plane = np.asarray(labels[tuple(index)])
            pyramid.write(held, plane if y < x else plane.T)
    return path


@contextmanager
def _replacing_folder(path: Path, overwrite: bool) -> Iterator[Path]:
    """As `outputs.replacing`, for a folder."""
    _check_folder(path, overwrite)
    part = path.with_name(f".{uuid.uuid4().hex[:12]}.zarr")
    former = path.with_name(f".{uuid.uuid4().hex[:12]}.zarr")
    try:
        yield part
        if path.exists():
            os.replace(path, former)
        try:
            os.replace(part, path)
        except OSError:
            if former.exists():
                os.replace(former, path)
            raise
        shutil.rmtree(former, ignore_errors=True)
    except OSError as error:
        raise OutputError(
            f"{path} could not be written ({error.strerror or error}). Free some space or choose "
            "another folder; what was there before is unchanged."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check_folder(path: Path, overwrite: bool) -> None:
    if not path.parent.is_dir():
        raise OutputError(f"The folder {path.parent} does not exist. Make it, or choose another.")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"The folder {path.parent} may not be written to. Choose another.")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists already. Choose another name.")
    if path.exists() and not (path / "zarr.json").is_file():
        raise OutputError(f"{path} is not an OME-Zarr, so it is not replaced. Choose another name.")
