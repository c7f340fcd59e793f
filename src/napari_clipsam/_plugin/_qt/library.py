"""The Library dock: shows a `LibraryState`, and passes on what the user asks for."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtGui import QShowEvent

from napari_clipsam._plugin._qt.dock import Dock
from napari_clipsam._plugin._qt.layouts import order_tabs
from napari_clipsam._plugin._qt.library_sections import (
    ActionSection,
    ArrivalSection,
    DetailSection,
    ListSection,
    NamingSection,
)
from napari_clipsam._plugin._qt.parts import HintLine

if TYPE_CHECKING:
    import napari.viewer

    from napari_clipsam._plugin.library_state import LibraryControls, LibraryState

__all__ = ["LibraryDock"]


class LibraryDock(Dock):
    """Models, adapters and words: what is here, and what can be got.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    controls : LibraryControls, optional
        What answers; by default the viewer's own controller. The dock closes it when it goes.
    """

    def __init__(
        self, viewer: napari.viewer.Viewer, controls: LibraryControls | None = None
    ) -> None:
        if controls is None:
            from napari_clipsam._plugin._qt.viewers import librarian_of

            controls = librarian_of(viewer)
        super().__init__(viewer, controls)
        self._look = controls.look
        self._made_for: tuple[object, ...] = ()  # what controls were made for, the last time
        self.list = ListSection(self.ask, controls)
        self.buttons = ActionSection(self.ask, controls)
        self.naming = NamingSection(self.ask, controls)
        self.hint = HintLine()
        self.hint.acted.connect(partial(self.ask, controls.act))
        self.arrivals = ArrivalSection(self.ask, controls)
        self.details = DetailSection()
        self.column.addWidget(self.list, 3)
        for part in (self.buttons, self.naming, self.hint, self.arrivals):
            self.column.addWidget(part)
        self.column.addWidget(self.details, 1)
        self.begin()

    def render_state(self, state: LibraryState) -> None:
        """Show a state; where a control that has the focus goes away, the dock takes it."""
        focus = self.inner_focus()
        for part in (self.list, self.buttons, self.naming, self.arrivals, self.details):
            part.show_state(state)
        self.hint.show_hint(state.hint)
        made_for = (state.hint, tuple(one.key for one in state.downloads))
        if made_for != self._made_for:
            self._made_for = made_for
            order_tabs(self.content)
        if focus is not None and self.inner_focus() is None:
            self.setFocus()

    def showEvent(self, event: QShowEvent | None) -> None:
        """See what came meanwhile, from the command line or another program."""
        super().showEvent(event)
        if event is not None and not event.spontaneous():
            self._look()

    def arrange(self, letters: int) -> None:
        """Use the width there is."""
        self.list.arrange(letters)
