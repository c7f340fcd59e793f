"""What the user asks for in one plane: a word, points, boxes, a mask; in data pixels (y, x)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import PromptError

__all__ = [
    "MASK_LOGIT",
    "BoxPrompt",
    "PointPrompt",
    "Prompts",
    "parse_box",
    "parse_point",
]

ArrayT = TypeVar("ArrayT", bound=NDArray[Any])

#: Logit that stands for "certainly inside" in a mask prompt; its negative for "certainly outside".
MASK_LOGIT = 10.0


@dataclass(frozen=True, eq=False, init=False)
class Prompts:
    """Everything asked about one plane, checked and frozen.

    Coordinates are data pixels in the order (y, x), with pixel centres at integers: the centre of
    the first pixel is (0, 0) and a plane of H x W pixels spans [-0.5, H - 0.5] x [-0.5, W - 0.5].
    Boxes count whole pixels instead, half open: [y0, y1) x [x0, x1), so the tight box of a mask is
    (min, max + 1).

    Parameters
    ----------
    text : str, optional
        The word for the concept, for example ``"nuclei"``. Outer blanks are dropped.
    points : array_like, shape (N, 2), optional
        Clicks as (y, x).
    labels : array_like, shape (N,), optional
        1 for a click on the object, 0 for a click beside it; all 1 when left out.
    boxes : array_like, shape (M, 4), optional
        Boxes as (y0, x0, y1, x1), half open, none of them empty.
    mask : array_like, shape (H, W), optional
        A mask of the whole plane: bool, or float logits (positive inside). Bool becomes
        +/- ``MASK_LOGIT``.

    Attributes
    ----------
    text : str or None
    points : ndarray, shape (N, 2), float64, read-only
    labels : ndarray, shape (N,), int64, read-only
    boxes : ndarray, shape (M, 4), float64, read-only
    mask : ndarray, shape (H, W), float32, read-only, or None

    Raises
    ------
    PromptError
        If the text is blank, a shape or label is wrong, a value is not finite, or a box is empty.

    Examples
    --------
    >>> prompts = Prompts("nuclei", points=[(12, 40), (30, 8)], labels=[1, 0])
    >>> prompts.has_object
    True
    """

    text: str | None
    points: NDArray[np.float64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]
    mask: NDArray[np.float32] | None

    def __init__(
        self,
        text: str | None = None,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        boxes: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> None:
        checked_points = _rows(points, 2, "points", "(y, x)")
        values = {
            "text": _word(text),
            "points": _read_only(checked_points),
            "labels": _read_only(_labels(labels, len(checked_points))),
            "boxes": _read_only(_boxes(boxes)),
            "mask": None if mask is None else _read_only(_logits(mask)),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def has_object(self) -> bool:
        """Whether a point, box or mask points at one object."""
        return len(self.points) > 0 or len(self.boxes) > 0 or self.mask is not None

    def shifted(self, dy: float, dx: float) -> Prompts:
        """Return the same prompts moved by (dy, dx) data pixels.

        A mask keeps its shape and is moved by whole pixels (dy and dx rounded); what enters at its
        border counts as outside.

        Parameters
        ----------
        dy, dx : float
            Added to every y and x.

        Returns
        -------
        Prompts
        """
        return Prompts(
            text=self.text,
            points=self.points + np.array([dy, dx]),
            labels=self.labels,
            boxes=self.boxes + np.array([dy, dx, dy, dx]),
            mask=None if self.mask is None else _moved(self.mask, round(dy), round(dx)),
        )

    def check_inside(self, shape: tuple[int, int]) -> None:
        """Refuse prompts that do not belong to a plane of this shape.

        Parameters
        ----------
        shape : (int, int)
            Height and width of the plane in pixels.

        Raises
        ------
        PromptError
            If a point lies outside the plane, a box misses it or a mask has another shape.
        """
        height, width = shape
        for y, x in self.points:
            if not (-0.5 <= y <= height - 0.5 and -0.5 <= x <= width - 0.5):
                raise PromptError(
                    f"The point y={y:g}, x={x:g} is outside the image of {height} x {width} pixels "
                    f"(height x width). Give y from 0 to {height - 1} and x from 0 to "
                    f"{width - 1}; y comes first."
                )
        for y0, x0, y1, x1 in self.boxes:
            if y1 <= 0 or x1 <= 0 or y0 >= height or x0 >= width:
                raise PromptError(
                    f"The box y={y0:g}..{y1:g}, x={x0:g}..{x1:g} misses the image, which has "
                    f"{height} x {width} pixels (height x width). Give a box as Y0,X0,Y1,X1 that "
                    "covers part of it."
                )
        if self.mask is not None and self.mask.shape != (height, width):
            raise PromptError(
                f"The mask prompt has {self.mask.shape[0]} x {self.mask.shape[1]} pixels but the "
                f"image has {height} x {width}. Give a mask of the image's own shape."
            )


class PointPrompt(NamedTuple):
    """A point as typed on the command line: plane number (or None), (y, x), 1 or 0."""

    z: int | None
    y: float
    x: float
    label: int


class BoxPrompt(NamedTuple):
    """A box as typed on the command line: plane number (or None), half open (y0, x0, y1, x1)."""

    z: int | None
    y0: float
    x0: float
    y1: float
    x1: float


def parse_point(text: str) -> PointPrompt:
    """Read ``[Z,]Y,X[,-]``; a trailing ``-`` makes the point negative (``+`` positive).

    Parameters
    ----------
    text : str
        For example ``"120,88"``, ``"12,120,88"`` or ``"12,120,88,-"``.

    Returns
    -------
    PointPrompt

    Raises
    ------
    PromptError
        If the text is anything else.
    """
    parts = [part.strip() for part in text.split(",")]
    label = 1
    if parts[-1] in ("+", "-"):
        label = int(parts.pop() == "+")
    z, numbers = _numbers(
        parts, 2, f"The point {text!r}", "Y,X or Z,Y,X, then ,- if it is negative"
    )
    return PointPrompt(z, numbers[0], numbers[1], label)


def parse_box(text: str) -> BoxPrompt:
    """Read ``[Z,]Y0,X0,Y1,X1``, the half-open box [Y0, Y1) x [X0, X1).

    Parameters
    ----------
    text : str
        For example ``"10,20,42,60"`` or ``"3,10,20,42,60"``.

    Returns
    -------
    BoxPrompt

    Raises
    ------
    PromptError
        If the text is anything else or the box is empty.
    """
    parts = [part.strip() for part in text.split(",")]
    z, numbers = _numbers(parts, 4, f"The box {text!r}", "Y0,X0,Y1,X1 or Z,Y0,X0,Y1,X1")
    _refuse_empty(np.array([numbers]))
    return BoxPrompt(z, *numbers)


def _numbers(parts: list[str], count: int, what: str, form: str) -> tuple[int | None, list[float]]:
    """Split ``count`` numbers, with or without a plane number before them."""
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        raise PromptError(f"{what} is not made of numbers. Write it as {form}.") from None
    if len(numbers) not in (count, count + 1) or not all(map(math.isfinite, numbers)):
        raise PromptError(
            f"{what} should have {count} numbers, or {count + 1} with a plane. Write it as {form}."
        )
    if len(numbers) == count:
        return None, numbers
    z = numbers[0]
    if z < 0 or z != int(z):
        raise PromptError(f"{what} has the plane {parts[0]}. Give Z as a whole number from 0 on.")
    return int(z), numbers[1:]


def _word(text: str | None) -> str | None:
    if text is None:
        return None
    if not isinstance(text, str) or not text.strip():
        raise PromptError(f"The word {text!r} is empty: give a word, or leave it out.")
    return text.strip()


def _rows(values: ArrayLike | None, width: int, name: str, form: str) -> NDArray[np.float64]:
    """Copy to (N, width) float64, finite; nothing at all becomes zero rows."""
    if values is None:
        return np.zeros((0, width))
    try:
        rows = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise PromptError(f"The {name} are not numbers. Give rows of {form}.") from None
    if rows.size == 0:
        return np.zeros((0, width))
    if rows.ndim != 2 or rows.shape[1] != width:
        raise PromptError(
            f"The {name} have the shape {rows.shape}. Give one row of {form} for each."
        )
    if not np.isfinite(rows).all():
        raise PromptError(f"The {name} contain NaN or infinity. Give finite pixel coordinates.")
    return rows


def _labels(values: ArrayLike | None, count: int) -> NDArray[np.int64]:
    if values is None:
        return np.ones(count, dtype=np.int64)
    labels = np.asarray(values)
    if labels.shape != (count,):
        raise PromptError(
            f"There are {count} points but the labels have the shape {labels.shape}. "
            "Give one label, 1 or 0, for each point."
        )
    wrong = [label for label in labels.tolist() if label not in (0, 1)]
    if wrong:
        raise PromptError(
            f"The point label {wrong[0]!r} is unknown. Give 1 for a point on the object, 0 for one "
            "beside it."
        )
    return labels.astype(np.int64)


def _boxes(values: ArrayLike | None) -> NDArray[np.float64]:
    boxes = _rows(values, 4, "boxes", "(y0, x0, y1, x1)")
    _refuse_empty(boxes)
    return boxes


def _refuse_empty(boxes: NDArray[np.float64]) -> None:
    for y0, x0, y1, x1 in boxes:
        if y1 <= y0 or x1 <= x0:
            raise PromptError(
                f"The box {y0:g},{x0:g},{y1:g},{x1:g} is empty. Give Y0,X0,Y1,X1 with Y1 above Y0 "
                "and X1 above X0; the last row and column are not part of the box."
            )


def _logits(values: ArrayLike) -> NDArray[np.float32]:
    mask = np.asarray(values)
    if mask.ndim != 2 or mask.size == 0:
        raise PromptError(
            f"The mask prompt has the shape {mask.shape}. Give one plane, (height, width)."
        )
    if mask.dtype == np.bool_:
        return np.where(mask, np.float32(MASK_LOGIT), np.float32(-MASK_LOGIT))
    if not np.issubdtype(mask.dtype, np.floating):
        raise PromptError(
            f"The mask prompt has the type {mask.dtype}. Give bool (labels == 3) or float logits."
        )
    if not np.isfinite(mask).all():
        raise PromptError("The mask prompt contains NaN or infinity. Give finite logits.")
    return mask.astype(np.float32)


def _moved(mask: NDArray[np.float32], dy: int, dx: int) -> NDArray[np.float32]:
    """Move a mask inside its own shape; what enters is certainly outside."""
    height, width = mask.shape
    moved = np.full_like(mask, -MASK_LOGIT)
    if abs(dy) < height and abs(dx) < width:
        moved[max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)] = mask[
            max(-dy, 0) : height - max(dy, 0), max(-dx, 0) : width - max(dx, 0)
        ]
    return moved


def _read_only(array: ArrayT) -> ArrayT:
    array.setflags(write=False)
    return array
