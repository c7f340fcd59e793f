"""Models into the user's folder: downloaded or copied, always whole and of the right kind."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from napari_clipsam._folders import make_folder
from napari_clipsam._locking import FileLock
from napari_clipsam.errors import OutputError, Stopped, WeightsError
from napari_clipsam.models.catalogue import ModelEntry
from napari_clipsam.models.checksum import digests_of, sha256_of
from napari_clipsam.models.download import Download, DownloadProgress, Patience, discard
from napari_clipsam.models.recognition import architecture_of
from napari_clipsam.models.sam import SAM_CONFIGS
from napari_clipsam.models.store import (
    first_download,
    installed,
    part_file,
    remember_download,
    remove,
    settle,
)
from napari_clipsam.models.weights import load_sam

__all__ = ["copy_in", "drop_part", "fetch", "take_out"]

_TICK = 0.1

Progress = Generator[DownloadProgress, None, Any]


def fetch(
    entry: ModelEntry, stop: Callable[[], bool], patience: Patience | None = None
) -> Generator[DownloadProgress, None, None]:
    """Download a model, see that it is what it is said to be, and move it to its place.

    Where another process or thread downloads the same model, its end is waited for.

    Raises
    ------
    DownloadError, WeightsError, OutputError, Stopped
        As for `registry.install`.
    """
    part = part_file(entry.name)
    with _lock_of(entry.name) as lock:
        yield from _wait_for(lock, entry.name, stop)
        there = installed(entry.kind).get(entry.name)
        if there is not None and there.installed:
            return
        stated = entry.checksum or first_download(entry.name)
        if entry.kind == "clip":
            yield from _meanwhile(lambda: _check_tower(entry.architecture), entry.name, stop)
        download = Download(entry.name, entry.sources, part, stated, stop, patience)
        yield from download.run()
        try:
            found = yield from _meanwhile(
                lambda: _loaded_architecture(entry, part), entry.name, stop
            )
        except WeightsError as error:
            discard(part)
            raise WeightsError(
                f"What was downloaded as '{entry.name}' cannot be used and was deleted. {error}"
            ) from error
        if stated is None:
            remember_download(entry.name, download.sha256)
        settle(
            entry.name,
            part,
            architecture=found,
            sha256=download.sha256,
            source=download.source,
        )
        discard(part)


def copy_in(entry: ModelEntry, path: Path) -> None:
    """Copy a file to the user's folder as a model, once it is seen to be that.

    Raises
    ------
    WeightsError, OutputError
        As for `registry.import_file`.
    """
    architecture = _loaded_architecture(entry, path)
    stated = entry.checksum or first_download(entry.name)
    digests = digests_of(path, {"sha256", stated.kind if stated else "sha256"})
    if stated is not None and not stated.matches(digests[stated.kind]):
        shown = digests[stated.kind][: max(8, len(stated.value))]
        raise WeightsError(
            f"{path} is not the file known as '{entry.name}': its {stated.kind} is {shown}, not "
            f"{stated.value}. Import it under a name of its own."
        )
    part = part_file(entry.name).with_suffix(".copy")
    with _claimed(entry.name):
        there = installed(entry.kind).get(entry.name)
        if there is not None and there.installed:
            raise WeightsError(f"There is a model '{entry.name}' already. Choose another name.")
        try:
            shutil.copyfile(path, part)
            if sha256_of(part) != digests["sha256"]:
                raise WeightsError(f"{path} changed while it was copied. Import it again.")
            settle(
                entry.name,
                part,
                architecture=architecture,
                sha256=digests["sha256"],
                source=path.name,
            )
        except OSError as error:
            raise OutputError(
                f"{path} could not be copied to {part.parent} ({error.strerror}). Free some space, "
                "or set NAPARI_CLIPSAM_HOME to another folder."
            ) from error
        finally:
            part.unlink(missing_ok=True)


def drop_part(name: str) -> Path | None:
    """Delete what has come of a download that was not finished; tell where it was.

    Raises
    ------
    WeightsError
        It is going on right now.
    OutputError
        The folder cannot be written to.
    """
    part = part_file(name)
    if Path(name).name != name or not part.is_file():
        return None
    with _claimed(name):
        discard(part)
    return part


def take_out(name: str, kind: Literal["sam", "clip"]) -> Path:
    """Delete an installed model; tell where it was.

    Raises
    ------
    WeightsError
        There is none of this name, or another is installing it right now.
    OutputError
        It cannot be deleted.
    """
    with _claimed(name):
        return remove(name, kind)


@contextmanager
def _claimed(name: str) -> Iterator[None]:
    """Hold the lock of a model, or say that another has it.

    Raises
    ------
    WeightsError
        Another has it.
    OutputError
        There can be no lock.
    """
    with _lock_of(name) as lock:
        if not _acquired(lock, name):
            raise WeightsError(
                f"'{name}' is being installed right now. Wait until that is done, or stop it."
            )
        yield


def _lock_of(name: str) -> FileLock:
    part = part_file(name)
    make_folder(part.parent)
    return FileLock(part.with_suffix(".lock"))


def _wait_for(lock: FileLock, name: str, stop: Callable[[], bool]) -> Progress:
    """Wait for a lock, telling how far its holder is."""
    while not _acquired(lock, name):
        yield from _moment(threading.Event(), name, stop)


def _acquired(lock: FileLock, name: str) -> bool:
    try:
        return lock.acquire()
    except OSError as error:
        raise OutputError(
            f"{part_file(name).parent} cannot be written to ({error.strerror}). Set "
            "NAPARI_CLIPSAM_HOME to a folder that can."
        ) from error


def _meanwhile(work: Callable[[], Any], name: str, stop: Callable[[], bool]) -> Progress:
    """Run something that takes seconds and cannot be stopped; its result is waited for, or not."""
    done = threading.Event()
    result: Any = None
    failure: Exception | None = None

    def run() -> None:
        nonlocal result, failure
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - raised again where it is waited for
            failure = error
        finally:
            done.set()

    threading.Thread(target=run, name="napari-clipsam-check", daemon=True).start()
    while not done.is_set():
        yield from _moment(done, name, stop)
    if failure is not None:
        raise failure
    return result


def _moment(done: threading.Event, name: str, stop: Callable[[], bool]) -> Progress:
    """Wait a moment, or until something is done."""
    if stop():
        raise Stopped(
            f"The download of {name} was stopped; what is there is kept. Start it again to go on "
            "from there."
        )
    done.wait(_TICK)
    size = 0
    # Another may be moving it this very moment.
    with suppress(OSError):
        size = part_file(name).stat().st_size
    yield DownloadProgress(size, None, None)


def _check_tower(architecture: str) -> None:
    from napari_clipsam.models.pretrained import check_open_clip

    check_open_clip(architecture)


def _loaded_architecture(entry: ModelEntry, path: Path) -> str:
    """Load a file as the model it is said to be; return its architecture.

    Raises
    ------
    WeightsError
        It is none, or one of another architecture.
    """
    if entry.kind == "clip":
        from napari_clipsam.models.pretrained import load_open_clip

        _check_tower(entry.architecture)
        load_open_clip(entry.architecture, path, entry.name.partition(":")[2])
        return entry.architecture
    found = architecture_of(load_sam(path).config)
    if entry.architecture in SAM_CONFIGS and found != entry.architecture:
        raise WeightsError(
            f"{path} holds a SAM of the architecture {found}, not {entry.architecture}. Choose the "
            "file the name stands for, or a name of its own."
        )
    return found
