"""Words in whole stacks: the same as plane by plane, and gone on with after whatever stops it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from bright import BrightSegmenter
from numpy.typing import NDArray
from scipy import ndimage

from napari_clipsam._pyramid import LabelPyramid
from napari_clipsam.adapters.inject import Adapter
from napari_clipsam.errors import OutputError, PlaneError, PromptError
from napari_clipsam.inference.batching import PlaneBatches
from napari_clipsam.inference.instances import InstanceSettings
from napari_clipsam.inference.masks import cut_to_box
from napari_clipsam.inference.requests import ObjectMask, Prediction, PredictRequest
from napari_clipsam.inference.segmenter import Segmenter
from napari_clipsam.inference.shelf import Shelf
from napari_clipsam.inference.stacks import segment_stack
from napari_clipsam.inference.volume import (
    VolumeProgress,
    VolumeTask,
    find_planes,
    segment_volume,
)
from napari_clipsam.inference.volume_files import VolumeFile, unfinished_folder
from napari_clipsam.models.registry import LoadedModel
from napari_clipsam.planes import Stack, open_image, read_labels

WORD = "blobs"


def noise(shape: tuple[int, ...] = (6, 48, 64), seed: int = 0) -> NDArray[np.uint8]:
    """Planes of noise in which something is found; neighbours are alike."""
    rng = np.random.default_rng(seed)
    steps = rng.integers(0, 40, shape).cumsum(axis=-3) if len(shape) > 2 else rng.integers(0, 99)
    return ((rng.integers(0, 255, shape[-2:]) + steps) % 255).astype(np.uint8)


@pytest.fixture
def finder(model: LoadedModel, make_adapter: Callable[..., Adapter]) -> Segmenter:
    return _segmenter(model, make_adapter(4, words=(WORD,), threshold=0.0))


def _segmenter(model: LoadedModel, adapter: Adapter) -> Segmenter:
    taking_all = InstanceSettings(min_score=0, min_inside=0)
    return Segmenter(model, adapter, "cpu", instances=taking_all)


def drifting(depth: int = 6) -> NDArray[np.uint8]:
    """Three bright squares that drift through the slices, one of them in the first half only."""
    stack = np.full((depth, 48, 64), 20, np.uint8)
    for z in range(depth):
        for y, x, there in ((4, 4, True), (20, 30, z < depth / 2), (34, 50, True)):
            stack[z, y + z % 2 : y + z % 2 + 9, x : x + 9] = 200 if there else 20
    return stack


@pytest.fixture
def spotter(finder: Segmenter, monkeypatch: pytest.MonkeyPatch) -> Segmenter:
    """One that takes every bright part for an object, in no order."""

    def answer(request: PredictRequest) -> Prediction:
        parts, count = ndimage.label(request.plane.rgb[..., 0] > 100)
        masks = [ObjectMask(*cut_to_box(parts == i + 1, (0, 0)), 0.9) for i in range(count)]
        turned = masks[::-1] if request.plane.index.get("Z", 0) % 2 else masks
        return Prediction(request.plane.shape, "instances", tuple(turned))

    monkeypatch.setattr(finder, "answer", answer)
    return finder


def run(
    segmenter: Segmenter, task: VolumeTask, output: Path, overwrite: bool = False
) -> list[VolumeProgress]:
    return list(segment_volume(segmenter, task, {WORD: output}, overwrite))


def stop_after(segmenter: Segmenter, task: VolumeTask, output: Path, planes: int) -> None:
    running = segment_volume(segmenter, task, {WORD: output})
    for _ in range(planes):
        next(running)
    running.close()


def labels_in(path: Path) -> NDArray:
    stack = read_labels(path)
    return np.stack([stack.plane(index) for index in stack.planes()])


# ---------------------------------------------------------------- what is found


def test_a_concept_is_what_each_plane_gives(finder: Segmenter, tmp_path: Path) -> None:
    stack = open_image(noise())
    told = run(finder, VolumeTask(stack, (WORD,)), tmp_path / "a.ome.zarr")
    found = labels_in(tmp_path / "a.ome.zarr")
    steps = segment_stack(finder, lambda z: stack.plane({"Z": z}), range(6), WORD, "concept")
    for step, plane in zip(steps, found, strict=True):
        np.testing.assert_array_equal(plane, step.prediction.mask())
    assert found.any() and found.dtype == np.uint8
    assert [(one.done, one.total, one.index["Z"]) for one in told] == [
        (z + 1, 6, z) for z in range(6)
    ]
    assert told[-1].counts == {WORD: 1} and told[-1].seconds_left == 0
    assert not unfinished_folder(tmp_path / "a.ome.zarr").exists()


def test_instances_keep_their_ids_through_the_slices(spotter: Segmenter, tmp_path: Path) -> None:
    task = VolumeTask(open_image(drifting()), (WORD,), "instances")
    told = run(spotter, task, tmp_path / "a.ome.zarr")
    found = labels_in(tmp_path / "a.ome.zarr")
    np.testing.assert_array_equal(found > 0, drifting() > 100)
    for at in ((8, 8), (38, 54)):
        assert len(np.unique(found[:, *at])) == 1
    assert told[-1].counts[WORD] == found.max() == 3
    assert [one.counts[WORD] for one in told] == [3] * 6


def test_time_points_are_linked_apart(spotter: Segmenter, tmp_path: Path) -> None:
    movie = np.stack([drifting(3)] * 2)
    task = VolumeTask(open_image(movie, axes="TZYX"), (WORD,), "instances")
    run(spotter, task, tmp_path / "a.ome.zarr")
    found = zarr.open_group(tmp_path / "a.ome.zarr", mode="r")["0"][...]
    first, second = (set(np.unique(one)) - {0} for one in found)
    assert len(first) == len(second) == 3 and not first & second


def test_objects_of_a_movie_are_followed_in_time(spotter: Segmenter, tmp_path: Path) -> None:
    task = VolumeTask(open_image(drifting(), axes="TYX"), (WORD,), "instances")
    run(spotter, task, tmp_path / "a.ome.zarr")
    assert labels_in(tmp_path / "a.ome.zarr").max() == 3


def test_axes_are_brought_into_the_usual_order(finder: Segmenter, tmp_path: Path) -> None:
    movie = noise((2, 3, 48, 64))
    usual = VolumeTask(open_image(movie, axes="TZYX"), (WORD,), "instances")
    other = VolumeTask(open_image(np.swapaxes(movie, 0, 1), axes="ZTYX"), (WORD,), "instances")
    for name, task in (("a", usual), ("b", other)):
        run(finder, task, tmp_path / f"{name}.ome.zarr")
    a, b = (zarr.open_group(tmp_path / f"{n}.ome.zarr", mode="r")["0"][...] for n in "ab")
    np.testing.assert_array_equal(a, b)
    assert a.shape == movie.shape


def test_several_words_share_what_is_encoded(finder: Segmenter, tmp_path: Path) -> None:
    task = VolumeTask(open_image(noise()), (WORD, "cells"))
    outputs = {word: tmp_path / f"{word}.ome.zarr" for word in task.words}
    list(segment_volume(finder, task, outputs))
    assert finder.calls["trunk"] == finder.calls["clip"] == 6
    assert all(path.is_dir() for path in outputs.values())


def test_the_next_batch_is_read_while_one_is_looked_at(
    spotter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    was_read: list[int] = []
    plane = Stack.plane

    def reading(self: Stack, index: Any = None) -> Any:
        was_read.append(index["Z"])
        return plane(self, index)

    monkeypatch.setattr(Stack, "plane", reading)
    task = VolumeTask(open_image(drifting(40)), (WORD,))
    batches = PlaneBatches(spotter)
    batches.size = 8
    with closing(find_planes(spotter, task, task.indices, batches)) as found:
        next(found)
        end = time.monotonic() + 30
        while len(was_read) < 16:
            assert time.monotonic() < end, "the next batch waits for the disk"
            time.sleep(0.01)
        assert len(was_read) < 20  # and no more of a deep stack


def test_of_large_planes_one_is_read_ahead(
    finder: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_clipsam.inference.volume._AHEAD_BYTES", 3 * 48 * 64)
    read, was_read = Stack.plane, []

    def counted(self: Stack, index: Any = None) -> Any:
        was_read.append(index)
        return read(self, index)

    monkeypatch.setattr(Stack, "plane", counted)
    task = VolumeTask(open_image(noise((20, 48, 64))), (WORD,))
    batches = PlaneBatches(finder, task.words)
    batches.size = 8
    with closing(find_planes(finder, task, task.indices, batches)) as found:
        next(found)
        assert len(was_read) <= 2


def test_slices_of_one_value_are_empty_and_not_encoded(finder: Segmenter, tmp_path: Path) -> None:
    pixels = noise()
    pixels[2] = 7
    run(finder, VolumeTask(open_image(pixels), (WORD,)), tmp_path / "a.ome.zarr")
    assert not labels_in(tmp_path / "a.ome.zarr")[2].any()
    assert finder.calls["trunk"] == 5


def test_a_word_nobody_taught_is_said_once_and_nothing_encoded(
    model: LoadedModel, make_adapter: Callable[..., Adapter], tmp_path: Path
) -> None:
    closed = _segmenter(model, make_adapter(4, words=(WORD,), threshold=0.0))
    closed.unknown_words = lambda text: [text] if text == "golgi" else []  # type: ignore[method-assign]
    closed._encoder.unknown_words = closed.unknown_words  # type: ignore[method-assign]
    task = VolumeTask(open_image(noise()), ("golgi",))
    told = list(segment_volume(closed, task, {"golgi": tmp_path / "a.ome.zarr"}))
    notes = [note for step in told for note in step.notes]
    assert len(notes) == 1 and "not learnt 'golgi'" in notes[0]
    assert closed.calls["trunk"] == 0 and not labels_in(tmp_path / "a.ome.zarr").any()


@pytest.mark.parametrize("fails", ["before the answer", "after all answers"])
def test_troubles_of_the_cache_are_told_where_nothing_is_found(
    model: LoadedModel,
    make_adapter: Callable[..., Adapter],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fails: str,
) -> None:
    task = VolumeTask(open_image(noise((3, 48, 64))), (WORD,))
    left, gate = len(task.indices), threading.Event()

    def full(*args: Any) -> None:
        assert gate.wait(timeout=60)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("napari_clipsam.inference.shelf._write", full)
    shelf = Shelf(tmp_path / "trunks", 1 << 30)
    refusing = Segmenter(model, make_adapter(4, words=(WORD,), threshold=1.0), "cpu", shelf=shelf)
    answer = refusing.answer

    def timed(request: PredictRequest) -> Prediction:
        nonlocal left
        if fails == "before the answer":
            gate.set()
            refusing.flush()
        found = answer(request)
        left -= 1
        if not left:
            gate.set()
        return found

    monkeypatch.setattr(refusing, "answer", timed)
    told = list(segment_volume(refusing, task, {WORD: tmp_path / "a.ome.zarr"}))
    assert told[-1].counts == {WORD: 0}
    assert any("takes no more" in note for step in told for note in step.notes)


def test_another_seed_is_another_result(finder: Segmenter, tmp_path: Path) -> None:
    task, output = VolumeTask(open_image(noise()), (WORD,)), tmp_path / "a.ome.zarr"
    stop_after(finder, task, output, 3)
    finder._concepts.seed = 7
    with pytest.raises(OutputError, match="unfinished result of another"):
        run(finder, task, output)


def test_one_object_is_refused() -> None:
    with pytest.raises(PromptError, match="all of it or every object"):
        VolumeTask(open_image(noise()), (WORD,), "object")  # type: ignore[arg-type]


# ---------------------------------------------------------------- files


def test_a_tiff_holds_the_same_in_the_smallest_type(finder: Segmenter, tmp_path: Path) -> None:
    source = tmp_path / "cells.tif"
    spacing = {"PhysicalSizeX": 0.2, "PhysicalSizeY": 0.2, "PhysicalSizeZ": 0.5}
    units = {f"{name}Unit": "µm" for name in spacing}
    tifffile.imwrite(source, noise(), ome=True, metadata={"axes": "ZYX", **spacing, **units})
    task = VolumeTask(open_image(source), (WORD,), "instances")
    assert task.distance == pytest.approx(2.5)
    for name in ("a.tif", "a.ome.zarr"):
        run(finder, task, tmp_path / name)
    flat, pyramid = labels_in(tmp_path / "a.tif"), labels_in(tmp_path / "a.ome.zarr")
    np.testing.assert_array_equal(flat, pyramid)
    assert flat.dtype == np.uint16 and pyramid.dtype == np.uint32
    for name in ("a.tif", "a.ome.zarr"):
        assert read_labels(tmp_path / name).spacing_um == pytest.approx(
            {"Z": 0.5, "Y": 0.2, "X": 0.2}
        )


def test_coarser_levels_are_written_as_well(finder: Segmenter, tmp_path: Path) -> None:
    run(finder, VolumeTask(open_image(noise((2, 300, 520))), (WORD,)), tmp_path / "a.ome.zarr")
    group = zarr.open_group(tmp_path / "a.ome.zarr", mode="r")
    full, half, quarter = (group[str(level)][...] for level in range(3))
    np.testing.assert_array_equal(half, full[:, ::2, ::2])
    np.testing.assert_array_equal(quarter, full[:, ::4, ::4])


@pytest.mark.parametrize(
    ("name", "message"),
    [("a.png", "no name for a volume"), ("missing/a.ome.zarr", "does not exist")],
)
def test_a_place_that_does_not_suit_is_refused_before_any_work(
    finder: Segmenter, tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(OutputError, match=message):
        run(finder, VolumeTask(open_image(noise()), (WORD,)), tmp_path / name)
    assert finder.calls["trunk"] == 0 and not list(tmp_path.iterdir())


def test_what_is_there_is_replaced_only_when_asked(finder: Segmenter, tmp_path: Path) -> None:
    output, task = tmp_path / "a.ome.zarr", VolumeTask(open_image(noise()), (WORD,))
    run(finder, task, output)
    before = finder.calls["trunk"]
    with pytest.raises(OutputError, match="exists already"):
        run(finder, task, output)
    assert finder.calls["trunk"] == before
    run(finder, replace(task, target="instances"), output, overwrite=True)
    assert labels_in(output).dtype == np.uint32
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    (tmp_path / "mine").rename(tmp_path / "b.ome.zarr")
    with pytest.raises(OutputError, match="not an OME-Zarr"):
        run(finder, task, tmp_path / "b.ome.zarr", overwrite=True)
    assert (tmp_path / "b.ome.zarr" / "thesis.txt").exists()


def test_only_one_process_writes_a_result(finder: Segmenter, tmp_path: Path) -> None:
    output, task = tmp_path / "a.ome.zarr", VolumeTask(open_image(noise()), (WORD,))
    running = segment_volume(finder, task, {WORD: output})
    next(running)
    with pytest.raises(OutputError, match="being written by another"):
        run(finder, task, output)
    running.close()
    assert len(run(finder, task, output)) < 6


# ---------------------------------------------------------------- going on


@pytest.mark.parametrize("target", ["concept", "instances"])
@pytest.mark.parametrize("name", ["a.ome.zarr", "a.tif"])
def test_what_was_stopped_is_gone_on_with(
    spotter: Segmenter, tmp_path: Path, target: Any, name: str
) -> None:
    task = VolumeTask(open_image(drifting()), (WORD,), target)
    run(spotter, task, tmp_path / f"whole_{name}")
    stop_after(spotter, task, tmp_path / name, 3)
    assert not (tmp_path / name).exists()
    told = run(spotter, task, tmp_path / name)
    assert [one.done for one in told] == [4, 5, 6]
    assert labels_in(tmp_path / name).max() == (3 if target == "instances" else 1)
    np.testing.assert_array_equal(labels_in(tmp_path / name), labels_in(tmp_path / f"whole_{name}"))


def test_what_was_cut_off_after_the_last_plane_is_finished_and_told(
    spotter: Segmenter, tmp_path: Path
) -> None:
    task, output = VolumeTask(open_image(drifting()), (WORD,), "instances"), tmp_path / "a.ome.zarr"
    stop_after(spotter, task, output, 6)
    assert not output.exists()
    (told,) = run(spotter, task, output)
    assert (told.done, told.total, told.counts) == (6, 6, {WORD: 3})
    assert labels_in(output).max() == 3


def test_one_word_may_be_further_than_another(finder: Segmenter, tmp_path: Path) -> None:
    task = VolumeTask(open_image(noise()), (WORD,), "instances")
    stop_after(finder, task, tmp_path / f"{WORD}.ome.zarr", 4)
    both = replace(task, words=(WORD, "cells"))
    outputs = {word: tmp_path / f"{word}.ome.zarr" for word in both.words}
    told = list(segment_volume(finder, both, outputs))
    assert len(told) == 6
    run(finder, task, tmp_path / "whole.ome.zarr")
    np.testing.assert_array_equal(labels_in(outputs[WORD]), labels_in(tmp_path / "whole.ome.zarr"))


def test_an_unfinished_result_of_something_else_is_not_gone_on_with(
    finder: Segmenter, make_adapter: Callable[..., Adapter], tmp_path: Path
) -> None:
    task, output = VolumeTask(open_image(noise()), (WORD,)), tmp_path / "a.ome.zarr"
    stop_after(finder, task, output, 3)
    others = [
        (finder, replace(task, target="instances")),
        (finder, replace(task, stack=open_image(noise((7, 48, 64))))),
        (finder, replace(task, stack=open_image(noise(seed=7)))),
        (_segmenter(finder.model, make_adapter(0, words=(WORD,))), task),
    ]
    for segmenter, other in others:
        with pytest.raises(OutputError, match="unfinished result of another"):
            run(segmenter, other, output)
    assert len(run(finder, replace(task, target="instances"), output, overwrite=True)) == 6


@pytest.mark.parametrize("soon_free", [False, True])
def test_a_full_disk_keeps_what_is_finished(
    finder: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, soon_free: bool
) -> None:
    task, output = VolumeTask(open_image(noise()), (WORD,), "instances"), tmp_path / "a.ome.zarr"
    run(finder, task, tmp_path / "whole.ome.zarr")
    write, fails = LabelPyramid.write, iter([True] if soon_free else [True] * 9)

    def full(self: LabelPyramid, held: tuple[int, ...], plane: NDArray) -> None:
        if held == (3,) and next(fails, False):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, held, plane)

    monkeypatch.setattr(LabelPyramid, "write", full)
    with pytest.raises(OutputError, match=r"No space left.*finished are kept"):
        run(finder, task, output)
    monkeypatch.setattr(LabelPyramid, "write", write)
    assert [one.done for one in run(finder, task, output)] == [4, 5, 6]
    np.testing.assert_array_equal(labels_in(output), labels_in(tmp_path / "whole.ome.zarr"))


def test_several_tiffs_are_moved_to_their_places_together(
    finder: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = VolumeTask(open_image(noise()), (WORD, "discs"))
    outputs = {WORD: tmp_path / "a.tif", "discs": tmp_path / "b.tif"}
    write, written = tifffile.imwrite, 0

    def second_is_full(*args: Any, **options: Any) -> None:
        nonlocal written
        written += 1
        if written == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(*args, **options)

    monkeypatch.setattr(tifffile, "imwrite", second_is_full)
    with pytest.raises(OutputError, match=r"b\.tif could.*finished are kept"):
        list(segment_volume(finder, task, outputs))
    assert not outputs[WORD].exists(), "the same command could not go on"
    assert [one.done for one in segment_volume(finder, task, outputs)] == [6]
    assert outputs[WORD].exists() and outputs["discs"].exists()


def test_nothing_is_in_the_way_where_nothing_was_written(finder: Segmenter, tmp_path: Path) -> None:
    task, output = VolumeTask(open_image(noise()), (WORD,)), tmp_path / "a.ome.zarr"
    VolumeFile(output, task.layout, {"word": "another"}, overwrite=False).close()
    assert run(finder, task, output)[0].done == 1


def test_what_a_killed_replacement_left_is_not_in_the_way(
    finder: Segmenter, tmp_path: Path
) -> None:
    task, output = VolumeTask(open_image(noise()), (WORD,)), tmp_path / "a.ome.zarr"
    run(finder, task, output)
    left = unfinished_folder(output) / "former"
    left.mkdir(parents=True)
    (left / "zarr.json").write_text("{}")
    run(finder, task, output, overwrite=True)
    assert labels_in(output).any() and not unfinished_folder(output).exists()


@pytest.mark.parametrize("full", ["state.json", "a.tif"])
def test_a_disk_that_is_full_by_any_file_is_said_of_the_result(
    spotter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    task, output = VolumeTask(open_image(drifting()), (WORD,)), tmp_path / "a.tif"
    move, moved = os.replace, 0

    def replace_there(source: Path, target: Path) -> None:
        nonlocal moved
        moved += Path(target).name == full
        if moved == (3 if full == "state.json" else 1):
            raise OSError(errno.ENOSPC, "No space left on device")
        move(source, target)

    monkeypatch.setattr(os, "replace", replace_there)
    with pytest.raises(OutputError, match=r"^\S+/a\.tif could.*No space left.*finished are kept"):
        run(spotter, task, output)
    monkeypatch.setattr(os, "replace", move)
    told = run(spotter, task, output)
    assert told[0].done == (2 if full == "state.json" else 6)
    np.testing.assert_array_equal(labels_in(output) > 0, drifting() > 100)


def test_a_plane_that_cannot_be_read_keeps_those_before(
    finder: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, output = VolumeTask(open_image(noise()), (WORD,)), tmp_path / "a.ome.zarr"
    read = Stack.plane

    def damaged(self: Stack, index: Any = None) -> Any:
        if index == {"Z": 4}:
            raise PlaneError("cells.tif is damaged. Copy it again.")
        return read(self, index)

    monkeypatch.setattr(Stack, "plane", damaged)
    with pytest.raises(PlaneError, match=r"damaged.*The planes that are finished are kept\."):
        run(finder, task, output)
    monkeypatch.setattr(Stack, "plane", read)
    assert [one.done for one in run(finder, task, output)] == [5, 6]


_KILLED = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from bright import BrightSegmenter
from napari_clipsam.inference.volume import VolumeTask, segment_volume
from napari_clipsam.planes import open_image
task = VolumeTask(open_image(sys.argv[2], axes="ZYX"), ("blobs",), "instances")
for step in segment_volume(BrightSegmenter(), task, {"blobs": Path(sys.argv[3])}):
    print(step.done, flush=True)
"""


def test_a_run_that_is_killed_is_gone_on_with(tmp_path: Path) -> None:
    # Any Segmenter does, and one without networks needs few imports.
    source, output = tmp_path / "stack.tif", tmp_path / "a.ome.zarr"
    tifffile.imwrite(source, drifting(150))
    command = [sys.executable, "-c", _KILLED, str(Path(__file__).parents[1]), source, output]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while int(process.stdout.readline()) < 9:
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not output.exists()
    task = VolumeTask(open_image(source, axes="ZYX"), (WORD,), "instances")
    finder: Any = BrightSegmenter()
    # What was not yet on disk is done again, and no more than that.
    assert run(finder, task, output)[0].done >= 6
    run(finder, task, tmp_path / "whole.ome.zarr")
    whole = labels_in(tmp_path / "whole.ome.zarr")
    np.testing.assert_array_equal(labels_in(output), whole)
    assert whole.max() == 3
