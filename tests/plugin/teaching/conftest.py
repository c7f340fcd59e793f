"""A viewer without a window, a stack with labels in it, and a Teach controller on both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from napari.components import ViewerModel
from plugin.fakes_teaching import make_teacher, stack_with_labels

from napari_clipsam._plugin.teaching import TeachController


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("NAPARI_CLIPSAM_HOME", str(tmp_path))
    return tmp_path / "adapters"


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def labels(viewer: ViewerModel) -> np.ndarray:
    return stack_with_labels(viewer)


@pytest.fixture
def teacher(viewer: ViewerModel, labels: np.ndarray) -> TeachController:
    teacher = make_teacher(viewer)
    teacher.set_words("mitochondria")
    return teacher
