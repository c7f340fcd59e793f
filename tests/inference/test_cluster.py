"""A stack shared out among real worker processes: the same labels, whatever happens to a worker."""

from __future__ import annotations

import gc
import importlib.metadata
import itertools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import numpy as np
import pytest
import tifffile
from tiny import randomise, tiny_clip, tiny_sam

from napari_clipsam.adapters.base import AdapterConfig
from napari_clipsam.adapters.files import save_adapter
from napari_clipsam.adapters.inject import build_adapter
from napari_clipsam.errors import ConfigError, PlaneError, WeightsError
from napari_clipsam.inference import cluster, cluster_processes, cluster_worker
from napari_clipsam.inference.cluster import Recipe, prepare, segment_volume_on
from napari_clipsam.inference.instances import InstanceSettings
from napari_clipsam.inference.volume import VolumeTask, segment_volume
from napari_clipsam.inference.volume_files import unfinished_folder
from napari_clipsam.models.weights import save_clip, save_sam
from napari_clipsam.planes import open_image, read_labels

distributed = pytest.importorskip("distributed")

WORD, DEPTH = "blobs", 16
FEW_SEEDS = InstanceSettings(rounds=1, seed_distance=4, min_score=0, min_inside=0, max_overlap=0.9)


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A user's folder for all processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAPARI_CLIPSAM_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with cluster.local_cluster(2) as client:
        yield client


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny networks that find a few objects that last, and a stack of 16 bits."""
    folder = tmp_path_factory.mktemp("cluster")
    sam, clip = tiny_sam(28), tiny_clip()
    save_sam(sam, folder / "sam.safetensors", half=False)
    save_clip(clip, folder / "clip.safetensors", half=False)
    adapter = build_adapter(AdapterConfig(n_conditioned=1), sam, clip, seed=0)
    randomise(adapter, 0, spread=0.3)
    adapter = adapter.with_info(words=(WORD,), threshold=0.0)
    save_adapter(adapter, folder / "adapter.safetensors")
    rng = np.random.default_rng(0)
    planes = rng.integers(0, 255, (48, 64)) + rng.integers(0, 40, (DEPTH, 48, 64)).cumsum(axis=0)
    tifffile.imwrite(folder / "stack.tif", (planes % 255).astype(np.uint16) * 9)
    return folder


@pytest.fixture(scope="module")
def recipe(files: Path) -> Recipe:
    names = (str(files / f"{part}.safetensors") for part in ("sam", "clip", "adapter"))
    return Recipe(*names, device="cpu", threads=1, instances=FEW_SEEDS)


def test_a_recipe_says_what_is_compiled(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match="no-such-compiler"):
        replace(recipe, compilation="blocks").make()


def test_what_words_mean_is_kept_for_all_workers(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAPARI_CLIPSAM_HOME", str(tmp_path))
    plane = open_image(np.zeros((32, 32), np.uint8) + np.arange(32, dtype=np.uint8)).plane()
    asked = []
    for _ in range(2):
        segmenter = recipe.make()
        segmenter.similarity(plane, WORD)
        asked.append(segmenter.calls["text"])

    assert asked == [1, 0]


@pytest.fixture
def task(files: Path) -> VolumeTask:
    return VolumeTask(open_image(files / "stack.tif", axes="ZYX"), (WORD,), "instances")


@pytest.fixture(scope="module")
def expected(files: Path, recipe: Recipe) -> dict[str, bytes]:
    """What one process writes."""
    stack = open_image(files / "stack.tif", axes="ZYX")
    task = VolumeTask(stack, (WORD,), "instances")
    (files / "single").mkdir()
    list(segment_volume(recipe.make(), task, {WORD: files / "single" / "a.ome.zarr"}))
    labels = read_labels(files / "single" / "a.ome.zarr")
    ids = [np.unique(labels.plane(z)) for z in range(DEPTH)]
    found = max(one[-1] for one in ids)
    assert 4 < found < sum(np.count_nonzero(one) for one in ids) / 2, "nothing to link"
    return contents(files / "single" / "a.ome.zarr")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_two_workers_write_what_one_process_writes(
    client: Any, recipe: Recipe, task: VolumeTask, expected: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "a.ome.zarr"

    def segmenter() -> int:
        return id(cluster_worker._bench.segmenter)  # type: ignore[union-attr]

    steps = segment_volume_on(client, recipe, task, {WORD: output})
    told = [next(steps)]
    loaded = client.run(segmenter)
    told += itertools.islice(steps, DEPTH - 2)
    assert client.run(segmenter) == loaded and len(loaded) == 2
    told += steps
    assert [one.done for one in told] == list(range(1, DEPTH + 1))
    assert told[0].seconds_left > 0 and told[-1].seconds_left == 0
    assert contents(output) == expected


def test_a_worker_that_is_killed_costs_its_planes_only(
    client: Any, recipe: Recipe, task: VolumeTask, expected: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "a.ome.zarr"
    ready = prepare(client, recipe, task)
    assert len(ready) == 2
    pids = client.run(os.getpid)
    steps = segment_volume_on(client, recipe, task, {WORD: output}, ready=ready)
    first = next(steps)
    os.kill(next(iter(pids.values())), signal.SIGKILL)
    told = [first, *steps]
    assert [one.done for one in told] == list(range(1, DEPTH + 1))
    assert contents(output) == expected


def test_one_process_goes_on_with_what_workers_left_and_the_other_way_round(
    client: Any, recipe: Recipe, task: VolumeTask, expected: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "a.ome.zarr"
    steps = segment_volume_on(client, recipe, task, {WORD: output})
    for _ in range(3):
        next(steps)
    begun = time.monotonic()
    steps.close()
    assert time.monotonic() - begun < 5
    assert not output.exists() and unfinished_folder(output).is_dir()
    alone = segment_volume(recipe.make(), task, {WORD: output})
    assert [next(alone).done for _ in range(6)] == list(range(4, 10))
    alone.close()
    told = list(segment_volume_on(client, recipe, task, {WORD: output}))
    assert told[0].done == 10
    assert contents(output) == expected


def test_a_cache_is_shared_by_all_workers(
    client: Any, recipe: Recipe, task: VolumeTask, expected: dict[str, bytes], tmp_path: Path
) -> None:
    cached = replace(recipe, shelf=(str(tmp_path / "cache"), 1 << 30))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        output = tmp_path / name / "a.ome.zarr"
        list(segment_volume_on(client, cached, task, {WORD: output}))
        assert contents(output) == expected
        # A trunk and CLIP's features for each plane, made once.
        assert len(list((tmp_path / "cache").glob("*/*/zarr.json"))) == 2 * DEPTH
        assert not any(client.run(_holds_a_model).values())


def test_a_run_that_is_stopped_leaves_no_model_behind(
    client: Any, recipe: Recipe, task: VolumeTask, tmp_path: Path
) -> None:
    running = segment_volume_on(client, recipe, task, {WORD: tmp_path / "a.ome.zarr"})
    next(running)
    running.close()
    assert not any(client.run(_holds_a_model).values())


def _holds_a_model() -> bool:
    return cluster_worker._bench is not None


def test_workers_of_dask_cuda_take_the_gpu_they_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "get_worker", lambda: SimpleNamespace(name="3"))
    assert cluster_worker._number() == 3
    monkeypatch.setitem(sys.modules, "dask_cuda", SimpleNamespace())
    assert cluster_worker._number() == 0


def test_a_stack_that_workers_cannot_read_is_refused_before_any_work(
    client: Any, recipe: Recipe, files: Path, tmp_path: Path
) -> None:
    gone = tmp_path / "gone.tif"
    gone.write_bytes((files / "stack.tif").read_bytes())
    task = VolumeTask(open_image(gone, axes="ZYX"), (WORD,))
    gone.unlink()
    with pytest.raises(PlaneError, match=r"At the worker tcp://.*gone.tif"):
        list(segment_volume_on(client, recipe, task, {WORD: tmp_path / "a.ome.zarr"}))
    assert not list(tmp_path.iterdir())


def test_pixels_in_memory_are_not_sent_around(client: Any, recipe: Recipe) -> None:
    large = VolumeTask(open_image(np.zeros((3, 2000, 2000), np.uint8)), (WORD,))
    with pytest.raises(PlaneError, match="in memory"):
        prepare(client, recipe, large)


def test_a_model_that_workers_lack_is_refused(
    client: Any, recipe: Recipe, task: VolumeTask
) -> None:
    with pytest.raises(WeightsError, match="At the worker tcp://"):
        prepare(client, replace(recipe, model="nobody_has_it"), task)


def test_workers_of_another_version_are_refused(
    client: Any, recipe: Recipe, task: VolumeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.metadata.version("napari-clipsam")
    monkeypatch.setattr(cluster, "_version", lambda: "9.9")
    with pytest.raises(ConfigError, match=rf"has napari-clipsam {there}\. Install version 9\.9"):
        prepare(client, recipe, task)


def test_a_cluster_that_runs_is_joined_and_left_running(
    client: Any, recipe: Recipe, task: VolumeTask, tmp_path: Path
) -> None:
    with cluster.join_cluster(client.scheduler.address) as joined:
        assert next(segment_volume_on(joined, recipe, task, {WORD: tmp_path / "a.tif"})).done == 1
    assert client.run(os.getpid)


def test_what_else_is_read_with_dask_stays_in_this_process(client: Any) -> None:
    where = dask.delayed(os.getpid)
    assert where().compute() == os.getpid()
    with cluster.join_cluster(client.scheduler.address):
        assert where().compute() == os.getpid()
    assert where().compute() == os.getpid()


def test_a_scheduler_without_workers_is_said_to_have_none(
    recipe: Recipe, task: VolumeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_PATIENCE", 0.2)
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=":0") as empty,
        cluster.join_cluster(empty.scheduler_address) as joined,
        pytest.raises(ConfigError, match="has no workers"),
    ):
        prepare(joined, recipe, task)


def test_a_scheduler_that_cannot_be_reached_is_said_so(
    client: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cluster_processes, "_REACH", 0.5)
    worker = next(iter(client.scheduler_info(n_workers=-1)["workers"]))

    def answer(other: socket.socket) -> None:
        with other.accept()[0] as connection:
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.socket() as unused, socket.create_server(("127.0.0.1", 0)) as other:
        unused.bind(("127.0.0.1", 0))
        threading.Thread(target=answer, args=(other,), daemon=True).start()
        places = [f"tcp://127.0.0.1:{one.getsockname()[1]}" for one in (unused, other)]
        for wrong in (*places, worker, "nonsense"):
            with (
                pytest.raises(ConfigError, match=f"No scheduler answers at {wrong}"),
                cluster.join_cluster(wrong),
            ):
                pass
    gc.collect()
    assert capfd.readouterr() == ("", "")


def test_blocks_are_small_and_leave_no_worker_without_work() -> None:
    for first, last, workers in ((0, 1000, 2), (7, 51, 2), (0, 3, 8), (5, 5, 2)):
        blocks = cluster._blocks(first, last, workers)
        assert [n for one in blocks for n in range(*one)] == list(range(first, last))
        assert all(end - begin <= 8 for begin, end in blocks)
        assert len(blocks) >= min(last - first, 4 * workers)
