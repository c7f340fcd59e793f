"""The SQLite file of a session: its tables, who may open it, and what is refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from napari_clipsam.errors import ClipSamError, JournalError

__all__ = ["FILE_NAME", "FORMAT", "connect", "create", "decoding", "fill", "journal_file"]

FILE_NAME = "journal.sqlite"

#: Version of the tables below and of what is in them; files of a newer one are refused. Format 1
#: did not say which CLIP an object was made with.
FORMAT = 2

_APPLICATION = 0x434C5053  # "CLPS", in the header of the file
_TABLES = {
    "info": "name TEXT PRIMARY KEY, value TEXT",
    "image": "id INTEGER PRIMARY KEY, body TEXT",
    "mask": "id INTEGER PRIMARY KEY, box TEXT, score REAL, bits BLOB",
    "prompts": "id INTEGER PRIMARY KEY, body TEXT, kind TEXT, shape TEXT, mask BLOB",
    "object": "id INTEGER PRIMARY KEY, body TEXT",
    "step": "id INTEGER PRIMARY KEY, at REAL, kind TEXT, body TEXT, objects TEXT, draft TEXT",
    "patch": "step INTEGER, part INTEGER, layer TEXT, plane TEXT, box TEXT, data BLOB, "
    "PRIMARY KEY (step, part)",
}
_SCHEMA = {name: f"CREATE TABLE {name} ({columns})" for name, columns in _TABLES.items()}

# What a file that is not as it should be makes the code below and numpy raise.
_DECODING_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    sqlite3.Error,
)


def journal_file(path: str | Path) -> Path:
    """The file of a project's folder; a file is itself."""
    path = Path(path)
    return path / FILE_NAME if path.is_dir() else path


def create(path: Path, image: str) -> None:
    """Make a journal of an image, given as a row's body; the file must not be there."""
    db = sqlite3.connect(path, isolation_level=None)
    try:
        fill(db, image)
    finally:
        db.close()


def fill(db: sqlite3.Connection, image: str) -> None:
    """Make the tables of an empty database; as for `create`."""
    db.execute("BEGIN")
    for statement in _SCHEMA.values():
        db.execute(statement)
    db.execute("INSERT INTO image (body) VALUES (?)", (image,))
    db.execute(f"PRAGMA application_id = {_APPLICATION}")
    db.execute(f"PRAGMA user_version = {FORMAT}")
    db.execute("COMMIT")


def connect(path: Path, to_write: bool = True) -> sqlite3.Connection:
    """Open a journal.

    The file is never opened in another way: closing it would end SQLite's lock.

    Parameters
    ----------
    path : Path
    to_write : bool
        For this process alone; else no other must be writing.

    Returns
    -------
    sqlite3.Connection
        Transactions begin and end explicitly.

    Raises
    ------
    JournalError
        The file is missing, in use, damaged, not a journal, of a newer version, or where nothing
        may be written.
    """
    if not path.is_file():
        raise JournalError(f"There is no recorded session in {path.parent}. Choose another folder.")
    db = None
    try:
        uri = f"{path.resolve().as_uri()}?mode=rw"
        db = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)
        _check(db, path)
        if to_write:
            _claim(db)
    except Exception as error:
        if db is not None:
            db.close()
        if isinstance(error, _DECODING_ERRORS):
            raise JournalError(_why_not(path, error)) from error
        raise
    return db


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Turn whatever a damaged journal causes into one line."""
    try:
        yield
    except JournalError:
        raise
    except (*_DECODING_ERRORS, ClipSamError) as error:
        raise JournalError(
            f"The recorded session {path} is damaged and cannot be opened. Choose another."
        ) from error


def _check(db: sqlite3.Connection, path: Path) -> None:
    """Refuse what is not exactly one of our files, before anything in it is used."""
    # A file from elsewhere may hold views and triggers; none of them is to run.
    db.execute("PRAGMA trusted_schema = OFF")
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if application != _APPLICATION:
        raise JournalError(
            f"{path} is not a recorded session of napari-clipsam. Choose another file."
        )
    if version > FORMAT:
        raise JournalError(
            f"{path} was recorded by a newer version (format {version}, this one knows {FORMAT}). "
            "Update napari-clipsam to open it."
        )
    schema = dict(db.execute("SELECT name, sql FROM sqlite_master"))
    schema = {name: sql for name, sql in schema.items() if not name.startswith("sqlite_autoindex")}
    if schema != _SCHEMA or version < 1:
        raise JournalError(
            f"The recorded session {path} is damaged and cannot be opened. Choose another."
        )


def _claim(db: sqlite3.Connection) -> None:
    """Hold the file until it is closed; after a crash the system lets go of it."""
    db.execute("PRAGMA journal_mode = WAL")
    # A crash of the program loses nothing; a power cut may lose the last steps, never the file.
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("BEGIN EXCLUSIVE")
    # What is added from now on, programs that know only the format it had cannot read.
    db.execute(f"PRAGMA user_version = {FORMAT}")
    db.execute("COMMIT")


def _why_not(path: Path, error: Exception) -> str:
    reason = str(error)
    if "locked" in reason:
        return (
            f"The session in {path.parent} is open in another window or program. Close it there "
            "first."
        )
    if "readonly" in reason or "unable to open" in reason:
        return (
            f"The session in {path.parent} cannot be opened where nothing may be written. Copy "
            "the folder to a place of your own, and open it there."
        )
    if "not a database" in reason:
        return f"{path} is not a recorded session of napari-clipsam. Choose another file."
    return f"The recorded session {path} is damaged and cannot be opened. Choose another."
