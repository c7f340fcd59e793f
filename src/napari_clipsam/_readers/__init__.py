"""Where pixels come from: arrays, TIFF, Zarr and OME-Zarr, PNG and JPEG; never read whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import PlaneError
from .base import ArraySource, Source, decoding, only_level_0
from .omezarr import open_group, open_zarr
from .pictures import PictureSource
from .tiff import TiffSource

__all__ = ["Source", "open_source"]


def open_source(data: Any, level: int = 0, indexed: bool = False) -> Source:
    """Open an array or a path without reading its pixels.

    Parameters
    ----------
    data : array, zarr group, str or path
        Anything with ``shape``, ``dtype`` and indexing, an OME-Zarr group, or where a file is.
    level : int
        Resolution level of a pyramid, 0 the finest.
    indexed : bool
        Read a picture with a palette as its numbers, as labels are, not as its colours.

    Returns
    -------
    Source

    Raises
    ------
    PlaneError
        If there is nothing, or nothing that can be read, or no such level.
    """
    if isinstance(data, str | Path):
        return _open_path(Path(data), level, indexed)
    if hasattr(data, "array_keys"):
        return open_group(data, getattr(data, "basename", "") or "image", level)
    if not all(hasattr(data, name) for name in ("shape", "dtype", "__getitem__")):
        raise PlaneError(
            f"A {type(data).__name__} is not an image. Give an array (numpy, dask, zarr) or a path."
        )
    only_level_0(level, "an array")
    return ArraySource(data)


def _open_path(path: Path, level: int, indexed: bool) -> Source:
    if not path.exists():
        raise PlaneError(f"{path} does not exist. Check the path.")
    if path.is_dir():
        return open_zarr(path, level)
    with decoding(path), path.open("rb") as file:
        magic = file.read(4)
    if magic in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return TiffSource(path, level)
    only_level_0(level, str(path))
    return PictureSource(path, indexed)
