"""The library on disk: looked at, filled and cleared off the main thread.

Whatever needs torch is imported when it is first called, which the controller does on a worker.
"""

from __future__ import annotations

import filecmp
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from napari_clipsam._folders import make_folder, user_folder
from napari_clipsam._plugin import taught
from napari_clipsam._plugin.importing import avoid_llvm_clash
from napari_clipsam._plugin.library_entries import (
    STARTER,
    adapter_entry,
    broken_adapter,
    model_entry,
    starter_adapter,
    word_entries,
)
from napari_clipsam._plugin.library_owners import Identities, Owners
from napari_clipsam._plugin.library_state import Entry, Naming
from napari_clipsam.errors import AdapterError, ClipSamError, OutputError, WeightsError
from napari_clipsam.outputs import replacing

if TYPE_CHECKING:
    from napari_clipsam.models.download import DownloadProgress
    from napari_clipsam.models.registry import ModelEntry

__all__ = ["Found", "Shelf", "UserShelf"]

_EXPECTED = (
    "Expected is a SAM as Meta, MedSAM or micro-sam publish it (.pth, .safetensors), or an "
    "adapter that teaching wrote (.safetensors)."
)
_UNFIT_FOR_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Found:
    """What there is, and whether an adapter's model could be found by reading models' files."""

    entries: tuple[Entry, ...]
    is_puzzled: bool = False


class Shelf(Protocol):
    """Where models and adapters are; no call is for the main thread."""

    def look(self) -> Found:
        """See what there is."""
        ...

    def identify(self, stop: Callable[[], bool]) -> None:
        """Find out which weights the models on this computer are."""
        ...

    def get(self, name: str, stop: Callable[[], bool]) -> Iterator[DownloadProgress]:
        """Download a model or a CLIP; what has arrived stays when it is stopped."""
        ...

    def take_in(self, path: Path) -> Naming | Path:
        """Look at a file: an adapter is copied in, a model needs a name first.

        Raises
        ------
        ClipSamError
            It is neither, is cut off, or is here already.
        """
        ...

    def name_model(self, name: str, path: Path) -> str:
        """Copy a model's file in under a name, after it was seen to load; returns its key."""
        ...

    def delete(self, entry: Entry) -> None:
        """Delete what the plugin keeps of an entry, and nothing else."""
        ...


class UserShelf:
    """The library of the user who runs this."""

    def look(self) -> Found:
        """See what there is: models, CLIPs, adapters, and the words those know."""
        avoid_llvm_clash()
        from napari_clipsam.adapters.files import read_header
        from napari_clipsam.adapters.library import user_adapters
        from napari_clipsam.models.registry import (
            clips,
            models,
            models_folder,
            starter_file,
        )

        folder, identities = models_folder(), Identities(_identities_file())
        path = starter_file("adapter")
        header = read_header(path)
        sams = _Known(models(), header.info.base_identity, identities)
        languages = _Known(clips(), header.info.clip_identity, identities)
        own, words, is_puzzled = [starter_adapter(path, header)], [], False
        words += word_entries(own[0], header.info.words)
        bases, readers = sams.owners("model"), languages.owners("CLIP")
        for path in user_adapters().values():
            try:
                header = read_header(path)
            except ClipSamError as error:
                own.append(broken_adapter(path, error))
                continue
            own.append(adapter_entry(path, header, bases, readers))
            words += word_entries(own[-1], header.info.words)
            is_puzzled |= not bases.is_settled(header.info.base_identity)
            is_puzzled |= not readers.is_settled(header.info.clip_identity)
        known = [
            model_entry(found, folder, one.identity_of(found), _begun(found.name))
            for one in (sams, languages)
            for found in sorted(one.entries, key=lambda entry: not entry.installed)
        ]
        return Found((*known, *own, *words), is_puzzled)

    def identify(self, stop: Callable[[], bool]) -> None:
        """Find out which weights the models on this computer are; those that load, that is."""
        from napari_clipsam.models.registry import clips, models

        identities = Identities(_identities_file())
        for found in (*models(), *clips()):
            file = found.file
            if stop():
                return
            if found.name == STARTER or not found.installed or file is None or identities.of(file):
                continue
            try:
                identities.remember(file, _identity(found))
            except ClipSamError:
                identities.remember(file, "unreadable")

    def get(self, name: str, stop: Callable[[], bool]) -> Iterator[DownloadProgress]:
        """Download a model or a CLIP."""
        from napari_clipsam.models.registry import install

        yield from install(name, stop)

    def take_in(self, path: Path) -> Naming | Path:
        """Look at a file: an adapter is copied in, a model needs a name first."""
        from napari_clipsam.adapters.files import read_header
        from napari_clipsam.models.reading import kind_of

        try:
            kind = kind_of(path)
        except WeightsError as error:
            raise WeightsError(f"{error} {_EXPECTED}") from error
        if kind == "torch":
            _check_archive(path)
        elif _is_adapter(path):
            read_header(path)
            return _copied(path)
        return Naming(path, _proposal(path))

    def name_model(self, name: str, path: Path) -> str:
        """Copy the file of a SAM, or under ARCH:TAG of a CLIP, in under a name."""
        from napari_clipsam.models.registry import import_file

        entry = import_file(name, path)
        return f"{entry.kind}:{entry.name}"

    def delete(self, entry: Entry) -> None:
        """Delete what the plugin keeps of an entry."""
        if entry.begun:
            from napari_clipsam.models.installing import drop_part

            drop_part(entry.name)
        elif entry.kept or entry.file is None:
            raise OutputError(entry.kept or f"{entry.name} is not on this computer.")
        elif entry.kind == "adapter":
            _delete_adapter(entry.file)
        else:
            from napari_clipsam.models.registry import uninstall

            uninstall(entry.name)


