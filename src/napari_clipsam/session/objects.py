"""Objects with their prompts, scores and origin, and the state of a session as a frozen value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

from napari_clipsam.errors import PlaneError

if TYPE_CHECKING:
    from napari_clipsam.inference.requests import ObjectMask, Target
    from napari_clipsam.prompts import Prompts

__all__ = [
    "Box",
    "PlaneKey",
    "SessionObject",
    "SessionState",
    "at_number",
    "number_runs",
    "plane_axes",
    "slices_of",
]

#: Names one 2D plane of data with D axes (without colours and channels): an integer for each axis
#: that is held, None for exactly two, the plane's y and x in ascending order.
PlaneKey = tuple[int | None, ...]

#: Half-open (y0, x0, y1, x1) in data pixels of a plane.
Box = tuple[int, int, int, int]


def plane_axes(key: PlaneKey) -> tuple[int, int]:
    """The two axes that a plane spans.

    Parameters
    ----------
    key : PlaneKey

    Returns
    -------
    (int, int)
        Axis of y and axis of x, ascending.

    Raises
    ------
    PlaneError
        If not exactly two axes are left open.

    Examples
    --------
    >>> plane_axes((None, 40, None))
    (0, 2)
    """
    axes = [axis for axis, held in enumerate(key) if held is None]
    if len(axes) != 2:
        raise PlaneError(
            f"{key} is not a plane. Give None for exactly two axes, the plane's y and x."
        )
    return axes[0], axes[1]


def slices_of(key: PlaneKey, box: Box | None = None) -> tuple[int | slice, ...]:
    """Index a layer's data at a box of a plane; the result is 2D, (y, x).

    Parameters
    ----------
    key : PlaneKey
    box : (int, int, int, int), optional
        Half-open (y0, x0, y1, x1); the whole plane when left out.

    Returns
    -------
    tuple of int or slice
        One for each axis of the data.

    Raises
    ------
    PlaneError
        If the key is not a plane.

    Examples
    --------
    >>> slices_of((12, None, None), (0, 5, 2, 9))
    (12, slice(0, 2, None), slice(5, 9, None))
    """
    y_axis, x_axis = plane_axes(key)
    rows, cols = (slice(None),) * 2 if box is None else (slice(*box[::2]), slice(*box[1::2]))
    open_axes = {y_axis: rows, x_axis: cols}
    return tuple(open_axes[axis] if held is None else held for axis, held in enumerate(key))


def at_number(key: PlaneKey, axis: int, number: int) -> PlaneKey:
    """The plane of the same stack at another number along an axis."""
    return (*key[:axis], number, *key[axis + 1 :])


def number_runs(numbers: Iterable[int]) -> list[str]:
    """Rising numbers in words for people.

    Examples
    --------
    >>> number_runs([3, 7, 8, 9])
    ['3', '7-9']
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return [str(a) if a == b else f"{a}-{b}" for a, b in runs]


@dataclass(frozen=True, eq=False)
class SessionObject:
    """One object: what was asked for it, what was found, and by which model.

    Attributes
    ----------
    key : str
        Its name for life, a UUID in hex.
    label : int
        Its value in the labels layer; 0 while it is only a preview.
    image : str
        Name of the image layer.
    labels : str or None
        Name of the labels layer it is kept in.
    word : str or None
    target : {"concept", "object", "instances"}
    prompts : mapping of PlaneKey to Prompts
    masks : mapping of PlaneKey to ObjectMask
    model, adapter : str
    created : str
        ISO 8601, UTC.
    clip : str
        "" where it was not recorded, as by earlier versions.
    """

    key: str
    label: int
    image: str
    labels: str | None
    word: str | None
    target: Target
    prompts: Mapping[PlaneKey, Prompts]
    masks: Mapping[PlaneKey, ObjectMask]
    model: str
    adapter: str
    created: str
    clip: str = ""

    @property
    def score(self) -> float:
        """Mean quality of its masks, 0..1; 0 without any."""
        return sum(m.score for m in self.masks.values()) / max(1, len(self.masks))

    @property
    def weakest(self) -> PlaneKey:
        """The plane whose mask has the lowest score, the first of equals.

        Raises
        ------
        PlaneError
            If the object has no mask.
        """
        if not self.masks:
            raise PlaneError("This object lies in no slice yet. Click it in one.")
        return min(self.masks, key=lambda key: self.masks[key].score)

    @cached_property
    def pixels(self) -> int:
        """Pixels of all masks together."""
        return sum(mask.area for mask in self.masks.values())


@dataclass(frozen=True, eq=False)
class SessionState:
    """Everything a session holds at one moment.

    Attributes
    ----------
    objects : mapping of str to SessionObject
        Kept objects by key, oldest first.
    draft : tuple of SessionObject
        The preview: nothing, one object, or each that "every one" found.
    """

    objects: Mapping[str, SessionObject] = field(default_factory=lambda: MappingProxyType({}))
    draft: tuple[SessionObject, ...] = ()

    def with_objects(self, objects: Iterable[SessionObject]) -> SessionState:
        """The same with these objects kept; one of a known key takes that one's place."""
        known = {**self.objects, **{one.key: one for one in objects}}
        return SessionState(MappingProxyType(known), self.draft)

    def without(self, keys: Iterable[str]) -> SessionState:
        """The same without these kept objects; unknown keys do not matter."""
        gone = set(keys)
        left = {key: one for key, one in self.objects.items() if key not in gone}
        return SessionState(MappingProxyType(left), self.draft)

    def with_draft(self, draft: Iterable[SessionObject]) -> SessionState:
        """The same with another preview."""
        return SessionState(self.objects, tuple(draft))

    def kept_in(self, labels: str) -> tuple[SessionObject, ...]:
        """Objects kept in one labels layer, oldest first."""
        return tuple(one for one in self.objects.values() if one.labels == labels)
