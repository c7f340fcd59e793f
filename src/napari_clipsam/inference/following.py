"""One step from slice to slice: what to ask next, and whether the answer is still the object."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from napari_clipsam.errors import ConfigError
from napari_clipsam.inference.masks import cut_to_box
from napari_clipsam.inference.requests import ObjectMask
from napari_clipsam.prompts import Prompts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_clipsam.planes import Plane

__all__ = [
    "Contrast",
    "check_spacing",
    "contrast_of",
    "largest_piece",
    "meant",
    "next_prompts",
    "overlap",
    "overlap_of_leaning",
    "touching",
]

_CONNECTED = np.ones((3, 3))
# Pixels left out around a mask, whose edge is blurred, and those beyond that count as around it.
_GAP, _RING = 1, 3
# Share of the largest part below which one is a speck.
_SPECK = 0.25
# Least contrast, in standard deviations of the pixels, that is more than chance.
_TELLING = 0.5


@dataclass(frozen=True, eq=False)
class Contrast:
    """How an object stands out from what surrounds it.

    ``step`` (3,) is the mean colour inside less that around, in 0..255; ``spread`` the standard
    deviation on either side.
    """

    step: NDArray[np.float64]
    spread: float

    @property
    def size(self) -> float:
        """Length of the colour step."""
        return float(np.linalg.norm(self.step))

    @property
    def tells(self) -> bool:
        """Whether the object differs from its surroundings by more than chance."""
        return self.size > _TELLING * self.spread

    def share(self, other: Contrast) -> float:
        """How much of this contrast another one has, in the same direction of colour."""
        return float(self.step @ other.step) / max(self.size**2, 1e-12)


def contrast_of(plane: Plane, one: ObjectMask) -> Contrast | None:
    """Contrast of an object in its slice; None where nothing surrounds it, or it is empty."""
    if not one.area:
        return None
    width = _GAP + _RING
    y0, x0 = (max(0, edge - width) for edge in one.box[:2])
    y1, x1 = (min(side, edge + width) for side, edge in zip(plane.shape, one.box[2:], strict=True))
    inside = np.zeros((y1 - y0, x1 - x0), bool)
    inside[one.box[0] - y0 : one.box[2] - y0, one.box[1] - x0 : one.box[3] - x0] = one.mask
    near, far = (ndimage.binary_dilation(inside, _CONNECTED, n) for n in (_GAP, width))
    colours = plane.rgb[y0:y1, x0:x1].astype(np.float64)
    own, around = colours[inside], colours[far & ~near]
    if not len(around):
        return None
    spread = math.sqrt((own.var(axis=0).sum() + around.var(axis=0).sum()) / 2)
    return Contrast(own.mean(axis=0) - around.mean(axis=0), spread)


def next_prompts(last: ObjectMask, lean: float) -> Prompts:
    """Box and innermost point of a mask; the box has room for outlines that move `lean` pixels."""
    y0, x0, y1, x1 = last.box
    room = min(lean, max(y1 - y0, x1 - x0) / 4)
    box = (y0 - room, x0 - room, y1 + room, x1 + room)
    return Prompts(points=[innermost(last)], boxes=[box])


def innermost(one: ObjectMask) -> tuple[int, int]:
    """The pixel (y, x) of a mask, which is not empty, that is farthest from its outline."""
    depth = ndimage.distance_transform_edt(np.pad(one.mask, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return one.box[0] + int(y), one.box[1] + int(x)


def touching(found: ObjectMask, last: ObjectMask) -> ObjectMask:
    """The parts of a mask that share pixels with the last one; all of them if none does."""
    parts, count = ndimage.label(found.mask, _CONNECTED)
    if count < 2:
        return found
    y, x = (max(b - a, 0) for a, b in zip(found.box[:2], last.box[:2], strict=True))
    both = found.inside(last.box) & last.inside(found.box)
    return _only(found, parts, np.unique(parts[y : y + both.shape[0], x : x + both.shape[1]][both]))


def meant(found: ObjectMask, prompts: Prompts | None) -> ObjectMask:
    """The parts of a prompted mask that were clicked; without such a click all but the specks."""
    parts, count = ndimage.label(found.mask, _CONNECTED)
    if count < 2:
        return found
    if prompts is not None:
        clicks = np.floor(prompts.points[prompts.labels == 1] + 0.5).astype(int) - found.box[:2]
        clicks = clicks[((clicks >= 0) & (clicks < parts.shape)).all(axis=1)]
        clicked = np.unique(parts[clicks[:, 0], clicks[:, 1]])
        if clicked.any():
            return _only(found, parts, clicked[clicked > 0])
    areas = np.bincount(parts.ravel())[1:]
    return _only(found, parts, np.flatnonzero(areas >= _SPECK * areas.max()) + 1)


def largest_piece(one: ObjectMask) -> ObjectMask:
    """A mask without what lies apart from its largest piece, such as specks."""
    parts, count = ndimage.label(one.mask, _CONNECTED)
    if count < 2:
        return one
    areas = np.bincount(parts.ravel())[1:]
    return _only(one, parts, np.array([1 + areas.argmax()]))


def _only(one: ObjectMask, parts: NDArray[np.int32], kept: NDArray[np.integer]) -> ObjectMask:
    """A mask of some of its parts; of all if none is named."""
    if not 0 < len(kept) < parts.max():
        return one
    box, mask = cut_to_box(np.isin(parts, kept), one.box[:2])
    return replace(one, box=box, mask=mask)


def overlap(a: ObjectMask, b: ObjectMask) -> float:
    """Intersection over union; 0 for two empty masks."""
    shared = a.shared(b)
    return shared / max(1, a.area + b.area - shared)


def overlap_of_leaning(area: int, lean: float) -> float:
    """Intersection over union of a disc and itself, moved by `lean` pixels."""
    half = lean / 2 / math.sqrt(area / math.pi)
    if half >= 1:
        return 0.0
    shared = 2 / math.pi * (math.acos(half) - half * math.sqrt(1 - half**2))
    return shared / (2 - shared)


def check_spacing(spacing: float) -> None:
    """Refuse a distance of two slices, in pixel sizes, that makes no sense.

    Raises
    ------
    ConfigError
    """
    if not (math.isfinite(spacing) and spacing > 0):
        raise ConfigError(f"A slice distance of {spacing:g} pixel sizes makes no sense. Give 1.")
