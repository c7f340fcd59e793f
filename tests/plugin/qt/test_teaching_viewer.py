"""Teaching in a real viewer with the starter model, while somebody goes on clicking."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plugin.qt.conftest import Heart, User
from plugin.qt.conftest import click as press
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QWidget

from napari_clipsam._plugin import commands
from napari_clipsam._plugin._qt.finetune import TeachDock
from napari_clipsam._plugin.samples import synthetic_nuclei
from napari_clipsam.training.metrics import innermost_pixel

MakeUser = Callable[..., User]
#: A word that the starter does not know.
WORD = "blebs"


@pytest.fixture
def stack() -> tuple[np.ndarray, np.ndarray]:
    """Four slices of nuclei, and labels in two of them."""
    image, labels = synthetic_nuclei((4, 128, 128), (2.0, 0.5, 0.5), n_nuclei=10, seed=5)
    labels[[1, 3]] = 0
    return image, labels


def open_teach(user: User) -> TeachDock:
    frame, dock = user.viewer.window.add_plugin_dock_widget("napari-clipsam", "Teach", tabify=True)
    frame.raise_()
    assert isinstance(dock, TeachDock)
    return dock


def is_in_front(dock: QWidget) -> bool:
    return not dock.visibleRegion().isEmpty()


def is_better(teacher: Any) -> bool:
    scores = [score for _, score in teacher.state.curve.scores]
    return bool(scores) and max(scores) > scores[0]


def test_a_word_to_teach_comes_with_its_dock_and_with_it_again(
    make_user: MakeUser, stack: tuple[np.ndarray, np.ndarray]
) -> None:
    user = make_user(stack[0])
    user.controller.update(word=WORD)
    user.controller.act("teach")
    teacher: Any = commands.teacher_in(user.viewer)
    assert teacher.state.words == WORD and teacher.state.image == "cells"
    dock = open_teach(user)
    assert dock.material.word.edit.text() == WORD
    user.wait(lambda: is_in_front(dock))
    commands.open_segment_dock(user.viewer)
    user.wait(lambda: is_in_front(user.dock) and not is_in_front(dock))
    user.controller.update(word="nuclei")
    user.controller.act("teach")
    user.wait(lambda: is_in_front(dock))
    assert dock.material.word.edit.text() == "nuclei"


def test_it_learns_while_one_clicks_stops_swaps_and_rolls_back(
    make_user: MakeUser, stack: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    image, labels = stack
    user = make_user(image)
    user.viewer.add_labels(labels, name="painted")
    user.controller.set_tool("point+")
    dock = open_teach(user)
    teacher: Any = dock._controls
    user.wait(lambda: bool(teacher.state.estimate))
    assert (teacher.state.slices, teacher.state.tested_on) == ("0, 2", "2")

    QTest.keyClicks(dock.material.word.edit, WORD)
    teacher.set_budget("steps")
    teacher.set_steps(60)
    press(user.bot, dock.lesson.teach)
    user.wait(lambda: len(teacher.state.curve.losses) > 2)
    cells = user.viewer.layers["cells"]
    user.viewer.dims.set_point(0, 2)
    # The first click also makes napari's layers, which only its window's thread can do.
    user.answered(lambda: user.click(cells, 2, *innermost_pixel(labels[2] == labels[2].max())))
    with Heart() as heart:
        user.answered(
            lambda: user.click(cells, 2, *innermost_pixel(labels[2] == labels[2].min() + 1))
        )
        user.wait(lambda: is_better(teacher))
    assert teacher.run.is_running, "a click ends no lesson"
    assert heart.busiest < 1, "napari froze"
    if os.getloadavg()[0] <= (os.cpu_count() or 1):
        assert heart.worst < 1
    user.controller.keep()
    assert np.asarray(user.viewer.layers["objects"].data)[2].any()

    press(user.bot, dock.lesson.progress.stop_button)
    user.wait(lambda: not teacher.run.is_running)
    (path,) = (tmp_path / "home" / "adapters").glob("*.safetensors")
    assert user.controller.state.adapter == str(path) and teacher.state.can_go_on
    user.wait(lambda: WORD in user.controller.state.known_words)
    user.wait(lambda: teacher.state.can_go)
    assert teacher.state.next_slice.startswith("Label next: slice")
    press(user.bot, dock.result.views["after"])
    assert np.asarray(user.viewer.layers["cells after"].data).any()

    user.answered(lambda: user.controller.find(WORD))
    assert user.controller.state.can_keep
    press(user.bot, dock.result.roll_back)
    assert user.controller.state.adapter == "default"
    user.wait(lambda: "nuclei" in user.controller.state.known_words)
    assert WORD not in user.controller.state.known_words


def test_a_lesson_that_was_closed_is_gone_on_with(
    make_user: MakeUser, stack: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    image, labels = stack
    user = make_user(image)
    user.viewer.add_labels(labels, name="painted")
    dock = open_teach(user)
    teacher: Any = dock._controls
    user.wait(lambda: teacher.material.looked is not None)
    QTest.keyClicks(dock.material.word.edit, WORD)
    teacher.set_budget("steps")
    teacher.set_steps(60)
    press(user.bot, dock.lesson.teach)
    user.wait(lambda: len(teacher.state.curve.losses) > 2)
    user.viewer.window.remove_dock_widget(dock)
    assert [layer.name for layer in user.viewer.layers] == ["cells", "painted"]

    dock = open_teach(user)
    teacher = dock._controls
    user.wait(lambda: teacher.state.hint is not None)
    assert teacher.state.hint.text.startswith(f"Teaching '{WORD}' (cells) was cut off")
    assert not list((tmp_path / "home" / "adapters").glob("*.safetensors"))
    press(user.bot, dock.hint.buttons[0])
    user.wait(lambda: is_better(teacher))
    press(user.bot, dock.lesson.progress.stop_button)
    user.wait(lambda: not teacher.run.is_running)
    assert teacher.state.saved.startswith(f"Saved as {WORD} (cells, ")
