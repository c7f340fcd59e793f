"""Labels layers of a viewer, read and written box by box."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, ref

import numpy as np
from napari.layers import Labels

from napari_clipsam._plugin.choices import MARKS, ROLE, editable
from napari_clipsam._plugin.preview import empty_labels
from napari_clipsam.errors import PlaneError
from napari_clipsam.outputs import label_dtype
from napari_clipsam.session.objects import plane_axes, slices_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from napari.components import ViewerModel
    from numpy.typing import NDArray

    from napari_clipsam.session.objects import Box, PlaneKey

__all__ = ["ViewerLabels"]


class ViewerLabels:
    """Labels layers by the name they had when they were first used (`session.history.Labels`).

    A layer that the user renames stays known; one that is removed is gone.
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self.viewer = viewer
        self._known: dict[str, ReferenceType[Labels]] = {}

    def layer(self, name: str) -> Labels | None:
        """The layer of a name, None where it is gone."""
        known = self._known.get(name)
        found = None if known is None else known()
        if found is None or found not in self.viewer.layers:
            named = next((layer for layer in self.viewer.layers if layer.name == name), None)
            found = named if isinstance(named, Labels) else None
            if found is not None:
                self._known[name] = ref(found)
        return found

    def name_of(self, layer: Labels) -> str:
        """The name that stands for a layer, whatever it is called now."""
        for name, known in self._known.items():
            if known() is layer:
                return name
        name = self._free(layer.name)
        if name != layer.name:
            self._known[name] = ref(layer)
        return name

    def _free(self, name: str) -> str:
        """A name that stands for no other layer, which may have been renamed since."""
        known, number = name, 1
        while (held := self._known.get(known)) is not None and held() in self.viewer.layers:
            number += 1
            known = f"{name} ({number})"
        return known

    def know(self, name: str, layer: Labels) -> None:
        """Let a name stand for a layer."""
        self._known[name] = ref(layer)

    def let_go(self, name: str) -> None:
        """Leave the layer of a name to itself: the name stands for another from then on."""
        layer = self.layer(name)
        if layer is not None:
            layer.name = f"{name} (before)"
        self._known.pop(name, None)

    def show(
        self, name: str, array: Any, transform: Mapping[str, Any], touched: Iterable[PlaneKey]
    ) -> None:
        """Put recorded labels into the layer of a name if they fit, else into a new layer."""
        layer = self.layer(name)
        if layer is None or tuple(layer.data.shape) != tuple(array.shape) or editable(layer):
            layer = self.viewer.add_labels(array, name=name, **transform)
            self._known[name] = ref(layer)
            return
        for plane in touched:
            values = np.asarray(array[slices_of(plane)])
            self.write(name, plane, (0, 0, *values.shape), values)

    def usable(self, name: str, shape: tuple[int, ...]) -> Labels:
        """A layer that objects of an image can be kept in.

        Raises
        ------
        PlaneError
            It is gone, cannot be written to, or has another shape; says what to do.
        """
        layer = self.layer(name)
        if layer is None:
            raise PlaneError(f"The labels layer '{name}' is gone. Choose another to keep into.")
        if why := editable(layer):
            raise PlaneError(why)
        if tuple(layer.data.shape) != shape:
            raise PlaneError(
                f"The labels layer '{name}' has the shape {tuple(layer.data.shape)}, the image "
                f"{shape}. Keep into a new layer."
            )
        return layer

    def new(
        self, name: str, shape: tuple[int, ...], transform: Mapping[str, Any], n_labels: int = 0
    ) -> str:
        """Add an empty labels layer below the user's prompts; returns the name it stands by."""
        layers, active = self.viewer.layers, self.viewer.layers.selection.active
        layer = Labels(empty_labels(shape, label_dtype(n_labels)), name=name, **transform)
        marks = (i for i, one in enumerate(layers) if one.metadata.get(ROLE) in MARKS)
        layers.insert(min(marks, default=len(layers)), layer)
        layers.selection.active = active or layer
        known = self._free(layer.name)
        self._known[known] = ref(layer)
        return known

    def largest(self, name: str) -> int:
        """The largest label of a layer."""
        layer = self.layer(name)
        if layer is None:
            return 0
        if isinstance(layer.data, np.ndarray):
            return int(layer.data.max(initial=0))
        return max((int(np.max(part)) for part in _parts(layer.data)), default=0)

    def read(self, layer: str, plane: PlaneKey, box: Box | None) -> NDArray | None:
        """Copy a box of a plane, or all of it; None where the layer is gone."""
        found = self.layer(layer)
        return None if found is None else np.array(found.data[slices_of(plane, box)])

    def write(self, layer: str, plane: PlaneKey, box: Box, values: NDArray) -> None:
        """Put values into a box of a plane, as one entry of the layer's own undo history."""
        found = self.layer(layer)
        if found is None:
            return
        current = np.asarray(found.data[slices_of(plane, box)])
        rows, cols = np.nonzero(current != values)
        if not len(rows):
            return
        index: list[NDArray] = [np.full(len(rows), k or 0) for k in plane]
        y, x = plane_axes(plane)
        index[y], index[x] = rows + box[0], cols + box[1]
        with found.block_history():
            found.data_setitem(tuple(index), values[rows, cols])


def _parts(data: Any) -> Any:
    """Blocks of a chunked array, read one by one."""
    depth = data.shape[0] if data.ndim > 2 else 1
    for k in range(depth):
        yield np.asarray(data[k] if data.ndim > 2 else data[:])
