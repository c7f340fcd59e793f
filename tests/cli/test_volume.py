"""``volume``: whole stacks, their outputs, and what is refused before any work."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import zarr
from bright import BrightSegmenter, Run, squares
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from napari_clipsam._machine import Memory
from napari_clipsam._pyramid import LabelPyramid
from napari_clipsam.cli import _volume
from napari_clipsam.planes import read_labels

IMAGE, LABELS = squares()


@pytest.fixture
def column(tmp_path: Path) -> Path:
    """The four squares in each of 5 slices; the fourth ends after the third slice."""
    slices = np.stack([IMAGE] * 5)
    slices[3:, LABELS == 4] = 0
    path = tmp_path / "column.tif"
    tifffile.imwrite(path, slices, imagej=True, metadata={"axes": "ZYX"})
    return path


def labels_in(path: Path) -> NDArray:
    stack = read_labels(path)
    return np.stack([stack.plane(index) for index in stack.planes()])


@pytest.mark.parametrize("name", ["out.ome.zarr", "out.tif"])
def test_a_word_is_found_in_every_slice(
    run: Run, bright: BrightSegmenter, stack: Path, tmp_path: Path, name: str
) -> None:
    done = run("volume", stack, "--text", "nuclei", "-o", tmp_path / name)
    assert (done.status, done.out) == (
        0,
        f"stack.tif: nuclei: found in 5 planes -> {tmp_path / name}\n",
    )
    assert "5 planes of 60 x 80" in done.err
    found = labels_in(tmp_path / name)
    assert_array_equal(found, tifffile.imread(stack) > 127)
    assert found.dtype == np.uint8


def test_instances_have_one_number_through_the_slices(
    run: Run, bright: BrightSegmenter, column: Path, tmp_path: Path
) -> None:
    out, described = tmp_path / "out.tif", tmp_path / "out.json"
    options = ("--text", "nuclei", "--target", "instances", "--json", described)
    done = run("volume", column, *options, "-o", out)
    assert done.status == 0 and "4 objects in 5 planes" in done.out
    found = labels_in(out)
    assert found.dtype == np.uint16
    assert_array_equal(found > 0, tifffile.imread(column) > 0)
    for number in range(1, 5):
        inside = number == LABELS
        assert len(set(np.unique(found[:, inside])) - {0}) == 1
    told = json.loads(described.read_text())
    assert told | {"image": "", "output": ""} == {
        "image": "",
        "output": "",
        "model": "bright",
        "adapter": "lamp",
        "clip": "torch",
        "device": "cpu",
        "text": "nuclei",
        "target": "instances",
        "match": True,
        "n_planes": 5,
        "n_objects": 4,
    }


def test_several_words_give_an_output_each(
    run: Run, bright: BrightSegmenter, stack: Path, tmp_path: Path
) -> None:
    words = ("--text", "nuclei", "--text", "mitochondria")
    done = run(
        "volume", stack, *words, "-o", tmp_path / "out.ome.zarr", "--json", tmp_path / "j.json"
    )
    assert done.status == 0
    assert "mitochondria: no match in 5 planes" in done.out
    assert labels_in(tmp_path / "out_nuclei.ome.zarr").any()
    assert not labels_in(tmp_path / "out_mitochondria.ome.zarr").any()
    assert json.loads((tmp_path / "j_mitochondria.json").read_text())["match"] is False


def test_an_object_is_followed_from_a_click(
    run: Run, bright: BrightSegmenter, column: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.ome.zarr"
    clicks = ("--point", "1,8,8", "--box", "1,28,58,44,72")
    done = run("volume", column, *clicks, "--propagate", "-o", out)
    assert done.status == 0, done.err
    assert "object: 2 objects in 5 planes" in done.out
    found = labels_in(out)
    # Boxes come first.
    assert_array_equal(found[:, LABELS == 1], 2)
    assert_array_equal(found[:3, LABELS == 4], 1)
    assert not found[3:, LABELS == 4].any()
    assert set(np.unique(found)) == {0, 1, 2}


def test_objects_are_counted_under_each_word(
    run: Run, bright: BrightSegmenter, column: Path, tmp_path: Path
) -> None:
    words = ("--text", "nuclei", "--text", "cells", "--point", "1,8,8")
    done = run("volume", column, *words, "-o", tmp_path / "out.tif")
    assert done.status == 0, done.err
    for word in ("nuclei", "cells"):
        assert f"{word}: 1 object in 5 planes -> {tmp_path / f'out_{word}.tif'}" in done.out


def test_without_propagate_only_the_marked_slices_are_looked_at(
    run: Run, bright: BrightSegmenter, column: Path, tmp_path: Path
) -> None:
    done = run("volume", column, "--point", "1,8,8", "--point", "3,8,8", "-o", tmp_path / "o.tif")
    assert done.status == 0, done.err
    found = labels_in(tmp_path / "o.tif")
    assert [bool(plane.any()) for plane in found] == [False, True, False, True, False]


def test_what_was_made_for_one_word_is_kept_for_others(
    run: Run, stack: Path, tmp_path: Path, tiny: list[object]
) -> None:
    cache = tmp_path / "cache"
    for word in ("nuclei", "cells"):
        out = tmp_path / f"{word}.ome.zarr"
        done = run("volume", stack, "--text", word, "-o", out, "--cache", cache, *tiny)
        assert done.status == 0, done.err
        # One slice shows something; its trunk and its features.
        assert len(list(cache.glob("*/*/zarr.json"))) == 2
    assert zarr.open_group(out, mode="r").attrs["ome"]["version"] == "0.5"


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "nothing to go by"),
        (("--point", "8,8"), "names no slice"),
        (("--point", "9,8,8"), "no slice 9"),
        (("--point", "1,8,800"), "outside"),
        (("--point", "1,8,8,-"), "All points are negative"),
        (("--text", "nuclei", "--propagate"), "follows objects"),
        (("--text", "nuclei", "--target", "object"), "needs a --point or a --box"),
        (("--text", "nuclei", "--point", "1,8,8", "--target", "concept"), "cannot guide"),
        (("--text", "a b", "--text", "a_b"), "not all different"),
        (("--text", "nuclei", "-o", "out.png"), "no name for a volume"),
        (("--text", "nuclei", "-o", "none/out.tif"), "does not exist"),
        (("--text", "nuclei", "--axes", "TCQ"), "axes"),
        (("--text", "nuclei", "--workers", "2", "--scheduler", "tcp://a:1"), "Give one of them"),
        (("--point", "1,8,8", "--workers", "2"), "Marked objects"),
        (("--text", "nuclei", "--workers", "0"), "--workers"),
    ],
)
def test_what_cannot_work_is_refused_before_a_model_is_loaded(
    run: Run, stack: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    output = () if "-o" in options else ("-o", tmp_path / "out.ome.zarr")
    before = set(tmp_path.iterdir())
    done = run("volume", stack, *options, *output)
    assert done.status == 2 and done.out == ""
    assert message in done.err and "Traceback" not in done.err
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "home"}


def test_without_a_compiler_nothing_is_compiled(
    run: Run, stack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr("napari_clipsam.models.registry.load_model", pytest.fail)
    words = ("--text", "nuclei", "--device", "cpu", "--compile", "blocks")
    done = run("volume", stack, *words, "-o", tmp_path / "out.ome.zarr")
    assert done.status == 2 and "there is no 'no-such-compiler' here" in done.err
    assert not (tmp_path / "out.ome.zarr").exists()


@pytest.mark.usefixtures("no_model")
def test_a_single_plane_is_no_stack(run: Run, image: Path, tmp_path: Path) -> None:
    done = run("volume", image, "--text", "nuclei", "-o", tmp_path / "out.tif")
    assert done.status == 2 and "Use `segment`" in done.err


@pytest.mark.usefixtures("no_model")
def test_a_truncated_stack_and_an_empty_group_are_refused(
    run: Run, stack: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.tif"
    cut.write_bytes(stack.read_bytes()[:9000])
    zarr.open_group(tmp_path / "empty.zarr", mode="w")
    for path in (cut, tmp_path / "empty.zarr"):
        done = run("volume", path, "--text", "nuclei", "-o", tmp_path / "out.tif")
        assert done.status == 2 and path.name.partition(".")[0] in done.err


def test_a_result_is_replaced_only_when_asked(
    run: Run, bright: BrightSegmenter, stack: Path, tmp_path: Path
) -> None:
    words = ("volume", stack, "--text", "nuclei", "-o", tmp_path / "out.ome.zarr")
    assert run(*words).status == 0
    done = run(*words)
    assert done.status == 2 and "exists already" in done.err
    assert run(*words, "--overwrite").status == 0


def test_planes_of_different_shapes_are_refused(run: Run, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed.tif"
    with tifffile.TiffWriter(mixed) as file:
        for height in (60, 60, 50):
            file.write(np.zeros((height, 80), np.uint8), metadata=None)
    done = run("volume", mixed, "--text", "nuclei", "-o", tmp_path / "out.tif")
    assert done.status == 2 and done.err.count("\n") == 1
    assert "planes of different shapes: 60 x 80 and 50 x 80" in done.err


def test_a_disk_that_holds_too_little_is_refused(
    run: Run, stack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=100))
    done = run("volume", stack, "--text", "nuclei", "-o", tmp_path / "out.tif")
    assert done.status == 2 and done.err.count("\n") == 1 and "Free some space" in done.err
    assert not (tmp_path / "out.tif").exists()


def test_what_a_cache_holds_counts_for_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def disk_usage(folder: Path) -> SimpleNamespace:
        asked.append(folder)
        return SimpleNamespace(free=100)

    monkeypatch.setattr("shutil.disk_usage", disk_usage)
    cache = tmp_path / "new" / "trunks"
    assert _volume._shelf(cache) == (str(cache), 50)
    cache.mkdir(parents=True)
    (cache / "entry").write_bytes(bytes(300))
    assert _volume._shelf(cache) == (str(cache), 200)
    assert asked == [tmp_path, cache], "it may be a disk of its own"


def test_a_disk_that_is_full_on_the_way_keeps_what_is_finished(
    run: Run,
    bright: BrightSegmenter,
    stack: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = LabelPyramid.write

    def full(self: LabelPyramid, held: tuple[int, ...], plane: NDArray) -> None:
        if held == (3,):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, held, plane)

    words = ("volume", stack, "--text", "nuclei", "-o", tmp_path / "out.tif")
    monkeypatch.setattr(LabelPyramid, "write", full)
    done = run(*words)
    assert done.status == 2 and "finished are kept" in done.err.splitlines()[-1]
    monkeypatch.setattr(LabelPyramid, "write", write)
    asked = len(bright.asked)
    assert run(*words).status == 0
    # Of the two planes that were left neither shows anything.
    assert len(bright.asked) == asked
    assert_array_equal(labels_in(tmp_path / "out.tif"), tifffile.imread(stack) > 127)


def test_what_the_rest_takes_is_told_once_some_planes_are_done(
    run: Run, bright: BrightSegmenter, stack: Path, tmp_path: Path
) -> None:
    done = run("volume", stack, "--text", "nuclei", "-o", tmp_path / "out.tif")
    told = [line for line in done.err.splitlines() if line.startswith("The rest takes about ")]
    assert len(told) == 1 and told[0].endswith(" memory.")
    assert re.match(r"\d+ planes of \d+ x \d+, at most [\d.]+ kB on disk\.", done.err)


def test_more_workers_than_memory_holds_are_refused(
    run: Run, stack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_clipsam.cli._volume.memory", lambda: Memory(2 << 30, 1 << 30))
    words = ("--text", "nuclei", "--workers", "4", "--device", "cpu", "-o", tmp_path / "out.tif")
    done = run("volume", stack, *words)
    assert done.status == 2 and "Use at most 2." in done.err


def test_a_scheduler_that_cannot_be_reached_is_refused(
    run: Run, stack: Path, tmp_path: Path
) -> None:
    pytest.importorskip("distributed")
    words = ("--text", "nuclei", "--scheduler", "nonsense", "-o", tmp_path / "out.tif")
    done = run("volume", stack, *words)
    assert done.status == 2 and done.out == ""
    assert "No scheduler answers at nonsense" in done.err and done.err.count("\n") == 1
    assert not list(tmp_path.glob(".out*"))


def test_without_distributed_workers_are_refused(
    run: Run, stack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    words = ("--text", "nuclei", "--workers", "1", "--device", "cpu", "-o", tmp_path / "out.tif")
    done = run("volume", stack, *words)
    assert done.status == 2 and "pip install" in done.err


# Both in one process, which imports what they need once.
_TWO_COMMANDS = """
import sys
from napari_clipsam.cli import main
end = sys.argv.index("--then")
assert main(sys.argv[1:end]) == 0
sys.exit(main(sys.argv[end + 1 :]))
"""


def test_workers_give_what_one_process_gives_and_an_interrupt_stops_them_at_once(
    run: Run, stack: Path, tmp_path: Path, tiny: list[object]
) -> None:
    pytest.importorskip("distributed")
    words = ("--text", "nuclei", "--target", "instances", *tiny)
    outputs = {n: ("-o", tmp_path / f"{n}.tif", "--json", tmp_path / f"{n}.json") for n in "abc"}
    alone = run("volume", stack, *words, *outputs["a"])
    assert alone.status == 0, alone.err
    deep, shared = tmp_path / "deep.tif", ("--workers", 1)
    planes = np.random.default_rng(0).integers(0, 255, (2000, 48, 64), dtype=np.uint8)
    tifffile.imwrite(deep, planes, imagej=True, metadata={"axes": "ZYX"})
    first = ("volume", stack, *words, *shared, *outputs["b"])
    second = ("volume", deep, *words, *shared, *outputs["c"])
    # As a terminal does: all processes of the command are interrupted.
    process = subprocess.Popen(
        list(map(str, (sys.executable, "-c", _TWO_COMMANDS, *first, "--then", *second))),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    for _ in range(2):
        while not process.stderr.readline().startswith("The rest takes"):
            assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, err) == (130, "error: Stopped.\n")
    assert json.loads((tmp_path / ".c.tif.part" / "state.json").read_text())["done"] >= 2
    assert out == alone.out.replace("a.tif", "b.tif")
    assert_array_equal(labels_in(tmp_path / "b.tif"), labels_in(tmp_path / "a.tif"))
    told = [json.loads((tmp_path / f"{n}.json").read_text()) for n in "ab"]
    assert told[0] | {"output": ""} == told[1] | {"output": ""}
