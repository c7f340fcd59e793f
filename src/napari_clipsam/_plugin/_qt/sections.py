"""The parts of the Segment dock from top to bottom; each shows its share of a `DockState`."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtGui import QAction  # type: ignore[attr-defined]
from qtpy.QtWidgets import (
    QButtonGroup,
    QCheckBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QMenu,
    QPushButton,
    QRadioButton,
    QWidget,
)

from napari_clipsam._plugin import wording
from napari_clipsam._plugin._qt.icons import Line
from napari_clipsam._plugin._qt.layouts import stacked, wrapped
from napari_clipsam._plugin._qt.parts import (
    ChoiceBox,
    ProgressRow,
    RangeRow,
    ToolButtons,
    button,
    head,
    on_click,
    text_line,
    tip,
)
from napari_clipsam._plugin._qt.table import ObjectTable
from napari_clipsam._plugin._qt.words import WordField

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from napari_clipsam._plugin.state import Choice, Controls, DockState, ExportKind, Target, Tool

    Ask = Callable[..., None]
    Keys = Mapping[str, str]

__all__ = [
    "AnswerSection",
    "FileSection",
    "FindSection",
    "ObjectsSection",
    "StackSection",
    "WelcomeSection",
]

_TARGETS: tuple[tuple[Target, str, str], ...] = (
    ("concept", "all of it", "All that the word means, as one object"),
    ("instances", "every one", "Each one as an object of its own"),
    ("object", "just this one", "The one object you click"),
)
_TOOLS: tuple[tuple[Tool, str, str], ...] = (
    ("point+", "+ point", "Click what belongs to it"),
    ("point-", "− point", "Click what does not belong to it"),  # noqa: RUF001
    ("box", "box", "Draw a box around it"),
    ("lasso", "lasso", "Draw around it"),
    ("scribble", "scribble", "Draw a line over it"),
)
_VOLUME = ".ome.zarr"
_IMAGES = "Images (*.tif *.tiff *.png *.jpg *.jpeg *.bmp)"
# Letters of average width in a line from which two fields, or a label and more, fit side by side
_TWO_FIELDS, _BESIDE = 76, 66
_EXPORTS: tuple[tuple[ExportKind, str, str], ...] = (
    ("tiff", "Labels as TIFF...", ".tif"),
    ("ome-zarr", "Labels as OME-Zarr...", ".ome.zarr"),
    ("csv", "Table of objects as CSV...", ".csv"),
    ("coco", "Outlines as COCO...", ".json"),
)


class WelcomeSection(QWidget):
    """What to do without an image."""

    def __init__(self, ask: Ask, controls: Controls) -> None:
        super().__init__()
        self._ask, self._controls = ask, controls
        self._choices: tuple[Choice, ...] = ()
        self.samples: list[QPushButton] = []
        self._links = QWidget()
        self._column = stacked(self, text_line(wording.no_image().text), self._links)

    def show_state(self, state: DockState) -> None:
        """Show the samples as links."""
        self.setVisible(not state.images)
        if state.samples == self._choices:
            return
        self._choices = state.samples
        self.samples = []
        for choice in state.samples:
            link = button(choice.text, f"Open {choice.text}", is_link=True)
            on_click(link, self._ask, self._controls.open_sample, choice.value)
            self.samples.append(link)
        self._links.hide()
        self._links.deleteLater()
        self._links = wrapped(self.samples, spacing=16)
        self._column.addWidget(self._links)


class FindSection(QWidget):
    """Image and model, the word, and the prompt tools."""

    def __init__(self, ask: Ask, controls: Controls, keys: Keys) -> None:
        super().__init__()
        self._arrangement: tuple[bool, bool] | None = None
        self.image = ChoiceBox("Image to work on")
        self.channel = ChoiceBox("How its channels are seen")
        self.model = ChoiceBox("Model that answers")
        self.adapter = ChoiceBox("What the model has been taught")
        self.word = WordField("nuclei", keys)
        self.targets = QButtonGroup(self)
        self._radios: dict[str, QRadioButton] = {}
        for name, words, explanation in _TARGETS:
            radio = QRadioButton(words)
            tip(radio, explanation, keys.get(name, ""))
            on_click(radio, ask, controls.set_target, name)
            self.targets.addButton(radio)
            self._radios[name] = radio
        self.from_labels = button(
            "from labels", "Start from the selected label", keys.get("from-labels", "")
        )
        self.tools = ToolButtons(_TOOLS, keys, [self.from_labels])
        self.image.chosen.connect(partial(ask, controls.set_image))
        self.channel.chosen.connect(partial(ask, controls.set_channel))
        self.model.chosen.connect(partial(ask, controls.set_model))
        self.adapter.chosen.connect(partial(ask, controls.set_adapter))
        self.word.asked.connect(partial(ask, controls.find))
        self.tools.picked.connect(partial(ask, controls.set_tool))
        on_click(self.from_labels, ask, controls.prompt_from_labels)
        self._lay_out()

    def show_state(self, state: DockState) -> None:
        """Show what is chosen."""
        self.image.show_choices(state.images, state.image)
        self.channel.show_choices(state.channels, state.channel)
        self.model.show_choices(_with_device(state), state.model)
        adapters = state.adapters or wording.only(state.adapter)
        self.adapter.show_choices(adapters, state.adapter)
        self.word.show_lists(state.history, state.known_words)
        self.word.show_word(state.word)
        self._radios[state.target].setChecked(True)
        self.tools.show_tool(state.tool)

    def arrange(self, letters: int) -> None:
        """Put two fields in a line, or each in its own; leave labels out where room is short."""
        arrangement = (letters >= _TWO_FIELDS, letters >= _BESIDE)
        if arrangement == self._arrangement:
            return
        self._arrangement = arrangement
        two_fields, has_labels = arrangement
        for number, (label, box) in enumerate(self._fields):
            row, column = divmod(number, 2) if two_fields else (number, 0)
            self._grid.addWidget(label, row, 2 * column)
            self._grid.addWidget(box, row, 2 * column + 1)
        self._grid.setColumnStretch(3, int(two_fields))
        columns = 4 if two_fields else 2
        for row, (name, widget) in enumerate(self._lines, start=len(self._fields)):
            first = int(name is not None and (has_labels or widget is self.word))
            if name is not None:
                self._grid.addWidget(name, row, 0)
                name.setVisible(first == 1)
            self._grid.addWidget(widget, row, first, 1, columns - first)

    def _lay_out(self) -> None:
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setHorizontalSpacing(6)
        self._grid.setVerticalSpacing(4)
        self._grid.setColumnStretch(1, 1)
        self._fields = [
            (head("Image"), self.image),
            (head("Channels"), self.channel),
            (head("Model"), self.model),
            (head("Adapter"), self.adapter),
        ]
        self._lines: list[tuple[QLabel | None, QWidget]] = [
            (None, Line()),
            (head("Find"), self.word),
            (head(""), wrapped(list(self._radios.values()), spacing=10)),
            (head("Prompt"), self.tools),
            (None, Line()),
        ]


class AnswerSection(QWidget):
    """The answer in words, and what becomes of the preview."""

    def __init__(self, ask: Ask, controls: Controls, keys: Keys) -> None:
        super().__init__()
        self.answer = text_line()
        keep_key = keys.get("keep", "")
        self.keep = button(
            f"Keep ({keep_key})" if keep_key else "Keep", "Keep the preview as labels", keep_key
        )
        self.clear = button("Clear", "Drop the preview", keys.get("clear", ""))
        self.undo = button("Undo", "Undo", keys.get("undo", ""))
        self.redo = button("Redo", "Redo", keys.get("redo", ""))
        self._undo_key, self._redo_key = keys.get("undo", ""), keys.get("redo", "")
        self.keep_into = ChoiceBox("Labels layer that Keep writes to")
        self.spare_others = QCheckBox("do not overwrite others")
        tip(self.spare_others, "Keep leaves the pixels of other objects as they are")
        on_click(self.keep, ask, controls.keep)
        on_click(self.clear, ask, controls.clear)
        on_click(self.undo, ask, controls.undo)
        on_click(self.redo, ask, controls.redo)
        self.keep_into.chosen.connect(partial(ask, controls.set_keep_into))
        self.spare_others.clicked.connect(lambda checked: ask(controls.set_overwrite, not checked))
        self._into = QGridLayout()
        self._into.setSpacing(6)
        self._into.setColumnStretch(1, 1)
        self._into.addWidget(head("Keep into"), 0, 0)
        self._into.addWidget(self.keep_into, 0, 1)
        buttons = wrapped([self.keep, self.clear, self.undo, self.redo], even=True)
        stacked(self, self.answer, buttons, self._into)

    def show_state(self, state: DockState) -> None:
        """Show the answer, and what can be done with it."""
        self.answer.setText(state.answer)
        self.answer.setVisible(bool(state.answer))
        self.keep.setEnabled(state.can_keep)
        self.clear.setEnabled(state.can_clear)
        for made, word, what, key in (
            (self.undo, "Undo", state.undo_text, self._undo_key),
            (self.redo, "Redo", state.redo_text, self._redo_key),
        ):
            made.setEnabled(bool(what))
            tip(made, f"{word} {what}".rstrip(), key)
        self.keep_into.show_choices(state.label_layers, state.keep_into)
        self.spare_others.setChecked(not state.overwrite)

    def arrange(self, letters: int) -> None:
        """Put "do not overwrite others" beside or below the layer."""
        row, column = (0, 2) if letters >= _BESIDE else (1, 1)
        self._into.addWidget(self.spare_others, row, column)


class StackSection(QWidget):
    """Slices of a stack, shown where there is one; and the progress of any long job."""

    def __init__(self, ask: Ask, controls: Controls, keys: Keys) -> None:
        super().__init__()
        self._ask, self._controls = ask, controls
        self.z_range = RangeRow("Whole stack  z")
        self.segment = button(
            "Segment stack", "Look for the word in all these slices", keys.get("stack", "")
        )
        self.into = button(
            "Into a file...",
            "Look for the word in all these slices and write the labels to a file, however large",
        )
        self.follow = button(
            "Follow object", "Follow the preview through these slices", keys.get("follow", "")
        )
        self.estimate = head("")
        self.progress = ProgressRow(keys)
        self.z_range.changed.connect(partial(ask, controls.set_z_range))
        on_click(self.segment, ask, controls.segment_stack)
        self.into.clicked.connect(self.ask_for_file)
        on_click(self.follow, ask, controls.propagate)
        self.progress.stopped.connect(partial(ask, controls.stop))
        self._stack = QWidget()
        buttons = wrapped([self.segment, self.into, self.follow, self.estimate], spacing=6)
        stacked(self._stack, Line(), self.z_range, buttons)
        stacked(self, self._stack, self.progress)

    def show_state(self, state: DockState) -> None:
        """Show the range, what it would take, and how far it is."""
        self._stack.setVisible(state.z_extent > 0)
        self.z_range.title.setText(f"Whole stack  {state.stack_axis}")
        self.z_range.show_range(state.z_extent, state.z_range)
        self.follow.setEnabled(state.can_propagate)
        self.estimate.setText(state.estimate)
        self.estimate.setVisible(bool(state.estimate))
        self.progress.show_progress(state.busy)

    def ask_for_file(self) -> None:
        """Ask where the labels shall go, and begin."""
        word = re.sub(r"[^\w.-]+", "_", self._controls.state.word) or "labels"
        name, _ = QFileDialog.getSaveFileName(
            self, "Labels of the whole stack as OME-Zarr", word + _VOLUME, f"OME-Zarr (*{_VOLUME})"
        )
        if name:
            stem = name.removesuffix(_VOLUME).removesuffix(".zarr")
            self._ask(self._controls.segment_into, Path(stem + _VOLUME))


class ObjectsSection(QWidget):
    """The kept objects."""

    def __init__(self, ask: Ask, controls: Controls, keys: Keys) -> None:
        super().__init__()
        self.table = ObjectTable()
        self.table.setMinimumHeight(110)
        self._none_yet = text_line("Objects that you keep are listed here.")
        self.weak = button("Next weak", "Go to the least certain one", keys.get("next-weak", ""))
        self.delete = button("Delete", "Delete the selected object", "Del")
        self.table.opened.connect(partial(ask, controls.open_object))
        self.table.removed.connect(partial(ask, controls.delete_object))
        on_click(self.weak, ask, controls.next_weak)
        self.delete.clicked.connect(lambda: ask(controls.delete_object, self.table.selected_key()))
        self._buttons = wrapped([self.weak, self.delete], even=True)
        column = stacked(self, Line(), self._none_yet, self.table, self._buttons)
        column.setStretchFactor(self.table, 1)
        self._none_yet.setAlignment(Qt.AlignmentFlag.AlignTop)

    def show_state(self, state: DockState) -> None:
        """Show the objects, and which of them is open."""
        has_some = bool(state.objects)
        self.table.show_objects(state.objects, state.selected, state.size_title)
        self.table.setVisible(has_some)
        self._buttons.setVisible(has_some)
        self._none_yet.setVisible(not has_some)
        self.delete.setEnabled(bool(state.selected))


class FileSection(QWidget):
    """Saving, opening and exporting a session."""

    def __init__(self, ask: Ask, controls: Controls) -> None:
        super().__init__()
        self._ask, self._controls = ask, controls
        self.project = button("Project", "Save this session to a folder, or open one")
        menu = QMenu(self.project)
        menu.addAction("Save project...", self._save)
        menu.addAction("Open project...", self._open)
        self._again = QAction("Run again with this model", menu)
        self._again.triggered.connect(lambda: ask(controls.replay))
        menu.addAction(self._again)
        self.project.setMenu(menu)
        self.export = button("Export", "Write labels, or the table of objects, to a file")
        menu = QMenu(self.export)
        for kind, words, ending in _EXPORTS:
            menu.addAction(words, partial(self._export, kind, words, ending))
        self.export.setMenu(menu)
        self.folder = button("Folder", "Find the word in many images, and write their labels")
        menu = QMenu(self.folder)
        menu.addAction("Apply to a folder of images...", self._apply_to_folder)
        menu.addAction("Apply to some images...", self._apply_to_some)
        self.folder.setMenu(menu)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(4)
        row.addWidget(self.project)
        row.addWidget(self.export)
        row.addWidget(self.folder)

    def show_state(self, state: DockState) -> None:
        """There is something to export or to run again once there are objects."""
        self.export.setEnabled(bool(state.objects))
        self._again.setEnabled(bool(state.objects) and state.busy is None)
        self.folder.setEnabled(bool(state.images))

    def _save(self) -> None:
        if folder := QFileDialog.getExistingDirectory(self, "Folder to save the project in"):
            self._ask(self._controls.save_project, Path(folder))

    def _open(self) -> None:
        if folder := QFileDialog.getExistingDirectory(self, "Folder of a saved project"):
            self._ask(self._controls.open_project, Path(folder))

    def _apply_to_folder(self) -> None:
        if folder := QFileDialog.getExistingDirectory(self, "Folder of images"):
            self._apply([Path(folder)])

    def _apply_to_some(self) -> None:
        names, _ = QFileDialog.getOpenFileNames(self, "Images", "", _IMAGES)
        if names:
            self._apply([Path(name) for name in names])

    def _apply(self, images: list[Path]) -> None:
        if output := QFileDialog.getExistingDirectory(self, "Folder for the labels"):
            self._ask(self._controls.segment_folder, images, Path(output))

    def _export(self, kind: ExportKind, words: str, ending: str) -> None:
        title, kinds = words.rstrip("."), f"{ending} (*{ending})"
        name, _ = QFileDialog.getSaveFileName(self, title, "", kinds)
        if name:
            path = Path(name if name.endswith(ending) else name + ending)
            self._ask(self._controls.export, kind, path)


def _with_device(state: DockState) -> tuple[Choice, ...]:
    """The models, the chosen one with the device it runs on: "Starter (30 MB, CPU)"."""
    from dataclasses import replace

    def on_device(text: str) -> str:
        if not state.device or state.device in text:
            return text
        return f"{text[:-1]}, {state.device})" if text.endswith(")") else f"{text} ({state.device})"

    return tuple(
        replace(choice, text=on_device(choice.text)) if choice.value == state.model else choice
        for choice in state.models or wording.only(state.model)
    )
