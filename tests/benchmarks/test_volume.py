"""Each way through a stack runs, at a small size, and the tables say what was measured."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from tiny import CLIP_ARCHITECTURE, SAM_CONFIG

from benchmarks import volume
from benchmarks.networks import Networks, pixels
from benchmarks.peers import NO_MICRO_SAM
from benchmarks.volume_runs import WAYS, Job, lazy_stack, run, write_stack
from napari_clipsam.models.clip import ClipConfig


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("volume")
    clip = ClipConfig(CLIP_ARCHITECTURE, input_size=64, surgery_blocks=2)
    Networks.random(SAM_CONFIG, clip, torch.device("cpu")).write(folder)
    one = Job("", str(folder), planes=3, side=64, reports=3)
    write_stack(one)
    return one


@pytest.mark.parametrize("way", [way for way in WAYS if way != "micro-sam"])
def test_each_way_goes_through_the_stack(way: str, job: Job) -> None:
    found = run(replace(job, way=way))
    assert found["seconds"] > 0 and found["peak"] >= found["loaded"] > 0
    done = [planes for planes, _ in found["memory"]]
    assert done == [1, 2, 3]


def test_the_loop_and_our_clicks_give_masks_of_every_plane(job: Job) -> None:
    run(replace(job, way="loop"))
    assert tifffile.imread(job.path / "loop.tif").shape == (3, 64, 64)


def test_planes_on_the_fly_are_made_when_they_are_read() -> None:
    stack = lazy_stack(2000, 64)
    assert len(stack) == 2000
    first, same = (stack.plane({"Z": z}).rgb for z in (1, 17))
    assert (first == same).all() and not (first == stack.plane({"Z": 2}).rgb).all()


def test_engines_are_compared_with_the_plain_loop(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volume.MicroSam, "is_there", lambda: False)
    spent = {"loop": 8.0, "clicks": 6.0, "word": 7.0, "follow": 4.0}

    def measure(one: Job) -> dict[str, Any]:
        return {"seconds": spent[one.way], "loaded": 100.0, "peak": 100 * spent[one.way]}

    rows = volume.engine_rows(volume.Plan(replace(job, planes=4), 2, measure))
    assert [row.ratio for row in rows[::2]] == [None, 0.75, 0.875, 0.5, None]
    assert [row.ratio for row in rows[1::2]] == [None, 0.75, 0.875, 0.5]
    assert rows[-1].value == NO_MICRO_SAM and "0.5 planes/s" in rows[0].name


def test_growth_is_a_line_through_the_depths(tmp_path: Path) -> None:
    job = Job("", str(tmp_path), 2, 64)
    plan = volume.Plan(
        job, 1, lambda one: {"seconds": 1 + 0.5 * one.planes}, depths=(1, 2, 3), sides=(32, 64)
    )
    rows = volume.growth_rows(plan)
    assert rows[3].value == "1.00 s + 0.500 s a plane, R² 1.0000"
    assert [row.ratio for row in rows[4:]] == [1.0, 1.0]


def test_memory_along_the_way_is_told(tmp_path: Path) -> None:
    memory = [(1000, 500.0), (2000, 502.0)]
    found = {"seconds": 1000.0, "loaded": 400.0, "peak": 502.0, "memory": memory}
    rows = volume.depth_rows(volume.Plan(Job("", str(tmp_path), 2000, 512), 1, lambda _: found))
    values = [row.value for row in rows]
    assert values[1:] == ["400 MB", "500 MB (100 above)", "502 MB (102 above)", "102 MB"]
    assert rows[-1].ratio == pytest.approx(0.051) and rows[-1].most == 1


@pytest.mark.parametrize(("found", "same"), [(1, "yes"), (2, "no")])
def test_workers_are_told_apart_by_the_labels_they_write(
    job: Job, monkeypatch: pytest.MonkeyPatch, found: int, same: str
) -> None:
    def command(words: list[Any]) -> None:
        out = words[words.index("-o") + 1]
        label = found if words[-1] == 2 else 1
        tifffile.imwrite(out, np.full((2, 2), label, np.uint16), description=out.name)

    monkeypatch.setattr(volume, "_command", command)
    rows = volume.worker_rows(volume.Plan(job, 1, run, depths=(1,), sides=(64,)))
    assert len(rows) == 5 and rows[-1].value == same
    assert all(row.ratio > 0 for row in rows[1:4])


def test_a_process_is_given_its_job(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    volume.main(["--job", json.dumps(asdict(replace(job, way="word")))])
    assert json.loads(capsys.readouterr().out)["seconds"] > 0


def test_planes_show_something() -> None:
    assert pixels(64, 0).shape == (64, 64) and np.ptp(pixels(64, 0)) > 100
