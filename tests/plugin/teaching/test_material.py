"""What is learnt from: layers, labelled slices, words; a viewer without a window."""

from __future__ import annotations

import re

import numpy as np
import pytest
from napari.components import ViewerModel
from plugin.fakes_teaching import (
    NAME,
    FakeFit,
    engine,
    fit_of,
    hint,
    make_teacher,
    paint,
    stack_with_labels,
)

from napari_clipsam._plugin.teaching import TeachController


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


def test_strokes_that_were_undone_are_not_learnt_from(
    teacher: TeachController, viewer: ViewerModel
) -> None:
    paint(viewer.layers["mito"], 16, 40)
    viewer.layers["mito"].undo()
    teacher.teach()
    (asked,) = fit_of(teacher).asked
    assert [one.plane.index["0"] for one in asked.split.train + asked.split.held_out] == [3, 7, 12]
    assert teacher.state.slices == "3, 7, 12"


def test_where_all_strokes_were_undone_nothing_begins(viewer: ViewerModel) -> None:
    stack_with_labels(viewer, labelled=())
    paint(viewer.layers["mito"], 5, 700)
    teacher = make_teacher(viewer)
    teacher.set_words("mitochondria")
    viewer.layers["mito"].undo()
    teacher.teach()
    assert hint(teacher).startswith("No slice is labelled.") and not fit_of(teacher).asked
    assert teacher.state.busy is None and teacher.state.slices == ""


def test_of_very_many_labels_the_lesson_says_what_is_tested_on(
    viewer: ViewerModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_clipsam._plugin.teach_slices._MOST_PIXELS", 0)
    stack_with_labels(viewer, labelled=(3, 12, 14))
    teacher = make_teacher(viewer)
    teacher.set_words("mitochondria")
    assert teacher.state.tested_on == "probably 14"
    teacher.teach()
    assert teacher.state.tested_on == teacher.state.tested_edit == "3", "further from the others"
    assert "on slice 3" in teacher.state.score_tip
    teacher.set_tested_on("12")
    assert teacher.state.tested_on == "12"


def test_of_a_very_large_slice_a_part_is_tested_on(
    viewer: ViewerModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_clipsam._plugin.teach_slices._MOST_PIXELS", 0)
    stack_with_labels(viewer, labelled=(5,))
    assert make_teacher(viewer).state.tested_on == "probably a quarter of slice 5"


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


def test_an_error_goes_once_what_it_was_about_is_changed(
    teacher: TeachController, viewer: ViewerModel
) -> None:
    teacher.set_slices("3, 99")
    assert hint(teacher) == "There is no slice 99. Write numbers from 0 to 19."
    teacher.set_slices("3, 12")
    assert hint(teacher) == ""
    teacher.set_words("mitochondria, Mitochondria")
    teacher.teach()
    assert "given twice" in hint(teacher)
    teacher.set_words("mitochondria")
    assert hint(teacher) == ""
    teacher.set_slices("3, 5")
    teacher.teach()
    assert hint(teacher).startswith("Slice 5 has no labels.")
    viewer.layers.remove("mito")
    assert hint(teacher).startswith("There are no labels.") and teacher.state.hint.actions


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
        (2, 1, "concept", 3.0, None),
        (2, 1, "both", 3.0, None),
        (2, 1, "both", 10.0, None),
        (2, 1, "both", None, 300),
        (2, 1, "both", None, 120),
    ]
    teacher.set_budget("10")
    assert len(engine(teacher).estimated) == 5, "that was known"
    teacher.teach()
    settings = fit_of(teacher).asked[0].settings
    assert (settings.goal, settings.minutes, settings.steps) == ("both", 10.0, None)
    assert teacher.state.score == "held-out Dice and IoU  0.41 → 0.78"
