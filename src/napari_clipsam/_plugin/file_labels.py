"""The labels of a stack as a layer while they are written, and afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_clipsam._plugin.file_layers import LazyArray, add_labels, levels_of
from napari_clipsam._plugin.preview import part_transform
from napari_clipsam.session.objects import at_number, plane_axes

if TYPE_CHECKING:
    from pathlib import Path

    from napari.components import ViewerModel

    from napari_clipsam._plugin.file_recipes import StackRecipe
    from napari_clipsam._plugin.layers import LayerImage

__all__ = ["FileLabels"]


class FileLabels:
    """The layer of a stack's labels that are being written, or were.

    Parameters
    ----------
    viewer : ViewerModel
    root : Path
        An OME-Zarr.
    recipe : StackRecipe
        What it holds.
    image : LayerImage
        The new layer lies where it lies.
    """

    def __init__(
        self, viewer: ViewerModel, root: Path, recipe: StackRecipe, image: LayerImage
    ) -> None:
        self._viewer, self.path = viewer, recipe.path
        key, axis = recipe.key, recipe.axis
        axes = (axis, *plane_axes(key))
        self._levels = [LazyArray(source, axes, image.ndim) for source in levels_of(root)]
        corner = at_number(key, axis, recipe.first)
        shape = tuple(image.shape[a] for a in plane_axes(key))
        place = part_transform(image.transform(), corner, image.shape, shape)
        self.layer = add_labels(viewer, self._levels, recipe.path.name.partition(".")[0], place)

    @property
    def is_there(self) -> bool:
        """Whether the layer is still in the viewer."""
        return self.layer in self._viewer.layers

    def refresh(self) -> None:
        """Show what was written meanwhile."""
        self.layer.refresh(thumbnail=False, extent=False)

    def moved(self, root: Path) -> None:
        """Read from another place from now on."""
        for level, source in zip(self._levels, levels_of(root), strict=True):
            level.source = source
        self.layer.refresh()

    def remove(self) -> None:
        """Take the layer away."""
        if self.is_there:
            self._viewer.layers.remove(self.layer)
