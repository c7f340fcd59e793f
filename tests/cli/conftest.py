"""Running commands in this process, with a stand-in or with tiny networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from bright import BrightSegmenter, Done, Run, squares
from tiny import tiny_clip, tiny_sam

from napari_clipsam.adapters.base import AdapterConfig
from napari_clipsam.adapters.files import save_adapter
from napari_clipsam.adapters.inject import build_adapter
from napari_clipsam.cli import main
from napari_clipsam.models.weights import save_clip, save_sam


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run one command; its user's folder and log files are the test's own."""
    monkeypatch.setenv("NAPARI_CLIPSAM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def call(*words: object) -> Done:
        capsys.readouterr()
        status = main([str(word) for word in words])
        return Done(status, *capsys.readouterr())

    return call


@pytest.fixture
def bright(monkeypatch: pytest.MonkeyPatch) -> BrightSegmenter:
    """The stand-in, in place of any model that a command asks for."""
    segmenter = BrightSegmenter()
    for command in ("_segment", "_evaluate", "_demo", "_volume"):
        monkeypatch.setattr(
            f"napari_clipsam.cli.{command}.make_segmenter", lambda *options, **more: segmenter
        )
    return segmenter


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that gets as far as loading a model fails the test."""

    def refuse(*options: object, **more: object) -> None:
        raise AssertionError("a model was loaded before the input was checked")

    for command in ("_segment", "_evaluate", "_demo", "_volume"):
        monkeypatch.setattr(f"napari_clipsam.cli.{command}.make_segmenter", refuse)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Four bright squares on black, 60 x 80."""
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, squares()[0])
    return path


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    """The squares in slice 2 of 5, nothing elsewhere."""
    path = tmp_path / "stack.tif"
    slices = np.zeros((5, 60, 80), np.uint8)
    slices[2] = squares()[0]
    tifffile.imwrite(path, slices, imagej=True, metadata={"axes": "ZYX"})
    return path


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A SAM, a CLIP and an adapter of a few thousand weights, as files."""
    folder = tmp_path_factory.mktemp("tiny")
    files = {part: folder / f"{part}.safetensors" for part in ("sam", "clip", "adapter")}
    sam, clip = tiny_sam(), tiny_clip()
    save_sam(sam, files["sam"], half=False)
    save_clip(clip, files["clip"], half=False)
    adapter = build_adapter(AdapterConfig(n_conditioned=1), sam, clip, seed=0)
    adapter.info = replace(
        adapter.info,
        words=("nuclei", "cells"),
        threshold=0.25,
        provenance={"planes": 3},
        scores={"dice": 0.8125},
    )
    save_adapter(adapter, files["adapter"])
    return files


@pytest.fixture
def tiny(tiny_files: dict[str, Path]) -> list[object]:
    """Options that choose the tiny SAM and CLIP."""
    return ["--model", tiny_files["sam"], "--clip", tiny_files["clip"], "--device", "cpu"]
