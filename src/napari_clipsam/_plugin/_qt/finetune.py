"""The Teach dock: shows a `TeachState`, and passes on what the user asks for."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from napari_clipsam._plugin._qt.dock import Dock
from napari_clipsam._plugin._qt.icons import Line
from napari_clipsam._plugin._qt.layouts import order_tabs
from napari_clipsam._plugin._qt.parts import HintLine
from napari_clipsam._plugin._qt.teach_sections import (
    LessonSection,
    MaterialSection,
    ResultSection,
)

if TYPE_CHECKING:
    import napari.viewer

    from napari_clipsam._plugin.teach_state import TeachControls, TeachState

__all__ = ["TeachDock"]


class TeachDock(Dock):
    """Teach a structure from a few labelled slices, and go on working meanwhile.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    controls : TeachControls, optional
        What answers; by default the viewer's own controller. The dock closes it when it goes.
    """

    def __init__(self, viewer: napari.viewer.Viewer, controls: TeachControls | None = None) -> None:
        if controls is None:
            from napari_clipsam._plugin._qt.viewers import teacher_of

            controls = teacher_of(viewer)
        super().__init__(viewer, controls)
        self._made_for: tuple[object, ...] = ()  # what controls were made for, the last time
        self.material = MaterialSection(self.ask, controls)
        self.hint = HintLine()
        self.hint.acted.connect(partial(self.ask, controls.act))
        self.lesson = LessonSection(self.ask, controls)
        self.result = ResultSection(self.ask, controls)
        self.material.word.left.connect(self.setFocus)
        self._line = Line()
        for part in (self.material, self.hint, self.lesson, self._line, self.result):
            self.column.addWidget(part)
        self.column.addStretch(1)
        self.begin()

    def render_state(self, state: TeachState) -> None:
        """Show a state; where a control that has the focus goes away, the dock takes it."""
        focus = self.inner_focus()
        for part in (self.material, self.lesson, self.result):
            part.show_state(state)
        self.hint.show_hint(state.hint)
        for part in (self.material, self.lesson):
            part.setVisible(bool(state.images))
        has_result = bool(state.views or state.saved or state.next_slice or state.can_go_on)
        self.result.setVisible(has_result)
        self._line.setVisible(has_result)
        if (state.hint, self.lesson.plot) != self._made_for:
            self._made_for = (state.hint, self.lesson.plot)
            order_tabs(self.content)
        if focus is not None and not focus.hasFocus():
            self.setFocus()

    def arrange(self, letters: int) -> None:
        """Use the width there is."""
        self.material.arrange(letters)
