"""TIFF, read page by page."""

from __future__ import annotations

import itertools
import logging
import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import PlaneError
from .base import MICROMETRES, Index, check_level, decoding

__all__ = ["TiffSource"]


class TiffSource:
    """A TIFF series, read page by page, or memory-mapped where its pixels lie plainly in the file.

    Parameters
    ----------
    path : Path
    level : int
        Level of the first series' pyramid.

    Attributes
    ----------
    other_shapes : tuple of tuple of int
        Of further images in the file, where nothing says that they are something else.
    """

    def __init__(self, path: Path, level: int) -> None:
        import tifffile

        self._path, self._level = path, level
        self.name = path.stem.removesuffix(".ome")
        with decoding(path), _refuse_truncated(path):
            tif = tifffile.TiffFile(path)
            self._close = weakref.finalize(self, tif.close)
            tif.filehandle.set_lock(True)
            levels = tif.series[0].levels
            check_level(level, len(levels), path)
            series = levels[level]
            self.shape = tuple(int(length) for length in series.shape)
            self.dtype = np.dtype(series.dtype)
            self.axes = series.axes
            finest = dict(zip(levels[0].axes, levels[0].shape, strict=True))
            self.spacing_um = {
                letter: step * finest[letter] / length
                for letter, step in _spacing(tif).items()
                for axis, length in zip(series.axes, series.shape, strict=True)
                if axis == letter
            } or None
            plain = tif.series[0].kind in ("generic", "shaped")
            self.other_shapes = tuple(
                tuple(one.shape) for one in tif.series[1:] if plain and not one.keyframe.is_reduced
            )
            self._pages = series.pages
            self._mapped = self._map(series, tif)
            self._leading = 0
            if self._mapped is None:
                self._leading = self._count_leading(math.prod(series.keyframe.shape))
                self._check_extent(tif.filehandle.size)

    def __reduce__(self) -> tuple[Any, ...]:
        return TiffSource, (self._path, self._level)

    def read(self, index: Index) -> NDArray:
        """Read one piece (see `Source`); only the pages it touches are decoded."""
        with decoding(self._path):
            if self._mapped is not None:
                return np.array(self._mapped[index])
            leading = self.shape[: self._leading]
            chosen = [
                range(length)[part] if isinstance(part, slice) else [part]
                for part, length in zip(index, leading, strict=False)
            ]
            pieces = [
                self._page(int(np.ravel_multi_index(position, leading)) if leading else 0)[
                    index[self._leading :]
                ]
                for position in itertools.product(*chosen)
            ]
            kept = [
                len(choice)
                for choice, part in zip(chosen, index, strict=False)
                if isinstance(part, slice)
            ]
            return np.stack(pieces).reshape(*kept, *pieces[0].shape)

    def _page(self, number: int) -> NDArray:
        page = self._pages[number]
        page_shape = self.shape[self._leading :]
        if page is None:  # OME-TIFF may leave planes out
            return np.zeros(page_shape, self.dtype)
        return np.asarray(page.asarray()).reshape(page_shape)

    def _map(self, series: Any, tif: Any) -> NDArray | None:
        if series.dataoffset is None:
            return None
        dtype = self.dtype.newbyteorder(tif.byteorder)
        return np.memmap(self._path, dtype, "r", series.dataoffset, self.shape)

    def _count_leading(self, page_size: int) -> int:
        """Count the axes that number the pages; the others lie within a page."""
        for count in reversed(range(len(self.shape))):
            pages, within = math.prod(self.shape[:count]), math.prod(self.shape[count:])
            if (pages, within) == (len(self._pages), page_size):
                return count
        raise PlaneError(
            f"{self._path} stores {len(self._pages)} pages that do not make up its shape "
            f"{self.shape}. It may be incomplete: save it again as a plain multi-page TIFF."
        )

    def _check_extent(self, size: int) -> None:
        """Refuse a file whose end is missing; what is in between shows when it is read."""
        for page in (self._pages[0], self._pages[-1]):
            if page is not None and any(
                offset + count > size
                for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False)
            ):
                raise ValueError("the file ends before its pixels do")


def _spacing(tif: Any) -> dict[str, float]:
    """Read the pixel size that ImageJ or OME metadata state; other resolutions mean paper."""
    if tif.is_imagej:
        return _imagej_spacing(tif.imagej_metadata or {}, tif.pages[0].tags)
    return _ome_spacing(tif.ome_metadata) if tif.is_ome else {}


def _imagej_spacing(metadata: dict[str, Any], tags: Any) -> dict[str, float]:
    factor = MICROMETRES.get(str(metadata.get("unit", "")).lower())
    if factor is None:
        return {}
    spacing = {}
    for letter, tag in (("Y", "YResolution"), ("X", "XResolution")):
        pixels, units = tags[tag].value if tag in tags else (0, 0)
        if pixels and units:
            spacing[letter] = units / pixels * factor
    if metadata.get("spacing"):
        spacing["Z"] = abs(float(metadata["spacing"])) * factor
    return spacing


def _ome_spacing(xml: str) -> dict[str, float]:
    import tifffile

    image = tifffile.xml2dict(xml).get("OME", {}).get("Image", {})
    pixels = (image[0] if isinstance(image, list) else image).get("Pixels", {})
    spacing = {}
    for letter in "ZYX":
        size = pixels.get(f"PhysicalSize{letter}")
        factor = MICROMETRES.get(pixels.get(f"PhysicalSize{letter}Unit", "um"))
        if size and factor:
            spacing[letter] = float(size) * factor
    return spacing


class _Complaints(logging.Handler):
    """Collects what tifffile logs instead of raising."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def _refuse_truncated(path: Path) -> Iterator[None]:
    """Refuse a file of which tifffile would silently give the pages that are left."""
    logger = logging.getLogger("tifffile")
    complaints, propagate = _Complaints(), logger.propagate
    logger.addHandler(complaints)
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = propagate
        logger.removeHandler(complaints)
    signs = ("invalid page offset", "corrupt", "failed to reshape", "TiffTag 270 ")
    if any(sign in message for message in complaints.messages for sign in signs):
        raise PlaneError(
            f"{path} is incomplete: part of the file is missing. Copy or save it again."
        )
