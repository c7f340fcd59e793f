"""An image layer and its labels as slices to learn from, read without any layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels

from napari_clipsam._plugin.choices import is_own
from napari_clipsam._plugin.focus import stack_axis_of
from napari_clipsam._plugin.layers import displayed_key
from napari_clipsam._plugin.state import Choice
from napari_clipsam.errors import PlaneError
from napari_clipsam.planes import Plane
from napari_clipsam.session.objects import at_number, slices_of

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from numpy.typing import NDArray

    from napari_clipsam._plugin.layers import LayerImage
    from napari_clipsam._plugin.plane_reader import PlaneReader
    from napari_clipsam.session.objects import PlaneKey

__all__ = ["Pair", "Slices", "full_data", "image_choices", "label_choices", "open_pair"]

_OTHER_SHAPE = "These labels have another shape than the image. Choose labels made for it."


@dataclass(frozen=True, eq=False)
class Pair:
    """An image and labels of the same shape, as slices along one axis; any thread may read it.

    Attributes
    ----------
    image : LayerImage
        For the main thread alone; made for this pair, so that nobody else reads with it.
    labels : Labels
        For the main thread alone.
    axis : int or None
        What slices are numbered along; None for a single plane.
    first : PlaneKey
        The slice numbered 0, or the single plane.
    array : array_like
        The labels at full resolution.
    """

    image: LayerImage
    labels: Labels
    axis: int | None
    first: PlaneKey
    array: Any

    @property
    def count(self) -> int:
        """Number of slices."""
        return 1 if self.axis is None else self.image.shape[self.axis]

    @property
    def names(self) -> tuple[str, str]:
        """Names of the two layers."""
        return self.image.layer.name, self.labels.name

    def is_like(self, other: Pair | None) -> bool:
        """Whether the same slices of the same layers are meant."""
        return (
            other is not None
            and (self.image.layer, self.labels) == (other.image.layer, other.labels)
            and (self.axis, self.first) == (other.axis, other.first)
            and self.image.channel == other.image.channel
            and self.array is other.array
        )

    def key(self, number: int) -> PlaneKey:
        """The plane of a number."""
        return _numbered(self.first, self.axis, number)

    def source(self) -> Slices:
        """What another thread reads from."""
        return Slices(self.count, self.axis, self.first, self.image.reader(), self.array)

    def where(self, number: int) -> str:
        """A slice in words."""
        return "this image" if self.axis is None else f"slice {number}"


@dataclass(frozen=True, eq=False)
class Slices:
    """The planes of a pair and their labels, by number; knows no layer."""

    count: int
    axis: int | None
    first: PlaneKey
    read: PlaneReader
    array: Any

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of a slice."""
        return self.read.plane_shape(self.first)

    def pixelless(self, number: int) -> Plane:
        """The name and place of a slice without its pixels, which are not read."""
        index, name = self.read.naming(_numbered(self.first, self.axis, number))
        return Plane(np.broadcast_to(np.uint8(0), (*self.shape, 3)), name, index, name)

    def number(self, plane: Plane) -> int:
        """The number of a plane that was read here."""
        return 0 if self.axis is None else plane.index[self.read.labels[self.axis]]

    def plane(self, number: int) -> Plane:
        """The image.

        Raises
        ------
        PlaneError
            Its pixels cannot be read.
        """
        return self.read(_numbered(self.first, self.axis, number))

    def labels(self, number: int) -> NDArray[np.integer]:
        """A copy of the labels.

        Raises
        ------
        PlaneError
            They cannot be read.
        """
        try:
            return np.array(self.array[slices_of(_numbered(self.first, self.axis, number))])
        except Exception as error:
            raise PlaneError(
                f"The labels of slice {number} cannot be read ({error}). Save them to another "
                "file and open that."
            ) from error


def image_choices(viewer: ViewerModel) -> tuple[Choice, ...]:
    """Images that can be learnt from."""
    images = (layer for layer in viewer.layers if isinstance(layer, Image) and not is_own(layer))
    return tuple(Choice(layer.name, layer.name) for layer in images)


def label_choices(viewer: ViewerModel, shape: tuple[int, ...] | None) -> tuple[Choice, ...]:
    """Labels layers, those of another shape than the image greyed out."""
    found = []
    for layer in viewer.layers:
        if isinstance(layer, Labels) and not is_own(layer):
            fits = shape is None or tuple(full_data(layer).shape) == shape
            found.append(Choice(layer.name, layer.name, fits, "" if fits else _OTHER_SHAPE))
    return tuple(found)


def open_pair(viewer: ViewerModel, opened: LayerImage, labels: str) -> Pair:
    """See an image and its labels as slices, in the direction that is shown.

    Raises
    ------
    PlaneError
        They do not fit.
    """
    layer = viewer.layers[labels]
    if tuple(full_data(layer).shape) != opened.shape:
        raise PlaneError(_OTHER_SHAPE)
    try:
        key = displayed_key(viewer, opened)
    except PlaneError:
        # Learning needs no view: without one, slices lie as they do in the file.
        key = (*(0 for _ in opened.shape[:-2]), None, None)
    axis = stack_axis_of(key, opened.shape, opened.reader().labels)
    return Pair(opened, layer, axis, _numbered(key, axis, 0), full_data(layer))


def full_data(layer: Any) -> Any:
    """A layer's data at full resolution."""
    return layer.data[0] if layer.multiscale else layer.data


def _numbered(first: PlaneKey, axis: int | None, number: int) -> PlaneKey:
    return first if axis is None else at_number(first, axis, number)
