"""Tensors on disk: found again, bounded, and never a reason for an answer to fail."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from napari_clipsam.adapters.inject import Adapter
from napari_clipsam.errors import OutputError
from napari_clipsam.inference import shelf as module
from napari_clipsam.inference.encoding import View
from napari_clipsam.inference.frames import concept_frames
from napari_clipsam.inference.segmenter import Segmenter
from napari_clipsam.inference.shelf import Shelf
from napari_clipsam.inference.trunks import TensorCache
from napari_clipsam.models.registry import LoadedModel
from napari_clipsam.planes import Plane
from napari_clipsam.prompts import Prompts

LARGE = 1 << 30


def values(seed: int = 0, n: int = 500) -> NDArray[np.float16]:
    return np.random.default_rng(seed).normal(size=(1, n)).astype(np.float16)


def chunk_of(shelf: Shelf, key: str) -> Path:
    (chunk,) = (file for file in shelf._place(key).glob("c/**/*") if file.is_file())
    return chunk


@pytest.mark.parametrize("array", [values(), np.zeros((1, 4, 4, 3), np.float32)])
def test_what_is_kept_is_found_by_others(tmp_path: Path, array: NDArray) -> None:
    Shelf(tmp_path, LARGE).put("a plane", array)
    other = Shelf(tmp_path, LARGE)
    found = other.get("a plane")
    assert found is not None and found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
    assert "a plane" in other and len(other) == 1
    assert other.get("another") is None
    assert not other.take_problems()


def test_what_waits_to_be_written_is_found_and_written_in_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf, go_on, real = Shelf(tmp_path, LARGE), threading.Event(), module._write
    monkeypatch.setattr(module, "_write", lambda *args: (go_on.wait(60), real(*args)))
    shelf.put_later("a plane", values())
    shelf.put_later("a plane", values(1))
    assert "a plane" in shelf and not len(shelf)
    found = shelf.get("a plane")
    assert found is not None and np.array_equal(found, values())
    go_on.set()
    shelf.flush()
    other = Shelf(tmp_path, LARGE).get("a plane")
    assert other is not None and np.array_equal(other, values())


def test_few_wait_to_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WAITING", 2)
    shelf, real, waiting = Shelf(tmp_path, LARGE), module._write, []
    monkeypatch.setattr(
        module, "_write", lambda *args: (waiting.append(len(shelf._unwritten)), real(*args))
    )
    for number in range(6):
        shelf.put_later(str(number), values(number))
    shelf.flush()
    assert len(shelf) == 6 and max(waiting) <= 3


def test_what_cannot_be_foreseen_is_not_hidden_by_the_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(module, "_write", fail)
    shelf = Shelf(tmp_path, LARGE)
    shelf.put_later("a plane", values())
    with pytest.raises(MemoryError):
        shelf.flush()
    assert "a plane" not in shelf


def _cut(chunk: Path) -> None:
    chunk.write_bytes(chunk.read_bytes()[:40])


def _flip(chunk: Path) -> None:
    content = bytearray(chunk.read_bytes())
    content[17] ^= 1
    chunk.write_bytes(bytes(content))


def _describe_nothing(chunk: Path) -> None:
    next(one for one in chunk.parents if (one / "zarr.json").is_file()).joinpath(
        "zarr.json"
    ).write_text("{")


def _lose_description(chunk: Path) -> None:
    next(one / "zarr.json" for one in chunk.parents if (one / "zarr.json").is_file()).unlink()


@pytest.mark.parametrize("damage", [_cut, _flip, Path.unlink, _describe_nothing, _lose_description])
def test_what_is_damaged_is_reported_and_made_again(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    shelf = Shelf(tmp_path, LARGE)
    shelf.put("a plane", values())
    damage(chunk_of(shelf, "a plane"))
    assert shelf.get("a plane") is None
    (problem,) = shelf.take_problems()
    assert "could not be read" in problem and "made again" in problem
    assert not shelf.take_problems() and "a plane" not in shelf
    shelf.put("a plane", values())
    np.testing.assert_array_equal(shelf.get("a plane"), values())


def test_those_not_used_for_longest_go_first(tmp_path: Path) -> None:
    probe = Shelf(tmp_path / "probe", LARGE)
    probe.put("a", values())
    shelf = Shelf(tmp_path / "real", int(4.5 * probe.bytes))
    for i, key in enumerate("abcd"):
        shelf.put(key, values())
        os.utime(shelf._place(key), (1000 + i, 1000 + i))
    assert shelf.get("a") is not None
    shelf.put("e", values())
    assert {key for key in "abcde" if key in shelf} >= {"a", "e"}
    assert "b" not in shelf
    assert shelf.bytes <= shelf.max_bytes


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 2000)), max_size=12))
def test_two_stay_within_their_bounds_together(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[bool, int]]
) -> None:
    folder = tmp_path_factory.mktemp("shelf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_COUNT_EVERY", 1)
        shelves = Shelf(folder, 8000), Shelf(folder, 8000)
        for i, (first, n) in enumerate(writes):
            shelves[first].put(str(i), values(i, n))
            held = sum(size for _, size, _ in shelves[0]._entries())
            # An entry's description comes on top of what it was announced with.
            assert held <= 8000 + 1000


def test_what_is_larger_than_the_shelf_is_not_kept(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, 100)
    shelf.put("a", values())
    assert "a" not in shelf and not shelf.take_problems()


def test_a_full_disk_is_said_once_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def full(place: Path, key: str, array: NDArray) -> None:
        place.mkdir()
        (place / "half").write_bytes(b"x")
        calls.append(key)
        raise OSError(errno.ENOSPC, "No space left on device")

    shelf = Shelf(tmp_path, LARGE)
    monkeypatch.setattr(module, "_write", full)
    cache = TensorCache(1000, torch.float32, shelf, "trunk")
    for key in "abc":
        assert cache.get(key, lambda: torch.ones(1, 3)).sum() == 3
        shelf.flush()
    (problem,) = shelf.take_problems()
    assert "No space left" in problem and len(calls) == 1
    assert not list(tmp_path.rglob("half"))


def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be used"):
        Shelf(tmp_path / "file" / "cache", LARGE)


def _write_slowly(folder: str) -> None:
    def slow(place: Path, key: str, array: NDArray) -> None:
        place.mkdir(parents=True)
        (place / "zarr.json").write_text("{}")
        time.sleep(60)

    module._write = slow  # type: ignore[assignment]
    Shelf(folder, LARGE).put("a plane", values())


def test_a_process_that_is_killed_leaves_nothing_that_is_read(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_write_slowly, args=(tmp_path,))
    process.start()
    while not list(tmp_path.rglob("zarr.json")):
        assert process.is_alive()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
    process.join()
    shelf = Shelf(tmp_path, LARGE)
    assert shelf.get("a plane") is None and len(shelf) == 0
    shelf.put("a plane", values())
    np.testing.assert_array_equal(shelf.get("a plane"), values())
    (left,) = tmp_path.rglob(f"{module._UNFINISHED}*")
    os.utime(left, (1, 1))
    Shelf(tmp_path, LARGE)
    assert not left.exists()


def _write_all(folder: str, first: int) -> None:
    shelf = Shelf(folder, LARGE)
    for i in range(40):
        n = (first + i) % 40
        shelf.put(str(n), values(n))
        found = shelf.get(str(n))
        assert found is not None and np.array_equal(found, values(n))
    assert not shelf.take_problems()


def test_two_processes_may_write_the_same(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    both = [spawn.Process(target=_write_all, args=(tmp_path, first)) for first in (0, 20)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert len(Shelf(tmp_path, LARGE)) == 40
    assert not list(tmp_path.rglob(f"{module._UNFINISHED}*"))


# ---------------------------------------------------------------- behind the cache in memory


def fail() -> torch.Tensor:
    raise AssertionError("made again")


def test_what_left_memory_comes_back_from_disk_the_same(tmp_path: Path) -> None:
    exact = torch.randn(1, 1000, generator=torch.Generator().manual_seed(0))
    shelf = Shelf(tmp_path, LARGE)
    cache = TensorCache(0, torch.float16, shelf, "trunk")
    made = cache.get("a", lambda: exact).clone()
    cache.get("b", lambda: exact)
    assert torch.equal(cache.get("a", fail), made)
    shelf.flush()
    later = TensorCache(0, torch.float16, Shelf(tmp_path, LARGE), "trunk")
    assert torch.equal(later.get("a", fail), made)


def test_other_networks_and_precisions_have_their_own(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, LARGE)
    TensorCache(0, torch.float16, shelf, "trunk one").get("a", lambda: torch.ones(1))
    for dtype, label in ((torch.float16, "trunk two"), (torch.float32, "trunk one")):
        other = TensorCache(0, dtype, shelf, label).get("a", lambda: torch.zeros(1))
        assert other.dtype == dtype and not other.any()


def test_only_what_is_missing_is_made_at_once(tmp_path: Path) -> None:
    cache = TensorCache(1 << 20, torch.float32, Shelf(tmp_path, LARGE), "trunk")
    asked: list[list[int]] = []

    def make(which: list[int]) -> torch.Tensor:
        asked.append(which)
        return torch.tensor([[float(i)] for i in which])

    cache.get("b", lambda: torch.tensor([[1.0]]))
    cache.fill("abcd", make)
    cache.clear()
    cache.fill("abcde", make)
    assert asked == [[0, 2, 3], [4]]
    assert [cache.get(key, fail).item() for key in "abcd"] == [0, 1, 2, 3]


# ---------------------------------------------------------------- behind the Segmenter


def test_another_segmenter_runs_neither_trunk_nor_clip_again(
    tmp_path: Path,
    model: LoadedModel,
    make_adapter: Callable[..., Adapter],
    make_plane: Callable[..., Plane],
) -> None:
    plane, adapters = make_plane(), [make_adapter(seed, words=("blobs",)) for seed in (0, 4)]
    first = Segmenter(model, adapters[0], "cpu", shelf=Shelf(tmp_path, LARGE))
    first.set_plane(plane)
    made = first.predict(Prompts("blobs"))
    first.flush()
    for adapter, word in ((adapters[0], "blobs"), (adapters[1], "blobs"), (adapters[0], "cells")):
        later = Segmenter(model, adapter, "cpu", shelf=Shelf(tmp_path, LARGE))
        later.set_plane(plane)
        found = later.predict(Prompts(word))
        assert later.calls["trunk"] == later.calls["clip"] == 0
        assert later.calls["head"] == 1 and not found.note
        if (adapter, word) == (adapters[0], "blobs"):
            np.testing.assert_array_equal(found.mask(), made.mask())


def test_an_answer_says_what_was_damaged(
    tmp_path: Path, model: LoadedModel, make_plane: Callable[..., Plane]
) -> None:
    segmenter = Segmenter(model, None, "cpu", shelf=Shelf(tmp_path, LARGE))
    segmenter.set_plane(make_plane())
    whole = segmenter.predict(Prompts(points=[(10, 10)]))
    segmenter.flush()
    for chunk in tmp_path.glob("*/*/c/**/0"):
        if chunk.is_file():
            _flip(chunk)
    again = Segmenter(model, None, "cpu", shelf=Shelf(tmp_path, LARGE))
    again.set_plane(make_plane())
    found = again.predict(Prompts(points=[(10, 10)]))
    again.flush()
    assert again.calls["trunk"] == 1 and "made again" in found.note
    np.testing.assert_array_equal(found.mask(), whole.mask())
    assert not again.predict(Prompts(points=[(12, 10)])).note


def test_several_planes_are_encoded_at_once(
    tmp_path: Path,
    model: LoadedModel,
    make_adapter: Callable[..., Adapter],
    make_plane: Callable[..., Plane],
) -> None:
    adapter = make_adapter(words=("blobs",))
    planes = [make_plane(seed=seed) for seed in range(4)]
    shelf = Shelf(tmp_path, LARGE)
    single, ahead = (Segmenter(model, adapter, "cpu", shelf=one) for one in (None, shelf))
    frames = [concept_frames(plane.shape, 64, adapter.config.squash)[0] for plane in planes]
    views = [View(plane, frame) for plane, frame in zip(planes, frames, strict=True)]
    with torch.inference_mode():
        ahead._encoder.encode(views[:3], with_words=True)
        ahead._encoder.encode(views, with_words=True)
    shelf.flush()
    assert ahead.calls["trunk"] == ahead.calls["clip"] == 2 and len(shelf) == 8
    for plane in planes:
        answers = []
        for segmenter in (single, ahead):
            segmenter.set_plane(plane)
            answers.append(segmenter.predict(Prompts("blobs")).mask())
        np.testing.assert_array_equal(*answers)
    assert ahead.calls["trunk"] == 2
