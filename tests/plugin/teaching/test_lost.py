"""Lessons that were cut off, found again when a Teach dock opens."""

from __future__ import annotations

from pathlib import Path

import pytest
from napari.components import ViewerModel
from plugin.fakes_teaching import NAME, FakeFit, fit_of, hint, make_teacher, stack_with_labels

from napari_clipsam._plugin.taught import take_lock
from napari_clipsam.errors import ConfigError, WeightsError


def cut_off(viewer: ViewerModel) -> FakeFit:
    """A lesson that ended with napari."""
    fit = FakeFit((0.5, 0.6, 0.9))
    teacher = make_teacher(viewer, fit)
    teacher.set_words("mitochondria")
    teacher.set_budget("10")
    fit.on_step = teacher.close
    teacher.teach()
    return fit


def test_closing_keeps_what_there_is_to_go_on_from(viewer: ViewerModel, library: Path) -> None:
    stack_with_labels(viewer)
    cut_off(viewer)
    assert not (library / f"{NAME}.safetensors").exists()
    teacher = make_teacher(viewer)
    assert hint(teacher) == "Teaching 'mitochondria' (em) was cut off. Go on with it?"
    teacher.act("go-on")
    (asked,) = fit_of(teacher).asked
    assert asked.resume and asked.settings.minutes == 10
    assert teacher.state.words == "mitochondria"
    assert teacher.state.saved == f"Saved as {NAME}"
    assert [file.name for file in library.iterdir()] == [f"{NAME}.safetensors"]


def test_what_went_on_from_something_unsaved_is_not_offered_once_that_is_gone(
    viewer: ViewerModel, library: Path
) -> None:
    stack_with_labels(viewer)
    cut_off(viewer)
    (record,) = library.glob("*.teaching.json")
    record.write_text(record.read_text().replace('"default"', '"memory:mitochondria"'))
    teacher = make_teacher(viewer)
    assert hint(teacher).endswith("never saved, so it is lost. Teach anew.")
    assert teacher.state.hint is not None
    assert [name for name, _ in teacher.state.hint.actions] == ["discard"]
    teacher.act("discard")
    assert not list(library.iterdir())


def test_only_lessons_on_open_layers_are_offered(viewer: ViewerModel, library: Path) -> None:
    stack_with_labels(viewer)
    cut_off(viewer)
    other = ViewerModel()
    teacher = make_teacher(other)
    assert "cut off" not in hint(teacher)
    stack_with_labels(other)
    assert hint(teacher).startswith("Teaching 'mitochondria' (em) was cut off")
    other.layers.remove("mito")
    assert "cut off" not in hint(teacher)


def test_a_lesson_of_another_napari_is_left_alone(viewer: ViewerModel, library: Path) -> None:
    stack_with_labels(viewer)
    cut_off(viewer)
    lock = take_lock(library, NAME)
    assert lock is not None
    assert hint(make_teacher(viewer)) == ""
    lock.release()
    assert hint(make_teacher(viewer)).startswith("Teaching 'mitochondria'")


def test_what_was_cut_off_is_deleted_when_asked(viewer: ViewerModel, library: Path) -> None:
    stack_with_labels(viewer)
    cut_off(viewer)
    teacher = make_teacher(viewer)
    teacher.act("discard")
    assert hint(teacher) == "" and list(library.iterdir()) == []


def test_teaching_the_same_anew_forgets_the_former_try(viewer: ViewerModel, library: Path) -> None:
    stack_with_labels(viewer)
    cut_off(viewer)
    teacher = make_teacher(viewer)
    teacher.set_words("mitochondria")
    teacher.teach()
    assert [file.suffix for file in library.iterdir()] == [".safetensors"]


@pytest.mark.parametrize("content", ["", "{}", '{"words": 3}', "[1]", "\x00"])
def test_an_unreadable_record_is_offered_for_deletion(
    viewer: ViewerModel, library: Path, content: str
) -> None:
    stack_with_labels(viewer)
    cut_off(viewer)
    (library / f"{NAME}.teaching.json").write_text(content)
    teacher = make_teacher(viewer)
    assert hint(teacher) == f"What was kept of teaching '{NAME}' cannot be read. Delete it?"
    teacher.act("discard")
    assert hint(teacher) == "" and list(library.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        WeightsError("The state is damaged. Delete it and train anew."),
        ConfigError("The state belongs to training on other labels. Delete it."),
    ],
)
def test_a_state_that_does_not_fit_is_offered_for_deletion(
    viewer: ViewerModel, library: Path, error: Exception
) -> None:
    stack_with_labels(viewer)
    cut_off(viewer)
    teacher = make_teacher(viewer, FakeFit(scores=(), error=error))
    teacher.act("go-on")
    assert hint(teacher) == str(error)
    assert teacher.state.hint is not None
    assert teacher.state.hint.actions == (("discard", "Delete it"),)
    teacher.act("discard")
    assert list(library.iterdir()) == []


def test_a_stopped_lesson_is_not_asked_about_later(viewer: ViewerModel, library: Path) -> None:
    stack_with_labels(viewer)
    fit = FakeFit((0.5, 0.6, 0.9))
    teacher = make_teacher(viewer, fit)
    teacher.set_words("mitochondria")
    fit.on_step = teacher.stop
    teacher.teach()
    assert (library / f"{NAME}.training.pt").exists()
    teacher.close()
    assert hint(make_teacher(viewer)) == ""
    assert not (library / f"{NAME}.training.pt").exists()
