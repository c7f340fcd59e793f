"""Clicks, boxes, lassos and scribbles as napari layers; each mark belongs to one plane."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Points, Shapes
from napari.layers.base import ActionType
from napari.utils.notifications import show_info
from psygnal import Signal

from napari_clipsam._plugin.layers import displayed_key
from napari_clipsam._plugin.placed_marks import PlacedMarks, axes_text
from napari_clipsam._plugin.placement import TRANSFORM, place_layer
from napari_clipsam.errors import PlaneError
from napari_clipsam.prompts import Prompts
from napari_clipsam.session.objects import PlaneKey

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_clipsam._plugin.layers import LayerImage
    from napari_clipsam._plugin.state import Tool

__all__ = ["PromptLayers"]

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
        self._marks = PlacedMarks(image)
        self.points, self.shapes = self._marks.points, self._marks.shapes
        self._known: dict[PlaneKey, tuple[bytes, ...]] = {}
        self._add_layers()
        for event, reaction in self._events():
            event.connect(reaction)

    def prompts(self, key: PlaneKey) -> Prompts | None:
        """What is asked for in one plane, as `PlacedMarks.prompts`."""
        return self._marks.prompts(key)

    def keys(self) -> tuple[PlaneKey, ...]:
        """Planes in which something is asked for."""
        return self._marks.keys()

    def set(self, prompts: Mapping[PlaneKey, Prompts]) -> None:
        """Show these prompts and no others; planes that have them already are left alone.

        Parameters
        ----------
        prompts : mapping of PlaneKey to Prompts
            Words in them do not matter here.
        """
        wanted = {key: one for key, one in prompts.items() if one.has_object}
        present = self._marks.contents()
        stay = {key for key in present if _same(self.prompts(key), wanted.get(key))}
        if stay == present.keys() == wanted.keys():
            return
        with self._setting(), self._nothing_half_drawn():
            if wanted:
                self._add_layers()
            self._marks.drop(stay)
            for key, one in wanted.items():
                if key not in stay:
                    self._marks.add(key, one)
            self._marks.rows = {layer: len(layer.data) for layer in self._marks.rows}

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
            self._marks.next_sign(_POINT_TOOLS[name])
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
            if len(layer.data) > self._marks.rows[layer]:
                self._place_new(layer)
            self._marks.rows[layer] = len(layer.data)
        now = self._known
        for key in {**known, **now}:
            if known.get(key) != now.get(key):
                self.changed.emit(key)

    def _place_new(self, layer: Points | Shapes) -> None:
        """Put marks just made exactly into the plane that is shown; refuse them outside one."""
        new = range(self._marks.rows[layer], len(layer.data))
        try:
            key = displayed_key(self._viewer, self._image)
        except PlaneError as error:
            show_info(str(error))
            self._marks.remove(layer, list(new))
            return
        self._marks.set_axes(layer, new, key)
        if isinstance(layer, Shapes):
            self._flatten_shapes(new, key)
            self._marks.remove(layer, self._mere_clicks(new))
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
            self._marks.remove(layer, outside)
        self._marks.paint()

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
        if event.value in self._marks.rows and len(event.value.data):
            self._marks.remove(event.value, list(range(len(event.value.data))))

    def _follow(self, _: object = None) -> None:
        for layer in (self.points, self.shapes):
            place_layer(layer, self._image.transform())

    def _show_own_view(self, _: object = None) -> None:
        """Show clicks only while the two axes are seen that they were made in."""
        if len(self.points.data) and self._viewer.dims.ndisplay == 2:
            ahead = self._viewer.dims.ndim - self._image.ndim
            shown = axes_text(axis - ahead for axis in sorted(self._viewer.dims.displayed))
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
            self._known = self._marks.contents()
            self._show_own_view()

    @contextmanager
    def _nothing_half_drawn(self) -> Iterator[None]:
        """While shapes come and go, none may be in the making."""
        mode, self.shapes.mode = self.shapes.mode, "pan_zoom"
        try:
            yield
        finally:
            self.shapes.mode = mode


def _same(one: Prompts | None, other: Prompts | None) -> bool:
    if one is None or other is None:
        return one is other
    pairs = ((getattr(one, name), getattr(other, name)) for name in ("points", "labels", "boxes"))
    if not all(np.array_equal(a, b) for a, b in pairs):
        return False
    if one.mask is None or other.mask is None:
        return one.mask is other.mask
    return np.array_equal(one.mask > 0, other.mask > 0)
