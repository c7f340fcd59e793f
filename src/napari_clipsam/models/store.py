"""What is installed: weights files in the user's folder, each with a record beside it.

A model counts as installed once its record is there, which is written last.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from napari_clipsam._folders import make_folder, unwritable, user_folder
from napari_clipsam.errors import ClipSamError, OutputError, WeightsError
from napari_clipsam.models.catalogue import ModelEntry
from napari_clipsam.models.checksum import Checksum, sha256_of
from napari_clipsam.models.reading import SUFFIXES, kind_of
from napari_clipsam.outputs import replacing

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "check_clip_name",
    "check_model_name",
    "check_unchanged",
    "first_download",
    "installed",
    "models_folder",
    "part_file",
    "remember_download",
    "remove",
    "settle",
    "target_file",
]

_SAM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_CLIP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{1,63}:[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
#: In place of the colon of a CLIP's name, which Windows allows in no file's name.
_COLON = "--"
#: As `sha256sum` writes and checks them: what files without a publisher's checksum were at first.
_SEEN = "first_downloads.txt"


def models_folder() -> Path:
    """Folder models are kept in; it may not exist yet."""
    return user_folder() / "models"


def part_file(name: str) -> Path:
    """Where the file of a model is while it is downloaded."""
    return models_folder() / "downloads" / f"{_stem(name)}.part"


def check_model_name(name: str) -> None:
    """Refuse a SAM's name that could not be told from a file, or could not be a file's.

    Raises
    ------
    WeightsError
    """
    if not _SAM_NAME.fullmatch(name) or name.lower().endswith(SUFFIXES):
        raise WeightsError(
            f"'{name}' cannot be a model's name. Use letters, digits, _, - and dots, without the "
            "ending of a file, e.g. my-nuclei."
        )


def check_clip_name(name: str) -> None:
    """Refuse a CLIP's name that is not ``ARCH:TAG``.

    Raises
    ------
    WeightsError
    """
    if not _CLIP_NAME.fullmatch(name) or name.lower().endswith(SUFFIXES):
        raise WeightsError(
            f"'{name}' cannot be a CLIP's name. Give an architecture of open_clip and a tag, e.g. "
            "ViT-B-16:openai."
        )


def installed(kind: Literal["sam", "clip"]) -> dict[str, ModelEntry]:
    """Models that have a record in the user's folder, by name in alphabetical order.

    Raises
    ------
    WeightsError
        A record is damaged.
    """
    return {entry.name: entry for entry in _records(kind)}


def settle(name: str, part: Path, *, architecture: str, sha256: str, source: str) -> Path:
    """Move a file that was checked to its place, and write its record.

    Parameters
    ----------
    name : str
    part : Path
        On the disk of the user's folder; it is moved, not copied.
    architecture, sha256, source : str
        For the record.

    Returns
    -------
    Path
        Where the file is now.

    Raises
    ------
    OutputError
        The folder cannot be written to; the file is where it was.
    """
    target = target_file(name, part)
    make_folder(target.parent)
    try:
        os.replace(part, target)
    except OSError as error:
        raise unwritable(target.parent, error) from error
    found = target.stat()
    described = {
        "file": target.name,
        "sha256": sha256,
        "bytes": found.st_size,
        "modified": found.st_mtime_ns,
        "architecture": architecture,
        "source": source,
    }
    try:
        with replacing(_record(name), overwrite=True) as record:
            record.write_text(json.dumps(described, indent=1), encoding="utf-8")
    except OutputError:
        # Without its record nobody would find it, nor delete it.
        with suppress(OSError):
            os.replace(target, part)
        raise
    return target


def target_file(name: str, part: Path) -> Path:
    """Where a file belongs under a name; its ending is that of what it holds."""
    ending = ".safetensors" if kind_of(part) == "safetensors" else ".pth"
    return _record(name).with_name(_stem(name) + ending)


def remove(name: str, kind: Literal["sam", "clip"]) -> Path:
    """Delete an installed model's file and record; return where the file was.

    Raises
    ------
    WeightsError
        There is none of this name.
    OutputError
        It cannot be deleted.
    """
    entry = installed(kind).get(name)
    if entry is None or entry.file is None:
        raise WeightsError(f"There is no installed model '{name}'. Nothing was deleted.")
    try:
        _record(name).unlink()
        entry.file.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"{entry.file} cannot be deleted ({error.strerror}). Close what uses it, and try again."
        ) from error
    return entry.file


def check_unchanged(entry: ModelEntry) -> None:
    """Refuse an installed file that is no longer what was installed.

    Its bytes are read only where its size or time is another than recorded.

    Raises
    ------
    WeightsError
    """
    if entry.file is None or entry.sha256 is None:
        return
    described = json.loads(_record(entry.name).read_text(encoding="utf-8"))
    found = entry.file.stat()
    if (found.st_size, found.st_mtime_ns) == (described["bytes"], described.get("modified")):
        return
    if found.st_size != described["bytes"] or sha256_of(entry.file) != entry.sha256:
        raise WeightsError(
            f"{entry.file} is not the file that was installed as '{entry.name}': it was changed or "
            f"cut off. Run `napari-clipsam models remove {entry.name}`, and install it again."
        )


def first_download(name: str) -> Checksum | None:
    """What the file of a model without a publisher's checksum was when first downloaded."""
    with suppress(OSError, ValueError):
        for line in (models_folder() / _SEEN).read_text(encoding="utf-8").splitlines():
            digest, _, seen = line.partition("  ")
            if seen == name:
                return Checksum("sha256", digest, "first download")
    return None


def remember_download(name: str, sha256: str) -> None:
    """Record what was downloaded under a name, to be compared with from then on.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    make_folder(models_folder())
    try:
        # In one line at the end, so that two programs may do it at a time.
        with (models_folder() / _SEEN).open("a", encoding="utf-8") as file:
            file.write(f"{sha256}  {name}\n")
    except OSError as error:
        raise unwritable(models_folder(), error) from error


def _stem(name: str) -> str:
    return name.replace(":", _COLON, 1)


def _record(name: str) -> Path:
    folder = models_folder() / "clips" if ":" in name else models_folder()
    return folder / f"{_stem(name)}.json"


def _records(kind: Literal["sam", "clip"]) -> Iterator[ModelEntry]:
    folder = models_folder() / "clips" if kind == "clip" else models_folder()
    for record in sorted(folder.glob("*.json")):
        name = record.stem.replace(_COLON, ":", 1) if kind == "clip" else record.stem
        try:
            described = json.loads(record.read_text(encoding="utf-8"))
            digest, source = str(described["sha256"]), str(described.get("source", ""))
            yield ModelEntry(
                name=name,
                architecture=str(described["architecture"]),
                source=source if "://" in source else None,
                checksum=first_download(name) or Checksum("sha256", digest, "import"),
                size_mb=int(described["bytes"]) / 1e6,
                file=record.with_name(Path(described["file"]).name),
                kind=kind,
                sha256=digest,
            )
        except (KeyError, OSError, TypeError, ValueError, ClipSamError) as error:
            raise WeightsError(
                f"The record {record} is damaged. Delete it and install '{name}' again."
            ) from error
