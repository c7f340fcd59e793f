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
from .base import DECODER_ERRORS, MICROMETRES, Index, check_level, decoding

__all__ = ["TiffSource"]

# What tifffile logs of a file that is cut off.
_NEXT_IS_GONE = "invalid page offset"
_SIGNS = (_NEXT_IS_GONE, "corrupt", "failed to reshape", "TiffTag 270 ")


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
        self._path, self._level = path, level
        self.name = path.stem.removesuffix(".ome")
        with decoding(path), _opened_whole(path) as tif:
            self._close = weakref.finalize(self, tif.close)
            self._describe(tif)

    def _describe(self, tif: Any) -> None:
        levels = tif.series[0].levels
        check_level(self._level, len(levels), self._path)
        series = levels[self._level]
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
            # What is missing in between shows when it is read.
            for page in (self._pages[0], self._pages[-1]):
                if page is not None and not _is_within(page, tif.filehandle.size):
                    raise ValueError("the file ends before its pixels do")

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
        page_shape = self.shape[self._leading :]
        try:
            page = self._pages[number]
            if page is None:  # OME-TIFF may leave planes out
                return np.zeros(page_shape, self.dtype)
            return np.asarray(page.asarray()).reshape(page_shape)
        except DECODER_ERRORS as error:
            if _is_unsupported(error):
                raise
            raise _damaged(self._path, number, len(self._pages)) from error

    def _map(self, series: Any, tif: Any) -> NDArray | None:
        if series.dataoffset is None:
            return None
        whole = (tif.filehandle.size - series.dataoffset) // series.keyframe.nbytes
        if whole * series.keyframe.nbytes < series.nbytes:
            raise _damaged(self._path, whole, series.nbytes // series.keyframe.nbytes)
        dtype = self.dtype.newbyteorder(tif.byteorder)
        return np.memmap(self._path, dtype, "r", series.dataoffset, self.shape)

    def _count_leading(self, page_size: int) -> int:
        """Count the axes that number the pages; the others lie within a page."""
        for count in reversed(range(len(self.shape))):
            pages, within = math.prod(self.shape[:count]), math.prod(self.shape[count:])
            if (pages, within) == (len(self._pages), page_size):
                return count
        raise ValueError(
            f"it stores {len(self._pages)} pages, which do not make up its shape {self.shape}"
        )


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
def _opened_whole(path: Path) -> Iterator[Any]:
    """Open a file, and refuse one of which tifffile would silently give the pages that are left."""
    import tifffile

    with _listening() as complaints:
        tif = tifffile.TiffFile(path)
        tif.filehandle.set_lock(True)
        caught: Exception | None = None
        try:
            yield tif
        except DECODER_ERRORS as error:
            caught = error
        said = "\n".join(complaints)
        truncated = any(sign in said for sign in _SIGNS)
        if truncated or caught:
            whole, pages = _count_whole(tif), len(tif.pages)
            if _NEXT_IS_GONE in said and tif.pages[0].compression > 1:
                # Pixels that are not compressed may all lie before what describes their pages.
                pages += 1
            if truncated or whole < pages:
                raise _damaged(path, whole, pages) from caught
        if caught:
            raise caught


@contextmanager
def _listening() -> Iterator[list[str]]:
    """Collect what tifffile logs instead of raising."""
    logger = logging.getLogger("tifffile")
    complaints, propagate = _Complaints(), logger.propagate
    logger.addHandler(complaints)
    logger.propagate = False
    try:
        yield complaints.messages
    finally:
        logger.propagate = propagate
        logger.removeHandler(complaints)


def _count_whole(tif: Any) -> int:
    """Count the pages at the beginning that are there with all their pixels."""
    for number in range(len(tif.pages)):
        try:
            if not _is_within(tif.pages[number], tif.filehandle.size):
                return number
        except DECODER_ERRORS:
            return number
    return len(tif.pages)


def _is_within(page: Any, size: int) -> bool:
    """Whether the pixels of a page lie in a file of that size."""
    extents = zip(page.dataoffsets, page.databytecounts, strict=False)
    return all(offset + count <= size for offset, count in extents)


def _is_unsupported(error: Exception) -> bool:
    """Whether a page may be whole, but nothing that is installed decodes it."""
    return isinstance(error, NotImplementedError) or "COMPRESSION" in str(error)


def _damaged(path: Path, number: int, pages: int) -> PlaneError:
    """What to say of a file whose page of that number, from 0, is not whole."""
    where = f" at plane {number}, counted from 0" if number < pages != 1 else ""
    return PlaneError(f"{path} is damaged or cut off{where}. Copy or save it again.")
