"""Reads any plane of an array, whichever two axes it spans; knows no layer, so any thread may."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_clipsam._intensity import Normalisation
from napari_clipsam._machine import check_room
from napari_clipsam._readers.base import ArraySource, Index
from napari_clipsam.errors import PlaneError
from napari_clipsam.planes import Plane, Stack
from napari_clipsam.session.objects import Box, PlaneKey, at_number, plane_axes

__all__ = ["PlaneReader"]

#: Planes of more pixels than this are not read for the estimate of the normalisation; patches are.
_WHOLE = 1 << 20
#: Side of such a patch, and how many there are in all.
_PATCH = 128
_PATCHES = 256
#: Bytes of planes that are kept, besides the latest.
_KEPT_BYTES = 256 << 20
#: Parts of planes that are kept.
_WINDOWS = 4


@dataclass(frozen=True, eq=False)
class PlaneReader:
    """The planes of an image, read one by one and normalised alike; call it with a `PlaneKey`.

    Nothing is read before the first call, and never more than the planes asked for and a bounded
    sample.

    Parameters
    ----------
    name : str
        For people.
    arrays : tuple of array_like
        Full resolution; several of one shape become channels. With ``shape``, ``dtype`` and basic
        indexing: numpy, dask, zarr.
    shape : tuple of int
        Length of each of the D axes that planes are named by.
    axes : tuple of int
        Which axis of the array each of them is.
    labels : tuple of str
        Their names, for people.
    channel_axis : int or None
        Axis of the array that holds channels.
    is_rgb : bool
        Whether the array has colour samples as its last axis.
    channels : tuple of int, or None
        One is shown grey, two or three as red, green, blue; None for all colours but alpha.
    limits : tuple of (float, float), or None
        Intensities that become black and white, one pair a channel; estimated when left out.
    coarse : tuple of array_like
        The same at a lower resolution, to estimate the limits from; empty to use `arrays`.
    """

    name: str
    arrays: tuple[Any, ...]
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    labels: tuple[str, ...]
    channel_axis: int | None = None
    is_rgb: bool = False
    channels: tuple[int, ...] | None = None
    limits: tuple[tuple[float, float], ...] | None = None
    coarse: tuple[Any, ...] = ()
    _kept: OrderedDict[PlaneKey, Plane] = field(default_factory=OrderedDict, init=False, repr=False)
    _windows: OrderedDict[tuple[PlaneKey, Box], Plane] = field(
        default_factory=OrderedDict, init=False, repr=False
    )

    def __call__(self, key: PlaneKey) -> Plane:
        """Read one plane.

        Parameters
        ----------
        key : PlaneKey

        Returns
        -------
        Plane

        Raises
        ------
        PlaneError
            If there is no such plane, memory cannot hold it, or its pixels cannot be read.
        """
        self.check(key)
        plane = self._kept.pop(key, None) or self._read(key)
        self._kept[key] = plane
        while len(self._kept) > 1 and self._kept_bytes() > _KEPT_BYTES:
            self._kept.popitem(last=False)
        return plane

    def plane_shape(self, key: PlaneKey) -> tuple[int, int]:
        """Height and width of a plane, without reading it."""
        y, x = plane_axes(key)
        return self.shape[y], self.shape[x]

    def naming(self, key: PlaneKey) -> tuple[dict[str, int], str]:
        """Number along each axis that is held, and the name of a plane."""
        index = {
            label: held
            for label, held, length in zip(self.labels, key, self.shape, strict=True)
            if held is not None and length > 1
        }
        return index, " ".join([self.name, *(f"{label}={held}" for label, held in index.items())])

    def window(self, key: PlaneKey, box: Box) -> Plane:
        """Read a part of one plane, normalised as the whole.

        Parameters
        ----------
        key : PlaneKey
        box : (int, int, int, int)
            Half-open (y0, x0, y1, x1), inside the plane.
        """
        self.check(key)
        if (key, box) not in self._windows:
            parts = dict(zip(plane_axes(key), (slice(*box[::2]), slice(*box[1::2])), strict=True))
            of_array = {self.axes[axis]: part for axis, part in parts.items()}
            cropped = replace(
                self,
                arrays=tuple(_Cropped(array, of_array) for array in self.arrays),
                shape=tuple(
                    parts[axis].stop - parts[axis].start if axis in parts else length
                    for axis, length in enumerate(self.shape)
                ),
                limits=self.normalisation.limits,
                coarse=(),
            )
            self._windows[key, box] = cropped(key)
            while len(self._windows) > _WINDOWS:
                self._windows.popitem(last=False)
        return self._windows[key, box]

    def check(self, key: PlaneKey) -> None:
        """Refuse a key that names no plane of this image.

        Raises
        ------
        PlaneError
        """
        if len(key) != len(self.shape):
            raise PlaneError(
                f"{key} does not name a slice of {self.name}, which has {len(self.shape)} axes. "
                "Give a number or None for each."
            )
        plane_axes(key)
        for held, length, label in zip(key, self.shape, self.labels, strict=True):
            if held is not None and not 0 <= held < length:
                raise PlaneError(
                    f"{self.name} has no slice {held} along axis {label}. Move that slider to "
                    f"0 to {length - 1}."
                )

    @cached_property
    def normalisation(self) -> Normalisation:
        """How pixels become 8 bits, in every plane alike, whichever two axes it spans.

        That of `planes.open_image`, but where planes are large it comes from the coarser levels of
        a pyramid, else from patches.
        """
        if self.limits is not None:
            return Normalisation(self.limits)
        arrays = self.coarse or self.arrays
        lengths = (int(arrays[0].shape[axis]) for axis in self.axes)
        shape = tuple(min(n, m) for n, m in zip(lengths, self.shape, strict=True))
        wide = [axis for axis, length in enumerate(shape) if length > 1]
        spare = [axis for axis in range(len(shape)) if axis not in wide]
        y, x = sorted([*spare, *wide][-2:])
        in_memory = all(type(array) is np.ndarray for array in arrays)
        patched = shape[y] * shape[x] > _WHOLE and not in_memory
        return self._stack(_View(self, arrays, shape, (y, x), patched)).normalisation

    def slices(
        self,
        key: PlaneKey,
        axis: int,
        zs: range,
        spacing_um: Mapping[str, float] | None = None,
    ) -> Stack:
        """The planes beside one as a stack of their own, pixel by pixel what this reads.

        Parameters
        ----------
        key : PlaneKey
            A plane of the stack.
        axis : int
            Along which the slices are numbered.
        zs : range
            The slices, in steps of one.
        spacing_um : mapping of str to float, optional
            Micrometres a pixel along Z (`axis`), Y and X (of the plane).
        """
        for z in (zs[0], zs[-1]):
            self.check(at_number(key, axis, z))
        stack = Stack(_Slices(self, key, axis, zs, spacing_um), channels=self.channels)
        stack.normalisation = self.normalisation
        return stack

    def _kept_bytes(self) -> int:
        return sum(plane.rgb.nbytes for plane in [*self._kept.values()])

    def _read(self, key: PlaneKey) -> Plane:
        y, x = (self.shape[axis] for axis in plane_axes(key))
        array = self.arrays[0]
        samples = array.shape[-1] if self.is_rgb else 1
        check_room((y, x), samples * np.dtype(array.dtype).itemsize, self.name)
        view = _View(self, self.arrays, self.shape, plane_axes(key))
        stack = self._stack(view)
        stack.normalisation = self.normalisation
        index, name = self.naming(key)
        return replace(stack.plane(view.number(key)), index=index, name=name)

    def _stack(self, view: _View) -> Stack:
        return Stack(view, channels=self.channels)


class _Cropped:
    """A part of an array along some axes; reads no more than is asked for."""

    def __init__(self, array: Any, parts: dict[int, slice]) -> None:
        self._array, self._parts = array, parts
        self.dtype = array.dtype
        self.shape = tuple(
            parts[axis].stop - parts[axis].start if axis in parts else length
            for axis, length in enumerate(array.shape)
        )

    def __getitem__(self, index: Index) -> Any:
        full: list[int | slice] = list(index)
        for axis, part in self._parts.items():
            one = full[axis]
            if isinstance(one, slice):
                start, stop, step = one.indices(self.shape[axis])
                full[axis] = slice(part.start + start, part.start + stop, step)
            else:
                full[axis] = part.start + one
        return self._array[tuple(full)]


class _View:
    """An array seen as planes along two axes, all other axes numbered by T and Z (a `Source`).

    Z is the last of the other axes, T all those before it, so that with up to four axes the planes
    come in the order in which `planes.open_image` has them.
    """

    spacing_um = None

    def __init__(
        self,
        reader: PlaneReader,
        arrays: tuple[Any, ...],
        shape: tuple[int, ...],
        axes: tuple[int, int],
        patched: bool = False,
    ) -> None:
        self.name = reader.name
        self._sources = [ArraySource(array, reader.name) for array in arrays]
        self.dtype = np.result_type(*(source.dtype for source in self._sources))
        self._ndim = len(self._sources[0].shape)
        self._of_array = reader.axes
        self._channel_axis = reader.channel_axis
        self._yx = axes
        self._held = [axis for axis in range(len(shape)) if axis not in axes]
        lengths = [shape[axis] for axis in self._held]
        self._outer, depth = tuple(lengths[:-1]), lengths[-1] if lengths else 1
        n_planes = math.prod(lengths)
        self._patches = [
            _starts(shape[axis], max(3, math.isqrt(_PATCHES // n_planes))) if patched else None
            for axis in axes
        ]
        side = [
            shape[axis] if starts is None else len(starts) * min(_PATCH, shape[axis])
            for axis, starts in zip(axes, self._patches, strict=True)
        ]
        self._full = [shape[axis] for axis in axes]
        if reader.is_rgb:
            self.axes = "TZYXS"
            self.shape = (math.prod(self._outer), depth, *side, self._sources[0].shape[-1])
            return
        channels = len(arrays)
        if reader.channel_axis is not None:
            channels = self._sources[0].shape[reader.channel_axis]
        self.axes = "TCZYX"
        self.shape = (math.prod(self._outer), channels, depth, *side)

    def number(self, key: PlaneKey) -> dict[str, int]:
        """T and Z of a plane."""
        held = [int(key[axis] or 0) for axis in self._held]
        outer = int(np.ravel_multi_index(held[:-1], self._outer)) if self._outer else 0
        return {"T": outer, "Z": held[-1] if held else 0}

    def read(self, index: Index) -> NDArray:
        """Read one piece (see `Source`)."""
        parts = dict(zip(self.axes, index, strict=True))
        outer = np.unravel_index(_whole(parts["T"]), self._outer)
        numbers = [*(int(number) for number in outer), _whole(parts["Z"])]
        full: list[int | slice] = [0] * self._ndim
        for axis, number in zip(self._held, numbers, strict=False):
            full[self._of_array[axis]] = number
        channel = _whole(parts.get("C", 0))
        if self._channel_axis is not None:
            full[self._channel_axis] = channel
            channel = 0
        if "S" in parts:
            full[-1] = parts["S"]
        y, x = (self._of_array[axis] for axis in self._yx)

        def piece(rows: int | slice, columns: int | slice) -> NDArray:
            full[y], full[x] = rows, columns
            return self._sources[channel].read(tuple(full))

        if self._patches[0] is None:
            return piece(parts["Y"], parts["X"])
        return self._mosaic(piece)[parts["Y"], parts["X"]]

    def _mosaic(self, piece: Callable[[slice, slice], NDArray]) -> NDArray:
        """Patches from all over a plane, side by side."""
        rows, columns = (
            [slice(start, start + min(_PATCH, length)) for start in starts or ()]
            for starts, length in zip(self._patches, self._full, strict=True)
        )
        return np.concatenate([np.concatenate([piece(r, c) for c in columns], 1) for r in rows])


class _Slices:
    """Neighbouring planes of a reader as a stack along Z (a `Source`)."""

    def __init__(
        self,
        reader: PlaneReader,
        key: PlaneKey,
        axis: int,
        zs: range,
        spacing_um: Mapping[str, float] | None,
    ) -> None:
        self._view = view = _View(reader, reader.arrays, reader.shape, plane_axes(key))
        self._key, self._axis, self._zs = key, axis, zs
        self.name, self.dtype = view.name, view.dtype
        self.spacing_um = dict(spacing_um) if spacing_um else None
        lengths = {**dict(zip(view.axes, view.shape, strict=True)), "Z": len(zs)}
        self.axes = view.axes.removeprefix("T")
        self.shape = tuple(lengths[letter] for letter in self.axes)

    def read(self, index: Index) -> NDArray:
        """Read one piece (see `Source`)."""
        parts = dict(zip(self.axes, index, strict=True))
        key = at_number(self._key, self._axis, self._zs[_whole(parts["Z"])])
        parts |= self._view.number(key)
        return self._view.read(tuple(parts[letter] for letter in self._view.axes))


def _whole(part: int | slice) -> int:
    assert isinstance(part, int)
    return part


def _starts(length: int, count: int) -> list[int]:
    """First pixels of up to `count` patches, evenly spread and flush with a multiple of a patch."""
    count = max(1, min(count, length // _PATCH))
    last = max(0, length - _PATCH)
    spread = ((2 * k + 1) * length // (2 * count) for k in range(count))
    return [min(last, middle // _PATCH * _PATCH) for middle in spread]
