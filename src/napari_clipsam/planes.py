"""Any image or stack as planes: 8-bit RGB pictures, normalised alike and read one by one."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._axes import (
    full_index,
    parse_axes,
    parse_channels,
    parse_plane,
    resolve_axes,
    resolve_channels,
)
from ._intensity import Normalisation, check_dtype, limits
from ._readers import Source, open_source
from .errors import PlaneError

__all__ = [
    "LabelStack",
    "Plane",
    "Stack",
    "open_image",
    "parse_axes",
    "parse_channels",
    "parse_plane",
    "read_labels",
]

PlaneIndex = Mapping[str, int] | int | None

#: Bounds of the sample that the normalisation is estimated from, however large the stack.
SAMPLE_PLANES = 32
SAMPLE_PIXELS = 1 << 16


@dataclass(frozen=True, eq=False)
class Plane:
    """One 2D slice, ready for a model.

    Parameters
    ----------
    rgb : ndarray, shape (H, W, 3), uint8
        Set read-only.
    fingerprint : str
        32 hexadecimal digits over pixels, channel map and normalisation; a key for caches.
    index : dict of str to int
        Where in the stack it lies, for example ``{"T": 3, "Z": 12}``; empty for a 2D image.
    name : str
        For people, for example ``"stack T=3 Z=12"``.
    """

    rgb: NDArray[np.uint8]
    fingerprint: str
    index: dict[str, int]
    name: str

    def __post_init__(self) -> None:
        self.rgb.setflags(write=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.rgb.shape[0], self.rgb.shape[1]

    @property
    def is_blank(self) -> bool:
        """Whether all pixels are equal, so that there is nothing a word or click could mean."""
        return all((rows == self.rgb[0, 0]).all() for rows in self.rgb)


class _PlaneAccess:
    """What images and labels share: axes, and reading one plane of them."""

    def __init__(self, source: Source, axes: str | None) -> None:
        check_dtype(source.dtype)
        self._source = source
        self.axes = resolve_axes(source.shape, source.dtype, axes, source.axes)
        self.shape = source.shape
        self.dtype = source.dtype
        self.name = source.name
        self.plane_axes = "".join(letter for letter in self.axes if letter in "TZ")
        spacing = source.spacing_um or {}
        self.spacing_um = {k: v for k, v in spacing.items() if k in self.axes} or None

    def __len__(self) -> int:
        return math.prod(self._length(letter) for letter in self.plane_axes)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.name!r}, axes={self.axes!r}, shape={self.shape}, "
            f"dtype={self.dtype})"
        )

    @property
    def source(self) -> Source:
        """Where the pixels come from."""
        return self._source

    @property
    def plane_shape(self) -> tuple[int, int]:
        """Height and width of a plane in pixels."""
        return self._length("Y"), self._length("X")

    def planes(self) -> Iterator[dict[str, int]]:
        """Iterate over the indices of all planes, the last leading axis fastest."""
        for numbers in itertools.product(*(range(self._length(k)) for k in self.plane_axes)):
            yield dict(zip(self.plane_axes, numbers, strict=True))

    def index(self, index: PlaneIndex) -> dict[str, int]:
        """Check the choice of a plane and complete it.

        Parameters
        ----------
        index : mapping of str to int, int, or None
            For example ``{"Z": 12}``; a bare number where one axis numbers the planes; None for
            a single plane.

        Returns
        -------
        dict of str to int
            A number for each of ``plane_axes``.

        Raises
        ------
        PlaneError
            If the choice is incomplete, out of range or names another axis.
        """
        return full_index({letter: self._length(letter) for letter in self.plane_axes}, index)

    def _length(self, letter: str) -> int:
        return self.shape[self.axes.index(letter)]

    def _read(
        self, index: Mapping[str, int], channel: int = 0, steps: tuple[int, int] = (1, 1)
    ) -> NDArray:
        """Read one channel of one plane (H, W), or all samples of it (H, W, S)."""
        parts: dict[str, int | slice] = {
            **index,
            "C": channel,
            "Y": slice(None, None, steps[0]),
            "X": slice(None, None, steps[1]),
            "S": slice(None),
        }
        pixels = self._source.read(tuple(parts[letter] for letter in self.axes))
        kept = [letter for letter in self.axes if letter in "YXS"]
        return pixels.transpose([kept.index(letter) for letter in "YXS" if letter in kept])


class Stack(_PlaneAccess):
    """An image of any dimension as a lazy sequence of planes; made by `open_image`.

    Attributes
    ----------
    axes : str
        One letter a dimension, in the order of the data, for example ``"TCZYX"`` or ``"YXS"``.
    shape : tuple of int
    dtype : numpy.dtype
    plane_axes : str
        The leading axes that number the planes, for example ``"TZ"``; channels are not among them.
    channels : tuple of int
        The channels shown as grey (one) or as red, green and blue.
    spacing_um : dict of str to float, or None
        Micrometres a pixel along Z, Y and X, as far as the file says.
    name : str
        Stem of the file, or ``"image"``.
    """

    def __init__(
        self, source: Source, axes: str | None = None, channels: Sequence[int] | None = None
    ) -> None:
        super().__init__(source, axes)
        chosen = None if channels is None else tuple(channels)
        self.channels = resolve_channels(self.axes, self.shape, chosen)

    @cached_property
    def normalisation(self) -> Normalisation:
        """How pixels become 8 bits, the same for all planes.

        8-bit pixels stay as they are, however dark. All else is scaled from the 0.1 to the 99.9
        percentile of a bounded sample of the stack, each channel by itself, colour samples
        together so that their hue stays. Slices of one single value do not count.
        """
        if self.dtype in (np.uint8, np.bool_):
            return Normalisation()
        sampled = [self._sample(index) for index in self._sample_indices()]
        pairs = [limits(_informative(slices)) for slices in zip(*sampled, strict=True)]
        return Normalisation(tuple(pairs) * (len(self.channels) // len(pairs)))

    def plane(self, index: PlaneIndex = None) -> Plane:
        """Read one plane; no other pixels are read but the sample, once.

        Parameters
        ----------
        index : mapping of str to int, int, or None
            Which plane (see `index`).

        Returns
        -------
        Plane

        Raises
        ------
        PlaneError
            If there is no such plane or its pixels cannot be read.
        """
        where = self.index(index)
        rgb = np.zeros((*self.plane_shape, 3), np.uint8)
        if "S" in self.axes:
            pixels = self._read(where)
            for position, sample in enumerate(self.channels):
                self.normalisation.apply(pixels[..., sample], position, rgb[..., position])
        else:
            for position, channel in enumerate(self.channels):
                self.normalisation.apply(self._read(where, channel), position, rgb[..., position])
        if len(self.channels) == 1:
            for position in (1, 2):
                rgb[..., position] = rgb[..., 0]
        name = " ".join([self.name, *(f"{letter}={number}" for letter, number in where.items())])
        return Plane(rgb, self._fingerprint(rgb), where, name)

    def _sample(self, index: Mapping[str, int]) -> list[NDArray]:
        """Read a bounded part of one plane: each chosen channel, or the chosen samples together."""
        steps = _steps(self.plane_shape)
        if "S" in self.axes:
            return [self._read(index, steps=steps)[..., list(self.channels)]]
        return [self._read(index, channel, steps) for channel in self.channels]

    def _sample_indices(self) -> Iterator[dict[str, int]]:
        """Spread a bounded number of planes evenly over every leading axis."""
        lengths = [self._length(letter) for letter in self.plane_axes]
        counts = list(lengths)
        while math.prod(counts) > SAMPLE_PLANES:
            longest = counts.index(max(counts))
            counts[longest] = math.ceil(counts[longest] / 2)
        picks = [
            [(2 * k + 1) * length // (2 * count) for k in range(count)]
            for length, count in zip(lengths, counts, strict=True)
        ]
        for numbers in itertools.product(*picks):
            yield dict(zip(self.plane_axes, numbers, strict=True))

    def _fingerprint(self, rgb: NDArray[np.uint8]) -> str:
        how = repr((rgb.shape, self.channels, self.normalisation.limits))
        digest = hashlib.blake2b(how.encode(), digest_size=16)
        digest.update(rgb.data)
        return digest.hexdigest()


class LabelStack(_PlaneAccess):
    """Labels of any dimension as a lazy sequence of integer planes; made by `read_labels`.

    The attributes are those of `Stack`, without channels.
    """

    def __init__(self, source: Source, axes: str | None = None) -> None:
        super().__init__(source, axes)
        if "S" in self.axes or ("C" in self.axes and self._length("C") > 1):
            raise PlaneError(
                f"The labels {self.name} have colours or channels (shape {self.shape}, axes "
                f"{self.axes}). Give one integer a pixel, 0 for background; if these are slices, "
                "say so with the axes, for example ZYX."
            )

    def plane(self, index: PlaneIndex = None) -> NDArray:
        """Read the labels of one plane.

        Parameters
        ----------
        index : mapping of str to int, int, or None
            Which plane (see `index`).

        Returns
        -------
        ndarray, shape (H, W), unsigned or signed integers
            0 is background. Bool becomes 0 and 1; whole numbers stored as floats become int64.

        Raises
        ------
        PlaneError
            If there is no such plane, or a label is negative or no whole number.
        """
        pixels = self._read(self.index(index))
        if pixels.dtype == np.bool_:
            return pixels.astype(np.uint8)
        if pixels.dtype.kind == "f":
            if not (np.isfinite(pixels).all() and (pixels == np.rint(pixels)).all()):
                raise PlaneError(
                    f"The labels {self.name} are not whole numbers. Give integer labels, 0 for "
                    "background; of probabilities make a mask first."
                )
            pixels = pixels.astype(np.int64)
        if pixels.dtype.kind == "i" and pixels.min() < 0:
            raise PlaneError(
                f"The labels {self.name} contain {pixels.min()}. Give 0 for background and numbers "
                "above 0 for objects."
            )
        return pixels


def open_image(
    path_or_array: Any,
    axes: str | None = None,
    channels: Sequence[int] | None = None,
    level: int = 0,
) -> Stack:
    """Open an image or stack without reading its pixels.

    Parameters
    ----------
    path_or_array : str, Path, array_like or zarr.Group
        TIFF (its first series), PNG, JPEG, BMP, a Zarr array, an OME-Zarr image (0.1 to 0.5), or
        an array: numpy, dask, zarr, h5py.
    axes : str, optional
        One letter a dimension: T time, C channel, Z slice, Y row, X column, S colour samples.
        Left out, the file says; where it does not, two dimensions are YX, three are YXS if the
        last has 3 or 4 entries of 8 or 16 bits and ZYX if it has more; all else has to be told.
    channels : sequence of int, optional
        One is shown grey, two or three as red, green, blue. Left out, up to three channels are
        taken in order; alpha is dropped.
    level : int
        Resolution level of a pyramid (OME-Zarr, TIFF), 0 the finest.

    Returns
    -------
    Stack

    Raises
    ------
    PlaneError
        If the file is missing or damaged, or axes, channels or level do not fit.

    Examples
    --------
    >>> stack = open_image(np.zeros((5, 40, 60), np.uint8))
    >>> stack.axes, len(stack), stack.plane({"Z": 2}).shape
    ('ZYX', 5, (40, 60))
    """
    return Stack(open_source(path_or_array, level), axes, channels)


def read_labels(path_or_array: Any, axes: str | None = None) -> LabelStack:
    """Open labels without reading them; like `open_image`, but nothing is normalised.

    Parameters
    ----------
    path_or_array : str, Path, array_like or zarr.Group
        One integer a pixel, 0 for background.
    axes : str, optional
        As for `open_image`.

    Returns
    -------
    LabelStack

    Raises
    ------
    PlaneError
        If the file is missing or damaged, or has colours or channels.
    """
    return LabelStack(open_source(path_or_array, indexed=True), axes)


def _informative(slices: Sequence[NDArray]) -> NDArray[np.float64]:
    """Join the finite pixels of the slices that show something; of all if none does."""
    finite = [np.asarray(pixels, np.float64)[np.isfinite(pixels)] for pixels in slices]
    telling = [values for values in finite if values.size and values.min() < values.max()]
    return np.concatenate(telling or finite)


def _steps(shape: tuple[int, int]) -> tuple[int, int]:
    """Strides over rows and columns that leave at most `SAMPLE_PIXELS` of a plane."""
    height, width = shape
    down = min(height, math.ceil(math.sqrt(height * width / SAMPLE_PIXELS)))
    across = min(width, math.ceil(width * math.ceil(height / down) / SAMPLE_PIXELS))
    return math.ceil(height * math.ceil(width / across) / SAMPLE_PIXELS), across
