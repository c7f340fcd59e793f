"""The Python of the documentation runs as it stands."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bright import BrightSegmenter, squares
from docs.pages import ALL, DOCS, README, ROOT, blocks, name_of, python_blocks
from napari.components import ViewerModel
from serving import serving
from tiny import tiny_sam

from napari_clipsam.adapters import base, inject  # noqa: F401 - registers the kinds there are
from napari_clipsam.inference import cluster
from napari_clipsam.inference.volume import segment_volume
from napari_clipsam.inference.volume_results import VolumeProgress
from napari_clipsam.models import registry
from napari_clipsam.planes import read_labels
from napari_clipsam.session.export import write_ome_zarr
from napari_clipsam.session.grid import Grid

WITH_CODE = [page for page in ALL if python_blocks(page)]


@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
def test_the_python_of_a_page_runs_from_top_to_bottom(
    page: Path, small_stack: Path, viewer: ViewerModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a page registers is not to outlive it.
    monkeypatch.setattr(base, "_LAYERS", dict(base._LAYERS))
    monkeypatch.setattr(registry, "_KNOWN", dict(registry._KNOWN))
    module = types.ModuleType("page")
    module.__dict__["viewer"] = viewer
    # Dataclasses look up the module their annotations belong to.
    monkeypatch.setitem(sys.modules, "page", module)
    # The one module that a page has its reader write.
    monkeypatch.setitem(sys.modules, "napari_clipsam.adapters.film", module)
    for block in python_blocks(page):
        exec(compile(block, str(page), "exec", dont_inherit=True), module.__dict__)


def test_every_page_with_python_that_needs_more_has_it_here() -> None:
    pages = {name_of(page) for page in ALL for one in blocks(page) if one.language == "py"}
    assert pages == {"docs/how-to/bioimageio", "docs/how-to/cluster", "docs/how-to/models"}


def run_what_needs_more(page: str) -> dict[str, Any]:
    """Run blocks marked ``py``, for which a test has made what a reader would have."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(DOCS / page):
        if block.language == "py":
            exec(compile(block.text, page, "exec", dont_inherit=True), names)
    return names


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_an_exported_network_is_run_as_the_page_says(files: Path) -> None:
    class Bright(torch.nn.Module):
        def forward(self, rgb: torch.Tensor) -> torch.Tensor:
            return rgb.mean(dim=1, keepdim=True) / 255

    rgb = np.zeros((1, 3, 8, 6), np.float32)
    rgb[..., 2:5, 1:4] = 200
    np.save("test_input.npy", rgb)
    torch.jit.trace(Bright(), torch.from_numpy(rgb)).save("weights.torchscript.pt")
    mask = run_what_needs_more("how-to/bioimageio.md")["mask"]
    assert np.array_equal(mask, rgb[0, 0] > 0)


def test_a_model_is_installed_and_loaded_as_the_page_says(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = BytesIO()
    torch.save(tiny_sam(4).state_dict(), content)
    monkeypatch.setenv("NO_PROXY", "*")
    with serving(content.getvalue()) as server:
        here = replace(registry._KNOWN["vit_b_lm"], source=server.url, checksum=None)
        here = replace(here, architecture="custom")
        monkeypatch.setattr(registry, "_KNOWN", registry._KNOWN | {"vit_b_lm": here})
        model = run_what_needs_more("how-to/models.md")["model"]
    assert model.sam.identity == tiny_sam(4).identity and model.clip_name == "starter"


def test_a_stack_is_shared_out_as_the_page_says(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process: what workers write is tested where they are."""
    image, _ = squares()
    write_ome_zarr("large.ome.zarr", np.stack([image, image]), Grid((2, *image.shape)))
    shared_out = inspect.signature(cluster.segment_volume_on)

    def here(*asked: Any) -> Iterator[VolumeProgress]:
        given = shared_out.bind(*asked).arguments
        assert isinstance(given["recipe"], cluster.Recipe)
        return segment_volume(BrightSegmenter(), given["task"], given["outputs"])

    inspect.signature(cluster.local_cluster).bind(workers=2)
    monkeypatch.setattr(cluster, "local_cluster", lambda workers: nullcontext())
    monkeypatch.setattr(cluster, "segment_volume_on", here)
    run_what_needs_more("how-to/cluster.md")
    assert "slice 2 of 2, 0 s left" in capsys.readouterr().out
    assert read_labels("nuclei.ome.zarr").plane({"Z": 1}).max() == 4


def test_the_first_page_and_the_index_have_code_to_begin_with() -> None:
    assert {README, DOCS / "index.md"} <= set(WITH_CODE)


def test_the_example_of_an_adapter_keeps_the_contract_of_all(tmp_path: Path) -> None:
    (tmp_path / "film.py").write_text(python_blocks(DOCS / "add-an-adapter.md")[0])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "film", "-p", "no:cacheprovider"]
    command += ["-k", "film", "tests/adapters/test_contract.py"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # All tests of the contract, not merely one.
    assert int(re.search(r"(\d+) passed", done.stdout).group(1)) >= 15
