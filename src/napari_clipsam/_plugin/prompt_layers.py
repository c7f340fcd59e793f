"""Clicks, boxes, lassos and scribbles as napari layers; each mark belongs to one plane."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Points, Shapes
from napari.layers.base import ActionType
from napari.utils.colormaps.standardize_color import transform_color
from napari.utils.notifications import show_info
from psygnal import Signal

from napari_clipsam._plugin.layers import displayed_key
from napari_clipsam._plugin.marks import (
    box_around,
    box_corners,
    box_of,
    outline,
    points_along,
    polygon_mask,
    ring_of,
)
from napari_clipsam._plugin.placement import TRANSFORM, place_layer
from napari_clipsam._plugin.preview import PreviewLayer
from napari_clipsam.errors import PlaneError
from napari_clipsam.prompts import Prompts
from napari_clipsam.session.objects import PlaneKey, plane_axes

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer
    from numpy.typing import NDArray

    from napari_clipsam._plugin.layers import LayerImage
    from napari_clipsam._plugin.state import Tool

__all__ = ["COLOURS", "SYMBOLS", "PreviewLayer", "PromptLayers"]

COLOURS = {"positive": "#2ca02c", "negative": "#d62728"}
SYMBOLS = {"positive": "disc", "negative": "cross"}
_SHAPE_COLOUR = "yellow"
_POINT_TOOLS = {"point+": "positive", "point-": "negative"}
_SHAPE_TOOLS = {"box": "add_rectangle", "lasso": "add_polygon_lasso", "scribble": "add_path"}
_DONE = (ActionType.ADDED, ActionType.REMOVED, ActionType.CHANGED)


class PromptLayers:
    """The Points and the Shapes layer that hold what the user asks for, plane by plane.

    Parameters
    ----------
    viewer : ViewerModel
    image : LayerImage
        The new layers lie where it lies, and follow it.

    Attributes
    ----------
    points : Points
        Sign in ``features["sign"]``.
    shapes : Shapes
        Rectangles are boxes, paths scribbles, all else encloses an area.
    changed : Signal
        Emitted with the `PlaneKey` of a plane whose prompts the user has changed, once an action;
        not while `set` or `clear` run.
    """

    changed = Signal(object)

    def __init__(self, viewer: ViewerModel, image: LayerImage) -> None:
        self._viewer, self._image = viewer, image
        self._is_setting = self._is_drawn = self._closed = False
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
        self._rows = {self.points: 0, self.shapes: 0}
        self._known: dict[PlaneKey, tuple[bytes, ...]] = {}
        self._add_layers()
        for event, reaction in self._events():
            event.connect(reaction)

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
        shape = self._image.shape[y_axis], self._image.shape[x_axis]
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
        return tuple(key for key in self._contents() if self.prompts(key) is not None)

    def set(self, prompts: Mapping[PlaneKey, Prompts]) -> None:
        """Show these prompts and no others; planes that have them already are left alone.

        Parameters
        ----------
        prompts : mapping of PlaneKey to Prompts
            Words in them do not matter here.
        """
        wanted = {key: one for key, one in prompts.items() if one.has_object}
        present = self._contents()
        stay = {key for key in present if _same(self.prompts(key), wanted.get(key))}
        if stay == present.keys() == wanted.keys():
            return
        with self._setting(), self._nothing_half_drawn():
            if wanted:
                self._add_layers()
            self._drop(stay)
            for key, one in wanted.items():
                if key not in stay:
                    self._add(key, one)
            self._rows = {layer: len(layer.data) for layer in self._rows}

    def clear(self) -> None:
        """Take away all prompts."""
        self.set({})

    def tool(self, name: Tool) -> None:
        """Let the mouse add one kind of prompt; "" lets it move the view.

        Parameters
        ----------
        name : {"", "point+", "point-", "box", "lasso", "scribble"}
        """
        self.points.selected_data = set()
        self.shapes.selected_data = set()
        self.points.mode = self.shapes.mode = "pan_zoom"
        if not name:
            if self._image.layer in self._viewer.layers:
                self._viewer.layers.selection.active = self._image.layer
            return
        self._add_layers()
        if name in _POINT_TOOLS:
            self._next_sign(_POINT_TOOLS[name])
            self._viewer.layers.selection.active = self.points
            self.points.mode = "add"
        else:
            self._viewer.layers.selection.active = self.shapes
            self.shapes.mode = _SHAPE_TOOLS[name]

    def close(self) -> None:
        """Remove the layers and let go of the viewer; may be called twice."""
        if self._closed:
            return
        self._closed = True
        for event, reaction in self._events():
            event.disconnect(reaction)
        for layer in (self.points, self.shapes):
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)

    # -- what the user does ------------------------------------------------------------------------

    def _events(self) -> list[tuple[Any, Any]]:
        moved = [getattr(self._image.layer.events, name) for name in TRANSFORM]
        return [
            (self.points.events.data, self._on_points),
            (self.shapes.events.data, self._on_shapes),
            (self.shapes.events.set_data, self._on_drawn),
            (self._viewer.layers.events.removed, self._on_removed),
            (self._viewer.dims.events.order, self._show_own_view),
            *((event, self._follow) for event in moved),
        ]

    def _on_points(self, event: Any) -> None:
        self._react(self.points, event.action)

    def _on_shapes(self, event: Any) -> None:
        if event.action == ActionType.ADDED and str(self.shapes.mode).startswith("add_"):
            # napari has not yet let go of the shape; it must not be changed before it does.
            self._is_drawn = True
        else:
            self._react(self.shapes, event.action)

    def _on_drawn(self, _: object = None) -> None:
        if self._is_drawn and not self._is_setting:
            self._is_drawn = False
            self._react(self.shapes, ActionType.ADDED)

    def _react(self, layer: Points | Shapes, action: ActionType) -> None:
        if self._is_setting or action not in _DONE:
            return
        known = self._known
        with self._setting():
            if len(layer.data) > self._rows[layer]:
                self._place_new(layer)
            self._rows[layer] = len(layer.data)
        now = self._known
        for key in {**known, **now}:
            if known.get(key) != now.get(key):
                self.changed.emit(key)

    def _place_new(self, layer: Points | Shapes) -> None:
        """Put marks just made exactly into the plane that is shown; refuse them outside one."""
        new = range(self._rows[layer], len(layer.data))
        try:
            key = displayed_key(self._viewer, self._image)
        except PlaneError as error:
            show_info(str(error))
            self._remove(layer, list(new))
            return
        self._set_axes(layer, new, key)
        if isinstance(layer, Shapes):
            self._flatten_shapes(new, key)
            self._remove(layer, self._mere_clicks(new))
            return
        held = [axis for axis, number in enumerate(key) if number is not None]
        data, numbers = layer.data.copy(), [key[axis] for axis in held]
        if (data[np.ix_(new, held)] != numbers).any():
            data[np.ix_(new, held)] = numbers
            layer.data = data
        low, high = -0.5, np.array(self._image.shape) - 0.5
        outside = [row for row in new if (data[row] < low).any() or (data[row] > high).any()]
        if outside:
            show_info(f"That is beside {self._image.layer.name}. Click on the image.")
            self._remove(layer, outside)
        self._paint()

    def _flatten_shapes(self, new: range, key: PlaneKey) -> None:
        """Set the held axes of shapes to whole numbers; napari cuts off their fractions."""
        kinds, data = self.shapes.shape_type, self.shapes.data
        held = [axis for axis, number in enumerate(key) if number is not None]
        numbers = [key[axis] for axis in held]
        if all((data[row][:, held] == numbers).all() for row in new):
            return
        for row in new:
            data[row] = data[row].copy()
            data[row][:, held] = numbers
        self.shapes.data = list(zip(data, kinds, strict=True))

    def _mere_clicks(self, new: range) -> list[int]:
        """Rectangles and ellipses of no size on the screen, from a click without a drag."""
        kinds, data = self.shapes.shape_type, self.shapes.data
        least = 3 * self.shapes.scale_factor / abs(self.shapes.scale[-1])
        return [
            row
            for row in new
            if kinds[row] in ("rectangle", "ellipse") and np.ptp(data[row], axis=0).max() < least
        ]

    def _on_removed(self, event: Any) -> None:
        """What the user throws away with its layer is gone; the layer comes back when needed."""
        if event.value in self._rows and len(event.value.data):
            self._remove(event.value, list(range(len(event.value.data))))

    def _follow(self, _: object = None) -> None:
        for layer in (self.points, self.shapes):
            place_layer(layer, self._image.transform())

    def _show_own_view(self, _: object = None) -> None:
        """Show clicks only while the two axes are seen that they were made in."""
        if len(self.points.data) and self._viewer.dims.ndisplay == 2:
            ahead = self._viewer.dims.ndim - self._image.ndim
            shown = _axes_text(axis - ahead for axis in sorted(self._viewer.dims.displayed))
            wanted = (self.points.features["axes"] == shown).to_numpy()
            if (self.points.shown != wanted).any():
                self.points.shown = wanted

    # -- rows of the layers ------------------------------------------------------------------------

    def _add_layers(self) -> None:
        active = self._viewer.layers.selection.active
        for layer in (self.shapes, self.points):
            if layer not in self._viewer.layers:
                self._viewer.add_layer(layer)
        self._viewer.layers.selection.active = active

    @contextmanager
    def _setting(self) -> Iterator[None]:
        """While layers are changed from here, their events are not the user's."""
        self._is_setting = True
        try:
            yield
        finally:
            self._is_setting = False
            self._known = self._contents()
            self._show_own_view()

    @contextmanager
    def _nothing_half_drawn(self) -> Iterator[None]:
        """While shapes come and go, none may be in the making."""
        mode, self.shapes.mode = self.shapes.mode, "pan_zoom"
        try:
            yield
        finally:
            self.shapes.mode = mode

    def _point_keys(self) -> list[PlaneKey]:
        """Plane of each row that has one; the last may still be in the making."""
        axes = self.points.features["axes"]
        placed = self.points.data[: self._rows[self.points]]
        return [_key_of(position, axes.iloc[row]) for row, position in enumerate(placed)]

    def _shape_keys(self) -> list[PlaneKey]:
        axes = self.shapes.features["axes"]
        placed = self.shapes.data[: self._rows[self.shapes]]
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

    def _contents(self) -> dict[PlaneKey, tuple[bytes, ...]]:
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

    def _set_axes(self, layer: Points | Shapes, rows: range, key: PlaneKey) -> None:
        layer.features.loc[list(rows), "axes"] = _axes_text(plane_axes(key))

    def _next_sign(self, sign: str) -> None:
        self.points.feature_defaults = {"sign": sign, "axes": ""}
        # Small marks are mostly border.
        self.points.current_face_color = self.points.current_border_color = COLOURS[sign]
        self.points.current_symbol = SYMBOLS[sign]

    def _paint(self) -> None:
        signs = [str(sign) for sign in self.points.features["sign"]]
        if not signs:
            return
        symbols = [SYMBOLS[sign] for sign in signs]
        if [str(symbol) for symbol in self.points.symbol] != symbols:
            self.points.symbol = symbols
        colours = transform_color([COLOURS[sign] for sign in signs])
        if not np.array_equal(self.points.face_color, colours):
            self.points.face_color = self.points.border_color = colours

    def _drop(self, stay: Collection[PlaneKey]) -> None:
        for layer, keys in ((self.points, self._point_keys()), (self.shapes, self._shape_keys())):
            left = {row for row, key in enumerate(keys) if key in stay}
            self._remove(layer, [row for row in range(len(layer.data)) if row not in left])

    def _remove(self, layer: Layer, rows: list[int]) -> None:
        if rows:
            layer.selected_data = set(rows)
            layer.remove_selected()

    def _add(self, key: PlaneKey, prompts: Prompts) -> None:
        first = len(self.points.data)
        if len(prompts.points):
            self.points.add(self._image.plane_to_data(key, prompts.points))
            signs = np.where(prompts.labels, "positive", "negative")
            self.points.features.loc[first:, "sign"] = signs
            self._set_axes(self.points, range(first, len(self.points.data)), key)
            self.points.selected_data = set()
            self._paint()
        first, mask = len(self.shapes.data), None
        if prompts.mask is not None and (prompts.mask > 0).any():
            mask = prompts.mask > 0
        for box in prompts.boxes:
            if mask is not None and tuple(box) == box_around(mask):
                continue  # it comes with the area
            corners = self._image.plane_to_data(key, box_corners(box))
            self.shapes.add(corners, shape_type="rectangle")
        if mask is not None:
            ring = self._image.plane_to_data(key, outline(mask))
            self.shapes.add(ring, shape_type="polygon")
            self._exact[self.shapes.data[-1].tobytes()] = mask
        self._set_axes(self.shapes, range(first, len(self.shapes.data)), key)


def _key_of(position: NDArray[np.float64], axes: str) -> PlaneKey:
    shown = {int(axis) for axis in axes.split()}
    return tuple(
        None if axis in shown else int(np.round(value)) for axis, value in enumerate(position)
    )


def _axes_text(axes: Any) -> str:
    return " ".join(str(axis) for axis in axes)


def _same(one: Prompts | None, other: Prompts | None) -> bool:
    if one is None or other is None:
        return one is other
    pairs = ((getattr(one, name), getattr(other, name)) for name in ("points", "labels", "boxes"))
    if not all(np.array_equal(a, b) for a, b in pairs):
        return False
    if one.mask is None or other.mask is None:
        return one.mask is other.mask
    return np.array_equal(one.mask > 0, other.mask > 0)
