"""Arrays as compressed bytes and back, with a bound on what they may unpack to."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from napari_clipsam._machine import size_text
from napari_clipsam.errors import JournalError

__all__ = ["pack", "pack_bits", "pack_changes", "unpack", "unpack_bits", "unpack_changes"]

Shape = tuple[int, ...]

_LEVEL = 1  # labels and masks are mostly runs: higher levels take longer and gain little
_MOST = 1 << 32  # bytes that one array may unpack to; a 30,000 x 30,000 plane fits


def pack(array: NDArray) -> bytes:
    """Compress an array; its type and shape are kept elsewhere."""
    return zlib.compress(np.ascontiguousarray(array, _stored(array.dtype)).data, _LEVEL)


def unpack(data: bytes, shape: Shape, dtype: np.dtype) -> NDArray:
    """Undo `pack`.

    Raises
    ------
    JournalError
        If the bytes do not hold exactly such an array, or it would be larger than any we write.
    """
    raw = _inflated(data, _count(shape) * dtype.itemsize)
    if len(raw) != _count(shape) * dtype.itemsize:
        raise _damaged()
    return np.frombuffer(raw, _stored(dtype)).astype(dtype).reshape(shape)


def pack_bits(mask: NDArray[np.bool_]) -> bytes:
    """Compress a mask, eight pixels to a byte."""
    return pack(np.packbits(mask))


def unpack_bits(data: bytes, shape: Shape) -> NDArray[np.bool_]:
    """Undo `pack_bits`; errors as for `unpack`."""
    count = _count(shape)
    bits = unpack(data, (-(-count // 8),), np.dtype(np.uint8))
    return np.unpackbits(bits, count=count).view(bool).reshape(shape)


def pack_changes(before: NDArray, after: NDArray) -> bytes:
    """Compress where two arrays of one shape and type differ, and what stands there."""
    changed = before != after
    stored = _stored(before.dtype)
    values = np.stack([before[changed], after[changed]]).astype(stored)
    return zlib.compress(np.packbits(changed).tobytes() + values.tobytes(), _LEVEL)


def unpack_changes(data: bytes, shape: Shape, dtype: np.dtype) -> tuple[NDArray, NDArray]:
    """Undo `pack_changes`; both arrays are 0 where they do not differ.

    Raises
    ------
    JournalError
        As for `unpack`.
    """
    count = _count(shape)
    n_bits = -(-count // 8)
    raw = _inflated(data, n_bits + 2 * count * dtype.itemsize)
    if len(raw) < n_bits:
        raise _damaged()
    bits = np.frombuffer(raw, np.uint8, n_bits)
    changed = np.unpackbits(bits, count=count).view(bool).reshape(shape)
    n_changed = np.count_nonzero(changed)
    if len(raw) != n_bits + 2 * n_changed * dtype.itemsize:
        raise _damaged()
    values = np.frombuffer(raw, _stored(dtype), offset=n_bits).reshape(2, n_changed)
    before, after = np.zeros(shape, dtype), np.zeros(shape, dtype)
    before[changed], after[changed] = values
    return before, after


def _inflated(data: bytes, most: int) -> bytes:
    """Decompress, stopping beyond what is expected, so that a small file cannot fill the memory."""
    if most > _MOST:
        raise JournalError(
            f"The recorded session holds an array of {size_text(most)}, more than any that is "
            "recorded. It is damaged or not ours; choose another."
        )
    inflater = zlib.decompressobj()
    try:
        raw = inflater.decompress(data, most + 1)
    except zlib.error:
        raise _damaged() from None
    if len(raw) > most or not inflater.eof or inflater.unused_data:
        raise _damaged()
    return raw


def _count(shape: Shape) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _stored(dtype: np.dtype) -> np.dtype:
    """Little-endian, so that a file means the same everywhere."""
    return dtype.newbyteorder("<")


def _damaged() -> JournalError:
    return JournalError("The recorded session is damaged: an array in it is not whole.")
