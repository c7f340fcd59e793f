"""Marks in napari layers: which plane each belongs to, and what it asks for there."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Points, Shapes
from napari.utils.colormaps.standardize_color import transform_color

from napari_clipsam._plugin.marks import (
    box_around,
    box_corners,
    box_of,
    outline,
    points_along,
    polygon_mask,
    ring_of,
)
from napari_clipsam.prompts import Prompts
from napari_clipsam.session.objects import PlaneKey, plane_axes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from napari.layers import Layer
    from numpy.typing import NDArray

    from napari_clipsam._plugin.layers import LayerImage

__all__ = ["COLOURS", "SYMBOLS", "PlacedMarks", "axes_text"]

COLOURS = {"positive": "#2ca02c", "negative": "#d62728"}
SYMBOLS = {"positive": "disc", "negative": "cross"}
_SHAPE_COLOUR = "yellow"


class PlacedMarks:
    """A Points and a Shapes layer, read and written plane by plane; both are in no viewer yet.

    Parameters
    ----------
    image : LayerImage
        The layers lie where it lies.

    Attributes
    ----------
    points : Points
        Sign in ``features["sign"]``.
    shapes : Shapes
        Rectangles are boxes, paths scribbles, all else encloses an area.
    rows : dict of Layer to int
        Marks of each layer that have their plane; the last may still be in the making.
    """

    def __init__(self, image: LayerImage) -> None:
        self.image = image
        # Outlines of masks that were set, by the bytes of their vertices: as long as nobody moves
        # one, it stands for exactly that mask.
        self._exact: dict[bytes, NDArray[np.bool_]] = {}
        size = max(1.0, max(image.shape) / 40)
        common: dict[str, Any] = {"ndim": image.ndim, **image.transform()}
        self.points = Points(
            name=f"{image.layer.name} clicks",
            metadata={"clipsam_role": "clicks"},
            features={"sign": np.zeros(0, object), "axes": np.zeros(0, object)},
            feature_defaults={"sign": "positive", "axes": ""},
            size=size,
            # From 0: in a slice without points napari draws one of size 0.
            canvas_size_limits=(0, 16),
            projection_mode="none",
            **common,
        )
        self.shapes = Shapes(
            name=f"{image.layer.name} shapes",
            metadata={"clipsam_role": "shapes"},
            features={"axes": np.zeros(0, object)},
            feature_defaults={"axes": ""},
            edge_color=_SHAPE_COLOUR,
            face_color="transparent",
            edge_width=size / 8,
            **common,
        )
        self.shapes.current_edge_color = _SHAPE_COLOUR
        self.shapes.current_face_color = "transparent"
        self.shapes.current_edge_width = size / 8
        self.rows: dict[Layer, int] = {self.points: 0, self.shapes: 0}

    def prompts(self, key: PlaneKey) -> Prompts | None:
        """What is asked for in one plane, without a word; None where nothing is.

        A scribble becomes positive points along it, lassos and other areas one mask, with a box
        around it where none is drawn.

        Parameters
        ----------
        key : PlaneKey

        Returns
        -------
        Prompts or None
        """
        y_axis, x_axis = plane_axes(key)
        shape = self.image.shape[y_axis], self.image.shape[x_axis]
        at = [row for row, one in enumerate(self._point_keys()) if one == key]
        points = [self.points.data[at][:, (y_axis, x_axis)].reshape(-1, 2)]
        labels = [np.array([self.points.features["sign"].iloc[r] == "positive" for r in at], int)]
        boxes: list[tuple[float, float, float, float]] = []
        mask = np.zeros(shape if self._has_area(key) else (0, 0), bool)
        for kind, vertices, exact in self._shapes_in(key):
            yx = vertices[:, (y_axis, x_axis)]
            box = box_of(yx, shape) if kind == "rectangle" else None
            if kind in ("path", "line"):
                along = points_along(yx, shape)
                points.append(along)
                labels.append(np.ones(len(along), int))
            elif box is not None:
                boxes.append(box)
            else:
                mask |= polygon_mask(ring_of(kind, yx), shape) if exact is None else exact
        if mask.any() and not boxes:
            boxes.append(box_around(mask))
        found = Prompts(
            points=np.concatenate(points),
            labels=np.concatenate(labels),
            boxes=np.array(boxes).reshape(-1, 4),
            mask=mask if mask.any() else None,
        )
        return found if found.has_object else None

    def keys(self) -> tuple[PlaneKey, ...]:
        """Planes in which something is asked for."""
        return tuple(key for key in self.contents() if self.prompts(key) is not None)

    def _point_keys(self) -> list[PlaneKey]:
        """Plane of each row that has one; the last may still be in the making."""
        axes = self.points.features["axes"]
        placed = self.points.data[: self.rows[self.points]]
        return [_key_of(position, axes.iloc[row]) for row, position in enumerate(placed)]

    def _shape_keys(self) -> list[PlaneKey]:
        axes = self.shapes.features["axes"]
        placed = self.shapes.data[: self.rows[self.shapes]]
        return [_key_of(vertices[0], axes.iloc[row]) for row, vertices in enumerate(placed)]

    def _shapes_in(
        self, key: PlaneKey
    ) -> list[tuple[str, NDArray[np.float64], NDArray[np.bool_] | None]]:
        """Kind, vertices and, if it stands for one, exact mask of each shape in a plane."""
        kinds, data = self.shapes.shape_type, self.shapes.data
        rows = [row for row, one in enumerate(self._shape_keys()) if one == key]
        return [
            (str(kinds[row]), np.asarray(data[row]), self._exact.get(data[row].tobytes()))
            for row in rows
        ]

    def _has_area(self, key: PlaneKey) -> bool:
        return any(kind not in ("path", "line") for kind, *_ in self._shapes_in(key))

    def contents(self) -> dict[PlaneKey, tuple[bytes, ...]]:
        """What lies in each plane, to tell what has changed."""
        signs = self.points.features["sign"]
        found: dict[PlaneKey, list[bytes]] = {}
        for row, key in enumerate(self._point_keys()):
            mark = self.points.data[row].tobytes() + str(signs.iloc[row]).encode()
            found.setdefault(key, []).append(mark)
        kinds, shapes = self.shapes.shape_type, self.shapes.data
        for row, key in enumerate(self._shape_keys()):
            found.setdefault(key, []).append(kinds[row].encode() + shapes[row].tobytes())
        return {key: tuple(marks) for key, marks in found.items()}

    def set_axes(self, layer: Points | Shapes, rows: range, key: PlaneKey) -> None:
        """Say which plane some marks belong to."""
        layer.features.loc[list(rows), "axes"] = axes_text(plane_axes(key))

    def next_sign(self, sign: str) -> None:
        """Let the next click be positive or negative."""
        self.points.feature_defaults = {"sign": sign, "axes": ""}
        # Small marks are mostly border.
        self.points.current_face_color = self.points.current_border_color = COLOURS[sign]
        self.points.current_symbol = SYMBOLS[sign]

    def paint(self) -> None:
        """Show each click's sign."""
        signs = [str(sign) for sign in self.points.features["sign"]]
        if not signs:
            return
        symbols = [SYMBOLS[sign] for sign in signs]
        if [str(symbol) for symbol in self.points.symbol] != symbols:
            self.points.symbol = symbols
        colours = transform_color([COLOURS[sign] for sign in signs])
        if not np.array_equal(self.points.face_color, colours):
            self.points.face_color = self.points.border_color = colours

    def drop(self, stay: Collection[PlaneKey]) -> None:
        """Take away all marks but those of some planes."""
        for layer, keys in ((self.points, self._point_keys()), (self.shapes, self._shape_keys())):
            left = {row for row, key in enumerate(keys) if key in stay}
            self.remove(layer, [row for row in range(len(layer.data)) if row not in left])

    def remove(self, layer: Layer, rows: list[int]) -> None:
        """Take away some marks of a layer."""
        if rows:
            layer.selected_data = set(rows)
            layer.remove_selected()

    def add(self, key: PlaneKey, prompts: Prompts) -> None:
        """Draw prompts into a plane."""
        first = len(self.points.data)
        if len(prompts.points):
            self.points.add(self.image.plane_to_data(key, prompts.points))
            signs = np.where(prompts.labels, "positive", "negative")
            self.points.features.loc[first:, "sign"] = signs
            self.set_axes(self.points, range(first, len(self.points.data)), key)
            self.points.selected_data = set()
            self.paint()
        first, mask = len(self.shapes.data), None
        if prompts.mask is not None and (prompts.mask > 0).any():
            mask = prompts.mask > 0
        for box in prompts.boxes:
            if mask is not None and tuple(box) == box_around(mask):
                continue  # it comes with the area
            corners = self.image.plane_to_data(key, box_corners(box))
            self.shapes.add(corners, shape_type="rectangle")
        if mask is not None:
            ring = self.image.plane_to_data(key, outline(mask))
            self.shapes.add(ring, shape_type="polygon")
            self._exact[self.shapes.data[-1].tobytes()] = mask
        self.set_axes(self.shapes, range(first, len(self.shapes.data)), key)


def _key_of(position: NDArray[np.float64], axes: str) -> PlaneKey:
    shown = {int(axis) for axis in axes.split()}
    return tuple(
        None if axis in shown else int(np.round(value)) for axis, value in enumerate(position)
    )


def axes_text(axes: Iterable[int]) -> str:
    """Axes as a feature of a mark holds them."""
    return " ".join(str(axis) for axis in axes)
