"""Parts of planes that are too large to be read for one click."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from napari_clipsam.prompts import Prompts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_clipsam.inference.requests import ObjectMask, Prediction
    from napari_clipsam.session.objects import Box

__all__ = ["answer_on_plane", "inside", "is_large", "mask_inside", "window_for"]

# Planes of more pixels are read in part for an object.
_LARGE = 1 << 25
# Windows begin at multiples of a step, so that neighbouring clicks share one; pixels.
_SIDE, _STEP, _ROOM = 4096, 1024, 512


def is_large(shape: tuple[int, int]) -> bool:
    """Whether a plane is too large to be read for one click."""
    return shape[0] * shape[1] > _LARGE


def window_for(shape: tuple[int, int], prompts: Prompts, previous: ObjectMask | None) -> Box | None:
    """The half-open box of a large plane that holds an object's prompts, with room around them.

    None where the plane is not large, or the prompts lie too far apart.
    """
    if not is_large(shape):
        return None
    corners = [prompts.points, prompts.boxes[:, :2], prompts.boxes[:, 2:]]
    if previous is not None:
        corners.append(np.array(previous.box, float).reshape(2, 2))
    if prompts.mask is not None:
        rows, cols = (np.flatnonzero((prompts.mask > 0).any(axis=axis)) for axis in (1, 0))
        if len(rows):
            corners.append(np.array([[rows[0], cols[0]], [rows[-1], cols[-1]]], float))
    marks = np.concatenate(corners)
    if not len(marks):
        return None
    low, high = marks.min(axis=0), marks.max(axis=0)
    sides = [_along(n, a, b) for n, a, b in zip(shape, low, high, strict=True)]
    if any(side is None for side in sides):
        return None
    (y0, y1), (x0, x1) = (side for side in sides if side is not None)
    return y0, x0, y1, x1


def inside(prompts: Prompts, window: Box) -> Prompts:
    """Prompts as a window's own pixels count them."""
    y0, x0, y1, x1 = window
    mask = None if prompts.mask is None else prompts.mask[y0:y1, x0:x1]
    return Prompts(
        prompts.text,
        prompts.points - (y0, x0),
        prompts.labels,
        prompts.boxes - (y0, x0, y0, x0),
        mask,
    )


def mask_inside(one: ObjectMask, window: Box) -> ObjectMask:
    """A mask that a window shows, as the window's own pixels count it.

    Logits that belong to more than the window shows are left out.
    """
    frame = one.frame
    if frame is not None:
        (y0, x0), (height, width) = frame.origin, frame.shape
        y1, x1 = y0 + height, x0 + width
        if y0 < window[0] or x0 < window[1] or y1 > window[2] or x1 > window[3]:
            one = replace(one, logits=None, frame=None)
    return _moved(one, -window[0], -window[1])


def answer_on_plane(answer: Prediction, window: Box, shape: tuple[int, int]) -> Prediction:
    """An answer about a window as one about its plane."""

    def to_plane(masks: Sequence[ObjectMask]) -> tuple[ObjectMask, ...]:
        return tuple(_moved(one, window[0], window[1]) for one in masks)

    return replace(
        answer,
        shape=shape,
        objects=to_plane(answer.objects),
        alternatives=to_plane(answer.alternatives),
    )


def _moved(one: ObjectMask, dy: int, dx: int) -> ObjectMask:
    """A mask moved by whole pixels."""
    y0, x0, y1, x1 = one.box
    box = (y0 + dy, x0 + dx, y1 + dy, x1 + dx) if one.area else one.box
    frame = one.frame
    if frame is not None:
        frame = replace(frame, origin=(frame.origin[0] + dy, frame.origin[1] + dx))
    return replace(one, box=box, frame=frame)


def _along(length: int, low: float, high: float) -> tuple[int, int] | None:
    """First and past-the-last pixel of a window along one axis."""
    side = min(_SIDE, length)
    start = round(((low + high) / 2 - side / 2) / _STEP) * _STEP
    start = min(max(start, 0), length - side)
    fits_low = low - _ROOM >= start or start == 0
    fits_high = high + _ROOM <= start + side or start + side == length
    return (start, start + side) if fits_low and fits_high else None
