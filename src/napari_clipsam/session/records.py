"""Values of a session as rows of the journal and back; JSON and packed arrays, never pickles."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np

from napari_clipsam.errors import JournalError
from napari_clipsam.inference.requests import ObjectMask
from napari_clipsam.prompts import MASK_LOGIT, Prompts
from napari_clipsam.session.history import LabelPatch
from napari_clipsam.session.objects import Box, PlaneKey, SessionObject, plane_axes
from napari_clipsam.session.packing import (
    pack,
    pack_bits,
    unpack,
    unpack_bits,
    unpack_changes,
)

__all__ = [
    "ImageInfo",
    "LayerInfo",
    "box_of",
    "ids_body",
    "image_body",
    "image_of",
    "layer_body",
    "layer_of",
    "mask_of",
    "mask_row",
    "object_body",
    "object_of",
    "of_ids",
    "patch_of",
    "patch_rows",
    "prompts_of",
    "prompts_row",
]

ValueT = TypeVar("ValueT")
Row = tuple[Any, ...]

_TARGETS = ("concept", "object", "instances")
_TILE = 2048  # pixels: larger patches are recorded in parts, so that no blob becomes huge


@dataclass(frozen=True)
class ImageInfo:
    """The image that a session is about.

    Attributes
    ----------
    name : str
        Of the layer.
    shape : tuple of int
        Without colours and channels.
    scale : tuple of float
        Size of a pixel along each axis, in `unit`; empty when unknown.
    unit : str
    source : str
        Where the image was read from, "" when unknown.
    fingerprint : str
        Tells images of one shape apart, "" when unknown.
    """

    name: str
    shape: tuple[int, ...]
    scale: tuple[float, ...] = ()
    unit: str = "pixel"
    source: str = ""
    fingerprint: str = ""

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse an image of another shape.

        Raises
        ------
        JournalError
        """
        if tuple(shape) != self.shape:
            recorded, given = (" x ".join(map(str, s)) for s in (self.shape, shape))
            raise JournalError(
                f"The session was recorded on {self.name}, {recorded} pixels, but this image has "
                f"{given}. Open the image it belongs to."
            )


