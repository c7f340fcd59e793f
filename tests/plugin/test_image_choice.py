"""Which image and which slice are worked on, on a viewer without a window."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from plugin.fakes import HERE, click, engine, hint, labels, make_controller

from napari_clipsam._plugin.controller import SegmentController
from napari_clipsam._plugin.engine import Ask, Setup
from napari_clipsam._plugin.runner import ThreadRunner


def test_without_an_image_samples_are_offered(viewer: ViewerModel, tmp_path: Path) -> None:
    controller = make_controller(viewer, tmp_path)
    assert hint(controller) == "Open an image, or try a sample."
    assert len(controller.state.samples) == 3
    controller.find("nuclei")
    assert controller.state.hint is not None and controller.state.hint.is_error
    viewer.add_image(np.zeros((20, 20)), name="mine")
    assert (controller.state.image, hint(controller)) == ("mine", "")


def test_an_image_that_goes_away_takes_its_layers_along(flat: SegmentController) -> None:
    click(flat, 20, 20)
    flat.viewer.layers.remove("cells")
    assert list(flat.viewer.layers) == []
    assert flat.state.image == "" and not flat.state.can_keep
    flat.viewer.add_image(np.zeros((20, 20)), name="other")
    flat.find("nuclei")
    assert flat.state.can_keep


def test_a_stack_that_was_the_only_layer_goes_away(deep: SegmentController) -> None:
    deep.viewer.layers.remove("cells")
    assert deep.state.image == "" and deep.state.z_extent == 0
    assert hint(deep) == "Open an image, or try a sample."


def test_another_image_waits_until_the_preview_is_kept(flat: SegmentController) -> None:
    flat.viewer.add_image(np.zeros((20, 20)), name="other")
    click(flat, 20, 20)
    flat.set_image("other")
    assert flat.state.image == "cells" and "not kept yet" in hint(flat)
    flat.clear()
    flat.set_image("other")
    assert flat.state.image == "other"


def test_new_pixels_of_a_layer_are_looked_at(flat: SegmentController) -> None:
    flat.find("nuclei")
    before = engine(flat).asked[-1].read(HERE)
    flat.viewer.layers["cells"].data = np.full((40, 50), 7, np.uint8)
    flat.find("nuclei")
    after = engine(flat).asked[-1].read(HERE)
    assert before.fingerprint != after.fingerprint and (after.rgb == 7).all()


def test_channels_are_chosen(viewer: ViewerModel, tmp_path: Path) -> None:
    viewer.add_image(np.zeros((3, 40, 50)), name="cells", axis_labels=("c", "y", "x"))
    controller = make_controller(viewer, tmp_path)
    assert controller.state.channels[0].value == "channels 0, 1, 2 as colours"
    controller.set_channel("channel 1")
    assert controller.state.channel == "channel 1"
    controller.find("nuclei")
    assert engine(controller).asked[-1].key == HERE


def test_answers_about_what_is_gone_are_dropped(viewer: ViewerModel, tmp_path: Path) -> None:
    """The model still worked when the layer was deleted, or other channels were chosen."""
    calls: list[Callable[[], None]] = []
    runner = ThreadRunner(calls.append)
    viewer.add_image(np.zeros((3, 40, 50)), name="cells", axis_labels=("c", "y", "x"))
    controller = make_controller(viewer, tmp_path, runner)
    for go_away in (
        lambda: controller.set_channel("channel 1"),
        lambda: viewer.layers.remove("cells"),
    ):
        asked = len(engine(controller).asked)
        controller.find("nuclei")
        while len(engine(controller).asked) == asked:
            time.sleep(0.01)
        go_away()
        time.sleep(0.1)
        while calls:
            calls.pop(0)()
        assert controller.keeper.state.draft == ()
    runner.close()


def test_the_layer_for_the_answer_is_made_while_the_model_works(
    viewer: ViewerModel, tmp_path: Path
) -> None:
    calls: Queue[Callable[[], None]] = Queue()
    runner = ThreadRunner(calls.put, begun=False)
    viewer.add_image(np.zeros((40, 50)), name="cells")
    controller = make_controller(viewer, tmp_path, runner)
    controller.find("nuclei")
    assert [layer.name for layer in viewer.layers] == ["cells"], "imports come first"
    runner.begin()
    while not controller.models.is_loaded:
        calls.get(timeout=60)()
    assert [layer.name for layer in viewer.layers] == ["cells", "cells preview"]
    assert controller.state.busy is not None
    while controller.state.busy is not None:
        calls.get(timeout=60)()

    viewer.add_image(np.zeros((40, 50)), name="more")
    controller.clear()
    controller.set_image("more")
    assert [layer.name for layer in viewer.layers] == ["cells", "more"]
    controller.find("nuclei")
    assert [layer.name for layer in viewer.layers] == ["cells", "more", "more preview"]
    runner.close()


def test_the_slice_that_is_shown_is_prepared_when_the_dock_opens(deep: SegmentController) -> None:
    keys, word, _ = engine(deep).prepared[0]
    assert [k[0] for k in keys] == [3] and word is None
    assert deep.state.device == "CPU" and deep.state.hint is None


def test_the_neighbours_of_a_slice_are_prepared(deep: SegmentController) -> None:
    deep.find("nuclei")
    keys, word, _ = engine(deep).prepared[-1]
    assert [k[0] for k in keys] == [3, 4, 2] and word == "nuclei"


def test_an_answer_that_comes_late_leaves_the_slice_that_is_shown_prepared(
    deep: SegmentController, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = engine(deep).answer

    def late(setup: Setup, ask: Ask) -> Iterator[Any]:
        deep.viewer.dims.set_current_step(0, 5)
        yield from answer(setup, ask)

    monkeypatch.setattr(engine(deep), "answer", late)
    click(deep, 3, 20, 20)
    assert deep.keeper.state.draft
    assert engine(deep).prepared[-1][0][0][0] == 5


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 0, 1), (0, 2, 1)])
def test_any_order_of_axes_is_segmented_as_it_is_seen(
    deep: SegmentController, order: tuple[int, ...]
) -> None:
    deep.viewer.dims.order = order
    deep.find("nuclei")
    held = order[0]
    assert engine(deep).asked[-1].key[held] is not None
    deep.keep()
    kept = labels(deep)
    assert kept.any(axis=tuple(a for a in range(3) if a != held)).sum() == 1


def test_the_3d_view_says_what_to_do(deep: SegmentController) -> None:
    deep.viewer.dims.ndisplay = 3
    assert hint(deep).startswith("Clicks and words work in one slice at a time.")
    deep.find("nuclei")
    assert engine(deep).asked == []
    deep.viewer.dims.ndisplay = 3
    deep.act("show-slices")
    assert deep.viewer.dims.ndisplay == 2 and hint(deep) == ""
