"""Where a layer lies: napari's data to world as matrices and units, and new layers put there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pint

if TYPE_CHECKING:
    from napari.components import Dims
    from napari.layers import Layer
    from numpy.typing import NDArray

__all__ = [
    "TRANSFORM",
    "matrix_of",
    "own_matrix",
    "parts_of",
    "place_layer",
    "unit_factor",
    "unit_factors",
]

#: What says where a layer lies; also the names of the events when it changes.
TRANSFORM = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")


def matrix_of(layer: Layer) -> NDArray[np.float64]:
    """Data to world, homogeneous.

    From napari's answers, not from its `scale` and `rotate`: these contradict each other where an
    axis is turned around.
    """
    corner = np.array(layer.data_to_world(np.zeros(layer.ndim)))
    matrix = np.eye(layer.ndim + 1)
    matrix[:-1, -1] = corner
    for axis, unit in enumerate(np.eye(layer.ndim)):
        matrix[:-1, axis] = layer.data_to_world(unit) - corner
    return matrix


def own_matrix(layer: Layer) -> NDArray[np.float64]:
    """Data to world without the layer's `affine`, homogeneous; to the last digit if upright."""
    if np.array_equal(layer.rotate, np.eye(layer.ndim)) and not np.any(layer.shear):
        matrix = np.diag([*layer.scale, 1.0])
        matrix[:-1, -1] = layer.translate
        return matrix
    return np.linalg.solve(layer.affine.affine_matrix, matrix_of(layer))


def parts_of(
    matrix: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Scale, rotation and shear (its upper triangle) of a matrix, as napari multiplies them."""
    above = np.triu_indices(len(matrix), 1)
    scale = np.diag(matrix)
    if np.allclose(matrix, np.diag(scale), rtol=0, atol=1e-12 * np.abs(matrix).max()):
        return scale.copy(), np.eye(len(matrix)), np.zeros(len(above[0]))
    rotate, upper = np.linalg.qr(matrix)
    signs = np.sign(np.diag(upper))
    rotate, upper = rotate * signs, upper * signs[:, None]
    scale = np.diag(upper).copy()
    return scale, rotate, (upper / scale)[above]


def place_layer(layer: Layer, transform: Mapping[str, Any]) -> None:
    """Move a layer to where a `LayerImage.transform` says.

    Parameters
    ----------
    layer : Layer
    transform : mapping of str to Any
    """
    # Each of these keeps what napari makes of the others; from an upright layer that is exact.
    layer.rotate, layer.shear = np.eye(layer.ndim), np.zeros(layer.ndim * (layer.ndim - 1) // 2)
    for name in ("scale", "shear", "rotate", "translate", "affine", "units", "axis_labels"):
        setattr(layer, name, transform[name])


def unit_factor(unit: pint.Unit, into: pint.Unit) -> float:
    """How many of one unit are in another; 1 where they measure different things."""
    registry = pint.get_application_registry()
    (a, base), (b, other) = registry.get_base_units(unit), registry.get_base_units(into)
    return float(a / b) if base == other else 1.0


def unit_factors(dims: Dims, layer: Layer) -> NDArray[np.float64]:
    """Layer units in a unit of the viewer, along the axes of the layer."""
    units = dims.units
    if units is None or len(units) < layer.ndim:
        return np.ones(layer.ndim)
    pairs = zip(units[-layer.ndim :], layer.units, strict=True)
    return np.array([unit_factor(unit, into) for unit, into in pairs])
