"""``napari-clipsam doctor``: what is here, what runs and how fast, what to mend."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from importlib import metadata

from napari_clipsam._machine import folder_size, memory, size_text
from napari_clipsam.errors import ClipSamError

__all__ = ["run"]

#: Distribution, and what is lost without it; None where nothing works without it.
_PACKAGES: dict[str, str | None] = {
    "napari-clipsam": None,
    "torch": None,
    "torchvision": None,
    "segment-anything": None,
    "open_clip_torch": None,
    "safetensors": None,
    "numpy": None,
    "scipy": None,
    "scikit-image": None,
    "tifffile": None,
    "zarr": "OME-Zarr images",
    "dask": "dask arrays",
    "imageio": "some image formats",
    "pooch": "the folder of installed models",
    "requests": "downloads of models",
    "xxhash": "checksums of some models",
    "napari": "the viewer",
    "npe2": "the viewer",
    "magicgui": "the viewer's panels",
    "PyQt6": "the viewer's window, unless another Qt is there",
}
_QT = ("PyQt6", "PySide6", "PyQt5", "PySide2")
_LITTLE_MEMORY = 3_000_000_000
_STARTER_PARTS = ("sam", "clip", "adapter")


def run() -> int:
    """Print everything; 0 unless the starter cannot run."""
    to_mend: list[str] = []
    for title, lines in (
        ("Versions", _versions(to_mend)),
        ("Devices", _devices(to_mend)),
        ("Folders", _folders(to_mend)),
        ("Weights", _weights(to_mend)),
    ):
        print(title)
        for line in lines:
            print(f"  {line}")
    print("Starter", flush=True)
    works = True
    try:
        for line in _micro_run():
            print(f"  {line}", flush=True)
    except Exception as error:  # noqa: BLE001 - whatever is wrong is what is asked for
        works = False
        reason = " ".join((str(error) or type(error).__name__).split())
        print(f"  does not run: {reason}")
        to_mend.append(
            reason
            if isinstance(error, ClipSamError)
            else f"The starter fails with {type(error).__name__}: {reason}. Install napari-clipsam "
            "again in a fresh environment."
        )
    print("To mend" if to_mend else "Nothing to mend.")
    for advice in dict.fromkeys(to_mend):
        print(f"  {advice}")
    return 0 if works else 1


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _versions(to_mend: list[str]) -> Iterator[str]:
    yield f"{'python':18} {platform.python_version()} on {platform.platform()}"
    for name, loss in _PACKAGES.items():
        version = _version(name)
        if name in _QT:
            there = {qt: found for qt in _QT if (found := _version(qt))}
            name = next(iter(there), "Qt")
            version = there.get(name)
        yield f"{name:18} {version or 'not installed'}"
        if version is None and loss is None:
            to_mend.append(f"{name} is missing: pip install {name}.")
        elif version is None:
            what = "napari[all]" if name == "Qt" else name
            to_mend.append(f"{name} is missing, so there is not {loss}: pip install '{what}'.")


def _devices(to_mend: list[str]) -> Iterator[str]:
    have = memory()
    cores = os.cpu_count() or 1
    yield f"cpu: {cores} cores, {_of(have.free, have.total)}"
    if have.free is not None and have.free < _LITTLE_MEMORY:
        to_mend.append(
            f"Only {size_text(have.free)} of memory are free. Close other programs before working "
            "with large models."
        )
    try:
        import torch
    except Exception as error:  # noqa: BLE001 - a broken installation fails in many ways
        reason = " ".join(str(error).split())
        yield f"torch cannot be imported: {reason}"
        to_mend.append(f"torch cannot be imported ({reason}). Install it again: pip install torch.")
        return
    yield f"torch threads: {torch.get_num_threads()}"
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            yield f"cuda:{number}: {torch.cuda.get_device_name(number)}, {_of(free, total)}"
    else:
        yield "cuda: none" + ("" if torch.version.cuda else " (this torch was built without it)")
    yield "mps: " + ("there" if torch.backends.mps.is_available() else "none")


def _of(free: int | None, total: int | None) -> str:
    if total is None:
        return "memory unknown"
    return f"{size_text(total)} memory" + ("" if free is None else f", {size_text(free)} free")


def _folders(to_mend: list[str]) -> Iterator[str]:
    folders = {}
    try:
        from napari_clipsam._folders import user_folder

        own = user_folder()
        folders = {name: own / name for name in ("models", "adapters", "sessions")}
        above = next(folder for folder in (own, *own.parents) if folder.exists())
        if not os.access(above, os.W_OK):
            to_mend.append(
                f"{own} cannot be written to, so no model can be installed. Set "
                "NAPARI_CLIPSAM_HOME to a folder that can."
            )
    except ImportError as error:
        yield f"the user's folder is unknown ({error})"
    for name, folder in folders.items():
        size = size_text(folder_size(folder)) if folder.is_dir() else "empty"
        yield f"{name}: {folder} ({size})"


def _weights(to_mend: list[str]) -> Iterator[str]:
    try:
        from napari_clipsam.models.registry import clips, models, starter_file
    except ImportError as error:
        yield f"unknown ({error})"
        return
    for part in _STARTER_PARTS:
        path = starter_file(part)
        size = size_text(path.stat().st_size) if path.is_file() else "missing"
        yield f"starter {part}: {size}"
    try:
        known = [entry for entry in (*models(), *clips()) if entry.name != "starter"]
        for entry in known:
            if entry.installed:
                yield f"{entry.name}: {entry.file}"
        yield "not installed: " + ", ".join(entry.name for entry in known if not entry.installed)
    except ClipSamError as error:
        yield str(error)
        to_mend.append(str(error))


def _micro_run() -> Iterator[str]:
    """Load the starter and time a word and a click on a small synthetic image."""
    from napari_clipsam._plugin.samples import synthetic_nuclei
    from napari_clipsam.cli._common import make_segmenter
    from napari_clipsam.prompts import Prompts

    image, labels = synthetic_nuclei((256, 256), (0.5, 0.5), n_nuclei=25, seed=1)
    start = time.perf_counter()
    segmenter = make_segmenter("starter", None, None, "auto", 0)
    yield f"device: {segmenter.device}, loaded in {_seconds(start)}"
    segmenter.set_plane(image)
    start = time.perf_counter()
    found = segmenter.predict(Prompts(text="nuclei"), "concept")
    truth = labels > 0
    shared = (found.mask() & truth).sum() * 2 / max(1, found.mask().sum() + truth.sum())
    yield f"256 x 256 plane and the word 'nuclei': {_seconds(start)}, Dice {shared:.2f}"
    y, x = (int(side.mean()) for side in (labels == labels.max()).nonzero())
    click = Prompts(text="nuclei", points=[(y, x)])
    segmenter.predict(click)
    start = time.perf_counter()
    segmenter.predict(click)
    yield f"a click: {_seconds(start)}"


def _seconds(start: float) -> str:
    passed = time.perf_counter() - start
    return f"{1000 * passed:.0f} ms" if passed < 1 else f"{passed:.1f} s"
