"""A folder with the files that the pages speak of."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from npe2 import PluginManager

from napari_clipsam._plugin.samples import synthetic_nuclei
from napari_clipsam.inference.requests import ObjectMask
from napari_clipsam.models.registry import starter_file
from napari_clipsam.prompts import Prompts
from napari_clipsam.session.history import Change, LabelPatch
from napari_clipsam.session.journal import ImageInfo, Journal
from napari_clipsam.session.objects import SessionObject, SessionState

_BOX = (20, 20, 40, 44)


@pytest.fixture(scope="session")
def _files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    cells, labels = synthetic_nuclei((512, 512), (0.5, 0.5), n_nuclei=60, seed=3)
    tifffile.imwrite(folder / "cells.tif", cells)
    stack = np.stack([cells[:160, :320]] * 40)
    _write_stack(folder / "stack.tif", stack)
    _write_stack(folder / "em.tif", stack[:5, :64, :64])
    _write_stack(folder / "em2.tif", stack[:5, :64, :64])
    _write_stack(folder / "mito.tif", np.stack([labels[:64, :64]] * 5))
    shutil.copy(starter_file("adapter"), folder / "mito.safetensors")
    (folder / "notes.pth").write_text("Remember the milk.\n")
    (folder / "plate").mkdir()
    tifffile.imwrite(folder / "plate" / "a1.tif", cells[:64, :64])
    _write_table(folder / "data", cells, labels)
    _write_project(folder / "my-project", (3, 64, 64))
    return folder


def _write_stack(path: Path, pixels: np.ndarray) -> None:
    tifffile.imwrite(path, pixels.astype(np.uint16), imagej=True, metadata={"axes": "ZYX"})


def _write_table(folder: Path, cells: np.ndarray, labels: np.ndarray) -> None:
    (folder / "labels").mkdir(parents=True)
    image, membranes = "z13-19.tif", "labels/z13-19_membranes.tif"
    tifffile.imwrite(folder / image, cells[:64, :64])
    tifffile.imwrite(folder / membranes, (labels[:64, :64] > 0).astype(np.uint8))
    with (folder / "index.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "label", "split", "concepts", "label_type"])
        table.writerow([image, membranes, "test", "cell membranes", "semantic"])


def _write_project(folder: Path, shape: tuple[int, ...]) -> None:
    """A session in which one nucleus was clicked in slice 2 and kept."""
    plane = (2, None, None)
    mask = ObjectMask(_BOX, np.ones((20, 24), bool), 0.9)
    click = Prompts("nuclei", points=[(30, 32)])
    one = SessionObject(
        "k" * 32,
        *(1, "stack", "nuclei", "nuclei", "object", {plane: click}, {plane: mask}),
        *("starter", "default", "2026-11-25"),
    )
    journal = Journal.create(folder, ImageInfo("stack", shape))
    journal.layer("nuclei", shape, np.uint16, {})
    before = np.zeros(mask.mask.shape, np.uint16)
    patch = LabelPatch("nuclei", plane, _BOX, before, before + 1)
    empty = SessionState()
    journal.append(Change("keep", empty, replace(empty, objects={one.key: one}), (patch,)))
    journal.close(finished=True)


@pytest.fixture
def files(_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own with all files, the current one; the user's folder is the test's."""
    folder = tmp_path / "work"
    shutil.copytree(_files, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("NAPARI_CLIPSAM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return folder


@pytest.fixture
def small_stack(files: Path) -> Path:
    """In place of the stack, a few small slices of it, where every one is searched."""
    path = files / "stack.tif"
    _write_stack(path, tifffile.imread(path)[:3, :64, :64])
    return path


@pytest.fixture
def viewer(npe2pm: PluginManager) -> Iterator[ViewerModel]:
    """A viewer with the layers that pages work on, and napari's own readers."""
    viewer = ViewerModel()
    stack = np.zeros((10, 64, 64), np.uint16)
    viewer.add_image(stack + 1, name="nuclei stack")
    viewer.add_image(stack, name="cells")
    with npe2pm.tmp_plugin(package="napari"):
        yield viewer
