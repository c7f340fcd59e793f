"""The Teach dock together with the Segment dock of the same viewer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from plugin.fakes import make_controller
from plugin.fakes_teaching import NAME, hint, make_teacher, paint, stack_with_labels

from napari_clipsam._plugin import commands
from napari_clipsam._plugin.chosen import Chosen
from napari_clipsam._plugin.teaching import TeachController
from napari_clipsam.errors import OutputError


@pytest.fixture
def pair(viewer: ViewerModel, labels: np.ndarray, tmp_path: Path) -> Any:
    """Both docks of a viewer."""
    segment = make_controller(viewer, tmp_path / "sessions")
    teacher = make_teacher(viewer, runner=segment.runner, chosen=segment.chosen)
    teacher.set_words("mitochondria")
    return segment, teacher


def test_the_segment_dock_answers_with_what_was_learnt(pair: Any, library: Path) -> None:
    segment, teacher = pair
    teacher.teach()
    path = str(library / f"{NAME}.safetensors")
    assert segment.state.adapter == path
    assert (path, NAME) in [(choice.value, choice.text) for choice in segment.state.adapters]
    assert segment.engine.loaded.adapter == path
    teacher.roll_back()
    assert segment.state.adapter == "default" and segment.engine.loaded.adapter == "default"
    segment.set_adapter(path)
    assert teacher.state.can_roll_back and not teacher.state.can_use


def test_a_stack_that_is_segmented_is_not_swapped_under(pair: Any) -> None:
    segment, teacher = pair
    segment.find("nuclei")
    segment.engine.on_step = lambda: teacher.teach() if not teacher.state.saved else None
    segment.segment_stack()
    assert segment.state.adapter == "default" and teacher.state.can_use
    assert hint(teacher).startswith("What was learnt is ready.")
    assert teacher.state.next_slice == "", "what answers does not know the word yet"
    teacher.use()
    assert segment.state.adapter != "default"


@pytest.mark.parametrize(("goal", "target"), [("concept", "concept"), ("both", "instances")])
def test_what_was_learnt_is_found_in_the_stack_at_once(
    pair: Any, monkeypatch: pytest.MonkeyPatch, goal: Any, target: str
) -> None:
    segment, teacher = pair
    opened: list[Any] = []
    monkeypatch.setattr(commands, "open_segment_dock", opened.append)
    segment.set_target("object")
    teacher.set_goal(goal)
    assert not teacher.state.can_segment
    teacher.teach()
    teacher.show_view("after")
    teacher.segment_stack()
    assert opened == [segment.viewer]
    assert (segment.state.word, segment.state.target) == ("mitochondria", target)
    found = {key[0] for one in segment.keeper.state.draft for key in one.masks}
    assert found == set(range(20))
    assert teacher.state.view == "", "it would cover what is found"
    teacher.roll_back()
    assert not teacher.state.can_segment


def test_a_preview_of_another_image_is_not_lost_to_a_stack(
    pair: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment, teacher = pair
    monkeypatch.setattr(commands, "open_segment_dock", lambda viewer: None)
    teacher.teach()
    segment.viewer.add_image(np.zeros((40, 40)), name="other")
    segment.set_image("other")
    segment.find("nuclei")
    draft = segment.keeper.state.draft
    teacher.segment_stack()
    assert segment.focus.name == "other" and segment.keeper.state.draft == draft
    assert segment.state.hint is not None


def test_an_adapter_in_memory_can_be_chosen_in_the_segment_dock(
    pair: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment, teacher = pair

    def full(*_: object) -> Path:
        raise OutputError("The disk is full. Free some space.")

    monkeypatch.setattr("napari_clipsam._plugin.teach_lesson.save", full)
    teacher.teach()
    texts = [choice.text for choice in segment.state.adapters]
    assert f"{NAME}, not saved" in texts


def test_the_choice_outlives_the_docks(viewer: ViewerModel, tmp_path: Path) -> None:
    chosen = Chosen()
    stack_with_labels(viewer)
    teacher = make_teacher(viewer, chosen=chosen)
    teacher.set_words("mitochondria")
    teacher.teach()
    assert chosen.usable_adapter() == chosen.adapter != "default"
    Path(chosen.adapter).unlink()
    assert chosen.usable_adapter() == "default"


def test_the_word_that_was_not_found_is_taught(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    segment, teacher = pair
    opened: list[Any] = []
    monkeypatch.setattr(commands, "open_teach_dock", opened.append)
    segment.find("vacuoles")
    segment.act("teach")
    assert opened == [segment.viewer]
    assert teacher.state.words == "vacuoles" and teacher.state.words_given == 1


def test_closing_lets_go_of_everything(teacher: TeachController, viewer: ViewerModel) -> None:
    assert commands.teacher_in(viewer) is teacher
    teacher.close()
    teacher.close()
    assert commands.teacher_in(viewer) is None
    before = teacher.state
    viewer.add_image(np.zeros((5, 5)), name="more")
    paint(viewer.layers["mito"], 5, 700)
    assert teacher.state == before
