"""What several commands need: a Segmenter, progress, tables, JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_clipsam.outputs import replacing

if TYPE_CHECKING:
    from napari_clipsam.inference.segmenter import Segmenter

__all__ = [
    "Progress",
    "chosen_adapter",
    "duration",
    "make_segmenter",
    "plural",
    "table",
    "write_json",
]


def make_segmenter(
    model: str, clip: str | None, adapter: str | None, device: str, seed: int, **more: Any
) -> Segmenter:
    """Load what the options name; what is quick to refuse is refused before weights are read.

    `more` goes to the Segmenter as it is.

    Raises
    ------
    ConfigError, WeightsError, AdapterError
        A device, model or adapter that is not there or does not fit.
    """
    from napari_clipsam.inference.devices import choose_device
    from napari_clipsam.inference.segmenter import Segmenter
    from napari_clipsam.inference.texts import texts_folder
    from napari_clipsam.models import registry
    from napari_clipsam.models.compiling import require_compiler

    more.setdefault("texts", texts_folder())
    require_compiler(more.get("compilation", "none"), choose_device(device))
    chosen = chosen_adapter(model, clip, adapter)
    return Segmenter(registry.load_model(model, clip), chosen, device, seed=seed, **more)


def chosen_adapter(model: str, clip: str | None, adapter: str | None) -> str | Path | None:
    """The adapter that the options name, as a Segmenter takes it; its header is read.

    Raises
    ------
    AdapterError
        It is not there or damaged.
    """
    from napari_clipsam.adapters.files import read_header
    from napari_clipsam.adapters.library import find_adapter

    if adapter is None or (adapter == model == "starter" and clip is None):
        return "default"
    if adapter == "none":
        return None
    found = find_adapter(adapter)
    read_header(found)
    return found


class Progress:
    """How far a job is, on one line of stderr that is written over; nothing but on a terminal."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._start = time.monotonic()
        self._width = 0

    def __call__(self, done: int, total: int, left: float | None = None) -> None:
        """Show ``done`` of ``total``, and the seconds that are `left` where they are known."""
        if not sys.stderr.isatty():
            return
        text = f"{self._what} {done}/{total}"
        if 0 < done < total:
            if left is None:
                left = (time.monotonic() - self._start) / done * (total - done)
            text += f", about {duration(left)} left"
        self._write(text)

    def clear(self) -> None:
        """Leave the line empty for what is printed next."""
        if self._width:
            self._write("")
            sys.stderr.write("\r")
            sys.stderr.flush()

    def _write(self, text: str) -> None:
        sys.stderr.write("\r" + text.ljust(self._width))
        sys.stderr.flush()
        self._width = len(text)


def duration(seconds: float) -> str:
    """A time for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def plural(count: int, noun: str) -> str:
    """``1 plane``, ``2 planes``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns of text; those of numbers alone are aligned to the right."""
    cells = [list(head), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [
        bool(rows) and all(isinstance(cell, int | float) or _numeric(cell) for cell in column)
        for column in zip(*rows, strict=True)
    ] or [False] * len(head)
    lines = (
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in cells
    )
    return "\n".join(lines)


def _numeric(cell: object) -> bool:
    return str(cell).replace(".", "", 1).replace(",", "").isdigit() or cell == "-"


def write_json(path: Path, values: Mapping[str, Any], overwrite: bool) -> None:
    """Write values as JSON, whole or not at all; numbers that are not finite become null."""
    text = json.dumps(_finite(values), indent=1, ensure_ascii=False, allow_nan=False)
    with replacing(path, overwrite) as part:
        part.write_text(text + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float):
        return round(value, 6) if abs(value) < float("inf") else None
    return value
