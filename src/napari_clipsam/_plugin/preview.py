"""What the model proposes, in layers of its own: masks with bright outlines, and similarity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels
from napari.utils.colormaps import DirectLabelColormap
from napari.utils.transforms import Affine

from napari_clipsam._plugin.placement import TRANSFORM, place_layer
from napari_clipsam.session.objects import PlaneKey, plane_axes, slices_of

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer
    from numpy.typing import NDArray

    from napari_clipsam._plugin.layers import LayerImage
    from napari_clipsam.inference.requests import ObjectMask

__all__ = ["PreviewLayer", "edge_of", "empty_labels", "part_transform"]

Shown = Mapping[PlaneKey, Sequence[tuple[int, "ObjectMask"]]]

#: Bright and told apart by people who see colours differently (after Okabe and Ito).
_COLOURS = ("#00e5ff", "#ffb000", "#ff5fd2", "#7cff6b", "#ffff66", "#b18cff", "#ff8066", "#66b3ff")
_FILL = 0.4
#: Labels of more bytes than this are kept in chunks that take no memory while they are empty.
_CHUNKED = 1 << 30


def empty_labels(shape: tuple[int, ...], dtype: Any = np.uint16) -> Any:
    """Make an array of zeros that takes memory only where something is written.

    Parameters
    ----------
    shape : tuple of int
    dtype : dtype_like

    Returns
    -------
    ndarray or zarr.Array
        The latter in memory, for what is too large to be touched as a whole.
    """
    if math.prod(shape) * np.dtype(dtype).itemsize <= _CHUNKED:
        return np.zeros(shape, dtype)
    import zarr

    chunks = (*(1 for _ in shape[:-2]), *(min(1024, length) for length in shape[-2:]))
    return zarr.create_array(zarr.storage.MemoryStore(), shape=shape, dtype=dtype, chunks=chunks)


class PreviewLayer:
    """The masks that are not kept yet, and where a plane is like a word.

    Parameters
    ----------
    viewer : ViewerModel
    image : LayerImage
        The new layers lie where it lies, right above it, and follow it.

    Attributes
    ----------
    labels : Labels
        Its numbers stand for colours, one for the fill and one for the outline of each.
    overlay : Image
        The similarity; among the viewer's layers once there is one to show.
    """

    def __init__(self, viewer: ViewerModel, image: LayerImage) -> None:
        self._viewer, self._image = viewer, image
        self._closed = False
        self._shown: dict[PlaneKey, tuple[tuple[int, ObjectMask], ...]] = {}
        self._overlay_at: tuple[PlaneKey, tuple[int, int]] | None = None
        self._data = empty_labels(image.shape, np.uint8)
        name = image.layer.name
        self.labels = Labels(
            self._data,
            name=f"{name} preview",
            metadata={"clipsam_role": "preview"},
            colormap=_colours(),
            opacity=1.0,
            **image.transform(),
        )
        self._lock()
        self.labels.events.editable.connect(self._lock)
        self.overlay = Image(
            np.zeros((1,) * image.ndim, np.float32),
            name=f"{name} similarity",
            metadata={"clipsam_role": "similarity"},
            colormap="magma",
            contrast_limits=(0, 1),
            blending="additive",
            opacity=0.35,
            interpolation2d="linear",
            visible=False,
            **image.transform(),
        )
        self._insert(self.labels)
        for name in TRANSFORM:
            getattr(image.layer.events, name).connect(self._follow)

    def show(self, masks: Shown) -> None:
        """Show these masks and no others; only what differs is written, box by box.

        Parameters
        ----------
        masks : mapping of PlaneKey to sequence of (int, ObjectMask)
            Numbers choose the colours; later masks lie on top.
        """
        wanted = {key: tuple(found) for key, found in masks.items() if found}
        stale = {key for key, found in self._shown.items() if not _same(found, wanted.get(key))}
        if len({plane_axes(key) for key in (*self._shown, *wanted)}) > 1 and stale:
            # Planes that cross share pixels.
            stale = set(self._shown)
        fresh = [key for key in wanted if key in stale or key not in self._shown]
        if not stale and not fresh:
            return
        self._insert(self.labels)
        for key in stale:
            for _, mask in self._shown[key]:
                self._data[slices_of(key, mask.box)] = 0
        for key in fresh:
            for number, mask in wanted[key]:
                self._draw(key, number, mask)
        self._shown = wanted
        self.labels.refresh()

    def clear(self) -> None:
        """Show nothing."""
        self.show({})
        self.hide_similarity()

    def similarity(self, key: PlaneKey, similarity: NDArray[np.float32]) -> None:
        """Show faintly where a plane is like a word.

        Parameters
        ----------
        key : PlaneKey
        similarity : ndarray, shape (h, w), float32
            0..1 over the whole plane, at any resolution.
        """
        self._insert(self.overlay)
        shape = [1] * self._image.ndim
        for axis, length in zip(plane_axes(key), similarity.shape, strict=True):
            shape[axis] = length
        self._overlay_at = key, (similarity.shape[0], similarity.shape[1])
        self.overlay.data = similarity.reshape(shape)
        self._follow()
        self.overlay.visible = True

    def hide_similarity(self) -> None:
        """Take the similarity away."""
        self.overlay.visible = False

    def close(self) -> None:
        """Remove the layers and let go of the viewer; may be called twice."""
        if self._closed:
            return
        self._closed = True
        for name in TRANSFORM:
            getattr(self._image.layer.events, name).disconnect(self._follow)
        for layer in (self.labels, self.overlay):
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)

    def _lock(self, _: object = None) -> None:
        """Nobody paints here; napari opens the layer again when the view changes."""
        if self.labels.editable:
            self.labels.editable = False

    def _insert(self, layer: Layer) -> None:
        """Put a layer right above the image, if it is not there, and stay where one was."""
        layers, active = self._viewer.layers, self._viewer.layers.selection.active
        if layer not in layers:
            at = layers.index(self._image.layer) + 1 if self._image.layer in layers else 0
            layers.insert(at, layer)
            layers.selection.active = active

    def _draw(self, key: PlaneKey, number: int, mask: ObjectMask) -> None:
        if not mask.area:
            return
        fill = 1 + 2 * ((number - 1) % len(_COLOURS))
        where = slices_of(key, mask.box)
        y, x = (self._image.shape[axis] for axis in plane_axes(key))
        part = np.array(self._data[where])
        part[mask.mask] = fill
        part[edge_of(mask.mask, max(1, round(max(y, x) / 1024)))] = fill + 1
        self._data[where] = part

    def _follow(self, _: object = None) -> None:
        transform = self._image.transform()
        place_layer(self.labels, transform)
        if self._overlay_at is not None:
            key, shape = self._overlay_at
            place_layer(self.overlay, part_transform(transform, key, self._image.shape, shape))


def part_transform(
    transform: dict[str, Any], key: PlaneKey, shape: tuple[int, ...], coarse: tuple[int, ...]
) -> dict[str, Any]:
    """Where a picture of one plane lies, as coarse as it is."""
    factor, offset = np.ones(len(shape)), np.array([held or 0 for held in key], np.float64)
    for axis, length in zip(plane_axes(key), coarse, strict=True):
        factor[axis] = shape[axis] / length
        offset[axis] = factor[axis] / 2 - 0.5
    own = Affine(**{k: transform[k] for k in ("scale", "translate", "rotate", "shear")})
    return {
        **transform,
        "scale": transform["scale"] * factor,
        "translate": own.translate + own.linear_matrix @ offset,
    }


def _same(
    one: tuple[tuple[int, ObjectMask], ...], other: tuple[tuple[int, ObjectMask], ...] | None
) -> bool:
    """Whether the same values are shown in the same colours."""
    return (
        other is not None
        and len(one) == len(other)
        and all(a[0] == b[0] and a[1] is b[1] for a, b in zip(one, other, strict=True))
    )


def edge_of(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """The outermost pixels of a mask, so many rings of them; beyond its border there is nothing.

    By whole rows and columns, three times as fast as scipy's erosion: napari stands still for it.
    """
    inner = mask
    for _ in range(width):
        smaller = inner.copy()
        smaller[1:] &= inner[:-1]
        smaller[:-1] &= inner[1:]
        smaller[:, 1:] &= inner[:, :-1]
        smaller[:, :-1] &= inner[:, 1:]
        smaller[[0, -1]] = False
        smaller[:, [0, -1]] = False
        inner = smaller
    return mask & ~inner


def _colours() -> DirectLabelColormap:
    table: dict[int | None, Any] = {None: "transparent", 0: "transparent"}
    for position, colour in enumerate(_COLOURS):
        rgb = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        table[1 + 2 * position] = (*rgb, _FILL)
        table[2 + 2 * position] = (*rgb, 1.0)
    return DirectLabelColormap(color_dict=table)
