"""A viewer without a window, and a library in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from napari.components import ViewerModel
from plugin.fakes_library import FakeShelf, make_librarian

from napari_clipsam._plugin.library import LibraryController


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The user's folder."""
    monkeypatch.setenv("NAPARI_CLIPSAM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def shelf() -> FakeShelf:
    return FakeShelf()


@pytest.fixture
def librarian(viewer: ViewerModel, shelf: FakeShelf) -> LibraryController:
    return make_librarian(viewer, shelf)
