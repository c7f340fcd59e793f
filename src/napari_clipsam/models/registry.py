"""Models by name: the starter that ships here, Meta's SAMs, and what the user imported."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from napari_clipsam._folders import user_folder
from napari_clipsam.errors import ConfigError, WeightsError
from napari_clipsam.models.weights import (
    check_model_name,
    import_model,
    is_file,
    load_clip,
    load_sam,
)

if TYPE_CHECKING:
    from napari_clipsam.models.clip import Clip
    from napari_clipsam.models.sam import Sam

__all__ = [
    "LoadedModel",
    "ModelEntry",
    "import_file",
    "load_model",
    "models",
    "models_folder",
    "register_model",
]

_META = "https://dl.fbaipublicfiles.com/segment_anything/"


@dataclass(frozen=True)
class ModelEntry:
    """A SAM that is known by name.

    Attributes
    ----------
    name : str
    architecture : str
        ``starter``, ``vit_b``, ``vit_l``, ``vit_h`` or ``custom``.
    source : str or None
        Address it can be downloaded from.
    sha256 : str or None
        Of its file, where it is known in full.
    sha256_prefix : str or None
        What its SHA-256 begins with, as its publisher states it in the file's name.
    size_mb : float or None
        Size of the file, 10^6 bytes.
    domain : str
        Images it was trained on.
    licence : str
    file : Path or None
        Where it is on this machine.
    """

    name: str
    architecture: str
    source: str | None = None
    sha256: str | None = None
    sha256_prefix: str | None = None
    size_mb: float | None = None
    domain: str = "unknown"
    licence: str = "unknown"
    file: Path | None = None

    @property
    def installed(self) -> bool:
        """Whether the file is there."""
        return self.file is not None and self.file.is_file()


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """Networks that work together.

    Attributes
    ----------
    name : str
        Name in the registry, or the file's name.
    sam : Sam
    clip : Clip
    adapter_path : Path or None
        Adapter that was trained with exactly these networks.
    """

    name: str
    sam: Sam
    clip: Clip
    adapter_path: Path | None


def _meta(name: str, checksum: str, size_mb: float) -> ModelEntry:
    return ModelEntry(
        name=name,
        architecture=name,
        source=f"{_META}sam_{name}_{checksum}.pth",
        sha256_prefix=checksum,
        size_mb=size_mb,
        domain="photographs (SA-1B)",
        licence="Apache-2.0",
    )


_KNOWN: dict[str, ModelEntry] = {
    "starter": ModelEntry(
        name="starter",
        architecture="starter",
        domain="microscopy",
        licence="BSD-3-Clause",
    ),
    "vit_b": _meta("vit_b", "01ec64", 375),
    "vit_l": _meta("vit_l", "0b3195", 1250),
    "vit_h": _meta("vit_h", "4b8939", 2564),
}


def register_model(entry: ModelEntry) -> None:
    """Make a model known by name for the rest of the process.

    Parameters
    ----------
    entry : ModelEntry
        With `source` (the user is told it) or `file`.

    Raises
    ------
    ConfigError
        There is a model of this name already.
    WeightsError
        The name cannot be used.
    """
    check_model_name(entry.name)
    if any(entry.name == known.name for known in models()):
        raise ConfigError(f"There is a model '{entry.name}' already. Choose another name.")
    _KNOWN[entry.name] = entry


def models() -> list[ModelEntry]:
    """All models that are known: the starter first, then the others, imported ones last.

    Raises
    ------
    WeightsError
        The record of an imported model is damaged.
    """
    imported = _imported()
    starter = starter_file("sam")
    size_mb = starter.stat().st_size / 1e6 if starter.is_file() else None
    entries = {**_KNOWN, "starter": replace(_KNOWN["starter"], file=starter, size_mb=size_mb)}
    for name, found in imported.items():
        known = entries.get(name, found)
        entries[name] = replace(known, file=found.file, sha256=found.sha256, size_mb=found.size_mb)
    return list(entries.values())


def models_folder() -> Path:
    """Folder imported models are kept in; it may not exist yet."""
    return user_folder() / "models"


def import_file(name: str, path: str | Path) -> ModelEntry:
    """Take a copy of a SAM's file into the user's folder, to be used by name from then on.

    A name out of the registry that is not installed takes the file it stands for, and no other.

    Raises
    ------
    WeightsError
        As for `weights.import_model`, or the name belongs to something else.
    OutputError
        The copy cannot be written.
    """
    known = _KNOWN.get(name)
    if known is not None and (known.installed or known.source is None):
        raise WeightsError(f"There is a model '{name}' already. Choose another name.")
    expected = (known.sha256 or known.sha256_prefix or "") if known else ""
    import_model(name, path, models_folder(), expected)
    return next(entry for entry in models() if entry.name == name)


def load_model(
    name_or_file: str = "starter", clip: str | None = None, input_size: int | None = None
) -> LoadedModel:
    """Load a SAM and a CLIP.

    Parameters
    ----------
    name_or_file : str
        A name out of `models`, or the path of a SAM's file.
    clip : str, optional
        ``starter`` (also when not given), ``ARCH:TAG`` or ``ARCH:FILE`` for open_clip (e.g.
        ``ViT-B-16:openai``), or the path of a file that `weights.save_clip` wrote.
    input_size : int, optional
        As for `weights.load_sam`.

    Returns
    -------
    LoadedModel
        On the CPU, float32.

    Raises
    ------
    WeightsError
        There is no such model, it is not installed, or its files cannot be used.
    """
    if name_or_file == "starter":
        path, name = _shipped("sam"), "starter"
    else:
        path, name = _find(name_or_file)
    # The language side is quicker to refuse than the weights of a large SAM are to read.
    language = _load_language("starter" if clip is None else clip)
    sam = load_sam(path, input_size)
    own = name == "starter" and clip in (None, "starter")
    return LoadedModel(name, sam, language, _shipped("adapter") if own else None)


def starter_file(part: str) -> Path:
    """Where ``sam``, ``clip`` or ``adapter`` of the starter is in the package."""
    folder = resources.files("napari_clipsam") / "models" / "starter"
    return Path(str(folder / f"{part}.safetensors"))


def _shipped(part: str) -> Path:
    path = starter_file(part)
    if not path.is_file():
        raise WeightsError(
            f"The starter model's file {path} is missing. Install napari-clipsam again."
        )
    return path


def _load_language(choice: str) -> Clip:
    if choice == "starter":
        return load_clip(_shipped("clip"))
    architecture, colon, weights = choice.partition(":")
    # One letter before the colon is a drive.
    if colon and len(architecture) > 1 and not Path(choice).is_file():
        from napari_clipsam.models.clip import load_open_clip

        return load_open_clip(architecture, weights)
    if is_file(choice):
        return load_clip(choice)
    raise WeightsError(
        f"'{choice}' is no CLIP. Give starter, ARCH:TAG or ARCH:FILE (e.g. ViT-B-16:openai), or "
        "the path of a CLIP's file."
    )


def _find(name_or_file: str) -> tuple[Path, str]:
    """File and name of a model that does not ship with the package."""
    entries = {entry.name: entry for entry in models()}
    entry = entries.get(name_or_file)
    if entry is None:
        if is_file(name_or_file):
            return Path(name_or_file), Path(name_or_file).name
        raise WeightsError(_unknown(name_or_file, list(entries)))
    if entry.file is None or not entry.installed:
        where = f" Download {entry.source}, then run" if entry.source else " Run"
        raise WeightsError(
            f"The model '{entry.name}' is not installed.{where} "
            f"`napari-clipsam models import {entry.name} FILE`."
        )
    return entry.file, entry.name


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]}?" if near else ""
    return (
        f"There is no model '{name}'.{hint} Known are: {', '.join(known)}; the path of a file of "
        "SAM weights works too."
    )


def _imported() -> dict[str, ModelEntry]:
    """Models in the user's folder, by name in alphabetical order."""
    found = {}
    for record in sorted(models_folder().glob("*.json")):
        try:
            described = json.loads(record.read_text())
            found[record.stem] = ModelEntry(
                name=record.stem,
                architecture=str(described["architecture"]),
                sha256=str(described["sha256"]),
                size_mb=int(described["bytes"]) / 1e6,
                file=record.with_name(Path(described["file"]).name),
            )
        except (KeyError, OSError, TypeError, ValueError) as error:
            raise WeightsError(
                f"The record {record} is damaged. Delete it and import '{record.stem}' again."
            ) from error
    return found
