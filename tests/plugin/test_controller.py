"""What the dock asks for, on a viewer without a window and a model that answers at once."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr
from napari.components import ViewerModel
from plugin.fakes import CORNERS, HERE, SIDE, click, engine, hint, labels, make_controller

from napari_clipsam._plugin import commands, recorder
from napari_clipsam._plugin.controller import SegmentController
from napari_clipsam._plugin.runner import Job
from napari_clipsam.errors import ClipSamError, OutOfMemory, OutputError, WeightsError
from napari_clipsam.session.journal import Journal, restore


def draw_box(controller: SegmentController, y0: float, x0: float, y1: float, x1: float) -> None:
    controller.set_tool("box")
    corners = [[y0, x0], [y0, x1], [y1, x1], [y1, x0]]
    layer = controller.viewer.layers["cells shapes"]
    layer.add_rectangles([np.array(corners)])
    layer.refresh()  # as napari does once the mouse lets go


# ---------------------------------------------------------------- words


def test_a_word_finds_all_of_it(flat: SegmentController) -> None:
    flat.find("  nuclei ")
    assert flat.state.word == "nuclei"
    assert "score 0.90" in flat.state.answer and "presence 0.90" in flat.state.answer
    assert flat.state.can_keep and flat.state.undo_text == "find nuclei"
    assert flat.viewer.layers["cells preview"].data[2:18, 2:18].all()
    assert not flat.viewer.layers["cells similarity"].visible
    assert flat.state.known_words == ("cells", "nuclei") and flat.state.device == "CPU"


def test_every_one_is_kept_with_numbers_of_its_own(flat: SegmentController) -> None:
    flat.set_target("instances")
    flat.find("nuclei")
    assert "3 objects" in flat.state.answer
    flat.keep()

    kept = labels(flat)
    assert sorted(np.unique(kept)) == [0, 1, 2, 3]
    assert len({kept[y + 1, x + 1] for y, x in CORNERS}) == 3
    assert flat.viewer.layers["nuclei"].scale.tolist() == [2, 2]
    assert [row.word for row in flat.state.objects] == ["nuclei"] * 3
    assert not flat.state.can_keep
    assert not flat.viewer.layers["cells preview"].data.any()


def test_a_word_that_is_not_there_says_what_to_do(flat: SegmentController) -> None:
    flat.find("vacuoles")
    assert hint(flat) == (
        "No 'vacuoles' found here (best 0.12). Click one to show me, or teach the word."
    )
    assert flat.viewer.layers["cells similarity"].visible, "it shows where it might be"
    assert not flat.state.can_keep

    flat.act("click-one")
    assert (flat.state.tool, flat.state.target) == ("point+", "object")


def test_an_empty_word_asks_for_one(flat: SegmentController) -> None:
    flat.find("   ")
    assert hint(flat) == "Type what to look for, for example nuclei."
    assert engine(flat).asked == []


def test_former_words_come_back_latest_first(flat: SegmentController) -> None:
    for word in ("nuclei", "cells", "nuclei"):
        flat.find(word)
    assert flat.state.history == ("nuclei", "cells")


# ---------------------------------------------------------------- clicks and boxes


def test_clicks_make_one_object_and_refine_it(flat: SegmentController) -> None:
    click(flat, 20, 20)
    click(flat, 30, 30, tool="point-")

    first, second = engine(flat).asked
    assert (first.target, first.prompts.points.tolist()) == ("object", [[20, 20]])
    assert second.prompts.labels.tolist() == [1, 0]
    assert first.previous is None and second.previous is not None
    (one,) = flat.keeper.state.draft
    assert one.masks[HERE].area == (SIDE - 2) ** 2


def test_a_second_look_takes_the_place_of_the_first_in_one_step(flat: SegmentController) -> None:
    engine(flat).closer = True
    seen: list[int] = []
    engine(flat).between = lambda: seen.append(flat.keeper.state.draft[0].masks[HERE].area)
    click(flat, 20, 20)

    assert seen == [SIDE**2], "the first answer is not waited with"
    (one,) = flat.keeper.state.draft
    assert one.masks[HERE].area == (SIDE // 2) ** 2
    assert "0.20 s" in flat.state.answer
    assert np.count_nonzero(flat.viewer.layers["cells preview"].data) == (SIDE // 2) ** 2
    assert engine(flat).prepared[-1][-1] is one.masks[HERE], "its like is looked for nearby"
    flat.undo()
    assert not flat.keeper.state.draft and not flat.state.undo_text


def test_a_second_look_changes_nothing_once_the_user_went_on(flat: SegmentController) -> None:
    engine(flat).closer = True
    engine(flat).between = flat.keep
    click(flat, 20, 20)
    assert np.count_nonzero(labels(flat, "objects")) == SIDE**2
    assert not flat.keeper.state.draft

    engine(flat).between = flat.undo
    click(flat, 30, 30)
    assert not flat.keeper.state.draft


def test_what_is_followed_after_the_first_look_stays_one_object(deep: SegmentController) -> None:
    engine(deep).closer = True
    engine(deep).between = deep.propagate
    click(deep, 3, 20, 20)
    (one,) = deep.keeper.state.draft
    assert len(one.masks) > 1


def test_a_click_before_the_second_look_is_asked_with_all_prompts_anew(
    flat: SegmentController,
) -> None:
    engine(flat).closer = True

    def once_more() -> None:
        engine(flat).between = lambda: None
        click(flat, 22, 22)

    engine(flat).between = once_more
    click(flat, 20, 20)
    first, second = engine(flat).asked
    assert first.previous is None and second.previous is None
    assert len(second.prompts.points) == 2
    click(flat, 24, 24)
    assert engine(flat).asked[-1].previous is not None, "the second look has come"


def test_a_second_look_gives_back_what_the_first_mask_covered(flat: SegmentController) -> None:
    flat.set_target("instances")
    flat.find("nuclei")
    before = [one.key for one in flat.keeper.state.draft]
    engine(flat).closer = True
    seen: list[list[str]] = []
    engine(flat).between = lambda: seen.append([one.key for one in flat.keeper.state.draft])
    y, x = CORNERS[0]
    click(flat, y + 2, x + 2)

    (first,) = seen
    assert first == [*before[1:], first[-1]], "the first mask covers most of one"
    now = [one.key for one in flat.keeper.state.draft]
    assert now == [*before, first[-1]], "the second covers little of it, and is the same object"
    assert "added 1" in flat.state.answer
    flat.undo()
    assert [one.key for one in flat.keeper.state.draft] == before


@pytest.mark.parametrize(
    ("target", "side", "count"), [("concept", 16, 1), ("instances", SIDE, len(CORNERS))]
)
def test_a_second_look_for_a_word_takes_the_place_of_the_first_in_one_step(
    flat: SegmentController, target: str, side: int, count: int
) -> None:
    engine(flat).closer = True
    seen: list[tuple[int, str]] = []

    def look() -> None:
        busy = flat.state.busy
        if busy is not None:
            (one, *_) = flat.keeper.state.draft or [None]
            seen.append((one.masks[HERE].area if one else 0, busy.text))

    flat.changed.connect(look)
    flat.set_target(target)
    flat.find("nuclei")

    assert (side**2, "Looking closer") in seen, "the first answer is not waited with"
    areas = [one.masks[HERE].area for one in flat.keeper.state.draft]
    assert areas == [(SIDE // 2) ** 2] * count
    assert flat.state.busy is None
    flat.undo()
    assert not flat.keeper.state.draft and not flat.state.undo_text


def test_nobody_waits_for_a_second_look_once_the_user_went_on(flat: SegmentController) -> None:
    flat.set_target("instances")
    engine(flat).closer = True
    engine(flat).between = flat.keep
    flat.find("nuclei")
    assert flat.state.busy is None and not flat.keeper.state.draft
    assert np.count_nonzero(labels(flat, "nuclei")) == len(CORNERS) * SIDE**2


def test_a_second_look_of_another_model_is_not_taken(flat: SegmentController) -> None:
    engine(flat).closer = True
    engine(flat).between = lambda: flat.models.switch(model="vit_b")
    click(flat, 20, 20)
    (one,) = flat.keeper.state.draft
    assert one.masks[HERE].area == SIDE**2


def test_a_word_joins_the_clicks(flat: SegmentController) -> None:
    flat.set_target("object")
    flat.find("nuclei")
    assert hint(flat) == "Click the one you mean."
    click(flat, 20, 20)
    assert engine(flat).asked[-1].prompts.text == "nuclei"
    flat.find("cells")
    assert engine(flat).asked[-1].prompts.text == "cells"
    assert engine(flat).asked[-1].prompts.points.tolist() == [[20, 20]]


def test_clicks_in_all_of_it_guide_the_word(flat: SegmentController) -> None:
    flat.find("nuclei")
    click(flat, 20, 20, tool="point-")
    assert (engine(flat).asked[-1].target, len(engine(flat).asked[-1].prompts.points)) == (
        "concept",
        1,
    )
    draw_box(flat, 1, 1, 9, 9)
    assert hint(flat).startswith("A box, lasso or scribble means one object.")
    assert len(engine(flat).asked) == 2


def test_clicks_in_every_one_add_and_remove(flat: SegmentController) -> None:
    flat.set_target("instances")
    flat.find("nuclei")
    click(flat, 30, 40)
    assert len(flat.keeper.state.draft) == 4
    assert len(flat.viewer.layers["cells clicks"].data) == 0, "the click has done its work"
    click(flat, 4, 4, tool="point-")
    assert len(flat.keeper.state.draft) == 3
    assert "removed 1 object" in flat.state.answer
    draw_box(flat, 21, 2, 29, 10)
    assert len(flat.keeper.state.draft) == 3, "it takes the place of the one it covers"

    for expected in (3, 4, 3, 0):
        flat.undo()
        assert len(flat.keeper.state.draft) == expected


def test_several_boxes_are_several_objects(flat: SegmentController) -> None:
    draw_box(flat, 2, 2, 10, 10)
    draw_box(flat, 20, 20, 30, 30)
    assert len(flat.keeper.state.draft) == 2
    flat.keep()
    assert sorted(np.unique(labels(flat, "objects"))) == [0, 1, 2]


def test_a_label_becomes_a_mask_to_refine(flat: SegmentController) -> None:
    flat.prompt_from_labels()
    assert hint(flat).startswith("There are no labels to take a mask from")
    painted = np.zeros((40, 50), np.uint8)
    painted[5:12, 6:14] = 3
    layer = flat.viewer.add_labels(painted, name="painted")
    flat.prompt_from_labels()
    assert hint(flat).startswith("Label 1 of painted is not in this slice")
    layer.selected_label = 3
    flat.prompt_from_labels()

    asked = engine(flat).asked[-1].prompts.mask
    assert asked is not None and np.array_equal(asked > 0, painted == 3)


# ---------------------------------------------------------------- keeping


def test_others_are_preserved_unless_overwriting_is_allowed(flat: SegmentController) -> None:
    theirs = np.zeros((40, 50), np.uint16)
    theirs[16:20, 16:30] = 9
    flat.viewer.add_labels(theirs, name="theirs")
    flat.set_keep_into("theirs")
    click(flat, 20, 20)
    flat.keep()
    kept = labels(flat, "theirs")
    assert (kept[16:20, 16:30] == 9).all()
    assert (kept[20:24, 16:24] == 10).all(), "numbers go on after the largest"

    flat.undo()
    flat.set_overwrite(True)
    flat.keep()
    assert (labels(flat, "theirs")[16:24, 16:24] == 10).all()


def test_undo_and_redo_go_through_prompts_and_keeping(flat: SegmentController) -> None:
    click(flat, 10, 10)
    click(flat, 30, 30, tool="point-")
    flat.keep()
    click(flat, 30, 20)
    clicks = flat.viewer.layers["cells clicks"]
    seen = []
    while flat.state.undo_text:
        flat.undo()
        seen.append((len(clicks.data), len(flat.state.objects), labels(flat, "objects").any()))
    assert seen == [(0, 1, True), (2, 0, False), (1, 0, False), (0, 0, False)]
    while flat.state.redo_text:
        flat.redo()
    assert (len(clicks.data), len(flat.state.objects)) == (1, 1)
    assert labels(flat, "objects").any()


def test_undo_leaves_what_was_painted_since(flat: SegmentController) -> None:
    click(flat, 20, 20)
    flat.keep()
    layer = flat.viewer.layers["objects"]
    layer.selected_label = 5
    layer.paint((17, 17), 5)
    flat.undo()
    assert labels(flat, "objects")[17, 17] == 5
    assert not (labels(flat, "objects") == 1).any()


def test_a_kept_object_is_reopened_corrected_and_kept_in_its_place(
    flat: SegmentController,
) -> None:
    click(flat, 20, 20)
    flat.keep()
    key = flat.state.objects[0].key
    flat.open_object(key)
    assert flat.state.selected == key
    assert flat.viewer.layers["cells clicks"].data.tolist() == [[20, 20]]
    click(flat, 24, 24, tool="point-")
    assert flat.keeper.state.draft[0].key == key
    flat.keep()

    assert len(flat.state.objects) == 1
    assert (labels(flat, "objects") == 1).sum() == (SIDE - 2) ** 2


def test_nothing_unkept_is_lost_by_opening_another(flat: SegmentController) -> None:
    click(flat, 20, 20)
    flat.keep()
    click(flat, 30, 40)
    flat.open_object(flat.state.objects[0].key)
    assert hint(flat).startswith("There is something that is not kept yet.")
    assert flat.state.selected == ""
    flat.act("keep")
    assert len(flat.state.objects) == 2


def test_a_deleted_object_comes_back_with_undo(flat: SegmentController) -> None:
    flat.set_target("instances")
    flat.find("nuclei")
    flat.keep()
    before = labels(flat).copy()
    flat.delete_object(flat.state.objects[0].key)
    assert len(flat.state.objects) == 2 and (labels(flat) != before).sum() == SIDE**2
    flat.undo()
    assert np.array_equal(labels(flat), before)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (da.zeros((40, 50), dtype=np.uint8), "read lazily (dask)"),
        (np.zeros((30, 50), np.uint8), "another shape"),
    ],
)
def test_labels_that_cannot_be_written_to_are_named(
    flat: SegmentController, data: object, words: str
) -> None:
    flat.viewer.add_labels(data, name="theirs")
    choice = next(c for c in flat.state.label_layers if c.value == "theirs")
    assert not choice.enabled and words in choice.why
    click(flat, 20, 20)
    flat.set_keep_into("theirs")
    flat.keep()
    assert flat.state.hint is not None and flat.state.hint.is_error
    assert flat.state.can_keep, "the preview is still there"


def test_a_read_only_layer_is_refused(flat: SegmentController) -> None:
    data = np.zeros((40, 50), np.uint8)
    data.flags.writeable = False
    flat.viewer.add_labels(data, name="theirs")
    click(flat, 20, 20)
    flat.set_keep_into("theirs")
    flat.keep()
    assert "read-only" in hint(flat)


# ---------------------------------------------------------------- stacks


def test_every_prompt_belongs_to_its_slice(deep: SegmentController) -> None:
    click(deep, 3, 20, 20)
    assert engine(deep).asked[-1].key == (3, None, None)
    deep.viewer.dims.set_point(0, 16)
    click(deep, 4, 22, 22)
    (one,) = deep.keeper.state.draft
    assert {k: p.points.tolist() for k, p in one.prompts.items()} == {
        (3, None, None): [[20, 20]],
        (4, None, None): [[22, 22]],
    }
    deep.keep()
    kept = labels(deep, "objects")
    assert [int(z) for z in np.flatnonzero(kept.any(axis=(1, 2)))] == [3, 4]
    assert deep.state.objects[0].slices == "3-4"


def test_an_object_is_followed_through_the_range(deep: SegmentController) -> None:
    click(deep, 3, 20, 20)
    deep.set_z_range(1, 5)
    deep.propagate()
    ((seeds, z_range, spacing),) = [a for a in engine(deep).asked if isinstance(a, tuple)]
    (of_one,) = seeds.values()
    assert (set(of_one), z_range, spacing) == ({3}, (1, 5), 2.0)
    (one,) = deep.keeper.state.draft
    assert sorted(k[0] for k in one.masks) == [1, 2, 3, 4, 5]
    assert deep.state.busy is None and "follow objects" in deep.state.answer
    deep.undo()
    assert sorted(k[0] for k in deep.keeper.state.draft[0].masks) == [3]


def test_a_correction_runs_again_only_from_there(deep: SegmentController) -> None:
    click(deep, 3, 20, 20)
    deep.propagate()
    deep.viewer.dims.set_point(0, 20)
    click(deep, 5, 24, 24)
    deep.propagate()
    (_, z_range, _) = [a for a in engine(deep).asked if isinstance(a, tuple)][-1]
    assert z_range == (3, 6)


def test_the_weakest_slice_comes_first(deep: SegmentController) -> None:
    click(deep, 3, 20, 20)
    deep.propagate()
    visited = []
    for _ in range(3):
        deep.next_weak()
        visited.append(deep.viewer.dims.point[0] / 4)
    assert visited[0] in (0, 6) and set(visited[:2]) == {0, 6}
    assert visited[2] in (1, 5)


def test_a_word_is_found_in_the_stack_with_linked_objects(deep: SegmentController) -> None:
    deep.set_target("instances")
    deep.find("nuclei")
    deep.set_z_range(2, 4)
    deep.clear()
    deep.segment_stack()
    deep.keep()
    kept = labels(deep)
    assert sorted(np.unique(kept)) == [0, 1, 2, 3]
    assert [int(z) for z in np.flatnonzero(kept.any(axis=(1, 2)))] == [2, 3, 4]
    y, x = CORNERS[1]
    assert len(set(kept[2:5, y + 1, x + 1])) == 1


def test_an_answer_from_the_cache_does_not_shorten_the_estimate(deep: SegmentController) -> None:
    key = deep.focus.shown_key()
    assert key is not None
    deep.stacks.seen(key, 2.0)
    first = deep.state.estimate
    deep.stacks.seen(key, 0.01)
    assert deep.state.estimate == first != ""


def test_a_stopped_stack_keeps_what_is_finished(deep: SegmentController) -> None:
    deep.find("nuclei")
    deep.clear()
    steps = []

    def stop_after_two() -> None:
        steps.append(1)
        if len(steps) == 2:
            deep.stop()

    engine(deep).on_step = stop_after_two
    deep.segment_stack()
    assert deep.state.busy is None and "stopped" in deep.state.answer
    assert sorted(k[0] for k in deep.keeper.state.draft[0].masks) == [0, 1]


def test_a_click_during_the_stack_stays(deep: SegmentController) -> None:
    deep.set_target("instances")
    deep.find("nuclei")
    deep.clear()
    engine(deep).on_step = lambda: None if deep.keeper.state.draft else click(deep, 3, 30, 40)
    deep.segment_stack()
    assert len(deep.keeper.state.draft) == 4


def test_following_needs_an_object(deep: SegmentController) -> None:
    deep.propagate()
    assert hint(deep) == "Click an object in one slice first, then follow it."


# ---------------------------------------------------------------- models and errors


@pytest.mark.parametrize(
    "error", [OutOfMemory("No memory. Close other programs."), WeightsError("No such model.")]
)
def test_an_error_is_a_line_and_the_plugin_goes_on(
    flat: SegmentController, error: ClipSamError
) -> None:
    engine(flat).error = error
    flat.find("nuclei")
    assert flat.state.hint is not None and flat.state.hint.is_error
    assert hint(flat) == str(error)
    engine(flat).error = None
    flat.find("nuclei")
    assert flat.state.can_keep and flat.state.hint is None


def test_models_and_adapters_are_swapped(flat: SegmentController) -> None:
    assert flat.state.models[0].value == "starter"
    assert not next(c for c in flat.state.models if c.value == "vit_h").enabled
    flat.set_adapter("none")
    flat.set_model("vit_b")
    assert [(s.model, s.adapter) for s in engine(flat).setups] == [
        ("starter", "default"),
        ("starter", "none"),
        ("vit_b", "default"),
    ]


def test_a_model_that_fails_to_load_leaves_the_former_one(flat: SegmentController) -> None:
    flat.find("nuclei")
    engine(flat).error = WeightsError("vit_b is damaged. Import it again.")
    flat.set_model("vit_b")
    assert hint(flat) == "vit_b is damaged. Import it again."
    assert (flat.state.model, flat.state.device) == ("starter", "CPU")
    assert flat.state.known_words == ("cells", "nuclei")


# ---------------------------------------------------------------- sessions


def test_a_session_that_was_cut_off_is_offered_and_restored(
    flat: SegmentController, tmp_path: Path
) -> None:
    flat.set_target("instances")
    flat.find("nuclei")
    flat.keep()
    layer = flat.viewer.layers["nuclei"]
    layer.paint((35, 35), 7)
    click(flat, 30, 40)
    before = labels(flat).copy()
    journal = flat.keeper.recorder._journal
    assert journal is not None
    journal._close()  # what a killed process leaves behind

    again = ViewerModel()
    again.add_image(np.zeros((40, 50)), name="cells", scale=(2, 2))
    controller = make_controller(again, tmp_path)
    assert hint(controller).startswith("The last session was cut off (cells, 3 objects")
    controller.act("restore")

    assert np.array_equal(labels(controller), before)
    assert again.layers["nuclei"].scale.tolist() == [2, 2]
    assert len(controller.state.objects) == 3 and len(controller.keeper.state.draft) == 1
    controller.undo()
    controller.undo()
    assert (labels(controller) != 0).sum() == (before == 7).sum(), "what was painted stays"


def test_a_project_is_saved_and_opened_again(flat: SegmentController, tmp_path: Path) -> None:
    flat.find("nuclei")
    flat.keep()
    flat.save_project(tmp_path / "project")
    flat.find("cells")
    flat.keeper.close()

    again = make_controller(ViewerModel(), tmp_path / "elsewhere")
    again.viewer.add_image(np.zeros((40, 50)), name="cells")
    again.open_project(tmp_path / "project")
    assert len(again.state.objects) == 1 and again.keeper.state.draft[0].word == "cells"
    again.clear()
    again.open_project(tmp_path / "nothing")
    assert again.state.hint is not None and again.state.hint.is_error
    assert len(again.state.objects) == 1


def test_kept_objects_are_made_again_with_another_adapter(deep: SegmentController) -> None:
    deep.replay()
    assert hint(deep) == "Nothing of this image is kept yet. Keep an object first."
    click(deep, 3, 20, 20)
    deep.keep()
    kept = labels(deep, "objects").copy()
    assert next(iter(deep.keeper.state.objects.values())).clip == "starter"
    deep.set_adapter("none")
    deep.replay()
    (one,) = deep.keeper.state.draft
    assert (one.adapter, set(one.masks)) == ("none", {(3, None, None)})
    deep.keep()
    assert np.array_equal(labels(deep, "objects"), kept), "what was kept stays as it was"
    assert labels(deep, "objects [1]")[3, 1:9, 1:9].all()


def test_a_session_about_another_image_is_refused(flat: SegmentController, tmp_path: Path) -> None:
    flat.find("nuclei")
    flat.keep()
    flat.save_project(tmp_path / "project")
    flat.keeper.close()
    again = make_controller(ViewerModel(), tmp_path / "elsewhere")
    again.viewer.add_image(np.zeros((30, 30)), name="small")
    again.open_project(tmp_path / "project")
    assert "40 x 50 pixels" in hint(again) and again.state.objects == ()


def test_work_goes_on_where_no_session_can_be_written(
    flat: SegmentController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OutputError("The folder may not be written to. Choose another.")

    monkeypatch.setattr(Journal, "create", refuse)
    flat.set_target("instances")
    flat.find("nuclei")
    assert "may not be written to" in hint(flat)
    flat.keep()
    flat.undo()
    flat.redo()
    assert labels(flat).any()
    monkeypatch.undo()
    flat.save_project(tmp_path / "project")
    flat.keeper.close()
    assert len(restore(tmp_path / "project").state.objects) == 3


def test_a_crash_in_a_project_folder_is_noticed(flat: SegmentController, tmp_path: Path) -> None:
    flat.save_project(tmp_path / "far" / "project")
    flat.find("nuclei")
    journal = flat.keeper.recorder._journal
    assert journal is not None
    journal._close()
    again = make_controller(ViewerModel(), tmp_path)
    assert hint(again).startswith("The last session was cut off (cells")


def test_opening_a_project_spares_what_this_session_kept(
    flat: SegmentController, tmp_path: Path
) -> None:
    flat.find("nuclei")
    flat.keep()
    flat.save_project(tmp_path / "project")
    flat.keeper.close()
    again = make_controller(ViewerModel(), tmp_path / "elsewhere")
    again.viewer.add_image(np.zeros((40, 50)), name="cells")
    again.set_target("instances")
    again.find("nuclei")
    again.open_project(tmp_path / "project")
    assert "not kept yet" in hint(again) and len(again.keeper.state.draft) == 3
    again.keep()
    mine = labels(again).copy()
    again.open_project(tmp_path / "project")
    assert np.array_equal(labels(again, "nuclei (before)"), mine)
    assert np.array_equal(labels(again), labels(flat))


def test_only_objects_of_this_image_are_exported(flat: SegmentController, tmp_path: Path) -> None:
    flat.find("nuclei")
    flat.keep()
    flat.viewer.add_image(np.zeros((7, 20, 30)), name="stack")
    flat.set_image("stack")
    flat.export("csv", tmp_path / "out.csv")
    assert hint(flat).startswith("Nothing of this image is kept.")
    flat.find("cells")
    flat.keep()
    flat.export("csv", tmp_path / "out.csv")
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text("utf-8").splitlines()))
    assert [row["word"] for row in rows] == ["cells"]


def test_old_sessions_are_pruned(
    viewer: ViewerModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "_SESSIONS", 2)
    viewer.add_image(np.zeros((20, 20)), name="cells")
    for _ in range(4):
        controller = make_controller(viewer, tmp_path)
        controller.find("nuclei")
        controller.keeper.close()
        controller.close()
    assert len(list(tmp_path.glob("*/journal.sqlite"))) == 2


@pytest.mark.parametrize("kind", ["tiff", "ome-zarr", "csv", "coco"])
def test_what_was_kept_is_exported(flat: SegmentController, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out.tif"
    flat.export(kind, path)
    assert hint(flat) == "Nothing of this image is kept. Keep an object first, then export."
    flat.set_target("instances")
    flat.find("nuclei")
    flat.keep()
    flat.viewer.layers["nuclei"].paint((35, 35), 2)
    flat.export(kind, path)

    assert flat.state.answer == "written: out.tif" and flat.state.busy is None
    if kind == "tiff":
        assert np.array_equal(tifffile.imread(path), labels(flat))
    elif kind == "ome-zarr":
        assert np.array_equal(zarr.open_group(path)["0"][:], labels(flat))
    elif kind == "csv":
        rows = list(csv.DictReader(path.read_text("utf-8").splitlines()))
        assert [row["word"] for row in rows] == ["nuclei"] * 3
        assert int(rows[1]["pixels"]) == (labels(flat) == 2).sum(), "paint counts"
    else:
        assert len(json.loads(path.read_text())["annotations"]) == 3


def test_ten_docks_one_after_the_other_leave_one_listener(
    flat: SegmentController, tmp_path: Path
) -> None:
    viewer, engine_, keeper = flat.viewer, flat.engine, flat.keeper
    events = (viewer.layers.events.inserted, viewer.dims.events.current_step)
    before = [len(event.callbacks) for event in events]
    click(flat, 20, 20)
    controller = flat
    for _ in range(10):
        controller.close()
        controller.close()
        assert [layer.name for layer in viewer.layers] == ["cells"]
        assert commands.controller_in(viewer) is None
        controller = SegmentController(viewer, flat.runner, engine_, keeper, flat.settings)
    assert [len(event.callbacks) for event in events] == before
    assert controller.state.can_keep, "the preview is still there"
    commands.keep(viewer)
    assert len(controller.state.objects) == 1


# ---------------------------------------------------------------- nothing gets out of step


@pytest.mark.parametrize("target", ["concept", "instances"])
def test_a_reopened_object_of_a_word_is_corrected_itself(
    flat: SegmentController, target: str
) -> None:
    flat.set_target(target)
    flat.find("nuclei")
    flat.keep()
    key = flat.state.objects[0].key
    flat.open_object(key)
    click(flat, 30, 40)
    assert [one.key for one in flat.keeper.state.draft] == [key]


def test_a_stack_takes_the_place_of_what_the_word_found_before(deep: SegmentController) -> None:
    deep.set_target("instances")
    deep.find("nuclei")
    for _ in range(2):
        deep.segment_stack()
        assert [len(one.masks) for one in deep.keeper.state.draft] == [7, 7, 7]


def test_renamed_layers_stay_known(flat: SegmentController) -> None:
    flat.find("nuclei")
    flat.keep()
    mine = flat.viewer.layers["nuclei"]
    mine.name = "mine"
    flat.viewer.layers["cells"].name = "other"
    assert flat.state.image == "other"
    assert [choice.text for choice in flat.state.label_layers] == ["a new layer", "mine"]

    flat.viewer.add_labels(np.zeros((40, 50), np.uint8), name="nuclei")
    new = next(choice.value for choice in flat.state.label_layers if choice.text == "nuclei")
    flat.set_keep_into(new)
    before = mine.data.copy()
    flat.find("cells")
    flat.keep()
    assert np.array_equal(mine.data, before) and labels(flat).any()


def test_clicked_objects_go_into_one_layer(flat: SegmentController) -> None:
    for y, x in ((10, 10), (30, 40)):
        click(flat, y, x)
        flat.keep()
    assert labels(flat, "objects").max() == 2


def test_objects_of_a_layer_that_is_gone_are_kept_anew_or_deleted(flat: SegmentController) -> None:
    flat.set_target("instances")
    flat.find("nuclei")
    flat.keep()
    flat.viewer.layers.remove("nuclei")
    first, second, _ = (row.key for row in flat.state.objects)
    flat.delete_object(first)
    assert len(flat.state.objects) == 2
    flat.open_object(second)
    flat.keep()
    assert hint(flat) == "" and labels(flat).any()


def test_an_object_is_opened_in_its_own_image(flat: SegmentController) -> None:
    flat.find("nuclei")
    flat.keep()
    flat.viewer.add_image(np.ones((7, 40, 50), np.uint8), name="stack")
    flat.set_image("stack")
    flat.open_object(flat.state.objects[0].key)
    assert flat.state.image == "cells" and flat.state.selected

    flat.clear()
    flat.viewer.layers.remove("cells")
    flat.open_object(flat.state.objects[0].key)
    assert hint(flat) == "This object lies in another image. Open cells first."


def test_what_a_job_found_is_not_lost_by_what_ends_it(deep: SegmentController) -> None:
    deep.viewer.add_image(np.ones((7, 40, 50), np.uint8), name="other")
    done: list[int] = []

    def after(count: int, act: Callable[[], None]) -> None:
        done.clear()

        def on_step() -> None:
            done.append(1)
            if len(done) == count:
                act()

        engine(deep).on_step = on_step

    deep.set_target("instances")
    deep.find("nuclei")
    deep.clear()
    after(3, lambda: deep.set_image("other"))
    deep.segment_stack()
    assert deep.state.image == "cells", "two slices are not kept yet"
    assert [len(one.masks) for one in deep.keeper.state.draft] == [2, 2, 2]

    after(3, deep.propagate)
    deep.clear()
    deep.segment_stack()
    assert [len(one.masks) for one in deep.keeper.state.draft] == [7, 7, 7]

    deep.clear()
    deep.set_target("object")
    click(deep, 3, 20, 20)
    after(4, deep.keep)
    deep.propagate()
    assert len(deep.keeper.state.objects) == 1
    assert len(next(iter(deep.keeper.state.objects.values())).masks) == 4


def test_an_answer_on_its_way_does_not_come_after_a_clear(
    flat: SegmentController, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[Job] = []
    monkeypatch.setattr(flat.runner, "submit", jobs.append)
    flat.find("nuclei")
    (job,) = (job for job in jobs if job.kind == "answer")
    values = list(job.work())
    flat.clear()
    for value in values:
        job.on_value(value)
    assert flat.keeper.state.draft == ()


def test_a_restored_session_undoes_what_was_kept(flat: SegmentController, tmp_path: Path) -> None:
    for y, x in ((10, 10), (30, 40)):
        click(flat, y, x)
        flat.keep()
    flat.undo()
    flat.redo()
    flat.keeper.close()
    (path,) = tmp_path.rglob("*.sqlite")
    restored = restore(path)
    assert np.array_equal(restored.labels["objects"], labels(flat, "objects"))
    while restored.history.undo():
        pass
    assert not restored.labels["objects"].any(), "what was kept is not taken for paint"


def test_a_lost_session_is_offered_until_something_is_done(
    flat: SegmentController, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    flat.find("nuclei")
    project = tmp_path_factory.mktemp("project")
    flat.save_project(project)
    journal = flat.keeper.recorder._journal
    assert journal is not None
    journal._close()

    again = make_controller(ViewerModel(), tmp_path)
    again.viewer.add_image(np.zeros((40, 50)), name="cells")
    assert hint(again).startswith("The last session was cut off")
    again.act("discard")
    assert hint(again) == "" and restore(project).state.draft, "a project stays"
    assert hint(make_controller(again.viewer, tmp_path)) == ""
