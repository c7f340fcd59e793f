"""A viewer without a window, with an image or a stack and a controller for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from napari.components import ViewerModel
from plugin.fakes import make_controller

from napari_clipsam._plugin.controller import SegmentController


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def flat(viewer: ViewerModel, tmp_path: Path) -> SegmentController:
    """A controller for one plane of 40 x 50 pixels."""
    viewer.add_image(np.arange(2000, dtype=np.uint16).reshape(40, 50), name="cells", scale=(2, 2))
    return make_controller(viewer, tmp_path)


@pytest.fixture
def deep(viewer: ViewerModel, tmp_path: Path) -> SegmentController:
    """A controller for a stack of 7 slices, the middle one shown."""
    viewer.add_image(np.ones((7, 40, 50), np.uint8), name="cells", scale=(4, 2, 2))
    viewer.dims.set_point(0, 12)
    return make_controller(viewer, tmp_path)
