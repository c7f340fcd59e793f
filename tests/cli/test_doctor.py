"""``doctor`` tells what is here and never fails itself."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest
from bright import Run

import napari_clipsam
from napari_clipsam.cli import _doctor
from napari_clipsam.models import registry
from napari_clipsam.models.registry import LoadedModel
from napari_clipsam.models.weights import load_clip, load_sam


@pytest.fixture
def starter(monkeypatch: pytest.MonkeyPatch, tiny_files: dict[str, Path]) -> None:
    """Tiny networks in the starter's place."""

    def load(*options: object) -> LoadedModel:
        sam, clip = load_sam(tiny_files["sam"]), load_clip(tiny_files["clip"])
        return LoadedModel("starter", sam, clip, tiny_files["adapter"])

    monkeypatch.setattr(registry, "load_model", load)


@pytest.mark.usefixtures("starter")
def test_it_tells_what_is_here(run: Run, tmp_path: Path) -> None:
    done = run("doctor")
    assert (done.status, done.err) == (0, "")
    for what in ("torch", "napari", "numpy"):
        line = next(ln for ln in done.out.splitlines() if ln.split()[:1] == [what])
        assert line.split()[1] == metadata.version(what)
    assert "cpu: " in done.out and "memory" in done.out
    assert str(tmp_path / "home" / "models") in done.out
    assert "not installed: vit_b, vit_l, " in done.out and ", ViT-B-16:openai, " in done.out
    assert "a click: " in done.out and "256 x 256 plane" in done.out


@pytest.mark.usefixtures("starter")
def test_what_is_missing_is_named_with_the_command_that_mends_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name in ("zarr", "napari", *_doctor._QT):
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    done = run("doctor")
    assert done.status == 0
    assert "zarr is missing, so there is not OME-Zarr images: pip install 'zarr'" in done.out
    assert "pip install 'napari[all]'" in done.out
    assert "Nothing to mend" not in done.out


def test_a_starter_that_does_not_run_is_status_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*options: object) -> None:
        raise ValueError("wrong\nshape")

    monkeypatch.setattr(registry, "load_model", fail)
    done = run("doctor")
    assert done.status == 1
    assert "does not run: wrong shape" in done.out
    assert "Install napari-clipsam again" in done.out.split("To mend")[1]


def test_it_survives_without_torch(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    # What is imported anew would stay an attribute of the package.
    monkeypatch.setattr(napari_clipsam, "models", napari_clipsam.models)
    for name in [n for n in sys.modules if n.startswith("napari_clipsam.models")]:
        monkeypatch.delitem(sys.modules, name)
    done = run("doctor")
    assert done.status == 1 and done.err == ""
    assert "torch cannot be imported" in done.out.split("To mend")[1]


@pytest.mark.usefixtures("starter")
def test_a_damaged_record_of_a_model_is_named(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "home" / "models"
    folder.mkdir(parents=True)
    (folder / "mine.json").write_text("{")
    done = run("doctor")
    assert done.status == 0
    assert "mine.json is damaged" in done.out.split("To mend")[1]
