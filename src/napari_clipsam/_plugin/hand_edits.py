"""What the user paints by hand into labels layers that hold kept objects."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_clipsam.session.history import LabelPatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from napari_clipsam._plugin.viewer_labels import ViewerLabels
    from napari_clipsam.session.objects import PlaneKey

__all__ = ["HandEdits"]

# Planes of more pixels are too large to be compared after each stroke.
_MOST_PIXELS = 1 << 26


class HandEdits:
    """Notices changes of the planes that are shown, however they were made: brush, fill, undo.

    Parameters
    ----------
    labels : ViewerLabels
    shown : callable
        Gives the plane that is shown, or None.
    found : callable
        Called with a patch for each change.
    """

    def __init__(
        self,
        labels: ViewerLabels,
        shown: Callable[[], PlaneKey | None],
        found: Callable[[LabelPatch], None],
    ) -> None:
        self._labels, self._shown, self._found = labels, shown, found
        self._seen: dict[str, tuple[PlaneKey, NDArray] | None] = {}
        self._is_own = False

    @contextmanager
    def own_step(self) -> Iterator[None]:
        """While a step of the session writes, which napari reports like paint, nobody looks."""
        self._is_own = True
        try:
            yield
        finally:
            self._is_own = False
            self.remember()

    def watch(self, name: str) -> None:
        """Look at a layer from now on."""
        layer = self._labels.layer(name)
        if name not in self._seen and layer is not None:
            self._seen[name] = None
            layer.events.paint.connect(self.look)
            self.remember()

    def look(self, _: object = None) -> None:
        """Report what changed since the last look, then look at the planes that are shown now."""
        if self._is_own:
            return
        for name, seen in self._seen.items():
            if seen is None:
                continue
            plane, before = seen
            after = self._labels.read(name, plane, None)
            if after is None or after.shape != before.shape:
                continue
            rows, cols = np.nonzero(after != before)
            if len(rows):
                box = (
                    *(int(rows.min()), int(cols.min())),
                    *(int(rows.max()) + 1, int(cols.max()) + 1),
                )
                part = slice(box[0], box[2]), slice(box[1], box[3])
                self._found(LabelPatch(name, plane, box, before[part], after[part].copy()))
        self.remember()

    def remember(self) -> None:
        """Take what is shown now as known."""
        plane = self._shown()
        for name in self._seen:
            layer = self._labels.layer(name)
            self._seen[name] = None
            if plane is None or layer is None or layer.ndim != len(plane):
                continue
            if _size(layer.data.shape, plane) > _MOST_PIXELS:
                continue
            current = self._labels.read(name, plane, None)
            if current is not None:
                self._seen[name] = plane, current

    def close(self) -> None:
        """Stop watching."""
        for name in self._seen:
            layer = self._labels.layer(name)
            if layer is not None:
                layer.events.paint.disconnect(self.look)
        self._seen.clear()


def _size(shape: Any, plane: PlaneKey) -> int:
    return math.prod(n for n, held in zip(shape, plane, strict=True) if held is None)
