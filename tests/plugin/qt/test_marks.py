"""Clicks as a real canvas draws them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

from napari_clipsam._plugin.layers import open_layer
from napari_clipsam._plugin.prompt_layers import PromptLayers
from napari_clipsam.prompts import Prompts

if TYPE_CHECKING:
    import napari


@pytest.mark.parametrize("zoom", [0.5, 1, 20])
def test_a_click_is_seen_in_its_slice_only(
    make_napari_viewer: Callable[..., napari.Viewer], zoom: float
) -> None:
    viewer = make_napari_viewer(show=True)
    image = viewer.add_image(np.zeros((3, 200, 200), np.uint8), contrast_limits=(0, 255))
    marks = PromptLayers(viewer, open_layer(image))
    marks.set({(1, None, None): Prompts(points=[(100, 100)])})
    viewer.dims.set_point(0, 0)
    viewer.scene.camera.center = (100, 100)
    viewer.scene.camera.zoom *= zoom

    def drawn() -> int:
        picture = viewer.screenshot(flash=False)[..., :3]
        return int((picture != picture[0, 0]).any(axis=-1).sum())

    assert drawn() == 0
    viewer.dims.set_point(0, 1)
    assert 20 <= drawn() <= 600
