"""PNG, JPEG and BMP."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import PlaneError
from .base import Index, decoding

__all__ = ["PictureSource"]


class PictureSource:
    """A PNG, JPEG or BMP, decoded when first read.

    Parameters
    ----------
    path : Path
    indexed : bool
        Read a palette's numbers instead of its colours.
    """

    spacing_um: dict[str, float] | None = None

    def __init__(self, path: Path, indexed: bool) -> None:
        self._path, self._indexed = path, indexed
        self.name = path.stem
        self._pixels: NDArray | None = None
        self._lock = threading.Lock()
        with decoding(path), _picture(path) as picture:
            width, height = picture.size
            mode = self._mode(picture)
        sample = {"1": np.bool_, "I": np.int32, "F": np.float32}.get(mode, np.uint8)
        self.dtype = np.dtype(np.uint16 if mode.startswith("I;16") else sample)
        samples = {"LA": 2, "RGB": 3, "RGBA": 4}.get(mode)
        self.axes = "YX" if samples is None else "YXS"
        self.shape = (height, width) if samples is None else (height, width, samples)

    def __reduce__(self) -> tuple[Any, ...]:
        return PictureSource, (self._path, self._indexed)

    def read(self, index: Index) -> NDArray:
        """Read one piece (see `Source`)."""
        with self._lock:
            if self._pixels is None:
                with decoding(self._path), _picture(self._path) as picture:
                    mode = self._mode(picture)
                    shown = picture if picture.mode == mode else picture.convert(mode)
                    self._pixels = np.asarray(shown)
        return self._pixels[index]

    def _mode(self, picture: Any) -> str:
        """Return the mode to decode to: colours as RGB, everything else as it is."""
        mode = str(picture.mode)
        if mode in ("P", "PA"):
            if self._indexed:
                return "P"
            return "RGBA" if mode == "PA" or "transparency" in picture.info else "RGB"
        return mode if mode in ("1", "L", "LA", "I", "F") or mode[:4] in ("I;16", "RGBA") else "RGB"


@contextmanager
def _picture(path: Path) -> Iterator[Any]:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(path, formats=("PNG", "JPEG", "BMP"))
        with opened:
            yield opened
    except UnidentifiedImageError:
        raise PlaneError(
            f"{path} is not an image of a known kind. Give TIFF, PNG, JPEG or OME-Zarr."
        ) from None
    except Image.DecompressionBombError:
        raise PlaneError(
            f"{path} is too large for a picture file. Save it as TIFF or OME-Zarr."
        ) from None
