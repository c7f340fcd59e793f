"""``napari-clipsam models``."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from napari_clipsam._machine import size_text
from napari_clipsam.cli._common import Progress, duration, table
from napari_clipsam.errors import Stopped

if TYPE_CHECKING:
    from collections.abc import Generator

    from napari_clipsam.models.registry import DownloadProgress, ModelEntry

__all__ = ["download_model", "import_model", "list_models", "remove_model"]

_HEAD = ["architecture", "installed", "size", "images", "licence"]


def list_models() -> None:
    """Print all models that are known: SAMs, then CLIPs."""
    from napari_clipsam.models.registry import clips, models

    print(table(["model", *_HEAD], [_row(entry) for entry in models()]))
    print()
    print(table(["CLIP", *_HEAD], [_row(entry) for entry in clips()]))
    print(
        "\nTo install one: `napari-clipsam models download NAME`; any other CLIP of open_clip by "
        "its ARCH:TAG.\nA file you have: `napari-clipsam models import NAME FILE`."
    )


def download_model(name: str) -> None:
    """Install a model by its name, showing how far it is."""
    from napari_clipsam.models.registry import clips, install, models

    if any(entry.name == name and entry.installed for entry in (*models(), *clips())):
        print(f"{name} is installed already.")
        return
    line = _Line(name)
    try:
        with closing(install(name)) as steps:
            entry = _followed(steps, line)
    except KeyboardInterrupt:
        raise Stopped(
            f"Stopped {line.reached}; what has come is kept. `napari-clipsam models download "
            f"{name}` goes on from there."
        ) from None
    finally:
        line.clear()
    _tell(entry)


def import_model(name: str, file: Path) -> None:
    """Copy a file into the user's folder under a name."""
    from napari_clipsam.models.registry import import_file

    _tell(import_file(name, file))


def remove_model(name: str) -> None:
    """Delete an installed model's file and its record."""
    from napari_clipsam.models.registry import uninstall

    print(f"{name}: {uninstall(name)} deleted.")


class _Line(Progress):
    """How far a download is, on one line of a terminal."""

    reached = "before anything came"

    def show(self, progress: DownloadProgress) -> None:
        """Write the line anew."""
        if progress.done:
            of = "" if progress.total is None else f" of {size_text(progress.total)}"
            self.reached = f"at {size_text(progress.done)}{of}"
        text = f"{self._what} {self.reached.removeprefix('at ')}"
        if progress.seconds_left:
            text += f", about {duration(progress.seconds_left)} left"
        if sys.stderr.isatty():
            self._write(text if progress.done else f"{self._what} connecting ...")


def _followed(steps: Generator[DownloadProgress, None, ModelEntry], line: _Line) -> ModelEntry:
    """Show every step; return what they lead to."""
    while True:
        try:
            line.show(next(steps))
        except StopIteration as end:
            entry: ModelEntry = end.value
            return entry


def _tell(entry: ModelEntry) -> None:
    """Say what was installed, and how to use it."""
    option = "--clip" if entry.kind == "clip" else "--model"
    print(f"{entry.name}: {entry.architecture}, copied to {entry.file}")
    print(f"sha256 {entry.sha256}, {_compared(entry)}")
    print(f"Use it with {option} {entry.name}.")


def _compared(entry: ModelEntry) -> str:
    """What the checksum of a new file was compared with."""
    if entry.checksum is None or entry.checksum.origin == "import":
        return "recorded; there is none to compare it with"
    if entry.checksum.origin == "first download":
        return "recorded as first downloaded; later downloads are compared with it"
    return f"as its publisher states ({entry.checksum})"


def _row(entry: ModelEntry) -> list[str]:
    return [
        entry.name,
        entry.architecture,
        "yes" if entry.installed else "no",
        "-" if entry.size_mb is None else size_text(entry.size_mb * 1e6),
        entry.domain,
        entry.licence,
    ]
