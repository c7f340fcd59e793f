"""One holder at a time, and none that is dead."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from napari_clipsam import _locking as locking
from napari_clipsam._locking import FileLock

HOLD = """
import sys, pathlib
from napari_clipsam._locking import FileLock
assert FileLock(pathlib.Path(sys.argv[1])).acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_there_is_one_holder_at_a_time(tmp_path: Path) -> None:
    with FileLock(tmp_path / "lock") as first, FileLock(tmp_path / "lock") as second:
        assert first.acquire() and not second.acquire()
        first.release()
        assert second.acquire() and not FileLock(tmp_path / "lock").acquire()
    assert FileLock(tmp_path / "lock").acquire()


def test_letting_go_twice_is_nobodys_harm(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    first.acquire()
    first.release()
    assert second.acquire()
    first.release()

    assert not first.acquire()


def test_another_process_holds_it_until_it_dies(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline().strip() == b"held"
        assert not FileLock(path).acquire()
        holder.kill()
        holder.wait()

    assert path.exists() and FileLock(path).acquire(), "its file is left, and locks nothing"


def test_a_disk_without_locks_is_not_taken_for_another_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(descriptor: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(locking, "_lock", unknown)
    with pytest.raises(OSError, match="not implemented"):
        FileLock(tmp_path / "lock").acquire()
