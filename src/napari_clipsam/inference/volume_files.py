"""The labels of a stack as they are written: plane by plane, and gone on with after a kill.

What is under way lies beside its place in a hidden folder: the labels as an OME-Zarr, and how far
they are. Only what is whole is moved to its place.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_clipsam._locking import FileLock
from napari_clipsam._pyramid import LabelPyramid
from napari_clipsam.errors import OutputError
from napari_clipsam.outputs import label_dtype, replacing

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Unfinished",
    "VolumeFile",
    "VolumeLayout",
    "check_same_make",
    "check_volume_output",
    "forget_unfinished",
    "unfinished_folder",
    "unfinished_labels",
    "unfinished_state",
]

_TIFF = (".tif", ".tiff")
_ZARR = ".zarr"
_LABELS, _TIFF_PART, _STATE, _LOCK = "labels.zarr", "labels.tif", "state.json", "lock"
_FORMAT = 1
# For people, where the keys of what labels are made of say it otherwise.
_NAMES = {
    "pixels": "image",
    "normalisation": "brightness",
    "links": "distance of slices",
    "threshold": "adapter",
    "instances": "setting for single objects",
}


@dataclass(frozen=True)
class VolumeLayout:
    """What the labels of a stack look like.

    Attributes
    ----------
    letters : str
        Axes in the order T, Z, Y, X.
    shape : tuple of int
    dtype : numpy.dtype
    spacing_um : dict of str to float
        Micrometres a pixel along Z, Y and X, as far as known.
    """

    letters: str
    shape: tuple[int, ...]
    dtype: np.dtype
    spacing_um: Mapping[str, float]

    @cached_property
    def places(self) -> list[tuple[int, ...]]:
        """Where each plane lies along the leading axes, in the order in which they are written."""
        return list(np.ndindex(self.shape[:-2]))


def unfinished_folder(path: Path) -> Path:
    """Where a result is while it is under way."""
    return path.with_name(f".{path.name}.part")


def unfinished_labels(path: Path) -> Path:
    """The OME-Zarr that a result is while it is under way."""
    return unfinished_folder(path) / _LABELS


@dataclass(frozen=True)
class Unfinished:
    """How far a result under way is, and what its labels depend on."""

    done: int
    made_of: Mapping[str, Any]


def unfinished_state(path: Path) -> Unfinished | None:
    """What an earlier run left of a result; None where it left nothing that can be gone on with."""
    try:
        found = json.loads((unfinished_folder(path) / _STATE).read_text())
        made_of = {key: value for key, value in found["made_of"].items() if key != "format"}
        return Unfinished(int(found["done"]), made_of)
    except (OSError, AttributeError, KeyError, TypeError, ValueError):
        return None


def check_same_make(path: Path, made_of: Mapping[str, Any]) -> None:
    """Refuse to go on with a result of another make, and say what differs.

    Raises
    ------
    OutputError
    """
    former = unfinished_state(path)
    now = json.loads(json.dumps(made_of))
    if former is None or former.made_of == now:
        return
    differing = [key for key in now if former.made_of.get(key) != now[key]]
    if {"channels", "normalisation"} & set(differing):
        # Other channels or limits show other pixels of the same image.
        differing = [key for key in differing if key != "pixels"]
    what = ", ".join(dict.fromkeys(_NAMES.get(key, key) for key in differing)) or "version"
    raise OutputError(
        f"{path.name} was begun with another {what}. Choose what it was begun with, or forget it "
        "and begin anew."
    )


def forget_unfinished(path: Path) -> None:
    """Delete what an earlier run left of a result.

    Raises
    ------
    OutputError
        Another process works on it.
    """
    folder = unfinished_folder(path)
    if not folder.is_dir():
        return
    with _disk(path), FileLock(folder / _LOCK) as lock:
        if not lock.acquire():
            raise OutputError(f"{path} is being written by another process. Stop that first.")
        shutil.rmtree(folder / _LABELS, ignore_errors=True)
        (folder / _STATE).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def check_volume_output(path: Path, overwrite: bool) -> None:
    """Refuse a place that could not be written to, before any work.

    Raises
    ------
    OutputError
    """
    if path.suffix.lower() not in (*_TIFF, _ZARR):
        raise OutputError(f"{path} is no name for a volume. Let it end in .ome.zarr or .tif.")
    if not path.parent.is_dir():
        raise OutputError(f"The folder {path.parent} does not exist. Make it, or choose another.")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"The folder {path.parent} may not be written to. Choose another.")
    if not path.exists():
        return
    if not overwrite:
        raise OutputError(f"{path} exists already. Choose another name, or give --overwrite.")
    if path.is_dir() and not (path.suffix == _ZARR and (path / "zarr.json").is_file()):
        raise OutputError(f"{path} is not an OME-Zarr, so it is not replaced. Choose another name.")


class VolumeFile:
    """Labels on their way to a file.

    Parameters
    ----------
    path : Path
        Ends in ``.zarr`` or ``.tif``; see `check_volume_output`.
    layout : VolumeLayout
    made_of : mapping of str to JSON values
        All that the labels depend on; what is unfinished is gone on with only if it is the same.
    overwrite : bool
        Whether something finished, or something unfinished of another make, may be replaced.

    Attributes
    ----------
    done : int
        Planes that are written.
    count : int
        Objects so far.

    Raises
    ------
    OutputError
        As for `check_volume_output`; another process writes the same result; or something
        unfinished of another make is in the way.
    """

    def __init__(
        self, path: Path, layout: VolumeLayout, made_of: Mapping[str, Any], overwrite: bool
    ) -> None:
        check_volume_output(path, overwrite)
        self.path, self.layout = path, layout
        self._overwrite = overwrite
        self._folder = unfinished_folder(path)
        self._made_of = {"format": _FORMAT, **json.loads(json.dumps(made_of))}
        self.done = self.count = 0
        self._failed = False
        with _disk(path):
            self._folder.mkdir(exist_ok=True)
            self._lock = FileLock(self._folder / _LOCK)
            if not self._lock.acquire():
                raise OutputError(
                    f"{path} is being written by another process. Wait for it, or choose another "
                    "name."
                )
        try:
            if not self._resume():
                self._begin()
        except BaseException:
            self._lock.release()
            raise

    def write(self, plane: NDArray[np.integer], count: int) -> None:
        """Write the next plane; `count` objects were found so far.

        Raises
        ------
        OutputError
            The disk fails, or failed before: what comes later has another place.
        """
        if self._failed:
            raise OutputError(f"{self.path} could not be written before this plane.")
        self._failed = True
        with _disk(self.path):
            self._pyramid.write(self.layout.places[self.done], plane)
            self.done, self.count = self.done + 1, count
            self._save()
        self._failed = False

    def read(self, number: int) -> NDArray[np.integer]:
        """Read a plane that is written."""
        return self._pyramid.read(self.layout.places[number])

    def make_whole(self) -> None:
        """Make the file that `finish` moves, still beside its place."""
        if self.path.suffix.lower() in _TIFF:
            self._write_tiff()

    def finish(self) -> None:
        """Move what `make_whole` made to its place."""
        is_tiff = self.path.suffix.lower() in _TIFF
        former = self._folder / "former"
        check_volume_output(self.path, self._overwrite)
        with _disk(self.path):
            if self.path.is_dir():
                shutil.rmtree(former, ignore_errors=True)
                os.replace(self.path, former)
            os.replace(self._folder / (_TIFF_PART if is_tiff else _LABELS), self.path)
        shutil.rmtree(former, ignore_errors=True)
        self.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def close(self) -> None:
        """Let others go on; what is written stays."""
        self._lock.release()

    def _begin(self) -> None:
        layout = self.layout
        with _disk(self.path):
            self._pyramid = LabelPyramid.create(
                self._folder / _LABELS,
                layout.shape,
                layout.letters,
                layout.dtype,
                self.path.name.partition(".")[0],
                (1.0,) * len(layout.shape),
                layout.spacing_um,
            )
            self._save()

    def _resume(self) -> bool:
        state = self._folder / _STATE
        try:
            found = json.loads(state.read_text())
            made_of, done, count = found["made_of"], int(found["done"]), int(found["count"])
            pyramid = LabelPyramid.open(self._folder / _LABELS)
        except FileNotFoundError:
            return False
        except (OSError, KeyError, TypeError, ValueError):
            made_of, done, count, pyramid = None, 0, 0, None
        if pyramid is not None and done == 0:
            return False
        same = made_of == self._made_of and pyramid is not None
        if pyramid is None or not same or pyramid.shape != self.layout.shape:
            if not self._overwrite:
                raise OutputError(
                    f"{self._folder} holds an unfinished result of another model, word or image. "
                    "Finish that first, choose another name, or give --overwrite to drop it."
                )
            return False
        self._pyramid, self.done, self.count = pyramid, done, count
        return True

    def _save(self) -> None:
        state = {"made_of": self._made_of, "done": self.done, "count": self.count}
        with replacing(self._folder / _STATE, overwrite=True) as part:
            part.write_text(json.dumps(state))

    def _write_tiff(self) -> None:
        """All planes as pages of a TIFF, never more than one in memory."""
        import tifffile

        layout = self.layout
        dtype = layout.dtype
        if dtype == np.uint32:
            dtype = label_dtype(self.count)
        spacing = layout.spacing_um
        metadata: dict[str, Any] = {"axes": layout.letters}
        for letter in "XYZ":
            if letter in spacing:
                metadata |= {
                    f"PhysicalSize{letter}": spacing[letter],
                    f"PhysicalSize{letter}Unit": "µm",
                }
        pages = (self._pyramid.read(place).astype(dtype) for place in layout.places)
        size = int(np.prod(layout.shape)) * dtype.itemsize
        with _disk(self.path), replacing(self._folder / _TIFF_PART, overwrite=True) as part:
            tifffile.imwrite(
                part,
                pages,
                shape=layout.shape,
                dtype=dtype,
                compression="zlib",
                photometric="minisblack",
                metadata=metadata,
                ome=True,
                bigtiff=size > 1 << 31,
            )


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Say what to do where the disk fails."""
    try:
        yield
    except (OSError, OutputError) as error:
        cause = error.__cause__ if isinstance(error, OutputError) else error
        if not isinstance(cause, OSError):
            raise
        raise OutputError(
            f"{path} could not be written ({cause.strerror or cause}). Free some space and start "
            "again: the planes that are finished are kept."
        ) from error
