"""An answer on a held-out slice, before or after teaching, in a layer of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap

from napari_clipsam._plugin.choices import ROLE
from napari_clipsam._plugin.placement import place_layer
from napari_clipsam._plugin.preview import edge_of, part_transform
from napari_clipsam.session.objects import plane_axes

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from numpy.typing import NDArray

    from napari_clipsam._plugin.layers import LayerImage
    from napari_clipsam.session.objects import PlaneKey

__all__ = ["TeachPreview"]

_BEFORE, _AFTER = (1.0, 0.69, 0.0), (0.0, 0.9, 1.0)
_FILL = 0.4


class TeachPreview:
    """Shows one mask at a time; nobody can paint in it, and it is nobody's data.

    Parameters
    ----------
    viewer : ViewerModel
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._layer: Labels | None = None

    @property
    def is_shown(self) -> bool:
        """Whether the layer is in the viewer."""
        return self._layer is not None and self._layer in self._viewer.layers

    def show(
        self, image: LayerImage, key: PlaneKey, mask: NDArray[np.bool_], is_after: bool
    ) -> None:
        """Show a mask on a plane, in place of the former one."""
        shape = [1] * image.ndim
        for axis, length in zip(plane_axes(key), mask.shape, strict=True):
            shape[axis] = length
        values = mask.astype(np.uint8) + edge_of(mask, max(1, round(max(mask.shape) / 1024)))
        place = part_transform(image.transform(), key, image.shape, mask.shape)
        layer = self._shown_layer(image.ndim, place)
        layer.data = values.reshape(shape)
        layer.name = f"{image.layer.name} {'after' if is_after else 'before'}"
        layer.colormap = _colours(_AFTER if is_after else _BEFORE)
        place_layer(layer, place)
        self._lock()

    def hide(self) -> None:
        """Take the layer away."""
        if self.is_shown:
            self._viewer.layers.remove(self._layer)
        self._layer = None

    def _shown_layer(self, ndim: int, place: dict[str, Any]) -> Labels:
        if self._layer is None or not self.is_shown or self._layer.ndim != ndim:
            self.hide()
            empty = np.zeros((1,) * ndim, np.uint8)
            self._layer = Labels(empty, metadata={ROLE: "taught"}, opacity=1.0, **place)
            self._layer.events.editable.connect(self._lock)
            layers, active = self._viewer.layers, self._viewer.layers.selection.active
            layers.append(self._layer)
            layers.selection.active = active
        return self._layer

    def _lock(self, _: object = None) -> None:
        if self._layer is not None and self._layer.editable:
            self._layer.editable = False


def _colours(rgb: tuple[float, float, float]) -> DirectLabelColormap:
    table: dict[int | None, Any] = {None: "transparent", 0: "transparent"}
    return DirectLabelColormap(color_dict={**table, 1: (*rgb, _FILL), 2: (*rgb, 1.0)})
