"""Points and boxes in a stack, as they are typed, to the objects that they mark."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from napari_clipsam.errors import PromptError
from napari_clipsam.prompts import BoxPrompt, PointPrompt, Prompts, parse_box, parse_point

__all__ = ["marked_objects"]


def marked_objects(points: Sequence[str], boxes: Sequence[str]) -> list[dict[int, Prompts]]:
    """Prompts by slice of each object: one for each box with the points in it, one for the rest.

    Raises
    ------
    PromptError
        A point or box cannot be read or names no slice, or all points of an object are negative.
    """
    typed = [parse_point(text) for text in points]
    cornered = [parse_box(text) for text in boxes]
    slices = [one.z for one in typed] + [one.z for one in cornered]
    for z, text in zip(slices, [*points, *boxes], strict=True):
        if z is None:
            raise PromptError(f"'{text}' names no slice. Begin it with Z, e.g. 12,{text}.")
    objects = [_boxed(box, [p for p in typed if _inside(p, box)]) for box in cornered]
    rest = [p for p in typed if not any(_inside(p, box) for box in cornered)]
    if rest:
        by_slice: dict[int, list[PointPrompt]] = defaultdict(list)
        for point in rest:
            by_slice[int(point.z or 0)].append(point)
        if not any(point.label for point in rest):
            raise PromptError("All points are negative. Give one on the object as well, or a box.")
        objects.append({z: _points(some) for z, some in by_slice.items()})
    return objects


def _boxed(box: BoxPrompt, points: Sequence[PointPrompt]) -> dict[int, Prompts]:
    of_points = _points(points)
    corners = [(box.y0, box.x0, box.y1, box.x1)]
    return {int(box.z or 0): Prompts(None, of_points.points, of_points.labels, corners)}


def _points(points: Sequence[PointPrompt]) -> Prompts:
    return Prompts(points=[(p.y, p.x) for p in points], labels=[p.label for p in points])


def _inside(point: PointPrompt, box: BoxPrompt) -> bool:
    return point.z == box.z and box.y0 <= point.y < box.y1 and box.x0 <= point.x < box.x1
