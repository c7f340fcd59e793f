"""The Python of the documentation runs as it stands."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
from docs.pages import ALL, DOCS, README, ROOT, blocks, name_of, python_blocks
from napari.components import ViewerModel

from napari_clipsam.adapters import base, inject  # noqa: F401 - registers the kinds there are
from napari_clipsam.models import registry

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


@pytest.mark.parametrize(
    ("page", "text"),
    [(page, one.text) for page in ALL for one in blocks(page) if one.language == "py"],
    ids=lambda value: name_of(value) if isinstance(value, Path) else "",
)
def test_python_that_needs_a_network_is_made_of_what_there_is(page: Path, text: str) -> None:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            assert not [one.name for one in node.names if not hasattr(module, one.name)]


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
