"""A napari image layer seen as planes, its channels mapped; napari's world to data pixels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pint
from napari.layers import Image

from napari_clipsam._plugin.placement import (
    matrix_of,
    own_matrix,
    parts_of,
    unit_factor,
    unit_factors,
)
from napari_clipsam._plugin.plane_reader import PlaneReader
from napari_clipsam.errors import PlaneError
from napari_clipsam.session.objects import PlaneKey, plane_axes

if TYPE_CHECKING:
    from napari.components import Dims, ViewerModel
    from napari.layers import Layer
    from numpy.typing import ArrayLike, NDArray

    from napari_clipsam.planes import Plane

__all__ = [
    "ChannelChoice",
    "LayerImage",
    "PlaneReader",
    "channel_choices",
    "displayed_key",
    "open_layer",
]

_CHANNEL_NAMES = ("c", "ch", "channel", "channels")
#: An unnamed axis of at most this length may hold channels.
_MOST_CHANNELS = 5
_COARSE_PIXELS = 1 << 20


@dataclass(frozen=True)
class ChannelChoice:
    """How the channels of an image become a grey or colour picture.

    Attributes
    ----------
    label : str
        For people; unique among the choices of a layer.
    axis : int or None
        Axis of the layer that holds channels; None without one.
    channels : tuple of int
        Along that axis, or among the colour samples: one shown grey, up to three as red, green,
        blue; empty for the layer as it is.
    layers : tuple of Image
        Layers that become red, green and blue, instead.
    """

    label: str
    axis: int | None = None
    channels: tuple[int, ...] = ()
    layers: tuple[Image, ...] = ()


def channel_choices(viewer: ViewerModel, layer: Image) -> tuple[ChannelChoice, ...]:
    """List the ways in which a layer's channels can be shown; the first is the usual one.

    Parameters
    ----------
    viewer : ViewerModel
    layer : Image

    Returns
    -------
    tuple of ChannelChoice
        Channels of an axis named c or channel, or the layer as it is; then channels along a short
        unnamed axis; then the layer with others of the same shape and place as colours.
    """
    return (*_own_choices(layer), *_joint_choices(viewer, layer))


def _own_choices(layer: Image) -> Iterator[ChannelChoice]:
    if layer.rgb:
        yield ChannelChoice("colours")
        for channel, colour in enumerate(("red", "green", "blue")):
            yield ChannelChoice(f"{colour} only", channels=(channel,))
        return
    shape, names = _full(layer).shape, [str(name).lower() for name in layer.axis_labels]
    named = [axis for axis, name in enumerate(names) if name in _CHANNEL_NAMES]
    if named and layer.ndim > 2:
        yield from _axis_choices(named[0], shape[named[0]], "")
        return
    yield ChannelChoice("grey")
    for axis, length in enumerate(shape):
        longer = sum(other > length for other in shape)
        if 2 <= length <= _MOST_CHANNELS and longer >= 2 and names[axis] not in ("z", "t", "time"):
            yield from _axis_choices(axis, length, f"axis {axis}: ")


def _axis_choices(axis: int, length: int, prefix: str) -> Iterator[ChannelChoice]:
    single = [ChannelChoice(f"{prefix}channel {k}", axis, (k,)) for k in range(length)]
    if length == 1:
        yield from single
        return
    first = tuple(range(min(3, length)))
    numbers = ", ".join(map(str, first))
    joint = ChannelChoice(f"{prefix}channels {numbers} as colours", axis, first)
    yield from (joint, *single) if length <= 3 else (*single, joint)


def _joint_choices(viewer: ViewerModel, layer: Image) -> Iterator[ChannelChoice]:
    if layer.rgb:
        return
    alike = [one for one in viewer.layers if one is layer or _is_alike(layer, one)]
    near = sorted(alike, key=lambda one: abs(alike.index(one) - alike.index(layer)))[:5]
    for count in (3, 2):
        for chosen in itertools.combinations(alike, count):
            if layer in chosen and all(one in near for one in chosen):
                names = " + ".join(one.name for one in chosen)
                yield ChannelChoice(f"{names} as colours", layers=chosen)


def _is_alike(layer: Image, other: Layer) -> bool:
    """Whether two layers show the same place pixel by pixel."""
    return (
        isinstance(other, Image)
        and not other.rgb
        and not other.metadata.get("clipsam_role")
        and _full(other).shape == _full(layer).shape
        and np.allclose(matrix_of(other), matrix_of(layer))
    )


class LayerImage:
    """An image layer seen as planes; made by `open_layer`, used on the main thread alone.

    Its data have D axes: those of the layer without colours and without a leading axis of
    channels. Channels along any later axis stay as an axis of length 1, so that what lies in the
    same axes lies at the same place.

    Attributes
    ----------
    layer : Image
    channel : ChannelChoice
    shape : tuple of int
        Length of each of the D axes.
    """

    def __init__(self, layer: Image, channel: ChannelChoice, normalisation: str) -> None:
        self.layer, self.channel = layer, channel
        full = _full(layer)
        channel_axis = channel.axis
        axes = [axis for axis in range(layer.ndim) if axis != 0 or channel_axis != 0]
        self._axes = tuple(axes)
        self.shape = tuple(1 if axis == channel_axis else int(full.shape[axis]) for axis in axes)
        layers = channel.layers or (layer,)
        self._reader = PlaneReader(
            name=layer.name,
            arrays=tuple(_full(one) for one in layers),
            shape=self.shape,
            axes=self._axes,
            labels=tuple(_axis_name(layer, axis) for axis in axes),
            channel_axis=channel_axis,
            is_rgb=bool(layer.rgb),
            channels=channel.channels or None,
            limits=_limits(layers, channel) if normalisation == "shown" else None,
            coarse=_coarse(layers),
        )

    @property
    def ndim(self) -> int:
        """Number of axes, D."""
        return len(self.shape)

    def reader(self) -> PlaneReader:
        """Reads any plane by its key, on any thread and without the layer."""
        return self._reader

    def plane(self, key: PlaneKey) -> Plane:
        """Read one plane.

        Raises
        ------
        PlaneError
            If there is no such plane, or its pixels cannot be read.
        """
        return self._reader(key)

    def key_at(self, dims: Dims) -> PlaneKey:
        """The plane at napari's sliders.

        Parameters
        ----------
        dims : Dims
            The viewer's; its displayed axes, point and units are used.

        Returns
        -------
        PlaneKey

        Raises
        ------
        PlaneError
            If what is shown is not a plane of this image; says what to do.
        """
        name, ndim = self.layer.name, self.layer.ndim
        ahead = dims.ndim - ndim
        shown = sorted(axis - ahead for axis in dims.displayed if axis >= ahead)
        if len(shown) != 2:
            raise PlaneError(
                f"{name} is not seen from above. Roll the axes (Ctrl+E) until two of its own are "
                "shown."
            )
        if self.channel.axis in shown:
            raise PlaneError(
                f"Axis {self.channel.axis} of {name} holds channels but is shown as rows or "
                "columns. Roll the axes (Ctrl+E), or choose other channels."
            )
        matrix = np.linalg.inv(matrix_of(self.layer)[:ndim, :ndim])
        held = [axis for axis in range(ndim) if axis not in shown]
        largest = np.abs(matrix).max()
        if np.abs(matrix[np.ix_(held, shown)]).max(initial=0) > 1e-6 * largest:
            raise PlaneError(
                f"{name} is turned or sheared out of the view, so that no slice of it is shown. "
                "Roll the axes (Ctrl+E), or take its rotation away."
            )
        point = np.array(dims.point[-ndim:], np.float64) * unit_factors(dims, self.layer)
        data = np.round(self.layer.world_to_data(point)).astype(int)
        key = tuple(
            None if axis in shown else 0 if axis == self.channel.axis else int(data[axis])
            for axis in self._axes
        )
        self._reader.check(key)
        return key

    def shown_axes(self, key: PlaneKey) -> tuple[int, int]:
        """Axes of the layer that a plane spans."""
        y, x = plane_axes(key)
        return self._axes[y], self._axes[x]

    def point_of(self, key: PlaneKey) -> tuple[float, ...]:
        """World position of a plane's middle, one number for each axis of the layer.

        Parameters
        ----------
        key : PlaneKey
        """
        data = np.zeros(self.layer.ndim)
        if self.channel.axis is not None:
            data[self.channel.axis] = self.channel.channels[0]
        for axis, held, length in zip(self._axes, key, self.shape, strict=True):
            if axis != self.channel.axis:
                data[axis] = (length - 1) / 2 if held is None else held
        return tuple(float(value) for value in self.layer.data_to_world(data))

    def plane_to_data(self, key: PlaneKey, yx: ArrayLike) -> NDArray[np.float64]:
        """Positions in a plane as positions in the data.

        Parameters
        ----------
        key : PlaneKey
        yx : array_like, shape (N, 2)

        Returns
        -------
        ndarray, shape (N, D), float64
        """
        yx = np.asarray(yx, np.float64).reshape(-1, 2)
        data = np.empty((len(yx), self.ndim))
        data[:] = [0 if held is None else held for held in key]
        data[:, plane_axes(key)] = yx
        return data

    def data_to_plane(self, key: PlaneKey, data: ArrayLike) -> NDArray[np.float64]:
        """Positions in the data as positions in a plane.

        Parameters
        ----------
        key : PlaneKey
        data : array_like, shape (N, D)

        Returns
        -------
        ndarray, shape (N, 2), float64
            (y, x); the distance to the plane is left out.
        """
        return np.asarray(data, np.float64).reshape(-1, self.ndim)[:, plane_axes(key)]

    def transform(self) -> dict[str, Any]:
        """Where new layers of these D axes belong, for their constructors.

        Returns
        -------
        dict
            ``scale, translate, rotate, shear, affine, units, axis_labels`` of the layer. Where an
            axis of channels has become one of length 1, it is as wide as all of them, so that what
            lies in it is shown with each channel.
        """
        layer, axes = self.layer, list(self._axes)
        affine, own = layer.affine.affine_matrix, own_matrix(layer)
        if self.channel.axis in axes:
            own[:, self.channel.axis] *= 2 * _full(layer).shape[self.channel.axis] + 1
        scale, rotate, shear = parts_of(own[np.ix_(axes, axes)])
        return {
            "scale": scale,
            "translate": own[axes, -1],
            "rotate": rotate,
            "shear": shear,
            "affine": affine[np.ix_([*axes, -1], [*axes, -1])],
            "units": tuple(layer.units[axis] for axis in axes),
            "axis_labels": tuple(layer.axis_labels[axis] for axis in axes),
        }

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distance of two pixels along each of the D axes, in `unit` where it is a length."""
        matrix = self.layer.affine.affine_matrix @ own_matrix(self.layer)
        lengths = np.linalg.norm(matrix[:-1, :-1], axis=0)
        units = self.layer.units
        return tuple(
            float(lengths[axis]) * unit_factor(units[axis], units[-1]) for axis in self._axes
        )

    def spacing_um(self, axes: tuple[int, int, int]) -> dict[str, float]:
        """Micrometres a pixel along three of the D axes, called Z, Y and X; empty where unknown."""
        registry = pint.get_application_registry()
        one = unit_factor(self.layer.units[-1], registry.Unit("micrometer"))
        if registry.Unit("micrometer").dimensionality != self.layer.units[-1].dimensionality:
            return {}
        return {k: self.spacing[axis] * one for k, axis in zip("ZYX", axes, strict=True)}

    @property
    def unit(self) -> str:
        """Unit of the last axis, such as ``"micrometer"``; ``"pixel"`` where nobody said."""
        return str(self.layer.units[-1])


