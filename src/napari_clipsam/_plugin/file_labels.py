"""Labels on disk as layers of a viewer: read slice by slice, never whole."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels

from napari_clipsam._plugin.preview import part_transform
from napari_clipsam._readers import Source, open_source
from napari_clipsam._readers.base import Index, decoding
from napari_clipsam.errors import PlaneError
from napari_clipsam.session.objects import at_number, plane_axes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from napari.components import ViewerModel
    from numpy.typing import NDArray

    from napari_clipsam._plugin.file_recipes import StackRecipe
    from napari_clipsam._plugin.layers import LayerImage

__all__ = ["FileLabels", "LazyLabels", "open_labels"]


class LazyLabels:
    """Labels that are read when they are shown; what napari needs of an array.

    Parameters
    ----------
    source : Source
    axes : sequence of int, optional
        Which axis of these labels each dimension of the source is; others have length 1.
    ndim : int, optional
    """

    def __init__(
        self, source: Source, axes: Sequence[int] | None = None, ndim: int | None = None
    ) -> None:
        self.source = source
        self._axes = tuple(range(len(source.shape))) if axes is None else tuple(axes)
        self.ndim = ndim or len(self._axes)
        lengths = dict(zip(self._axes, source.shape, strict=True))
        self.shape = tuple(lengths.get(axis, 1) for axis in range(self.ndim))
        self.dtype = source.dtype
        self.size = math.prod(self.shape)

    def __getitem__(self, index: Any) -> NDArray:
        parts = self._full(index)
        pixels = self.source.read(tuple(parts[axis] for axis in self._axes))
        kept = [axis for axis in self._axes if isinstance(parts[axis], slice)]
        pixels = pixels.transpose(np.argsort(kept))
        shape = dict(zip(sorted(kept), pixels.shape, strict=True))
        sides = (shape.get(a, 1) for a in range(self.ndim) if isinstance(parts[a], slice))
        return pixels.reshape(tuple(sides))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray:
        return np.asarray(self[...], dtype)

    def _full(self, index: Any) -> Index:
        """A number or a slice for every axis."""
        given = list(index) if isinstance(index, tuple) else [index]
        if Ellipsis in given:
            at = given.index(Ellipsis)
            given[at : at + 1] = [slice(None)] * (self.ndim - len(given) + 1)
        given += [slice(None)] * (self.ndim - len(given))
        return tuple(
            slice(*part.indices(length)) if isinstance(part, slice) else operator.index(part)
            for part, length in zip(given, self.shape, strict=True)
        )


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
        self._levels = [LazyLabels(source, axes, image.ndim) for source in _levels(root)]
        corner = at_number(key, axis, recipe.first)
        shape = tuple(image.shape[a] for a in plane_axes(key))
        place = part_transform(image.transform(), corner, image.shape, shape)
        self.layer = _add(viewer, self._levels, recipe.path.name.partition(".")[0], place)

    @property
    def is_there(self) -> bool:
        """Whether the layer is still in the viewer."""
        return self.layer in self._viewer.layers

    def refresh(self) -> None:
        """Show what was written meanwhile."""
        self.layer.refresh(thumbnail=False, extent=False)

    def moved(self, root: Path) -> None:
        """Read from another place from now on."""
        for level, source in zip(self._levels, _levels(root), strict=True):
            level.source = source
        self.layer.refresh()

    def remove(self) -> None:
        """Take the layer away."""
        if self.is_there:
            self._viewer.layers.remove(self.layer)


def open_labels(viewer: ViewerModel, path: Path) -> Labels:
    """Open a file of labels as a layer.

    Parameters
    ----------
    viewer : ViewerModel
    path : Path
        A TIFF or an OME-Zarr.

    Raises
    ------
    PlaneError
        It cannot be read.
    """
    sources = _levels(path) if path.is_dir() else [open_source(path, indexed=True)]
    first = sources[0]
    letters, spacing = first.axes or "TZYX"[-len(first.shape) :], first.spacing_um or {}
    known = set("YX") <= set(spacing)
    place = {
        "scale": [spacing.get(letter, 1.0) if known else 1.0 for letter in letters],
        "units": ["um" if known and letter in "ZYX" else "pixel" for letter in letters],
        "axis_labels": [letter.lower() for letter in letters],
    }
    name = path.name.partition(".")[0]
    return _add(viewer, [LazyLabels(source) for source in sources], name, place)


def _levels(root: Path) -> list[Source]:
    """All resolutions of an OME-Zarr, the finest first."""
    import zarr

    if not root.is_dir():
        raise PlaneError(f"{root} does not exist. Check the path.")
    with decoding(root):
        count = len(list(zarr.open_group(root, mode="r").array_keys()))
    return [open_source(root, level) for level in range(count)]


def _add(viewer: ViewerModel, levels: list[LazyLabels], name: str, place: dict[str, Any]) -> Labels:
    several = len(levels) > 1
    layer = Labels(levels if several else levels[0], name=name, multiscale=several, **place)
    layer.editable = False
    viewer.add_layer(layer)
    return layer
