"""A lock between processes that the system itself lets go of when its holder dies."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType

__all__ = ["FileLock"]


class FileLock:
    """One holder at a time, over threads and processes, as long as the holder lives.

    The file is there only to be locked: what is left of a holder that died locks nothing.

    Parameters
    ----------
    path : Path
        A file of its own; made here, removed when the lock is let go.

    Examples
    --------
    >>> with FileLock(path) as lock:
    ...     if lock.acquire():
    ...         ...
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Try once, without waiting; tell whether it is held now.

        Raises
        ------
        OSError
            The file cannot be made, or its disk knows no locks.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _lock(descriptor)
            # Its former holder may have removed the file between the two lines above.
            if os.path.samestat(os.fstat(descriptor), self._path.stat()):
                self._descriptor = descriptor
                return True
        except (BlockingIOError, PermissionError, FileNotFoundError):
            pass
        finally:
            if self._descriptor != descriptor:
                os.close(descriptor)
        return False

    def release(self) -> None:
        """Let it go; does nothing where it is not held."""
        if self._descriptor is None:
            return
        # Windows removes no open file; there it is left, unlocked.
        with suppress(OSError):
            self._path.unlink()
        os.close(self._descriptor)
        self._descriptor = None

    def __enter__(self) -> FileLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