@dataclass(frozen=True)
class LayerInfo:
    """A labels layer: name, shape, type, and what places it in the world (JSON values)."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    transform: Mapping[str, Any]


def image_body(info: ImageInfo) -> str:
    """An image as JSON."""
    return json.dumps(asdict(info))


def image_of(body: str) -> ImageInfo:
    """Undo `image_body`."""
    values = json.loads(body)
    values["shape"] = tuple(map(int, values["shape"]))
    values["scale"] = tuple(map(float, values["scale"]))
    return ImageInfo(**values)


def layer_body(info: LayerInfo) -> str:
    """A labels layer as JSON.

    Raises
    ------
    TypeError
        The transform is not made of JSON values.
    """
    return json.dumps([info.name, list(info.shape), info.dtype.str, dict(info.transform)])


def layer_of(body: str) -> LayerInfo:
    """Undo `layer_body`."""
    name, shape, dtype, transform = json.loads(body)
    found = np.dtype(str(dtype))
    if found.kind not in "iu" or not 2 <= len(shape) <= 32 or min(map(int, shape)) < 1:
        raise ValueError("not a labels layer")
    return LayerInfo(str(name), tuple(map(int, shape)), found, dict(transform))


def mask_row(mask: ObjectMask) -> Row:
    """Box, score and pixels. Logits are left out: they can be had again, and are large."""
    return _box_body(mask.box), float(mask.score), pack_bits(mask.mask)


def mask_of(box: str, score: float, bits: bytes) -> ObjectMask:
    """Undo `mask_row`."""
    found = box_of(box)
    shape = found[2] - found[0], found[3] - found[1]
    return ObjectMask(found, unpack_bits(bits, shape), float(score))


def prompts_row(prompts: Prompts) -> Row:
    """Word and coordinates as JSON; the kind, shape and values of a mask prompt."""
    body = {
        "text": prompts.text,
        "points": prompts.points.tolist(),
        "labels": prompts.labels.tolist(),
        "boxes": prompts.boxes.tolist(),
    }
    mask = prompts.mask
    if mask is None:
        return json.dumps(body), "", "[]", b""
    is_bool = bool((np.abs(mask) == MASK_LOGIT).all())
    values = pack_bits(mask > 0) if is_bool else pack(mask)
    return json.dumps(body), "bool" if is_bool else "float32", json.dumps(mask.shape), values


def prompts_of(body: str, kind: str, shape: str, mask: bytes) -> Prompts:
    """Undo `prompts_row`."""
    size = _positive(shape)
    values = None
    if kind == "bool":
        values = unpack_bits(mask, size)
    elif kind == "float32":
        values = unpack(mask, size, np.dtype(np.float32))
    return Prompts(**json.loads(body), mask=values)


def object_body(
    one: SessionObject, prompts: Mapping[Prompts, int], masks: Mapping[ObjectMask, int]
) -> str:
    """An object as JSON, its prompts and masks by their numbers."""
    return json.dumps(
        {
            "key": one.key,
            "label": one.label,
            "image": one.image,
            "labels": one.labels,
            "word": one.word,
            "target": one.target,
            "model": one.model,
            "adapter": one.adapter,
            "clip": one.clip,
            "created": one.created,
            "prompts": [[list(plane), prompts[asked]] for plane, asked in one.prompts.items()],
            "masks": [[list(plane), masks[mask]] for plane, mask in one.masks.items()],
        }
    )


def object_of(
    body: str, prompts: Mapping[int, Prompts], masks: Mapping[int, ObjectMask]
) -> SessionObject:
    """Undo `object_body`."""
    values = json.loads(body)
    values["prompts"] = {_plane(key): prompts[i] for key, i in values["prompts"]}
    values["masks"] = {_plane(key): masks[i] for key, i in values["masks"]}
    if values["target"] not in _TARGETS or not isinstance(values["label"], int):
        raise ValueError("not an object")
    return SessionObject(**values)


def ids_body(ids: list[int]) -> str:
    """Numbers in order as JSON runs [first, count]: neighbours mostly follow each other."""
    runs: list[list[int]] = []
    for number in ids:
        if runs and number == runs[-1][0] + runs[-1][1]:
            runs[-1][1] += 1
        else:
            runs.append([number, 1])
    return json.dumps(runs)


def of_ids(body: str, known: Mapping[int, ValueT]) -> list[ValueT]:
    """Undo `ids_body`, and look the numbers up."""
    runs = json.loads(body)
    return [known[i] for first, count in runs for i in range(first, first + count)]


def patch_rows(patch: LabelPatch) -> Iterator[Row]:
    """Layer, plane, box and changed pixels; a large patch in parts."""
    plane = json.dumps([None if held is None else int(held) for held in patch.plane])
    for box, part in _parts(patch):
        yield patch.layer, plane, _box_body(box), part.packed


def patch_of(layer: LayerInfo, plane: str, box: str, data: bytes) -> LabelPatch:
    """Undo `patch_rows` for one part, which must lie inside its layer."""
    key, found = _plane(json.loads(plane)), box_of(box)
    axes = plane_axes(key)
    height, width = (layer.shape[axis] for axis in axes)
    held = [(k, n) for k, n in zip(key, layer.shape, strict=True) if k is not None]
    if found[2] > height or found[3] > width or not all(0 <= k < n for k, n in held):
        raise ValueError("outside the layer")
    shape = found[2] - found[0], found[3] - found[1]
    return LabelPatch(layer.name, key, found, *unpack_changes(data, shape, layer.dtype))


def box_of(body: str) -> Box:
    """A half-open box of a plane from JSON."""
    y0, x0, y1, x1 = map(int, json.loads(body))
    if not (0 <= y0 <= y1 and 0 <= x0 <= x1):
        raise ValueError("not a box")
    return y0, x0, y1, x1


def _box_body(box: Box) -> str:
    return json.dumps([int(value) for value in box])


def _parts(patch: LabelPatch) -> Iterator[tuple[Box, LabelPatch]]:
    height, width = patch.shape
    if max(height, width) <= _TILE:
        yield patch.box, patch
        return
    y0, x0, *_ = patch.box
    for y in range(0, height, _TILE):
        for x in range(0, width, _TILE):
            before, after = (a[y : y + _TILE, x : x + _TILE] for a in (patch.before, patch.after))
            box = (y0 + y, x0 + x, y0 + y + before.shape[0], x0 + x + before.shape[1])
            if (before != after).any():
                yield box, LabelPatch(patch.layer, patch.plane, box, before, after)


def _plane(values: list[Any]) -> PlaneKey:
    key = tuple(None if held is None else int(held) for held in values)
    plane_axes(key)
    return key


def _positive(body: str) -> tuple[int, ...]:
    shape = tuple(map(int, json.loads(body)))
    if min(shape, default=1) < 1:
        raise ValueError("not a shape")
    return shape
