"""Answers before and after a lesson, and what to label next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from plugin.fakes_teaching import FakeFit, engine, make_teacher, paint

from napari_clipsam._plugin.teaching import TeachController


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
    viewer.layers["mito"].visible = False
    teacher.go()
    assert viewer.dims.current_step[0] == 19 and viewer.dims.displayed == (1, 2)
    assert viewer.layers.selection.active is viewer.layers["mito"]
    assert viewer.layers["mito"].visible and viewer.layers["mito"].mode == "paint"
    viewer.layers["mito"].mode = "erase"
    teacher.skip()
    assert viewer.layers["mito"].mode == "erase", "what the user chose stays"
    assert teacher.state.next_slice == "Label next: slice 16 (2 of 17)", "not beside the first"
    assert viewer.dims.current_step[0] == 16
    paint(viewer.layers["mito"], 19, 700)
    assert teacher.state.next_slice == "Label next: slice 16 (least sure)"


def test_a_slice_that_is_labelled_while_slices_are_looked_at_is_not_proposed(
    teacher: TeachController, viewer: ViewerModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rank = engine(teacher).rank

    def painting(*about: Any) -> Iterator[Any]:
        for found in rank(*about):
            if getattr(found, "key", None) == 5:
                paint(viewer.layers["mito"], 19, 700)
            yield found

    monkeypatch.setattr(teacher.engine, "rank", painting)
    teacher.teach()
    assert teacher.state.next_slice == "Label next: slice 16 (least sure)", "nor one beside it"


@pytest.mark.parametrize(("word", "is_known"), [("Nuclei ", True), ("blebs", False)])
def test_where_nothing_was_learnt_only_a_word_that_is_known_has_a_next_slice(
    viewer: ViewerModel, labels: np.ndarray, word: str, is_known: bool
) -> None:
    teacher = make_teacher(viewer, FakeFit((0.2,), reason="no better"))
    teacher.set_words(word)
    teacher.teach()
    assert bool(engine(teacher).ranked) == is_known
    assert teacher.state.can_go == is_known
    assert teacher.state.next_slice.endswith("(least sure)") == is_known


def test_other_docks_hear_of_a_new_adapter(teacher: TeachController) -> None:
    heard: list[str] = []
    teacher.chosen.renewed.connect(lambda: heard.append("renewed"))
    teacher.teach()
    assert heard == ["renewed"]
