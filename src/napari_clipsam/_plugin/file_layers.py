"""Images and labels on disk as layers of a viewer: read plane by plane, never whole."""

from __future__ import annotations

import math
import operator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels

from napari_clipsam._plugin.layers import open_layer
from napari_clipsam._readers import Source, open_source
from napari_clipsam._readers.base import Index
from napari_clipsam.errors import PlaneError
from napari_clipsam.planes import open_image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari.components import ViewerModel
    from numpy.typing import NDArray

__all__ = ["LazyArray", "add_labels", "levels_of", "show_image", "show_labels"]

# Where a layer's metadata say which file it shows.
_FILE = "clipsam_file"


class LazyArray:
    """Pixels that are read when they are shown; what napari needs of an array.

    Parameters
    ----------
    source : Source
    axes : sequence of int, optional
        Which axis of this array each dimension of the source is; others have length 1.
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
        # A graphics card takes no other order of bytes.
        self.dtype = source.dtype.newbyteorder("=")
        self.size = math.prod(self.shape)

    def __getitem__(self, index: Any) -> NDArray:
        parts = self._full(index)
        pixels = self.source.read(tuple(parts[axis] for axis in self._axes))
        kept = [axis for axis in self._axes if isinstance(parts[axis], slice)]
        pixels = pixels.transpose(np.argsort(kept)).astype(self.dtype, copy=False)
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


def show_image(viewer: ViewerModel, path: Path, visible: bool = True) -> Image:
    """The layer of an image file: one that is open already, else a new one named as the file.

    Parameters
    ----------
    viewer : ViewerModel
    path : Path
        As for `planes.open_image`.
    visible : bool
        Of a new layer.

    Raises
    ------
    PlaneError
        It cannot be read.
    """
    for layer in viewer.layers:
        if isinstance(layer, Image) and _shows(layer, path):
            return layer
    stack = open_image(path)
    is_rgb = stack.shape[stack.axes.index("S")] in (3, 4) if "S" in stack.axes else False
    # Labels have no channels; where these come first, the axes behind them are the labels'.
    order = "CTZYXS" if is_rgb else "CSTZYX"
    letters = sorted(stack.axes, key=order.index)
    axes = [letters.index(letter) for letter in stack.axes]
    sources = levels_of(path) if path.is_dir() else [stack.source]
    arrays = [LazyArray(source, axes) for source in sources]
    image = Image(
        arrays if len(arrays) > 1 else arrays[0],
        rgb=is_rgb,
        name=path.name,
        visible=visible,
        metadata={_FILE: str(path)},
        multiscale=len(arrays) > 1,
        **_place(letters[:-1] if is_rgb else letters, stack.spacing_um or {}),
    )
    viewer.add_layer(image)
    return image


def show_labels(
    viewer: ViewerModel, path: Path, image: Image | None = None, visible: bool = True
) -> Labels:
    """Open a file of labels as a layer.

    Parameters
    ----------
    viewer : ViewerModel
    path : Path
        A TIFF or an OME-Zarr.
    image : Image, optional
        What they belong to; they lie where it lies.
    visible : bool

    Raises
    ------
    PlaneError
        It cannot be read.
    """
    sources = levels_of(path) if path.is_dir() else [open_source(path, indexed=True)]
    first = sources[0]
    place = _place(first.axes or "TZYX"[-len(first.shape) :], first.spacing_um or {})
    below = None if image is None else open_layer(image)
    if below is not None and below.shape == first.shape:
        place = below.transform()
    name = path.name.partition(".")[0]
    return add_labels(viewer, [LazyArray(one) for one in sources], name, place, visible)


def add_labels(
    viewer: ViewerModel,
    levels: list[LazyArray],
    name: str,
    place: dict[str, Any],
    visible: bool = True,
) -> Labels:
    """Add a layer of labels that cannot be painted on."""
    several = len(levels) > 1
    data = levels if several else levels[0]
    layer = Labels(data, name=name, multiscale=several, visible=visible, **place)
    layer.editable = False
    viewer.add_layer(layer)
    return layer


def levels_of(path: Path) -> list[Source]:
    """All resolutions of a Zarr image, the finest first.

    Raises
    ------
    PlaneError
        It cannot be read.
    """
    levels = [open_source(path)]
    with suppress(PlaneError):
        while True:
            levels.append(open_source(path, len(levels)))
    return levels


def _place(letters: Sequence[str], spacing: dict[str, float]) -> dict[str, Any]:
    """Where a layer of these axes belongs."""
    known = set("YX") <= set(spacing)
    return {
        "scale": [spacing.get(letter, 1.0) if known else 1.0 for letter in letters],
        "units": ["um" if known and letter in "ZYX" else "pixel" for letter in letters],
        "axis_labels": [letter.lower() for letter in letters],
    }


def _shows(layer: Image, path: Path) -> bool:
    """Whether a layer was opened from a file."""
    file = layer.metadata.get(_FILE) or layer.source.path
    return bool(file) and Path(str(file)).resolve() == path.resolve()
