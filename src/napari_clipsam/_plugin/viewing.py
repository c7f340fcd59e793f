"""Results of the command line shown in napari."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from napari.components import ViewerModel

    Result = tuple[str, np.ndarray, tuple[int, int], Mapping[str, np.ndarray]]

__all__ = ["add_results", "show_results"]


def add_results(viewer: ViewerModel, results: Sequence[Result]) -> None:
    """Add images, their clicks and their masks as layers; the last image is the visible one.

    Parameters
    ----------
    viewer : ViewerModel
    results : sequence of tuple
        Name, image (H, W) or (H, W, 3), click (y, x), and masks (H, W) by name.
    """
    for position, (name, image, click, masks) in enumerate(results):
        shown = position == len(results) - 1
        viewer.add_image(image, name=name, rgb=image.ndim == 3, visible=shown)
        for what, mask in masks.items():
            visible = shown and what == "instances"
            viewer.add_labels(mask, name=f"{name} {what}", visible=visible)
        viewer.add_points([click], name=f"{name} click point", size=8, visible=shown)


def show_results(results: Sequence[Result]) -> None:
    """Open napari with results and wait until its window is closed.

    Parameters
    ----------
    results : sequence of tuple
        As for `add_results`.
    """
    import napari

    viewer = napari.Viewer(title="napari-clipsam demo")
    add_results(viewer, results)
    napari.run()
