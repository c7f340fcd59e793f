"""Where sessions lie: the file of a new one, those that a crash left, and getting rid of them."""

from __future__ import annotations

import json
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from napari_clipsam.errors import JournalError, OutputError
from napari_clipsam.session import records
from napari_clipsam.session.database import FILE_NAME, connect, decoding, journal_file
from napari_clipsam.session.records import ImageInfo

__all__ = ["JournalInfo", "discard", "new_file", "unfinished"]


@dataclass(frozen=True)
class JournalInfo:
    """A session that was not ended.

    Attributes
    ----------
    path : Path
        Of the file.
    images : tuple of ImageInfo
    changed : float
        When the last step was recorded, seconds since 1970 (UTC).
    objects : int
        Kept objects.
    steps : int
    """

    path: Path
    images: tuple[ImageInfo, ...]
    changed: float
    objects: int
    steps: int


def new_file(folder: str | Path) -> Path:
    """The file of a session that is to begin in a folder, which is made if it is not there.

    Raises
    ------
    OutputError
        The folder has a session already, or cannot be made.
    """
    folder = Path(folder)
    path = folder / FILE_NAME
    if path.exists():
        raise OutputError(
            f"{folder} holds a session already. Open that project, or choose another folder."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"The folder {folder} cannot be made ({error.strerror}). Choose another."
        ) from error
    return path


def unfinished(folder: str | Path) -> list[JournalInfo]:
    """Sessions in a folder, or one below, that ended without being closed; the latest first.

    Those that another process works on, that hold no step, or that cannot be read are left out.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    list of JournalInfo
    """
    folder = Path(folder)
    found = []
    for path in (folder / FILE_NAME, *folder.glob(f"*/{FILE_NAME}")):
        with suppress(JournalError):
            info = _unfinished(path)
            if info is not None:
                found.append(info)
    return sorted(found, key=lambda info: -info.changed)


def discard(path: str | Path) -> None:
    """Delete a session that no process works on, and its folder if nothing else is in it.

    Raises
    ------
    OutputError
        It may not be deleted.
    """
    path = journal_file(path)
    try:
        for ending in ("", "-wal", "-shm", "-journal"):
            path.with_name(path.name + ending).unlink(missing_ok=True)
        with suppress(OSError):
            path.parent.rmdir()
    except OSError as error:
        raise OutputError(
            f"The session in {path.parent} cannot be deleted ({error.strerror}). Delete it by hand."
        ) from error


def _unfinished(path: Path) -> JournalInfo | None:
    with closing(connect(path, to_write=False)) as db, decoding(path):
        if db.execute("SELECT 1 FROM info WHERE name = 'finished' AND value = 'True'").fetchone():
            return None
        steps = db.execute("SELECT kind, at, objects FROM step ORDER BY id").fetchall()
        images = [records.image_of(b) for (b,) in db.execute("SELECT body FROM image ORDER BY id")]
        done: list[str] = []
        undone: list[str] = []
        for kind, _, objects in steps:
            if kind == "change":
                done.append(objects)
                undone.clear()
            elif kind in ("undo", "redo"):
                source, target = (done, undone) if kind == "undo" else (undone, done)
                target.append(source.pop())
        if not any(kind in ("change", "painted") for kind, *_ in steps):
            return None
        kept = sum(count for _, count in json.loads(done[-1])) if done else 0
        last = max(float(at) for _, at, _ in steps)
        return JournalInfo(path, tuple(images), last, kept, len(steps))
