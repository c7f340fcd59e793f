"""The parts of the Teach dock from top to bottom; each shows its share of a `TeachState`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import (
    QButtonGroup,
    QGridLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QRadioButton,
    QSpinBox,
    QWidget,
)

from napari_clipsam._plugin import teach_wording
from napari_clipsam._plugin._qt.icons import Line
from napari_clipsam._plugin._qt.layouts import stacked, wrapped
from napari_clipsam._plugin._qt.parts import (
    ChoiceBox,
    ProgressRow,
    button,
    head,
    on_click,
    text_line,
    tip,
)
from napari_clipsam._plugin._qt.words import WordField
from napari_clipsam._plugin.teach_state import BY_STEPS

if TYPE_CHECKING:
    from collections.abc import Callable

    from qtpy.QtGui import QWheelEvent

    from napari_clipsam._plugin._qt.curve import CurvePlot
    from napari_clipsam._plugin.teach_state import TeachControls, TeachState, View
    from napari_clipsam.training.settings import Goal

    Ask = Callable[..., None]

__all__ = ["LessonSection", "MaterialSection", "ResultSection"]

_GOALS: tuple[tuple[Goal, str, str], ...] = (
    ("concept", "all of it", "Learn to find all that the word means"),
    ("object", "each one", "Learn to find the one object that is clicked"),
    ("both", "both", "Learn to find all of it, and each one that is clicked; takes longer"),
)
_VIEWS: tuple[tuple[View, str], ...] = (
    ("before", "What was found on this slice before it was taught"),
    ("after", "What is found on this slice now"),
)
# Letters of average width in a line from which two fields fit side by side
_TWO_FIELDS = 76
_LEGEND = "●— held-out score   - - before   ··· still wrong"


class MaterialSection(QWidget):
    """What is learnt from, and for how long."""

    def __init__(self, ask: Ask, controls: TeachControls) -> None:
        super().__init__()
        self._is_wide: bool | None = None
        self._words_given = controls.state.words_given
        self.image = ChoiceBox("Image to learn from")
        self.labels = ChoiceBox("Labels that show the structure")
        self.word = WordField("mitochondria", {})
        tip(
            self.word.edit,
            "What the labels show. Commas between several words for it; Down lists words",
        )
        self.goals = QButtonGroup(self)
        self.radios: dict[str, QRadioButton] = {}
        for name, words, explanation in _GOALS:
            radio = QRadioButton(words)
            tip(radio, explanation)
            on_click(radio, ask, controls.set_goal, name)
            self.goals.addButton(radio)
            self.radios[name] = radio
        self.slices = SlicesRow(ask, controls)
        self.budget = ChoiceBox("For how long to learn, at most; it ends when nothing gets better")
        self.steps = _Steps()
        self.estimate = text_line()
        tip(self.estimate, "Memory beyond the model's own, and time; both are estimates")
        self.image.chosen.connect(partial(ask, controls.set_image))
        self.labels.chosen.connect(partial(ask, controls.set_labels))
        self.word.asked.connect(partial(ask, controls.set_words))
        self.word.edit.textEdited.connect(partial(ask, controls.set_words))
        self.budget.chosen.connect(partial(ask, controls.set_budget))
        self.steps.valueChanged.connect(partial(ask, controls.set_steps))
        self._lay_out()

    def show_state(self, state: TeachState) -> None:
        """Show what is chosen."""
        self.setEnabled(state.busy is None and state.learning is None)
        self.image.show_choices(state.images, state.image)
        self.labels.show_choices(state.label_layers, state.labels)
        self.word.show_lists(state.history, state.known_words)
        if state.words_given != self._words_given:
            self._words_given = state.words_given
            self.word.edit.setText(state.words)
        self.word.show_word(state.words)
        self.radios[state.goal].setChecked(True)
        self.slices.show_state(state)
        self.budget.show_choices(state.budgets, state.budget)
        self.steps.show_steps(state.steps)
        self.steps.setVisible(state.budget == BY_STEPS)
        self.estimate.setText(state.estimate or " ")

    def arrange(self, letters: int) -> None:
        """Put two fields in a line, or each in its own."""
        is_wide = letters >= _TWO_FIELDS
        if is_wide == self._is_wide:
            return
        self._is_wide = is_wide
        grid = self._grid
        for number, (label, box) in enumerate(self._fields):
            row, column = divmod(number, 2) if is_wide else (number, 0)
            grid.addWidget(label, row, 2 * column)
            grid.addWidget(box, row, 2 * column + 1)
        grid.setColumnStretch(3, int(is_wide))
        columns = 4 if is_wide else 2
        for row, (name, widget) in enumerate(self._lines, start=len(self._fields)):
            if name is not None:
                grid.addWidget(name, row, 0)
            first = int(name is not None)
            grid.addWidget(widget, row, first, 1, columns - first)
        if is_wide:
            _, time = self._lines[-2]
            row = len(self._fields) + len(self._lines) - 2
            grid.addWidget(time, row, 1)
            grid.addWidget(self.estimate, row, 2, 1, 2)

    def _lay_out(self) -> None:
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setHorizontalSpacing(6)
        self._grid.setVerticalSpacing(4)
        self._grid.setColumnStretch(1, 1)
        self._fields = [(head("Image"), self.image), (head("Labels"), self.labels)]
        time = wrapped([self.budget, self.steps], spacing=8)
        self._lines: list[tuple[QLabel | None, QWidget]] = [
            (head("Word"), self.word),
            (head("Learn"), wrapped(list(self.radios.values()), spacing=10)),
            (None, self.slices),
            (None, Line()),
            (head("Time"), time),
            (None, self.estimate),
        ]


class SlicesRow(QWidget):
    """Which slices are learnt from and which are tested on; editable."""

    def __init__(self, ask: Ask, controls: TeachControls) -> None:
        super().__init__()
        self.found = text_line()
        self.tested = text_line()
        tip(self.tested, "Kept apart from learning, to tell how good it is")
        self.note = text_line()
        self.edit = button("Edit", "Choose the slices to learn from and to test on")
        self.edit.setCheckable(True)
        self.slices = SlicesEdit(
            "Slices to learn from: numbers and ranges such as 3, 7-9; ~ after one where only some "
            "of the structure is labelled"
        )
        self.tested_on = SlicesEdit("Slices of these that are only tested on, never learnt from")
        self.auto = button("As found", "Take the labelled slices as they were found")
        self.slices.entered.connect(partial(ask, controls.set_slices))
        self.tested_on.entered.connect(partial(ask, controls.set_tested_on))
        on_click(self.auto, ask, controls.choose_slices)
        self.edit.toggled.connect(self._open)
        self.editor = QWidget()
        grid = QGridLayout(self.editor)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(6)
        grid.setVerticalSpacing(4)
        grid.addWidget(head("Slices"), 0, 0)
        grid.addWidget(self.slices, 0, 1, 1, 2)
        grid.addWidget(head("Tested on"), 1, 0)
        grid.addWidget(self.tested_on, 1, 1)
        grid.addWidget(self.auto, 1, 2)
        row = QGridLayout()
        row.setHorizontalSpacing(6)
        row.setVerticalSpacing(2)
        row.setColumnStretch(0, 1)
        row.addWidget(self.found, 0, 0)
        row.addWidget(self.edit, 0, 1)
        row.addWidget(self.tested, 1, 0, 1, 2)
        stacked(self, row, self.editor, self.note)
        self.editor.hide()

    def show_state(self, state: TeachState) -> None:
        """Show the slices."""
        what = "Slices" if state.is_chosen else "Labelled slices found"
        shown = state.slices or "none"
        self.found.setText(f"{what}: {shown}")
        self.found.setVisible(state.is_stack)
        self.edit.setVisible(state.is_stack)
        self.editor.setVisible(state.is_stack and self.edit.isChecked())
        self.tested.setText(f"Tested on: {state.tested_on}")
        self.tested.setVisible(bool(state.tested_on))
        self.slices.show_text(state.slices)
        self.tested_on.show_text(state.tested_edit)
        self.auto.setEnabled(state.is_chosen)
        self.note.setText(state.slices_note)
        self.note.setVisible(bool(state.slices_note))

    def _open(self, on: bool) -> None:
        self.editor.setVisible(on)
        if on:
            self.slices.setFocus()


class SlicesEdit(QLineEdit):
    """A field for slices, which counts once Return is pressed or it is left.

    Attributes
    ----------
    entered : Signal(str)
    """

    entered = Signal(str)

    def __init__(self, tool_tip: str) -> None:
        super().__init__()
        tip(self, tool_tip)
        self.editingFinished.connect(self._enter)

    def show_text(self, text: str) -> None:
        """Show slices, unless the user is typing."""
        if not (self.hasFocus() and self.isModified()) and self.text() != text:
            self.setText(text)

    def _enter(self) -> None:
        if self.isModified():
            self.setModified(False)
            self.entered.emit(self.text())


class LessonSection(QWidget):
    """Begin, watch and end a lesson."""

    def __init__(self, ask: Ask, controls: TeachControls) -> None:
        super().__init__()
        self.teach = button("Teach", "Learn from the labelled slices")
        self.calm = text_line(teach_wording.REASSURANCE)
        self.progress = ProgressRow({})
        self.progress.stop_button.setText("Stop and keep")
        tip(self.progress.stop_button, "Stop, and keep the best so far")
        self.score = text_line()
        self.plot: CurvePlot | None = None
        self.legend = text_line(_LEGEND)
        self.legend.hide()
        self.score.hide()
        on_click(self.teach, ask, controls.teach)
        self.progress.stopped.connect(partial(ask, controls.stop))
        teach = wrapped([self.teach], even=True)
        self._column = stacked(self, teach, self.calm, self.progress, self.score, self.legend)

    def show_state(self, state: TeachState) -> None:
        """Show how far a lesson is, and how good."""
        is_running = state.busy is not None or state.learning is not None
        self.teach.setEnabled(state.can_teach and not is_running)
        self.progress.show_progress(state.learning or state.busy)
        self.score.setText(state.score)
        self.score.setVisible(bool(state.score))
        tip(self.score, state.score_tip)
        has_curve = len(state.curve.scores) > 1 or bool(state.curve.losses)
        if has_curve:
            self._need_plot().show_curve(state.curve)
        if self.plot is not None:
            self.plot.setVisible(has_curve)
        self.legend.setVisible(has_curve)

    def _need_plot(self) -> CurvePlot:
        """The plot, whose library is not loaded before there is something to draw."""
        if self.plot is None:
            from napari_clipsam._plugin._qt.curve import CurvePlot

            self.plot = CurvePlot()
            tip(
                self.plot,
                "Held-out score over time, higher is better; what is still wrong with the slices "
                "that are learnt from is scaled to fit",
            )
            self._column.insertWidget(self._column.indexOf(self.legend), self.plot)
        return self.plot


class ResultSection(QWidget):
    """What came of a lesson, and what to label next."""

    def __init__(self, ask: Ask, controls: TeachControls) -> None:
        super().__init__()
        self.views: dict[View, QPushButton] = {}
        for name, explanation in _VIEWS:
            made = button(name, explanation)
            made.setCheckable(True)
            made.clicked.connect(
                lambda checked, name=name: ask(controls.show_view, name if checked else "")
            )
            self.views[name] = made
        self.view_on = head("")
        self._views = wrapped([*self.views.values(), self.view_on], spacing=6)
        self.saved = text_line()
        self.use = button("Use", "Let what was learnt answer in the Segment dock")
        self.roll_back = button("Roll back", "Let what you had before answer again")
        self.save = button("Save again", "Try once more to write it into the library")
        self.go_on = button("Go on", "Teach on from where it was stopped")
        self.segment = button("Segment stack", "Find it in all slices, in the Segment dock")
        buttons = [self.segment, self.use, self.roll_back, self.save, self.go_on]
        self._buttons = wrapped(buttons, even=True)
        self.next = text_line()
        tip(self.next, "Slices by how unsure the answer is there; labelling those helps most")
        self.go = button("Go", "Go to this slice, with its labels ready to be painted")
        self.skip = button("Next", "Go to the one after it")
        self._next = QWidget()
        on_click(self.segment, ask, controls.segment_stack)
        on_click(self.use, ask, controls.use)
        on_click(self.roll_back, ask, controls.roll_back)
        on_click(self.save, ask, controls.save_again)
        on_click(self.go_on, ask, controls.go_on)
        on_click(self.go, ask, controls.go)
        on_click(self.skip, ask, controls.skip)
        row = QGridLayout(self._next)
        row.setContentsMargins(0, 0, 0, 0)
        row.setHorizontalSpacing(4)
        row.setColumnStretch(0, 1)
        for column, widget in enumerate((self.next, self.go, self.skip)):
            row.addWidget(widget, 0, column)
        stacked(self, self._views, self.saved, self._buttons, self._next)

    def show_state(self, state: TeachState) -> None:
        """Show the result, and what can be done with it."""
        for name, made in self.views.items():
            made.setChecked(name == state.view)
            made.setEnabled(name in state.views)
        self.view_on.setText(state.view_on)
        self._views.setVisible(bool(state.views))
        self.saved.setText(state.saved)
        self.saved.setVisible(bool(state.saved))
        tip(self.saved, state.saved_tip)
        self.use.setEnabled(state.can_use)
        self.roll_back.setEnabled(state.can_roll_back)
        is_running = state.busy is not None or state.learning is not None
        self.save.setVisible(state.can_save)
        self.go_on.setVisible(state.can_go_on and not is_running)
        self.segment.setVisible(state.can_segment)
        for made in (self.use, self.roll_back):
            made.setVisible(bool(state.saved))
        self._buttons.setVisible(bool(state.saved) or self.go_on.isVisibleTo(self._buttons))
        self.next.setText(state.next_slice)
        self.go.setVisible(state.can_go)
        self.skip.setVisible(state.can_go)
        self.skip.setEnabled(state.has_next)
        self._next.setVisible(bool(state.next_slice))


class _Steps(QSpinBox):
    """A number of steps, which changes by typing and by its buttons."""

    def __init__(self) -> None:
        super().__init__()
        self.setRange(1, 100_000)
        self.setSingleStep(50)
        self.setKeyboardTracking(False)
        tip(self, "Steps to learn for; the same number gives the same result")

    def show_steps(self, steps: int) -> None:
        """Show a number, except while the user is typing one."""
        edit = self.lineEdit()
        is_typed_in = self.hasFocus() and edit is not None and edit.isModified()
        if not is_typed_in and self.value() != steps:
            self.blockSignals(True)
            self.setValue(steps)
            self.blockSignals(False)

    def wheelEvent(self, event: QWheelEvent | None) -> None:
        """Leave the wheel to scrolling."""
        if event is not None:
            event.ignore()
