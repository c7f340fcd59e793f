"""What the Teach dock asks for, on a viewer without a window and a trainer that learns at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from plugin.fakes import make_controller
from plugin.fakes_teaching import FakeFit, TeachEngine, make_teacher, stack_with_labels

from napari_clipsam._plugin import commands
from napari_clipsam._plugin.chosen import Chosen
from napari_clipsam._plugin.taught import Lock
from napari_clipsam._plugin.teaching import TeachController
from napari_clipsam.adapters.files import read_header
from napari_clipsam.errors import ConfigError, OutOfMemory, OutputError, Stopped, WeightsError
from napari_clipsam.training.checkpoint import state_path

NAME = "mitochondria (em, 22 Nov)"


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("NAPARI_CLIPSAM_HOME", str(tmp_path))
    return tmp_path / "adapters"


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def labels(viewer: ViewerModel) -> np.ndarray:
    return stack_with_labels(viewer)


@pytest.fixture
def teacher(viewer: ViewerModel, labels: np.ndarray) -> TeachController:
    teacher = make_teacher(viewer)
    teacher.set_words("mitochondria")
    return teacher


def hint(teacher: Any) -> str:
    return "" if teacher.state.hint is None else teacher.state.hint.text


def engine(teacher: TeachController) -> TeachEngine:
    assert isinstance(teacher.engine, TeachEngine)
    return teacher.engine


def fit_of(teacher: TeachController) -> FakeFit:
    assert isinstance(teacher.fit, FakeFit)
    return teacher.fit


def paint(layer: Any, number: int, pixels: int) -> None:
    """Paint some pixels of a slice, as the brush does."""
    y, x = np.divmod(np.arange(pixels), layer.data.shape[2])
    with layer.block_history():
        layer.data_setitem((np.full(pixels, number), y, x), 1)


# ---------------------------------------------------------------- what is learnt from


def test_labelled_slices_are_found_with_what_is_tested_on(teacher: TeachController) -> None:
    state = teacher.state
    assert (state.image, state.labels, state.is_stack) == ("em", "mito", True)
    assert state.slices == "3, 7, 12" and state.tested_on == "12"
    assert state.can_teach and not state.is_chosen and hint(teacher) == ""
    assert state.estimate == "needs about 2.1 GB, 2 min 40 s on CPU"


def test_without_layers_the_dock_says_what_to_do(viewer: ViewerModel) -> None:
    teacher = make_teacher(viewer)
    assert hint(teacher) == "Open an image and labels for a few of its slices."
    viewer.add_image(np.zeros((5, 20, 30)), name="em")
    assert hint(teacher).startswith("There are no labels.")
    teacher.act("new-labels")
    assert viewer.layers[-1].data.shape == (5, 20, 30)
    assert viewer.layers.selection.active is viewer.layers[-1]
    assert teacher.state.labels == "structure" and hint(teacher) == ""
    assert teacher.state.slices_note == (
        "Nothing is labelled yet. Paint the structure in a few slices."
    )


def test_layers_that_are_renamed_stay_chosen(teacher: TeachController, viewer: ViewerModel) -> None:
    viewer.add_labels(np.zeros((20, 40, 50), int), name="other")
    teacher.set_slices("3, 12")
    viewer.layers["mito"].name = "mitochondria"
    viewer.layers["em"].name = "cells"
    assert (teacher.state.image, teacher.state.labels) == ("cells", "mitochondria")
    assert teacher.state.slices == "3, 12", "and so do the slices"
    viewer.layers.remove("mitochondria")
    assert teacher.state.labels == "other" and teacher.state.slices == ""


def test_layers_that_go_in_mid_lesson_end_nothing(viewer: ViewerModel) -> None:
    stack_with_labels(viewer)
    fit = FakeFit()
    teacher = make_teacher(viewer, fit)
    teacher.set_words("mitochondria")
    teacher.show_view("after")
    fit.on_step = viewer.layers.clear
    teacher.teach()
    assert teacher.state.saved == f"Saved as {NAME}"
    teacher.show_view("after")
    teacher.go()
    assert len(viewer.layers) == 0


def test_labels_of_another_shape_are_greyed_out(viewer: ViewerModel) -> None:
    viewer.add_image(np.zeros((5, 20, 30)), name="em")
    viewer.add_labels(np.zeros((5, 20, 31), np.uint8), name="other")
    teacher = make_teacher(viewer)
    (choice,) = teacher.state.label_layers
    assert not choice.enabled and "another shape" in choice.why
    assert hint(teacher).startswith("No labels here have the shape of the image.")
    assert not teacher.state.can_teach


def test_what_is_painted_later_is_found(teacher: TeachController, viewer: ViewerModel) -> None:
    layer = viewer.layers["mito"]
    paint(layer, 16, 40)
    assert teacher.state.slices == "3, 7, 12, 16~"
    layer.data = np.zeros_like(layer.data)
    assert teacher.state.slices == "" and teacher.state.slices_note.startswith(
        "Nothing is labelled"
    )


def test_slices_are_edited_and_chosen_by_the_tool_again(teacher: TeachController) -> None:
    teacher.set_slices("3, 12")
    assert (teacher.state.slices, teacher.state.tested_on) == ("3, 12", "12")
    assert teacher.state.is_chosen
    teacher.set_tested_on("3")
    assert teacher.state.tested_on == "3"
    teacher.teach()
    (asked,) = fit_of(teacher).asked
    assert [example.plane.index for example in asked.split.train] == [{"0": 12}]
    assert [example.plane.index for example in asked.split.held_out] == [{"0": 3}]
    teacher.choose_slices()
    assert (teacher.state.slices, teacher.state.tested_on) == ("3, 7, 12", "12")


def test_a_partly_labelled_slice_is_marked_by_the_user(teacher: TeachController) -> None:
    teacher.set_slices("3~, 7, 12")
    assert teacher.state.slices == "3~, 7, 12"
    assert teacher.state.slices_note.startswith("Only some is labelled in slice 3")
    teacher.teach()
    (asked,) = fit_of(teacher).asked
    assert asked.split.train[0].known is not None and asked.split.train[1].known is None


@pytest.mark.parametrize(
    ("slices", "tested", "said"),
    [
        ("3, five", None, "'five' is no slice."),
        ("3, 20", None, "There is no slice 20. Write numbers from 0 to 19."),
        ("3, 5", None, "Slice 5 has no labels."),
        ("3, 7", "12", "Slice 12 is to be tested on, but is not among"),
        ("3", "3", "All labelled slices are held out"),
    ],
)
def test_slices_that_cannot_be_used_are_refused(
    teacher: TeachController, slices: str, tested: str | None, said: str
) -> None:
    teacher.set_slices(slices)
    if tested:
        teacher.set_tested_on(tested)
    assert said in f"{hint(teacher)} {teacher.state.slices_note}"
    if said in teacher.state.slices_note:
        teacher.teach()
        assert said in hint(teacher) and not fit_of(teacher).asked


@pytest.mark.parametrize(
    ("pixels", "said"),
    [(3, "has only 3 pixels|have only 3 pixels"), (2000, "covers all of slice 5")],
)
def test_labels_that_teach_nothing_are_said_before_anything_starts(
    viewer: ViewerModel, pixels: int, said: str
) -> None:
    stack_with_labels(viewer, labelled=())
    paint(viewer.layers["mito"], 5, pixels)
    teacher = make_teacher(viewer)
    teacher.set_words("mitochondria")
    assert re.search(said, teacher.state.slices_note), teacher.state.slices_note
    teacher.teach()
    assert re.search(said, hint(teacher)) and not fit_of(teacher).asked


def test_one_labelled_slice_is_enough(viewer: ViewerModel) -> None:
    stack_with_labels(viewer, labelled=(5,))
    teacher = make_teacher(viewer)
    assert (teacher.state.slices, teacher.state.tested_on) == ("5", "a quarter of slice 5")
    teacher.set_words("mitochondria")
    teacher.teach()
    assert teacher.state.saved == f"Saved as {NAME}"
    assert "on a quarter of slice 5" in teacher.state.score_tip


def test_single_objects_need_numbers_of_their_own(viewer: ViewerModel) -> None:
    labels = stack_with_labels(viewer)
    viewer.layers["mito"].data = (labels > 0).astype(np.uint8)
    teacher = make_teacher(viewer)
    teacher.set_goal("object")
    assert "one number for all objects" in teacher.state.slices_note
    teacher.set_goal("concept")
    assert teacher.state.slices_note == ""


def test_a_single_image_is_tested_on_in_part(viewer: ViewerModel) -> None:
    rng = np.random.default_rng(0)
    viewer.add_image(rng.random((64, 64)), name="cells")
    viewer.add_labels((rng.random((8, 8)) > 0.5).repeat(8, 0).repeat(8, 1).astype(int), name="l")
    teacher = make_teacher(viewer)
    assert not teacher.state.is_stack and teacher.state.tested_on == "a quarter of cells"
    teacher.set_words("cells")
    teacher.teach()
    assert teacher.state.saved == "Saved as cells (cells, 22 Nov)"
    assert teacher.state.next_slice == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "Type what the labels show"),
        (" , ", "Type what the labels show"),
        ("nuclei, cells, Nuclei", "The word 'Nuclei' is given twice."),
    ],
)
def test_words_are_checked(teacher: TeachController, words: str, said: str) -> None:
    teacher.set_words(words)
    teacher.teach()
    assert said in hint(teacher)
    assert not fit_of(teacher).asked


def test_several_words_name_one_structure(teacher: TeachController) -> None:
    teacher.set_words("mitochondria,  dark blobs ")
    teacher.teach()
    (asked,) = fit_of(teacher).asked
    assert asked.split.train[0].words == ("mitochondria", "dark blobs")
    assert teacher.state.history == ("mitochondria", "dark blobs")


def test_time_and_goal_are_what_the_trainer_is_asked_for(teacher: TeachController) -> None:
    teacher.set_goal("both")
    teacher.set_budget("10")
    teacher.set_budget("steps")
    teacher.set_steps(120)
    assert engine(teacher).estimated == [
        (2, "concept", 3.0, None),
        (2, "both", 3.0, None),
        (2, "both", 10.0, None),
        (2, "both", None, 300),
        (2, "both", None, 120),
    ]
    teacher.set_budget("10")
    assert len(engine(teacher).estimated) == 5, "that was known"
    teacher.teach()
    settings = fit_of(teacher).asked[0].settings
    assert (settings.goal, settings.minutes, settings.steps) == ("both", 10.0, None)
    assert teacher.state.score == "held-out Dice and IoU  0.41 → 0.78"


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
    teacher.go_on()
    assert [asked.resume for asked in fit.asked] == [False, True]
    assert fit.asked[1].checkpoint == fit.asked[0].checkpoint
    assert teacher.state.saved == f"Saved as {NAME} 2" and not teacher.state.can_go_on
    teacher.roll_back()
    assert teacher.chosen.adapter == "default", "what it began with"


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


def test_a_folder_that_cannot_be_written_is_said_at_once(
    teacher: TeachController, library: Path
) -> None:
    library.write_text("a file is in the way")
    teacher.teach()
    assert fit_of(teacher).asked[0].checkpoint is None, "it learns all the same"
    assert "cannot be written to" in hint(teacher) and teacher.state.can_save
    library.unlink()
    teacher.save_again()
    assert teacher.state.saved == f"Saved as {NAME}"


# ---------------------------------------------------------------- lessons that were cut off


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
    lock = Lock.take(library, NAME)
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


# ---------------------------------------------------------------- before and after, and next


def test_before_and_after_are_shown_on_the_held_out_slice(
    teacher: TeachController, viewer: ViewerModel, labels: np.ndarray
) -> None:
    teacher.teach()
    assert teacher.state.views == ("before", "after") and teacher.state.view_on == "on slice 12"
    names = [layer.name for layer in viewer.layers]
    active = viewer.layers.selection.active
    teacher.show_view("before")
    layer = viewer.layers["em before"]
    assert viewer.dims.current_step[0] == 12
    assert np.array_equal(np.asarray(layer.data[0]) > 0, labels[12] > 0)
    corner = viewer.layers["em"].data_to_world((12, 0, 0))
    assert np.allclose(layer.data_to_world((0, 0, 0)), corner)
    assert not layer.editable and viewer.layers.selection.active is active
    assert teacher.state.label_layers[0].value == "mito" and len(teacher.state.label_layers) == 1

    teacher.show_view("after")
    assert np.array_equal(np.asarray(viewer.layers["em after"].data[0]) > 0, labels[12] > 2)
    teacher.show_view("")
    assert [layer.name for layer in viewer.layers] == names
    teacher.show_view("after")
    viewer.layers.remove("em after")
    assert teacher.state.view == ""
    teacher.show_view("after")
    teacher.close()
    assert [layer.name for layer in viewer.layers] == names


def test_what_to_label_next_is_where_the_model_is_least_sure(
    teacher: TeachController, viewer: ViewerModel
) -> None:
    teacher.teach()
    assert [key for key, _ in engine(teacher).ranked] == [
        n for n in range(20) if n not in (3, 7, 12)
    ]
    assert teacher.state.next_slice == "Label next: slice 19 (least sure)"
    viewer.dims.order = (1, 0, 2)
    viewer.dims.ndisplay = 3
    teacher.go()
    assert viewer.dims.current_step[0] == 19 and viewer.dims.displayed == (1, 2)
    assert viewer.layers.selection.active is viewer.layers["mito"]
    teacher.skip()
    assert teacher.state.next_slice == "Label next: slice 16 (2 of 17)", "not beside the first"
    assert viewer.dims.current_step[0] == 16
    paint(viewer.layers["mito"], 19, 700)
    assert teacher.state.next_slice == "Label next: slice 16 (least sure)"


# ---------------------------------------------------------------- together with the Segment dock


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
    teacher.use()
    assert segment.state.adapter != "default"


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
