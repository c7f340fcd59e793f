"""Mouse drags on a layer without a window, as napari's canvas passes them on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
from napari.utils._proxies import ReadOnlyWrapper
from napari.utils.interactions import (
    mouse_move_callbacks,
    mouse_press_callbacks,
    mouse_release_callbacks,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari.components import ViewerModel
    from napari.layers import Layer


def drag(viewer: ViewerModel, layer: Layer, world: Sequence[Sequence[float]]) -> None:
    """Press at the first world position, move over the others, release at the last."""
    mouse_press_callbacks(layer, _event(viewer, "mouse_press", world[0]))
    for position in world[1:]:
        mouse_move_callbacks(layer, _event(viewer, "mouse_move", position))
    mouse_release_callbacks(layer, _event(viewer, "mouse_release", world[-1]))


def click(viewer: ViewerModel, layer: Layer, world: Sequence[float]) -> None:
    """Press and release at a world position."""
    drag(viewer, layer, [world])


def _event(viewer: ViewerModel, kind: str, world: Sequence[float]) -> ReadOnlyWrapper:
    shown = list(viewer.dims.displayed)
    event = SimpleNamespace(
        type=kind,
        position=tuple(world),
        pos=np.asarray(world)[shown] * 20,
        modifiers=[],
        dims_displayed=shown,
        dims_point=tuple(viewer.dims.point),
        view_direction=None,
        up_direction=None,
        is_dragging=kind == "mouse_move",
        button=1,
        handled=False,
    )
    return ReadOnlyWrapper(event, exceptions=("handled",))
