"""Zarr arrays and OME-Zarr images (0.1 to 0.5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .._axes import LETTERS
from ..errors import PlaneError
from .base import MICROMETRES, ArraySource, Source, check_level, decoding, only_level_0

__all__ = ["open_group", "open_zarr"]


def open_zarr(path: Path, level: int) -> Source:
    import zarr

    markers = (".zarray", ".zgroup", "zarr.json")
    if not any((path / marker).exists() for marker in markers):
        raise PlaneError(
            f"{path} is a folder, not an image: it has no Zarr metadata. Give an image file in it, "
            "or the Zarr folder itself."
        )
    name = path.stem.removesuffix(".ome")
    with decoding(path):
        node = zarr.open(path, mode="r")
    if hasattr(node, "array_keys"):
        return open_group(node, name, level)
    only_level_0(level, f"{path}, a single Zarr array")
    return ArraySource(node, name, _dimension_letters(node))


def open_group(group: Any, name: str, level: int) -> Source:
    """Open a level of an OME-Zarr image (0.1 to 0.5), or the only array of a plain group."""
    with decoding(name):
        attributes = dict(group.attrs)
        attributes = {**attributes, **attributes.get("ome", {})}
        if "multiscales" not in attributes and "bioformats2raw.layout" in attributes:
            return open_group(group["0"], name, level)
        if "multiscales" in attributes:
            return _open_multiscale(group, attributes["multiscales"][0], name, level)
        arrays = sorted(group.array_keys())
        if len(arrays) == 1:
            only_level_0(level, f"{name}, a single Zarr array")
            return ArraySource(group[arrays[0]], name, _dimension_letters(group[arrays[0]]))
        inside = ", ".join([*arrays, *sorted(group.group_keys())][:8]) or "nothing"
    raise PlaneError(
        f"{name} is a Zarr group without an OME-Zarr image; it holds {inside}. Give the "
        "path of one array or image inside it."
    )


def _open_multiscale(group: Any, scales: dict[str, Any], name: str, level: int) -> Source:
    datasets = scales["datasets"]
    check_level(level, len(datasets), name)
    path = datasets[level]["path"]
    if path not in group:
        raise PlaneError(
            f"{name} is incomplete: its array {path} is missing. Copy or save it again."
        )
    array = group[path]
    # Versions before 0.3 name no axes: they are always these five.
    axes = [
        axis if isinstance(axis, dict) else {"name": axis} for axis in scales.get("axes", "tczyx")
    ]
    letters = "".join(str(axis["name"])[:1].upper() for axis in axes)
    factors = np.ones(len(axes))
    for transformation in (
        *datasets[level].get("coordinateTransformations", ()),
        *scales.get("coordinateTransformations", ()),
    ):
        if transformation.get("type") == "scale":
            factors = factors * np.asarray(transformation["scale"], dtype=float)
    spacing = {
        letter: float(factor) * MICROMETRES[axis["unit"]]
        for letter, axis, factor in zip(letters, axes, factors, strict=True)
        if letter in "ZYX" and axis.get("unit") in MICROMETRES
    }
    return ArraySource(array, name, letters, spacing or None)


def _dimension_letters(array: Any) -> str | None:
    """Read the dimension names of a Zarr array, if they are letters we know."""
    names = getattr(array.metadata, "dimension_names", None)
    names = names or array.attrs.get("_ARRAY_DIMENSIONS") or ()
    letters = "".join(str(name).upper() for name in names)
    known = len(letters) == len(array.shape) and set(letters) <= set(LETTERS)
    return letters if known else None
