"""What this machine has: memory and the size of folders, also in words."""

from __future__ import annotations

import os
import platform
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

from napari_clipsam.errors import PlaneError

__all__ = ["Memory", "check_room", "folder_size", "memory", "processor_name", "size_text"]

_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)
_CPU_INFO = Path("/proc/cpuinfo")
# Besides the plane as read: RGB, mask and labels, and what compressing them takes.
_BYTES_A_PIXEL = 6


class Memory(NamedTuple):
    """Bytes in all and free; None where the system does not say."""

    total: int | None
    free: int | None


def memory() -> Memory:
    """Memory that this process may use, limits of a container included."""
    total = free = None
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    except (AttributeError, OSError, ValueError):
        pass
    for limit_file, used_file in _CGROUPS:
        try:
            limit = int(Path(limit_file).read_text())
            used = int(Path(used_file).read_text())
        except (OSError, ValueError):
            continue
        if total is None or limit < total:
            total = limit
            free = limit - used if free is None else min(free, limit - used)
    return Memory(total, free)


def peak_memory() -> int | None:
    """The most memory this process has held so far, in bytes; None where the system is silent."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@cache
def processor_name() -> str:
    """The processor's model, or as much of it as the system says."""
    try:
        info = _CPU_INFO.read_text("utf-8", errors="replace")
    except OSError:
        info = ""
    for line in info.splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def check_room(shape: tuple[int, int], bytes_a_pixel: int, name: str) -> None:
    """Refuse a plane that memory cannot hold, before it is read.

    Parameters
    ----------
    shape : (int, int)
    bytes_a_pixel : int
        As stored; of channels, which are read one after the other, only one.
    name : str

    Raises
    ------
    PlaneError
    """
    free = memory().free
    needed = shape[0] * shape[1] * (_BYTES_A_PIXEL + bytes_a_pixel)
    if free is not None and needed > free:
        raise PlaneError(
            f"{name} has planes of {shape[0]} x {shape[1]} pixels, which take about "
            f"{size_text(needed)} of memory; {size_text(free)} are free. Cut it into parts, or "
            "make it smaller."
        )


def size_text(size: float) -> str:
    """Bytes in words, in the unit that needs no more than three digits.

    Examples
    --------
    >>> size_text(375_000_000), size_text(1_250_000_000)
    ('375 MB', '1.2 GB')
    """
    value, unit = size / 1e9, "GB"
    if size < 950e6:
        value, unit = (size / 1e6, "MB") if size >= 950e3 else (size / 1e3, "kB")
    digits = 0 if value >= 9.95 else 1
    return f"{value:.{digits}f}".removesuffix(".0") + f" {unit}"


def folder_size(folder: Path) -> int:
    """Bytes of all files in a folder; 0 where there is none."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_size
            except OSError:
                continue
    return total
