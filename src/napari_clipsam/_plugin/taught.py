"""What teaching leaves on disk: adapters in the library, and lessons that were cut off.

Beside an adapter file that is being made lie the trainer's own state and a record of what was asked
for; the record is locked by the napari that works on it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_clipsam._folders import make_folder, unwritable
from napari_clipsam._locking import FileLock
from napari_clipsam.errors import ClipSamError
from napari_clipsam.outputs import replacing

if TYPE_CHECKING:
    from datetime import date

    from napari_clipsam.training.events import TrainResult

__all__ = [
    "IN_MEMORY",
    "Record",
    "Unreadable",
    "free_stem",
    "numbered",
    "save",
    "take_lock",
    "title",
    "unfinished",
]

#: What the names of adapters begin with that could not be saved, and end with napari.
IN_MEMORY = "memory:"
_ADAPTER, _STATE, _RECORD, _LOCK = ".safetensors", ".training.pt", ".teaching.json", ".lock"
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
#: Bytes of a file's name without its endings, which file systems limit to 255 in all.
_MOST_BYTES = 180


@dataclass(frozen=True)
class Record:
    """A lesson: what is learnt, from what, for how long.

    Attributes
    ----------
    stem : str
        Name of its files; "" where none could be made.
    words : tuple of str
    image, labels : str
        Names of the layers.
    shape : tuple of int
        Of the image.
    first : tuple of int or None
        The slice numbered 0.
    axis : int or None
        What slices are numbered along.
    slices, partial : tuple of int
    tested : tuple of int or None
        None where the tool chose.
    goal : str
    minutes : float or None
    steps : int or None
    model, adapter, clip : str
        What it began with.
    spent : float
        Seconds, as far as known.
    is_stopped : bool
        The user ended it, so nobody is asked about it later.
    """

    stem: str
    words: tuple[str, ...]
    image: str
    labels: str
    shape: tuple[int, ...]
    first: tuple[int | None, ...]
    axis: int | None
    slices: tuple[int, ...]
    partial: tuple[int, ...]
    tested: tuple[int, ...] | None
    goal: str
    minutes: float | None
    steps: int | None
    model: str
    adapter: str
    clip: str = "starter"
    spent: float = 0.0
    is_stopped: bool = False

    def file(self, folder: Path) -> Path:
        """The adapter."""
        return folder / (self.stem + _ADAPTER)

    def state(self, folder: Path) -> Path:
        """The trainer's state (`training.checkpoint.state_path`)."""
        return folder / (self.stem + _STATE)

    def write(self, folder: Path) -> None:
        """Write the record, whole or not at all; the folder is made if it is not there.

        Raises
        ------
        OutputError
            It cannot be written.
        """
        make_folder(folder)
        with replacing(folder / (self.stem + _RECORD), overwrite=True) as part:
            part.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    def forget(self, folder: Path) -> None:
        """Delete state and record; the adapter stays."""
        _delete(folder, self.stem)


@dataclass(frozen=True)
class Unreadable:
    """A record that cannot be read."""

    stem: str

    def forget(self, folder: Path) -> None:
        """Delete it, and the state beside it."""
        _delete(folder, self.stem)


def take_lock(folder: Path, stem: str) -> FileLock | None:
    """Keep other processes from a record until it is let go; None if somebody else holds it.

    Raises
    ------
    OutputError
        The lock cannot be written.
    """
    lock = FileLock(folder / (stem + _LOCK))
    try:
        return lock if lock.acquire() else None
    except OSError as error:
        raise unwritable(folder, error) from error


def title(words: tuple[str, ...], image: str, day: date) -> str:
    """The name of a result: "mitochondria (em.tif, 22 Nov)"."""
    return f"{words[0]} ({image}, {day.day} {_MONTHS[day.month - 1]})"


def free_stem(folder: Path, name: str) -> str:
    """A file name for a title, without its ending, that no file in the folder has."""
    stem = _FORBIDDEN.sub("-", name).strip(" .") or "adapter"
    stem = stem.encode()[:_MOST_BYTES].decode(errors="ignore").strip(" .")
    endings = (_ADAPTER, _STATE, _RECORD)
    return numbered(stem, lambda free: any((folder / (free + e)).exists() for e in endings))


def numbered(name: str, is_taken: Callable[[str], bool]) -> str:
    """The name, with a number behind it where it is taken."""
    free, number = name, 1
    while is_taken(free):
        number += 1
        free = f"{name} {number}"
    return free


def save(result: TrainResult, record: Record, folder: Path, day: date) -> Path:
    """Put the adapter of a result into the library, with where it comes from.

    Raises
    ------
    OutputError
        It cannot be written; no other file was touched.
    AdapterError
        It holds numbers that are not finite.
    """
    from napari_clipsam.adapters.files import save_adapter

    adapter = result.adapter
    source: dict[str, Any] = {
        "image": record.image,
        "labels": record.labels,
        "slices": list(record.slices),
        "tested_on": result.tested_on,
        "words": list(record.words),
        "made_from": f"{record.model}, {record.adapter}",
        "date": day.isoformat(),
    }
    adapter.with_info(provenance={**adapter.info.provenance, **source})
    make_folder(folder)
    path = record.file(folder)
    if not record.stem or path.exists():
        name = record.stem or title(record.words, record.image, day)
        path = path.with_name(free_stem(folder, name) + _ADAPTER)
    return save_adapter(adapter, path)


def unfinished(folder: Path) -> Iterator[Record | Unreadable]:
    """Lessons that were cut off, the latest first; those that the user ended are cleared away.

    Those that a running napari works on are left out.
    """
    for path in sorted(folder.glob(f"*{_RECORD}"), key=_changed, reverse=True):
        stem = path.name.removesuffix(_RECORD)
        with suppress(ClipSamError):
            lock = take_lock(folder, stem)
            if lock is None:
                continue
            lock.release()
            found = _read(path, stem)
            is_over = isinstance(found, Record) and (
                found.is_stopped or not found.state(folder).is_file()
            )
            if is_over:
                found.forget(folder)
            else:
                yield found


def _read(path: Path, stem: str) -> Record | Unreadable:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        for name in ("words", "shape", "first", "slices", "partial"):
            values[name] = tuple(values[name])
        tested = values["tested"]
        values["tested"] = None if tested is None else tuple(tested)
        return replace(Record(**values), stem=stem)
    except (OSError, ValueError, TypeError, KeyError):
        return Unreadable(stem)


def _delete(folder: Path, stem: str) -> None:
    for ending in (_RECORD, _STATE, _LOCK):
        with suppress(OSError):
            (folder / (stem + ending)).unlink(missing_ok=True)


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
