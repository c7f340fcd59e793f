"""What all benchmarks share: racing in turns, ratios of turns, peak memory, and the table."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from napari_clipsam._machine import processor_name
from napari_clipsam.inference.devices import synchronize

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = [
    "CLOCKS",
    "MB",
    "NO_GPU",
    "Row",
    "Setting",
    "compared",
    "environment",
    "load",
    "peak_memory",
    "run_apart",
    "seconds",
    "table",
]

MB = 1e6
NO_GPU = "not measured (needs a GPU)"
HEADS = ("what", "measured", "ratio", "quartiles", "at most", "at least")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    name, value : str
        What was measured, and the number with its unit.
    ratio : float or None
        To what `of` names.
    spread : (float, float) or None
        Quartiles of the ratios of the turns.
    most, least : float or None
        What is aimed at: of the ratio where there is one, else of `value`, in seconds.
    """

    name: str
    value: str
    ratio: float | None = None
    of: str = ""
    most: float | None = None
    spread: tuple[float, float] | None = None
    least: float | None = None


@dataclass(frozen=True)
class Setting:
    """Where and how everything is measured."""

    device: torch.device
    turns: int = 5
    clock: Callable[[], float] = time.perf_counter

    def race(self, variants: dict[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
        """Seconds of every variant in every turn, after a turn that does not count."""
        times: dict[str, list[float]] = {name: [] for name in variants}
        for turn in range(turns + 1):
            for name, run in variants.items():
                synchronize(self.device)
                start = self.clock()
                run()
                synchronize(self.device)
                if turn:
                    times[name].append(self.clock() - start)
        return times


def compared(
    name: str,
    times: dict[str, list[float]],
    a: str,
    b: str,
    of: str,
    most: float | None = None,
    least: float | None = None,
) -> Row:
    """The row of variant `a` against variant `b`."""
    ratios = sorted(x / y for x, y in zip(times[a], times[b], strict=True))
    spread = (ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4])
    value = seconds(statistics.median(times[a]))
    return Row(name, value, statistics.median(ratios), of, most, spread, least)


def seconds(value: float) -> str:
    """A time as text."""
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.0f} ms"


def table(rows: Sequence[Row]) -> str:
    """Rows as a markdown table."""
    lines = [HEADS, ["---"] * len(HEADS), *(_cells(row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(row: Row) -> list[str]:
    ratio = "" if row.ratio is None else f"{row.ratio:.2f} x {row.of}"
    spread = "" if row.spread is None else "{:.2f} to {:.2f}".format(*row.spread)
    return [row.name, row.value, ratio, spread, _aim(row, row.most), _aim(row, row.least)]


def _aim(row: Row, aim: float | None) -> str:
    if aim is None:
        return ""
    return f"{aim:.2f}" if row.ratio is not None or row.of else seconds(aim)


# ---------------------------------------------------------------- memory and processes


def peak_memory(device: torch.device) -> float:
    """Most memory this process had so far in MB: of the device's where that has its own."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MB
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (most if sys.platform == "darwin" else most * 1024) / MB


def run_apart(script: str | Path, words: Sequence[object]) -> Any:
    """What a script prints as JSON in its last line, in a process of its own.

    Raises
    ------
    RuntimeError
        It failed; with what it wrote.
    """
    command = [sys.executable, str(script), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


# ---------------------------------------------------------------- where it was measured


def environment(device: torch.device, clock: str) -> str:
    """The machine and the versions that the numbers belong to."""
    name = processor_name()
    if device.type == "cuda":
        name = f"{torch.cuda.get_device_name(device)}; {name}"
    return (
        f"{name}; {os.cpu_count()} cores, {torch.get_num_threads()} threads; torch "
        f"{torch.__version__}; Python {platform.python_version()}; device {device.type}, "
        f"{clock} clock"
    )


def load() -> str:
    """Processes that wanted to run in the last minute."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