class _Known:
    """Models of one kind, and who they are."""

    def __init__(self, entries: list[ModelEntry], starter: str, identities: Identities) -> None:
        self.entries = entries
        self._starter, self._identities = starter, identities

    def identity_of(self, found: ModelEntry) -> str:
        """Of the weights; "" while nobody knows it."""
        if found.name == STARTER:
            return self._starter
        if found.file is None or not found.installed:
            return ""
        return self._identities.of(found.file)

    def owners(self, what: str) -> Owners:
        """Whom adapters may belong to."""
        here = {one.name: self.identity_of(one) for one in self.entries if one.installed}
        return Owners(what, here, frozenset(one.name for one in self.entries))


def _identities_file() -> Path:
    return user_folder() / "identities.json"


def _begun(name: str) -> int:
    """Bytes that a download has left."""
    from napari_clipsam.models.store import part_file

    try:
        return part_file(name).stat().st_size
    except OSError:
        return 0


def _identity(found: ModelEntry) -> str:
    """Load a model, and see which weights it has."""
    from napari_clipsam.models.registry import load_model
    from napari_clipsam.models.weights import load_sam

    if found.kind == "clip":
        return load_model(clip=found.name).clip.identity
    assert found.file is not None
    return load_sam(found.file).identity


def _check_archive(path: Path) -> None:
    """Refuse an archive of torch whose end is missing, without reading its gigabytes."""
    with path.open("rb") as file:
        is_archive = file.read(2) == b"PK"
    if is_archive and not zipfile.is_zipfile(path):
        raise WeightsError(f"{path} is damaged or cut off. Download or copy it again. {_EXPECTED}")


def _is_adapter(path: Path) -> bool:
    """Whether a safetensors file calls itself an adapter.

    Raises
    ------
    WeightsError
        It is damaged or cut off.
    """
    from napari_clipsam.adapters.files import is_adapter

    try:
        return is_adapter(path)
    except WeightsError as error:
        raise WeightsError(f"{error} {_EXPECTED}") from error


def _copied(path: Path) -> Path:
    """Copy an adapter into the library, under a name that is free.

    Raises
    ------
    AdapterError
        It is there already.
    OutputError
        It cannot be written.
    """
    from napari_clipsam.adapters.library import adapters_folder, user_adapters

    for name, own in user_adapters().items():
        if _is_same(path, own):
            raise AdapterError(f"{path.name} is in the library already, as {name}. Use that.")
    folder = adapters_folder()
    make_folder(folder)
    target = folder / f"{taught.free_stem(folder, path.stem)}.safetensors"
    with replacing(target) as part:
        shutil.copyfile(path, part)
    return target


def _is_same(one: Path, other: Path) -> bool:
    """Whether two files hold the same; one that cannot be read is another."""
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


def _proposal(path: Path) -> str:
    """A name for a model's file: what it is known as, or one made of its own."""
    from napari_clipsam.models.registry import clips, models

    known = (*models(), *clips())
    meant = [one for one in known if any(_ending(url) == path.name for url in one.sources)]
    if len(meant) == 1 and not meant[0].installed:
        return meant[0].name
    stem = _UNFIT_FOR_NAMES.sub("-", path.stem).strip("-._")[:48] or "my-model"
    names, name, number = {one.name for one in known}, stem, 1
    while name in names:
        number += 1
        name = f"{stem}-{number}"
    return name


def _ending(address: str) -> str:
    return address.rpartition("/")[2]


def _delete_adapter(file: Path) -> None:
    """Delete an adapter's file; a lesson that was cut off beside it stays.

    Raises
    ------
    OutputError
        It is not in the library, or cannot be deleted.
    """
    from napari_clipsam.adapters.library import user_adapters

    if file not in user_adapters().values():
        raise OutputError(f"{file} is not in the library. Delete it where it is.")
    try:
        file.unlink()
    except OSError as error:
        raise OutputError(
            f"{file} cannot be deleted ({error.strerror}). See that no other program uses it."
        ) from error