def open_layer(
    layer: Image,
    channel: ChannelChoice | None = None,
    normalisation: Literal["stack", "shown"] = "stack",
) -> LayerImage:
    """See an image layer as planes, without reading its pixels.

    Parameters
    ----------
    layer : Image
        2D or more; numpy, dask or zarr, RGB, multiscale.
    channel : ChannelChoice, optional
        One of `channel_choices`; the usual one when left out.
    normalisation : {"stack", "shown"}
        Scale pixels to 8 bits as estimated over the whole layer, or by the layer's contrast limits.

    Returns
    -------
    LayerImage
    """
    return LayerImage(layer, channel or next(_own_choices(layer)), normalisation)


def displayed_key(viewer: ViewerModel, image: LayerImage) -> PlaneKey:
    """The plane of an image that a viewer shows.

    Parameters
    ----------
    viewer : ViewerModel
    image : LayerImage

    Returns
    -------
    PlaneKey

    Raises
    ------
    PlaneError
        In 3D view, and where two other axes or no slice of the image are shown; says what to do.
    """
    if viewer.dims.ndisplay != 2:
        raise PlaneError(
            "Clicks and words work in one slice at a time. Leave the 3D view (Ctrl+Y)."
        )
    return image.key_at(viewer.dims)


def _full(layer: Layer) -> Any:
    """The layer's data at full resolution."""
    return layer.data[0] if getattr(layer, "multiscale", False) else layer.data


def _coarse(layers: Sequence[Image]) -> tuple[Any, ...]:
    """The finest level of a pyramid whose planes are small, if the full one's are not."""
    first = layers[0]
    if not first.multiscale or any(len(one.data) != len(first.data) for one in layers):
        return ()
    sizes = [np.prod(sorted(level.shape)[-2:]) for level in first.data]
    level = next((k for k, size in enumerate(sizes) if size <= _COARSE_PIXELS), len(sizes) - 1)
    return tuple(one.data[level] for one in layers)


def _limits(
    layers: Sequence[Image], channel: ChannelChoice
) -> tuple[tuple[float, float], ...] | None:
    """Contrast limits as napari shows the channels; colours have none."""
    if any(one.rgb for one in layers):
        return None
    pairs = [(float(one.contrast_limits[0]), float(one.contrast_limits[1])) for one in layers]
    return tuple(pairs) if channel.layers else (pairs[0],) * max(1, len(channel.channels))


def _axis_name(layer: Layer, axis: int) -> str:
    """Its label, or its number where napari only made one up."""
    name = str(layer.axis_labels[axis])
    return str(axis) if name == str(axis - layer.ndim) else name
