"""The Segment dock: shows a `DockState`, and passes on what the user asks for."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import QTimer
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QHBoxLayout

from napari_clipsam._plugin import wording
from napari_clipsam._plugin._qt.dock import Dock, nobody_types
from napari_clipsam._plugin._qt.icons import Line
from napari_clipsam._plugin._qt.layouts import order_tabs
from napari_clipsam._plugin._qt.parts import HintLine, KeyList, button
from napari_clipsam._plugin._qt.sections import (
    AnswerSection,
    FileSection,
    FindSection,
    ObjectsSection,
    StackSection,
    WelcomeSection,
)
from napari_clipsam._plugin.keymap import KEYS, SHORTCUTS

if TYPE_CHECKING:
    import napari.viewer

    from napari_clipsam._plugin.state import Controls, DockState

__all__ = ["SegmentDock"]


class SegmentDock(Dock):
    """Say what you want, see it, fix it by clicking, keep it.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    controls : Controls, optional
        What answers; by default the viewer's own controller. The dock closes it when it goes.
    """

    def __init__(self, viewer: napari.viewer.Viewer, controls: Controls | None = None) -> None:
        if controls is None:
            from napari_clipsam._plugin._qt.viewers import controller_of

            controls = controller_of(viewer)
        super().__init__(viewer, controls)
        self._has_image = False
        self._word_wanted = controls.state.word_wanted
        self._file_wanted = controls.state.file_wanted
        self._made_for: tuple[object, ...] = ()  # what buttons were made for, the last time
        self.welcome = WelcomeSection(self.ask, controls)
        self.search = FindSection(self.ask, controls, KEYS)
        self.hint = HintLine()
        self.hint.acted.connect(partial(self.ask, controls.act))
        self.answer = AnswerSection(self.ask, controls, KEYS)
        self.stack = StackSection(self.ask, controls, KEYS)
        self.objects = ObjectsSection(self.ask, controls, KEYS)
        self.files = FileSection(self.ask, controls)
        self.help = button("Shortcuts", "Show or hide the list of keys")
        self.help.setCheckable(True)
        self.key_list = KeyList([(one.shown, one.words) for one in SHORTCUTS])
        self.help.toggled.connect(self._show_keys)
        self.search.word.left.connect(self.setFocus)
        self._lay_out()
        self.begin()

    def render_state(self, state: DockState) -> None:
        """Show a state; where a control that has the focus goes away, the dock takes it."""
        focus = self.inner_focus()
        had_image, self._has_image = self._has_image, bool(state.images)
        for part in (self.search, self.answer, self.stack, self.objects, self.files, self.welcome):
            part.show_state(state)
        is_welcome = not state.images and state.hint == wording.no_image()
        self.hint.show_hint(None if is_welcome else state.hint)
        for part in (self.search, self.answer, self.stack, self.objects):
            part.setVisible(self._has_image)
        if (state.hint, state.samples) != self._made_for:
            self._made_for = (state.hint, state.samples)
            order_tabs(self.content)
        if focus is not None and not focus.hasFocus():
            self.setFocus()
        if self._has_image and not had_image and nobody_types():
            self.search.word.setFocus()
        if state.word_wanted != self._word_wanted:
            self._word_wanted = state.word_wanted
            self.search.word.setFocus()
        if state.file_wanted != self._file_wanted:
            self._file_wanted = state.file_wanted
            QTimer.singleShot(0, self.stack.ask_for_file)

    def showEvent(self, event: QShowEvent | None) -> None:
        """Start in the word field."""
        super().showEvent(event)
        is_ours = event is not None and not event.spontaneous()  # not a window that comes back
        if is_ours and self._has_image and nobody_types():
            self.search.word.setFocus()

    def arrange(self, letters: int) -> None:
        """Use the width there is."""
        self.search.arrange(letters)
        self.answer.arrange(letters)

    def _show_keys(self, on: bool) -> None:
        self.key_list.setVisible(on)
        if on:
            self.key_list.adjustSize()
            QTimer.singleShot(0, partial(self.area.ensureWidgetVisible, self.key_list, 0, 0))

    def _lay_out(self) -> None:
        column = self.column
        for part in (self.welcome, self.search, self.hint, self.answer, self.stack):
            column.addWidget(part)
        column.addWidget(self.objects, 1)
        column.addStretch(0)
        column.addWidget(Line())
        foot = QHBoxLayout()
        foot.addWidget(self.files)
        foot.addStretch(1)
        foot.addWidget(self.help)
        column.addLayout(foot)
        column.addWidget(self.key_list)
