"""Tensors on disk: zarr v3, one array and one chunk for each, found again by their key.

Any number of processes may read and write the same folder. An entry is written beside its place and
moved there whole, so a process that is killed leaves nothing half-written, and of two that write
the same one wins. What cannot be read is made again, and what cannot be written is not kept: a
cache never ends an answer.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from napari_clipsam._machine import folder_size
from napari_clipsam.errors import OutputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Shelf"]

_UNFINISHED = ".part-"
# What another process may still be writing is left alone for so long, in seconds.
_STALE = 3600.0
# Eviction makes room for more than the newcomer, so that it is not needed for each. Share.
_ROOM = 0.1
# After so many of its own a process looks what others have written.
_COUNT_EVERY = 32
_KEY = "key"
# Entries that may wait to be written; who brings more waits for the disk.
_WAITING = 8


class Shelf:
    """Arrays in a folder, bounded in bytes; those that were not used for longest go first.

    Parameters
    ----------
    folder : path
        Made where it is missing.
    max_bytes : int
        Of all entries.

    Attributes
    ----------
    bytes : int
        Of all entries, as far as this process knows.

    Raises
    ------
    OutputError
        The folder cannot be made or written to.
    """

    def __init__(self, folder: str | Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = Path(folder), max_bytes
        self._problems: list[str] = []
        self._lock = threading.Lock()
        self._is_full = False
        self._uncounted = 0
        self._writer: ThreadPoolExecutor | None = None
        self._unwritten: dict[str, NDArray] = {}
        self._writes: deque[Future[None]] = deque()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._clear_unfinished()
            self.bytes = sum(size for _, size, _ in self._entries())
        except OSError as error:
            raise OutputError(
                f"The cache folder {self.folder} cannot be used ({error.strerror}). Choose another "
                "one, or go on without."
            ) from error
        if not os.access(self.folder, os.W_OK):
            raise OutputError(
                f"The cache folder {self.folder} may not be written to. Choose another one, or go "
                "on without."
            )

    def __contains__(self, key: str) -> bool:
        return key in self._unwritten or self._place(key).is_dir()

    def __len__(self) -> int:
        return sum(1 for _ in self._entries())

    def get(self, key: str) -> NDArray | None:
        """The array of a key; None where there is none or it cannot be read, which is reported."""
        import zarr

        unwritten = self._unwritten.get(key)
        if unwritten is not None:
            return unwritten
        place = self._place(key)
        try:
            array = zarr.open_array(place, mode="r", zarr_format=3)
            if array.attrs.get(_KEY) != key or not array.nchunks_initialized:
                raise ValueError("it is not whole")
            values = array[...]
            os.utime(place)
        except FileNotFoundError:
            if place.is_dir():
                self._forget(place, "its description is missing")
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._forget(place, str(error).partition("\n")[0])
            return None
        return values  # type: ignore[return-value]

    def put_later(self, key: str, values: NDArray) -> None:
        """`put` in a thread of its own, so that a GPU need not wait; the process ends after it.

        The array is not to be changed any more.
        """
        if self._is_full or key in self:
            return
        if self._writer is None:
            self._writer = ThreadPoolExecutor(1, thread_name_prefix="shelf")
        while len(self._writes) >= _WAITING:
            self._writes.popleft().result()
        self._unwritten[key] = values
        self._writes.append(self._writer.submit(self._write_waiting, key))

    def flush(self) -> None:
        """Wait until all is written."""
        while self._writes:
            self._writes.popleft().result()

    def put(self, key: str, values: NDArray) -> None:
        """Keep an array, as far as there is room; what is there already stays."""
        place = self._place(key)
        if self._is_full or place.is_dir():
            return
        size = values.nbytes
        if size > self.max_bytes:
            return
        self._make_room(size)
        part = place.with_name(f"{_UNFINISHED}{uuid.uuid4().hex[:12]}")
        try:
            place.parent.mkdir(exist_ok=True)
            _write(part, key, values)
            part.rename(place)
            with self._lock:
                self.bytes += folder_size(place)
        except OSError as error:
            if not place.is_dir():
                # Not asked again: every plane would wait for a full disk.
                self._is_full = True
                self._problems.append(
                    f"The cache folder {self.folder} takes no more ({error.strerror or error}). "
                    "Free some space; the work goes on without it."
                )
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def take_problems(self) -> list[str]:
        """What went wrong since this was last asked, for people."""
        with self._lock:
            problems, self._problems = self._problems, []
        return problems

    def _write_waiting(self, key: str) -> None:
        try:
            self.put(key, self._unwritten[key])
        finally:
            del self._unwritten[key]

    def _place(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()[:40]
        # No folder gets too many entries for slow file systems.
        return self.folder / name[:2] / name[2:]

    def _entries(self) -> Iterator[tuple[Path, int, float]]:
        """Folder, bytes and time of last use of each entry."""
        for group in self.folder.glob("[0-9a-f][0-9a-f]"):
            try:
                places = [one for one in group.iterdir() if not one.name.startswith(_UNFINISHED)]
            except OSError:
                continue
            for place in places:
                try:
                    yield place, folder_size(place), place.stat().st_mtime
                except FileNotFoundError:
                    # Another process needed the room.
                    continue

    def _make_room(self, size: int) -> None:
        with self._lock:
            self._uncounted += 1
            if self.bytes + size <= self.max_bytes and self._uncounted < _COUNT_EVERY:
                return
            self._uncounted = 0
            entries = sorted(self._entries(), key=lambda entry: entry[2])
            self.bytes = sum(one for _, one, _ in entries)
            if self.bytes + size <= self.max_bytes:
                return
            wanted = self.max_bytes - max(size, int(_ROOM * self.max_bytes))
            for place, one, _ in entries:
                if self.bytes <= wanted:
                    break
                self._delete(place)
                self.bytes -= one

    def _forget(self, place: Path, why: str) -> None:
        self._problems.append(f"{place} could not be read ({why}). It is made again.")
        self._delete(place)

    def _delete(self, place: Path) -> None:
        """Delete an entry in one step, whoever else looks at it."""
        gone = place.with_name(f"{_UNFINISHED}{uuid.uuid4().hex[:12]}")
        try:
            place.rename(gone)
        except OSError:
            return
        shutil.rmtree(gone, ignore_errors=True)

    def _clear_unfinished(self) -> None:
        """Delete what processes that were killed left behind."""
        for part in self.folder.glob(f"*/{_UNFINISHED}*"):
            try:
                if time.time() - part.stat().st_mtime > _STALE:
                    shutil.rmtree(part, ignore_errors=True)
            except FileNotFoundError:
                continue


def _write(place: Path, key: str, values: NDArray[np.generic]) -> None:
    """One chunk with a checksum; numbers of a network hardly compress."""
    import zarr
    from zarr.codecs import Crc32cCodec

    array = zarr.create_array(
        place,
        shape=values.shape,
        chunks=values.shape,
        dtype=values.dtype,
        compressors=[Crc32cCodec()],
        zarr_format=3,
        attributes={_KEY: key},
        # A chunk of zeros is written, too, or it could not be told from one that is missing.
        config={"write_empty_chunks": True},
    )
    array[...] = values
