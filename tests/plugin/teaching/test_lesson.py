"""A lesson of the Teach dock and where its result goes; a trainer that learns at once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from napari.components import ViewerModel
from plugin.fakes_teaching import (
    NAME,
    FakeFit,
    engine,
    fit_of,
    hint,
    make_teacher,
    stack_with_labels,
)

from napari_clipsam._plugin.teaching import TeachController
from napari_clipsam.adapters.files import read_header
from napari_clipsam.errors import ClipSamError, OutOfMemory, OutputError, Stopped
from napari_clipsam.training.checkpoint import state_path

# ---------------------------------------------------------------- a lesson


def test_a_lesson_ends_in_the_library_and_in_use(teacher: TeachController, library: Path) -> None:
    chosen = teacher.chosen
    teacher.teach()
    path = library / f"{NAME}.safetensors"
    state = teacher.state
    assert state.score == "held-out Dice  0.41 → 0.78"
    assert state.score_tip.startswith("Dice 0.78: overlap with your labels on slice 12")
    assert state.curve.scores == ((0.0, 0.41), (60.0, 0.6), (120.0, 0.78))
    assert len(state.curve.losses) == 2
    assert state.saved == f"Saved as {NAME}"
    assert chosen.adapter == str(path) and state.can_roll_back and not state.can_use

    info = read_header(path).info
    assert info.provenance["image"] == "em" and info.provenance["slices"] == [3, 7, 12]
    assert info.provenance["date"] == "2026-11-22" and info.words == ("mitochondria",)
    assert [file.name for file in library.iterdir()] == [path.name], "nothing else is left"

    teacher.roll_back()
    assert chosen.adapter == "default"
    assert teacher.state.can_use and not teacher.state.can_roll_back
    teacher.use()
    assert chosen.adapter == str(path)


def test_a_second_result_takes_no_name_of_another(teacher: TeachController, library: Path) -> None:
    teacher.set_words("a/b: c?")
    teacher.teach()
    teacher.teach()
    names = sorted(file.name for file in library.iterdir())
    assert names == ["a-b- c- (em, 22 Nov) 2.safetensors", "a-b- c- (em, 22 Nov).safetensors"]
    teacher.roll_back()
    assert teacher.chosen.adapter == str(library / names[1]), "it went on from the first"


def test_what_is_not_better_changes_nothing(viewer: ViewerModel, library: Path) -> None:
    stack_with_labels(viewer)
    teacher = make_teacher(viewer, FakeFit(scores=(0.3, 0.2), reason="no better"))
    teacher.set_words("mitochondria")
    teacher.teach()
    assert hint(teacher).startswith("Nothing better than before was learnt in 2 min")
    assert teacher.chosen.adapter == "default" and teacher.state.saved == ""
    assert not teacher.state.can_use and not teacher.state.can_roll_back
    assert list(library.iterdir()) == []


def test_a_time_that_allows_no_step_is_said_to_be_too_short(viewer: ViewerModel) -> None:
    stack_with_labels(viewer)
    teacher = make_teacher(viewer, FakeFit(scores=()))
    teacher.set_words("mitochondria")
    teacher.teach()
    assert hint(teacher) == (
        "The 2 min were used up looking at 2 slices, before anything could be learnt, so what you "
        "had stays. Give it more time, or fewer slices."
    )


@pytest.mark.parametrize(
    ("scores", "kept"), [((0.7,), "the best until then is kept"), ((0.2,), "what you had stays")]
)
def test_numbers_that_break_down_are_said(
    viewer: ViewerModel, scores: tuple[float, ...], kept: str
) -> None:
    stack_with_labels(viewer)
    teacher = make_teacher(viewer, FakeFit(scores, reason="not finite"))
    teacher.set_words("mitochondria")
    teacher.teach()
    assert "its numbers were not finite" in hint(teacher) and kept in hint(teacher)
    assert bool(teacher.state.saved) == (scores == (0.7,))


def test_a_stop_keeps_the_best_and_can_be_gone_on_from(viewer: ViewerModel, library: Path) -> None:
    stack_with_labels(viewer)
    fit = FakeFit((0.5, 0.6, 0.9))
    teacher = make_teacher(viewer, fit)
    teacher.set_words("mitochondria")
    steps: list[int] = []

    def stop_at_two() -> None:
        steps.append(1)
        if len(steps) == 2:
            teacher.stop()

    fit.on_step = stop_at_two
    teacher.teach()
    assert teacher.state.saved == f"Saved as {NAME}" and teacher.state.can_go_on
    assert teacher.state.score == "held-out Dice  0.41 → 0.50"

    fit.on_step = lambda: None
    teacher.set_budget("10")
    teacher.go_on()
    assert [asked.resume for asked in fit.asked] == [False, True]
    assert [asked.settings.minutes for asked in fit.asked] == [3, 10], "as the dock says now"
    assert fit.asked[1].checkpoint == fit.asked[0].checkpoint
    assert teacher.state.saved == f"Saved as {NAME} 2" and not teacher.state.can_go_on
    teacher.roll_back()
    assert teacher.chosen.adapter == "default", "what it began with"


@pytest.mark.parametrize("error", [Stopped("Stopped."), OutOfMemory("The memory is full.")])
@pytest.mark.parametrize("is_used", [True, False])
def test_going_on_for_nothing_leaves_what_was_learnt_before(
    viewer: ViewerModel, library: Path, is_used: bool, error: ClipSamError
) -> None:
    stack_with_labels(viewer)
    fit = FakeFit((0.6,), reason="stopped")
    teacher = make_teacher(viewer, fit)
    teacher.set_words("mitochondria")
    teacher.teach()
    if not is_used:
        teacher.roll_back()
    former, adapter = teacher.state, teacher.chosen.adapter

    fit.scores, fit.error, fit.baseline = (), error, 0.3
    fit.on_start = teacher.stop if isinstance(error, Stopped) else lambda: None
    teacher.go_on()
    expected = "Stopped before more was learnt. What was learnt before is kept."
    assert hint(teacher) == (expected if isinstance(error, Stopped) else str(error))
    same = {name: getattr(former, name) for name in ("hint", "known_words")}
    assert replace(teacher.state, **same) == former
    assert teacher.chosen.adapter == adapter
    (record,) = library.glob("*.teaching.json")
    assert json.loads(record.read_text())["is_stopped"] == isinstance(error, Stopped)

    fit.scores, fit.error, fit.reason = (0.7,), None, "budget"
    fit.on_start = lambda: None
    teacher.go_on()
    assert teacher.state.saved == f"Saved as {NAME} 2" and teacher.state.can_roll_back


@pytest.mark.parametrize("scores", [(0.6,), (0.2,)])
def test_where_no_state_was_written_there_is_nothing_to_go_on_from(
    viewer: ViewerModel, scores: tuple[float, ...]
) -> None:
    stack_with_labels(viewer)
    teacher = make_teacher(viewer, FakeFit(scores, reason="stopped", saves=False))
    teacher.set_words("mitochondria")
    teacher.teach()
    assert not teacher.state.can_go_on and "Go on" not in hint(teacher)
    teacher.go_on()
    assert len(fit_of(teacher).asked) == 1


def test_what_was_stopped_before_it_got_better_can_be_gone_on_with(viewer: ViewerModel) -> None:
    stack_with_labels(viewer)
    teacher = make_teacher(viewer, FakeFit((0.2,), reason="stopped"))
    teacher.set_words("mitochondria")
    teacher.teach()
    assert teacher.state.can_go_on and hint(teacher).endswith("Go on, or label more slices.")


def test_the_state_lies_where_the_trainer_expects_it(
    teacher: TeachController, library: Path
) -> None:
    teacher.teach()
    assert fit_of(teacher).asked[0].checkpoint == state_path(library / f"{NAME}.safetensors")


def test_an_early_stop_says_so(viewer: ViewerModel) -> None:
    stack_with_labels(viewer)
    teacher = make_teacher(viewer, FakeFit(scores=(), error=Stopped("Stopped.")))
    teacher.set_words("mitochondria")
    teacher.teach()
    assert hint(teacher) == "Stopped before anything was learnt."
    assert teacher.state.learning is None and teacher.state.busy is None


def test_an_error_ends_the_lesson_alone(viewer: ViewerModel) -> None:
    stack_with_labels(viewer)
    fit = FakeFit(error=OutOfMemory("The memory is full. Learn from fewer slices."))
    teacher = make_teacher(viewer, fit)
    teacher.set_words("mitochondria")
    teacher.teach()
    assert hint(teacher) == "The memory is full. Learn from fewer slices."
    fit.error = None
    teacher.teach()
    assert teacher.state.saved.startswith("Saved as")


# ---------------------------------------------------------------- saving


def test_a_full_disk_leaves_the_result_in_memory(
    teacher: TeachController, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Path:
        raise OutputError("The disk is full. Free some space.")

    with monkeypatch.context() as patch:
        patch.setattr("napari_clipsam._plugin.teach_lesson.save", full)
        teacher.teach()
    assert hint(teacher) == "The disk is full. Free some space."
    assert teacher.state.saved == f"Not saved: {NAME}" and teacher.state.can_save
    value = f"memory:{NAME}"
    assert teacher.chosen.adapter == value and value in engine(teacher).in_memory
    assert [choice.value for choice in teacher.chosen.unsaved] == [value]

    teacher.save_again()
    path = library / f"{NAME}.safetensors"
    assert path.is_file() and teacher.chosen.adapter == str(path)
    assert teacher.state.saved == f"Saved as {NAME}" and not teacher.state.can_save
    assert teacher.chosen.unsaved == () and hint(teacher) == ""


def test_results_that_could_not_be_saved_are_told_apart(
    teacher: TeachController, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Path:
        raise OutputError("The disk is full. Free some space.")

    monkeypatch.setattr("napari_clipsam._plugin.teach_lesson.save", full)
    teacher.teach()
    teacher.teach()
    first, second = f"memory:{NAME}", f"memory:{NAME} 2"
    assert [choice.value for choice in teacher.chosen.unsaved] == [first, second]
    assert teacher.state.saved == f"Not saved: {NAME} 2"
    assert teacher.chosen.adapter == second
    held = engine(teacher).in_memory
    assert held[first] is not held[second]
    teacher.roll_back()
    assert teacher.chosen.adapter == first, "it went on from the first"


def test_a_folder_that_comes_back_while_it_learns_is_written_to(
    teacher: TeachController, library: Path
) -> None:
    library.write_text("a file is in the way")
    fit_of(teacher).on_step = lambda: library.is_file() and library.unlink()
    teacher.teach()
    assert teacher.state.saved == f"Saved as {NAME}"
    assert [file.name for file in library.iterdir()] == [f"{NAME}.safetensors"]


def test_a_folder_that_cannot_be_written_is_said_at_once(
    teacher: TeachController, library: Path
) -> None:
    library.write_text("a file is in the way")
    teacher.set_words("a/b: c?")
    fit_of(teacher).reason = "stopped"
    teacher.teach()
    assert fit_of(teacher).asked[0].checkpoint is None, "it learns all the same"
    assert not teacher.state.can_go_on
    assert "cannot be written to" in hint(teacher) and teacher.state.can_save
    library.unlink()
    teacher.save_again()
    assert teacher.state.saved == "Saved as a-b- c- (em, 22 Nov)"
