"""What happened in a session, written down step by step so that a crash loses nothing.

A journal is one SQLite file. Each call is one transaction; after `kill -9` the file holds every
call that returned. Results (masks, pixels) stand beside recipes (prompts, word, model, adapter), so
restoring needs no model, and doing it again with another one is a separate act.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import DTypeLike, NDArray

from napari_clipsam.errors import JournalError, OutputError
from napari_clipsam.inference.requests import ObjectMask
from napari_clipsam.outputs import replacing
from napari_clipsam.prompts import Prompts
from napari_clipsam.session import records
from napari_clipsam.session.database import FILE_NAME, connect, create, fill, journal_file
from napari_clipsam.session.folders import JournalInfo, discard, new_file, unfinished
from napari_clipsam.session.history import Change, LabelPatch
from napari_clipsam.session.objects import PlaneKey, SessionObject
from napari_clipsam.session.records import ImageInfo, LayerInfo
from napari_clipsam.session.restoring import (
    Make,
    Recipe,
    Restored,
    in_memory,
    load,
    recipes,
    restore,
)

__all__ = [
    "ImageInfo",
    "Journal",
    "JournalInfo",
    "LayerInfo",
    "Recipe",
    "Restored",
    "discard",
    "recipes",
    "restore",
    "unfinished",
]

ValueT = TypeVar("ValueT", ObjectMask, Prompts, SessionObject)
Statement = tuple[str, tuple[Any, ...]]


class Journal:
    """The journal of a running session; no other process can open it meanwhile.

    When a step cannot be recorded (a full disk), it is held back and recorded with the next one, so
    that the file never has a gap.

    Attributes
    ----------
    path : Path
        Of the file.
    has_file : bool
        Whether there is one; else all is in memory.
    """

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        """Use `create`, `without_file` or `reopen`."""
        self.path = path
        self.has_file = True
        self._db: sqlite3.Connection | None = db
        self._masks: MutableMapping[ObjectMask, int] = WeakKeyDictionary()
        self._prompts: MutableMapping[Prompts, int] = WeakKeyDictionary()
        self._objects: MutableMapping[SessionObject, int] = WeakKeyDictionary()
        self._next = dict.fromkeys(("mask", "prompts", "object", "step"), 1)
        self._layers: dict[str, LayerInfo] = {}
        self._kept: tuple[Mapping[str, SessionObject], str] = ({}, "[]")
        self._pending: list[Statement] = []

    @classmethod
    def create(cls, folder: str | Path, image: ImageInfo) -> Journal:
        """Begin a session.

        Parameters
        ----------
        folder : str or Path
            Of the project; made if it is not there. Holds one journal at most.
        image : ImageInfo

        Raises
        ------
        OutputError
            The folder has a session already, or cannot be written to.
        """
        path = new_file(folder)
        with replacing(path) as part:
            try:
                create(part, records.image_body(image))
            except sqlite3.Error as error:
                raise _not_recorded(path, error) from error
        return cls(path, connect(path))

    @classmethod
    def without_file(cls, image: ImageInfo) -> Journal:
        """Begin a session where no file can be written: a crash loses it, `save_as` does not.

        Parameters
        ----------
        image : ImageInfo
        """
        db = sqlite3.connect(":memory:", isolation_level=None)
        fill(db, records.image_body(image))
        journal = cls(Path(FILE_NAME), db)
        journal.has_file = False
        return journal

    @classmethod
    def reopen(cls, path: str | Path, make: Make = in_memory) -> tuple[Journal, Restored]:
        """Restore a session and go on recording it.

        Parameters
        ----------
        path : str or Path
            The file, or the project's folder.
        make : callable
            Makes the empty array, all 0, for each labels layer.

        Raises
        ------
        JournalError
            As for `restore`.
        """
        path = journal_file(path)
        journal = cls(path, connect(path))
        try:
            restored = journal._read(make)
            journal._write([_finished(False)])
            return journal, restored
        except BaseException:
            journal._close()
            raise

    def image(self, info: ImageInfo) -> None:
        """Record an image that is worked on."""
        self._write([("INSERT INTO image (body) VALUES (?)", (records.image_body(info),))])

    def layer(
        self, name: str, shape: tuple[int, ...], dtype: DTypeLike, transform: Mapping[str, Any]
    ) -> None:
        """Record that a labels layer begins, all 0; a former one of this name is gone.

        Call it once for each layer, before anything else about it. What is in it already comes with
        `base`.

        Parameters
        ----------
        name : str
        shape : tuple of int
        dtype : dtype of int
        transform : mapping
            JSON values, e.g. scale, translate, rotate, shear, affine, units, axis_labels.
        """
        info = LayerInfo(name, tuple(map(int, shape)), np.dtype(dtype), dict(transform))
        statements = self._step("layer", records.layer_body(info))
        self._layers[name] = info
        self._write(statements)

    def base(self, layer: str, plane: PlaneKey, array: NDArray) -> None:
        """Record a plane of labels as it was before it is touched for the first time.

        Parameters
        ----------
        layer : str
        plane : PlaneKey
        array : ndarray of int, shape (H, W)
            May be left out where all is 0.
        """
        box = (0, 0, *array.shape)
        patch = LabelPatch(layer, plane, box, np.zeros_like(array), np.asarray(array))
        self._check(patch)
        self._write(self._step("base", "", [patch]))

    def append(self, change: Change) -> None:
        """Record a step.

        Raises
        ------
        OutputError
            It cannot be written now; it will be recorded together with the next one.
        """
        for patch in change.patches:
            self._check(patch)
        after = change.after
        statements = [*self._new_objects(after.draft)]
        # With many objects it would take long to look at each of them at every click.
        if after.objects is not self._kept[0]:
            statements += self._new_objects(after.objects.values())
            self._kept = after.objects, self._numbers(after.objects.values())
        draft = self._numbers(after.draft)
        statements += self._step("change", change.what, change.patches, self._kept[1], draft)
        self._write(statements)

    def append_undo(self) -> None:
        """Record that the latest step was taken back; errors as for `append`."""
        self._write(self._step("undo"))

    def append_redo(self) -> None:
        """Record that the step taken back last was done again; errors as for `append`."""
        self._write(self._step("redo"))

    def painted(self, patch: LabelPatch) -> None:
        """Record what the user painted by hand; errors as for `append`."""
        self._check(patch)
        self._write(self._step("painted", "", [patch]))

    def save_as(self, folder: str | Path, keep_former: bool) -> None:
        """Go on in another folder.

        Parameters
        ----------
        folder : str or Path
            As for `create`.
        keep_former : bool
            Whether the journal stays where it was too, as it is now.

        Raises
        ------
        OutputError
            The folder has a session already, or cannot be written to; nothing has changed then.
        """
        path = new_file(folder)
        with replacing(path) as part:
            try:
                with closing(sqlite3.connect(part)) as copy:
                    self._open.backup(copy)
            except sqlite3.Error as error:
                raise _not_recorded(path, error) from error
        former, former_path = self._open, self.path if self.has_file else None
        self._db, self.path, self.has_file = connect(path), path, True
        _release(former, finished=True)
        if former_path is not None and not keep_former:
            discard(former_path)
        self._write([])

    def close(self, finished: bool) -> None:
        """End the recording; the journal is one whole file then.

        Parameters
        ----------
        finished : bool
            False keeps the session among the `unfinished`.

        Raises
        ------
        OutputError
            Steps that were held back cannot be written even now.
        """
        try:
            self._write([_finished(finished)])
        finally:
            self._close()

    def _close(self) -> None:
        if self._db is not None:
            _release(self._db)
            self._db = None

    @property
    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            raise JournalError("This session is closed. Open the project again.")
        return self._db

    def _write(self, statements: list[Statement]) -> None:
        """Write in one transaction, with what could not be written before."""
        db = self._open
        self._pending += statements
        try:
            db.execute("BEGIN IMMEDIATE")
            for sql, values in self._pending:
                db.execute(sql, values)
            db.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            raise _not_recorded(self.path, error) from error
        self._pending.clear()

    def _step(
        self,
        kind: str,
        body: str = "",
        patches: Iterable[LabelPatch] = (),
        objects: str = "",
        draft: str = "",
    ) -> list[Statement]:
        rows = (row for patch in patches for row in records.patch_rows(patch))
        step = self._next["step"]
        self._next["step"] += 1
        return [
            (
                "INSERT INTO step VALUES (?, ?, ?, ?, ?, ?)",
                (step, time.time(), kind, body, objects, draft),
            ),
            *(
                ("INSERT INTO patch VALUES (?, ?, ?, ?, ?, ?)", (step, part, *row))
                for part, row in enumerate(rows)
            ),
        ]

    def _check(self, patch: LabelPatch) -> None:
        """A patch must fit its layer, or nothing after it could be restored."""
        layer = self._layers.get(patch.layer)
        if layer is None or patch.before.dtype != layer.dtype or patch.after.dtype != layer.dtype:
            raise JournalError(
                f"The labels layer {patch.layer!r} is not in the journal as it is now. Record it "
                "with Journal.layer first."
            )

    def _new_objects(self, objects: Iterable[SessionObject]) -> Iterator[Statement]:
        """Rows of objects, masks and prompts that have none yet."""
        for one in objects:
            if one in self._objects:
                continue
            for mask in one.masks.values():
                if mask not in self._masks:
                    yield self._insert("mask", self._masks, mask, records.mask_row(mask))
            for asked in one.prompts.values():
                if asked not in self._prompts:
                    yield self._insert("prompts", self._prompts, asked, records.prompts_row(asked))
            body = records.object_body(one, self._prompts, self._masks)
            yield self._insert("object", self._objects, one, (body,))

    def _numbers(self, objects: Iterable[SessionObject]) -> str:
        return records.ids_body([self._objects[one] for one in objects])

    def _insert(
        self, table: str, known: MutableMapping[ValueT, int], value: ValueT, row: tuple[Any, ...]
    ) -> Statement:
        known[value] = number = self._next[table]
        self._next[table] += 1
        return f"INSERT INTO {table} VALUES (?{', ?' * len(row)})", (number, *row)

    def _read(self, make: Make) -> Restored:
        """Restore, and know from then on what is recorded already."""
        values, restored = load(self._open, self.path, make)
        self._masks.update({mask: i for i, mask in values.masks.items()})
        self._prompts.update({asked: i for i, asked in values.prompts.items()})
        self._objects.update({one: i for i, one in values.objects.items()})
        for table in self._next:
            (last,) = self._open.execute(f"SELECT max(id) FROM {table}").fetchone()
            self._next[table] = (last or 0) + 1
        self._layers = dict(restored.layers)
        return restored


def _finished(value: bool) -> Statement:
    return "INSERT OR REPLACE INTO info VALUES ('finished', ?)", (str(value),)


def _release(db: sqlite3.Connection, finished: bool | None = None) -> None:
    """Close a journal, so that it is one file from which nothing is missing."""
    with suppress(sqlite3.Error):
        if finished is not None:
            db.execute(*_finished(finished))
        db.execute("PRAGMA journal_mode = DELETE")
    db.close()


def _not_recorded(path: Path, error: sqlite3.Error) -> OutputError:
    return OutputError(
        f"The session cannot be recorded in {path.parent} ({error}). Free some space, or save the "
        "project in another folder; what you did is still here, and is recorded then."
    )
