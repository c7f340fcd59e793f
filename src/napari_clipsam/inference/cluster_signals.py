"""What a worker process loads first: Ctrl-C, which reaches all processes, is its parent's alone."""

from __future__ import annotations

import signal

__all__ = ["dask_setup"]


def dask_setup(worker: object) -> None:
    """Leave an interrupt to the process that started this one; dask calls it by this name."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
