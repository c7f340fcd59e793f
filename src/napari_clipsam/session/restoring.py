"""A recorded session as it was: state, undo steps and labels, without any model."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_clipsam.errors import JournalError
from napari_clipsam.inference.requests import ObjectMask
from napari_clipsam.prompts import Prompts
from napari_clipsam.session import records
from napari_clipsam.session.database import connect, decoding, journal_file
from napari_clipsam.session.history import MAX_BYTES, Change, History, LabelPatch
from napari_clipsam.session.objects import (
    Box,
    PlaneKey,
    SessionObject,
    SessionState,
    slices_of,
)
from napari_clipsam.session.records import ImageInfo, LayerInfo

__all__ = ["Make", "Recipe", "Restored", "Values", "in_memory", "load", "recipes", "restore"]

#: Makes the array of a labels layer, all 0; numpy's indexing is all it has to offer.
Make = Callable[[LayerInfo], Any]


@dataclass(frozen=True, eq=False)
class Restored:
    """What a journal holds.

    Attributes
    ----------
    state : SessionState
    history : History
        Writes to `labels`; give it the layers of a viewer as its `labels` once they are filled.
    labels : dict of str to array
        Labels layers by name, whole; a plane that was never touched is 0.
    layers : dict of str to LayerInfo
    touched : dict of str to tuple of PlaneKey
        The planes that `labels` is right for, whatever was in a layer before.
    images : tuple of ImageInfo
        The image the session began with comes first.
    """

    state: SessionState
    history: History
    labels: dict[str, Any]
    layers: dict[str, LayerInfo]
    touched: dict[str, tuple[PlaneKey, ...]]
    images: tuple[ImageInfo, ...]

    @property
    def image_info(self) -> ImageInfo:
        """The image the session began with."""
        return self.images[0]


@dataclass(frozen=True, eq=False)
class Recipe:
    """How an object was made, to be made again with another model or adapter.

    Attributes
    ----------
    one : SessionObject
        Without masks.
    planes : tuple of PlaneKey
        Where it had masks; those without prompts were filled by following it.
    """

    one: SessionObject
    planes: tuple[PlaneKey, ...]


@dataclass(frozen=True, eq=False)
class Values:
    """Everything that steps of a journal name by number."""

    masks: dict[int, ObjectMask]
    prompts: dict[int, Prompts]
    objects: dict[int, SessionObject]


def in_memory(layer: LayerInfo) -> NDArray:
    """An array of zeros, which takes memory only where it is written to.

    Raises
    ------
    JournalError
        The layer is larger than the memory.
    """
    try:
        return np.zeros(layer.shape, layer.dtype)
    except (MemoryError, ValueError) as error:
        raise JournalError(
            f"The labels layer {layer.name!r} of {' x '.join(map(str, layer.shape))} pixels does "
            "not fit into memory. Open the session on a machine with more."
        ) from error


def restore(path: str | Path, make: Make = in_memory) -> Restored:
    """Read a session as it was, to the byte; nothing is computed by a model.

    Parameters
    ----------
    path : str or Path
        The file, or the project's folder.
    make : callable
        Makes the empty array, all 0, for each labels layer.

    Returns
    -------
    Restored

    Raises
    ------
    JournalError
        The file is missing, in use, damaged, not a journal, or of a newer version.
    """
    path = journal_file(path)
    with closing(connect(path, to_write=False)) as db:
        return load(db, path, make)[1]


def recipes(path: str | Path) -> Iterator[Recipe]:
    """How every object of a session was made: kept ones in order, then the preview.

    Parameters
    ----------
    path : str or Path
        As for `restore`.

    Yields
    ------
    Recipe

    Raises
    ------
    JournalError
        As for `restore`.
    """
    state = restore(path).state
    kept = (one for one in state.objects.values())
    for one in (*kept, *(one for one in state.draft if one.key not in state.objects)):
        yield Recipe(replace(one, masks={}), tuple(one.masks))


def load(db: sqlite3.Connection, path: Path, make: Make) -> tuple[Values, Restored]:
    """Read everything an open journal holds."""
    with decoding(path):
        if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise ValueError("not whole")
        values = _read_values(db)
        return values, _read_session(db, values, make)


def _read_values(db: sqlite3.Connection) -> Values:
    """Read masks, prompts and objects."""
    masks = {i: records.mask_of(*row) for i, *row in db.execute("SELECT * FROM mask")}
    prompts = {i: records.prompts_of(*row) for i, *row in db.execute("SELECT * FROM prompts")}
    objects = {
        i: records.object_of(body, prompts, masks) for i, body in db.execute("SELECT * FROM object")
    }
    return Values(masks, prompts, objects)


def _read_session(db: sqlite3.Connection, values: Values, make: Make) -> Restored:
    """Do again every step of a journal."""
    replay = _Replay(values, make)
    steps = db.execute("SELECT id, kind, body, objects, draft FROM step ORDER BY id")
    for step, kind, body, objects, draft in steps:
        replay.step(kind, body, objects, draft, _patches(db, step, replay.layers))
    bodies = db.execute("SELECT body FROM image ORDER BY id")
    images = tuple(records.image_of(body) for (body,) in bodies)
    if not images:
        raise ValueError("no image")
    replay.history.forget(MAX_BYTES)
    touched = {name: tuple(planes) for name, planes in replay.touched.items()}
    return Restored(
        replay.state,
        replay.history,
        replay.arrays,
        replay.layers,
        touched,
        images,
    )


def _patches(
    db: sqlite3.Connection, step: int, layers: Mapping[str, LayerInfo]
) -> Iterator[LabelPatch]:
    query = "SELECT layer, plane, box, data FROM patch WHERE step = ? ORDER BY part"
    for layer, plane, box, data in db.execute(query, (step,)):
        yield records.patch_of(layers[layer], plane, box, data)


class _Replay:
    """Does recorded steps with the very code that did them first."""

    def __init__(self, values: Values, make: Make) -> None:
        self.values, self.make = values, make
        self.arrays: dict[str, Any] = {}
        self.layers: dict[str, LayerInfo] = {}
        self.touched: dict[str, dict[PlaneKey, None]] = {}
        self.state = SessionState()
        self.history = History(self, sys.maxsize)
        self._kept = ("[]", self.state.objects)

    # Labels, as history sees them

    def read(self, layer: str, plane: PlaneKey, box: Box) -> NDArray | None:
        try:
            return np.array(self.arrays[layer][slices_of(plane, box)])
        except IndexError:  # a layer of another shape has taken this name since
            return None

    def write(self, layer: str, plane: PlaneKey, box: Box, values: NDArray) -> None:
        self.arrays[layer][slices_of(plane, box)] = values
        self.touched[layer][plane] = None

    # Steps

    def step(
        self, kind: str, body: str, objects: str, draft: str, patches: Iterator[LabelPatch]
    ) -> None:
        if kind == "change":
            after = SessionState(self._objects(objects), tuple(self._found(draft)))
            change = Change(body, self.state, after, tuple(patches))
            self.history.push(change)
            self.state = after
        elif kind == "undo":
            self.state = _done(self.history.undo()).before
        elif kind == "redo":
            self.state = _done(self.history.redo()).after
        elif kind == "layer":
            self._begin(records.layer_of(body))
        elif kind in ("base", "painted"):
            for patch in patches:
                self._overwrite(patch, kind == "base")
        else:
            raise ValueError(kind)

    def _begin(self, layer: LayerInfo) -> None:
        self.layers[layer.name] = layer
        self.arrays[layer.name] = self.make(layer)
        self.touched[layer.name] = {}

    def _overwrite(self, patch: LabelPatch, whole: bool) -> None:
        current = self.arrays[patch.layer][slices_of(patch.plane, patch.box)]
        changed = True if whole else patch.before != patch.after
        values = np.where(changed, patch.after, current)
        self.write(patch.layer, patch.plane, patch.box, values)

    def _objects(self, ids: str) -> Mapping[str, SessionObject]:
        if ids != self._kept[0]:
            self._kept = ids, MappingProxyType({one.key: one for one in self._found(ids)})
        return self._kept[1]

    def _found(self, ids: str) -> list[SessionObject]:
        return records.of_ids(ids, self.values.objects)


def _done(change: Change | None) -> Change:
    if change is None:
        raise ValueError("nothing to undo")
    return change
