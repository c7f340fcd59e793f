"""``adapters export``: a package for bioimage.io from the command line."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml
from bright import Run
from tiny import randomise, tiny_clip, tiny_sam

from napari_clipsam.adapters.base import AdapterConfig
from napari_clipsam.adapters.files import save_adapter
from napari_clipsam.adapters.inject import build_adapter

OPTIONS = ("--text", "nuclei", "--author", "A. Author", "--licence", "CC-BY-4.0")


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """A stack of two slices of noise, 48 x 64."""
    path = tmp_path / "noise.tif"
    slices = np.random.default_rng(0).integers(0, 255, (2, 48, 64), dtype=np.uint8)
    tifffile.imwrite(path, slices, imagej=True, metadata={"axes": "ZYX"})
    return path


@pytest.fixture
def finder(tmp_path: Path) -> Path:
    """An adapter of the tiny networks that finds part of a slice of noise."""
    adapter = build_adapter(AdapterConfig(n_conditioned=1), tiny_sam(), tiny_clip(), seed=0)
    randomise(adapter, 0, spread=0.3)
    return save_adapter(adapter.with_info(threshold=0.0), tmp_path / "finder.safetensors")


def test_a_word_becomes_a_package_with_the_users_example(
    run: Run, tiny_files: dict[str, Path], finder: Path, noise: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model.zip"
    command = [
        "adapters",
        "export",
        finder,
        *OPTIONS,
        "-o",
        out,
        "--image",
        noise,
        "--plane",
        "Z=1",
    ]
    command += ["--model", tiny_files["sam"], "--clip", tiny_files["clip"]]
    done = run(*command)
    assert done.status == 0, done.err
    assert "'nuclei' of finder as a bioimage.io model" in done.out
    with zipfile.ZipFile(out) as archive:
        described = yaml.safe_load(archive.read("bioimageio.yaml"))
        image = np.load(io.BytesIO(archive.read("test_input.npy")))
    assert described["authors"] == [{"name": "A. Author"}]
    assert described["license"] == "CC-BY-4.0"
    assert image.shape == (1, 3, 48, 64)
    again = run(*command)
    assert again.status == 2 and "--overwrite" in again.err


@pytest.mark.parametrize(
    ("words", "saying"),
    [
        (["none", "--text", "nuclei", "-o", "m.zip"], "no adapter"),
        (["starter", "--text", " ", "-o", "m.zip"], "empty"),
        (["starter", "--text", "nuclei", "-o", "m.safetensors"], "end in .zip"),
        (["missing", "--text", "nuclei", "-o", "m.zip"], "no adapter 'missing'"),
        (["starter", "--text", "zebras", "-o", "m.zip"], "has not learnt 'zebras'"),
        (["starter", "--text", "filaments", "-o", "m.zip"], "--image"),
        (["starter", "--text", "nuclei", "-o", "m.zip", "--image", "no.tif"], "no.tif"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_line(
    words: list[str], saying: str, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("adapters", "export", *words)
    assert done.status == 2 and done.err.count("\n") == 1
    assert saying in done.err
    assert not list(tmp_path.glob("m.*"))
