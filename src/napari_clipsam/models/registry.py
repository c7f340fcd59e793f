"""Models by name: what ships here, what can be downloaded, and what the user installed."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from napari_clipsam.errors import ConfigError, WeightsError
from napari_clipsam.models import installing, store
from napari_clipsam.models.catalogue import CLIPS, SAMS, ModelEntry, clip_entry
from napari_clipsam.models.checksum import Checksum
from napari_clipsam.models.download import DownloadProgress
from napari_clipsam.models.store import models_folder
from napari_clipsam.models.weights import ClipFile, is_file, load_clip, load_sam

if TYPE_CHECKING:
    from napari_clipsam.models.clip import Clip
    from napari_clipsam.models.sam import Sam

__all__ = [
    "Checksum",
    "DownloadProgress",
    "LoadedModel",
    "ModelEntry",
    "clips",
    "import_file",
    "install",
    "load_model",
    "models",
    "models_folder",
    "register_model",
    "uninstall",
]

_KNOWN: dict[str, ModelEntry] = dict(SAMS)


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """Networks that work together.

    Attributes
    ----------
    name : str
        Name in the registry, or the file's name.
    sam : Sam
    language : Clip or ClipFile
        What words go through.
    adapter_path : Path or None
        Adapter that was trained with exactly these networks.
    clip_name : str
        As it was asked for, a file's without its folder.
    """

    name: str
    sam: Sam
    language: Clip | ClipFile
    adapter_path: Path | None
    clip_name: str = "in memory"

    @property
    def clip(self) -> Clip:
        """The CLIP; loaded when it is first asked for."""
        return self.language.clip if isinstance(self.language, ClipFile) else self.language


def register_model(entry: ModelEntry) -> None:
    """Make a SAM known by name for the rest of the process.

    Parameters
    ----------
    entry : ModelEntry
        With `source`, from which it can be installed, or `file`.

    Raises
    ------
    ConfigError
        There is a model of this name already, or it is no SAM.
    WeightsError
        The name cannot be used.
    """
    store.check_model_name(entry.name)
    if entry.kind != "sam":
        raise ConfigError("Only SAMs are registered. A CLIP is known by its ARCH:TAG.")
    if any(entry.name == known.name for known in models()):
        raise ConfigError(f"There is a model '{entry.name}' already. Choose another name.")
    _KNOWN[entry.name] = entry


def models() -> list[ModelEntry]:
    """All SAMs that are known: the starter first, then the others, imported ones last.

    Raises
    ------
    WeightsError
        The record of an installed model is damaged.
    """
    return _listed("sam", _KNOWN)


def clips() -> list[ModelEntry]:
    """CLIPs: the starter's first, then some that fit, other installed ones last.

    Any other of open_clip can be installed by its ``ARCH:TAG`` as well.

    Raises
    ------
    WeightsError
        The record of an installed CLIP is damaged.
    """
    return _listed("clip", CLIPS)


def install(
    name: str, stop: Callable[[], bool] = lambda: False
) -> Generator[DownloadProgress, None, ModelEntry]:
    """Download a model, see that it is what it is said to be, and keep it in the user's folder.

    Nothing happens until it is iterated over. Leaving at any point keeps what has come; another
    call goes on from there. A model that is installed already is returned as it is.

    Parameters
    ----------
    name : str
        Of `models`, of `clips`, or ``ARCH:TAG`` of open_clip.
    stop : callable
        Asked several times a second; True ends it within one.

    Yields
    ------
    DownloadProgress
        Several times a second, also while nothing comes.

    Returns
    -------
    ModelEntry
        Of the installed model (``entry = yield from install(name)``).

    Raises
    ------
    DownloadError
        It cannot be had, or other bytes came than its publisher states.
    WeightsError
        There is no such model, it cannot be downloaded, or what came is no such model.
    OutputError
        The user's folder cannot be written to, or is full.
    Stopped
        `stop` said so.
    """
    entry = _entry(name)
    if entry.installed:
        return entry
    if entry.source is None:
        raise WeightsError(
            f"'{name}' cannot be downloaded. Run `napari-clipsam models import {name} FILE`."
        )
    yield from installing.fetch(entry, stop)
    return _entry(name)


def import_file(name: str, path: str | Path) -> ModelEntry:
    """Take a copy of a model's file into the user's folder, to be used by name from then on.

    A name that can be downloaded takes the file it stands for, and no other.

    Parameters
    ----------
    name : str
        Of a SAM: letters, digits, ``_``, ``-`` and ``.``. Of a CLIP: ``ARCH:TAG``, where a tag that
        open_clip does not know is a name of your own.
    path : str or Path
        Any file `weights.load_sam` reads; of a CLIP, any `pretrained.load_open_clip` reads.

    Raises
    ------
    WeightsError
        The name cannot be used or is taken, or the file is not what the name stands for.
    OutputError
        The copy cannot be written.
    """
    entry = _to_import(name)
    if entry.installed or (name in _KNOWN and entry.source is None):
        raise WeightsError(f"There is a model '{name}' already. Choose another name.")
    installing.copy_in(entry, Path(path))
    return _entry(name)


def uninstall(name: str) -> Path:
    """Delete the file of an installed model, or what has come of one; return where it was.

    Raises
    ------
    WeightsError
        It is not installed, ships with the package, or is being installed right now.
    OutputError
        It cannot be deleted.
    """
    there = {**store.installed("sam"), **store.installed("clip")}
    if name not in there:
        if part := installing.drop_part(name):
            return part
        known = ", ".join(there) or "none"
        raise WeightsError(
            f"There is no installed model '{name}'. Installed are: {known}; the starter belongs to "
            "the package."
        )
    return installing.take_out(name, there[name].kind)


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
    language, clip_name = _load_language("starter" if clip is None else clip)
    sam = load_sam(path, input_size)
    own = name == "starter" and clip in (None, "starter")
    return LoadedModel(name, sam, language, _shipped("adapter") if own else None, clip_name)


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


def _load_language(choice: str) -> tuple[Clip | ClipFile, str]:
    """What words go through, and its name."""
    if choice == "starter":
        return ClipFile(_shipped("clip")), choice
    architecture, colon, weights = choice.partition(":")
    # One letter before the colon is a drive.
    if colon and len(architecture) > 1 and not Path(choice).is_file():
        from napari_clipsam.models.pretrained import load_open_clip

        if is_file(weights):
            name = f"{architecture}:{Path(weights).name}"
            return load_open_clip(architecture, weights), name
        return load_open_clip(architecture, _ready(_entry(choice)), weights), choice
    if is_file(choice):
        return load_clip(choice), Path(choice).name
    raise WeightsError(
        f"'{choice}' is no CLIP. Give starter, ARCH:TAG or ARCH:FILE (e.g. ViT-B-16:openai), or "
        "the path of a CLIP's file."
    )


def _find(name_or_file: str) -> tuple[Path, str]:
    """File and name of a model that does not ship with the package."""
    entries = {entry.name: entry for entry in models()}
    entry = entries.get(name_or_file)
    if entry is not None:
        return _ready(entry), entry.name
    if is_file(name_or_file):
        return Path(name_or_file), Path(name_or_file).name
    raise WeightsError(
        f"{_unknown(name_or_file, list(entries))}; the path of a file of SAM weights works too."
    )


def _ready(entry: ModelEntry) -> Path:
    """The file of a model, as it was installed."""
    if entry.file is None or not entry.installed:
        way = f"`napari-clipsam models download {entry.name}`, or " if entry.source else ""
        raise WeightsError(
            f"The {'CLIP' if entry.kind == 'clip' else 'model'} '{entry.name}' is not installed. "
            f"Run {way}`napari-clipsam models import {entry.name} FILE`."
        )
    store.check_unchanged(entry)
    return entry.file


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"There is no model '{name}'.{hint} Known are: {', '.join(known)}"


def _listed(kind: Literal["sam", "clip"], known: dict[str, ModelEntry]) -> list[ModelEntry]:
    """Known models, with what is installed of them, and all others that are."""
    starter = starter_file(kind)
    size_mb = starter.stat().st_size / 1e6 if starter.is_file() else None
    entries = {**known, "starter": replace(known["starter"], file=starter, size_mb=size_mb)}
    for name, found in store.installed(kind).items():
        entries[name] = _merged(entries[name], found) if name in entries else found
    return list(entries.values())


def _merged(known: ModelEntry, found: ModelEntry) -> ModelEntry:
    """What is known of a model, with what is installed of it."""
    return replace(
        known,
        file=found.file,
        sha256=found.sha256,
        size_mb=found.size_mb,
        checksum=known.checksum or found.checksum,
    )


def _entry(name: str) -> ModelEntry:
    """A SAM or a CLIP by name.

    Raises
    ------
    WeightsError
        There is none.
    """
    if ":" not in name:
        entries = {entry.name: entry for entry in models()}
        if name not in entries:
            raise WeightsError(
                f"{_unknown(name, list(entries))}; a CLIP goes by its ARCH:TAG, e.g. "
                "ViT-B-16:openai."
            )
        return entries[name]
    store.check_clip_name(name)
    entries = {entry.name: entry for entry in clips()}
    return entries.get(name) or clip_entry(name)


def _to_import(name: str) -> ModelEntry:
    """What a name stands for, or a new entry of this name."""
    if ":" not in name:
        store.check_model_name(name)
        entries = {entry.name: entry for entry in models()}
        return entries.get(name) or ModelEntry(name, "custom")
    store.check_clip_name(name)
    try:
        return _entry(name)
    except WeightsError:
        return ModelEntry(name, name.partition(":")[0], kind="clip")
