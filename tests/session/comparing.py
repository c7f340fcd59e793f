"""Whether two sessions are the same, to the byte."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
from session.steps import Driver

from napari_clipsam.inference.requests import ObjectMask
from napari_clipsam.prompts import Prompts
from napari_clipsam.session.journal import Restored
from napari_clipsam.session.objects import SessionObject, SessionState, slices_of


def plain(value: Any) -> Any:
    """A value that `==` compares by content; logits are not recorded."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, ObjectMask):
        return value.box, plain(value.mask), value.score
    if isinstance(value, Prompts):
        parts = (value.points, value.labels, value.boxes, value.mask)
        return value.text, *(plain(part) for part in parts)
    if isinstance(value, SessionObject):
        return tuple(plain(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, SessionState):
        return list(value.objects), [plain(o) for o in (*value.objects.values(), *value.draft)]
    if hasattr(value, "items"):
        return [(key, plain(item)) for key, item in value.items()]
    return value


def same_session(restored: Restored, driver: Driver) -> bool:
    """Whether a restored session is the one of a driver: labels, objects, undo steps."""
    wanted = (driver.history.undo_text, driver.history.redo_text, len(driver.history))
    found = (restored.history.undo_text, restored.history.redo_text, len(restored.history))
    return (
        found == wanted
        and plain(restored.state) == plain(driver.state)
        and same_labels(restored, driver)
    )


def same_labels(restored: Restored, driver: Driver) -> bool:
    """Whether every plane that was touched holds the same bytes, and no other holds anything."""
    for name, array in driver.labels.layers.items():
        found = restored.labels[name]
        if found.dtype != array.dtype or found.shape != array.shape:
            return False
        expected = np.zeros_like(array)
        # A plane may be recorded as it was, and the step that was to change it not yet.
        touched = {plane for layer, plane in driver.touched if layer == name}
        for plane in touched | set(restored.touched[name]):
            expected[slices_of(plane)] = array[slices_of(plane)]
        if found.tobytes() != expected.tobytes():
            return False
    return True
