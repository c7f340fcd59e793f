"""Each part of the speed benchmark runs on networks of any shape, with and without micro-sam."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import CLIP_ARCHITECTURE, SAM_CONFIG, tiny_sam

from benchmarks import floor, speed, speed_answers
from benchmarks.measuring import NO_GPU, Setting
from benchmarks.networks import Networks, grid_boxes
from benchmarks.peers import NO_MICRO_SAM
from benchmarks.speed import PARTS
from benchmarks.speed_answers import object_rows
from benchmarks.speed_bench import Bench
from benchmarks.speed_encoding import encode_rows
from napari_clipsam.inference.ahead import Ahead
from napari_clipsam.models import compiling
from napari_clipsam.models.clip import ClipConfig

CPU = torch.device("cpu")


class FakeMicroSam:
    """Counts what it is asked."""

    def __init__(self) -> None:
        self.planes = 0

    def embed(self, image: np.ndarray, batch: int = 1) -> dict[str, Any]:
        self.planes += 1 if image.ndim == 2 else len(image)
        return {}

    def boxes(self, embeddings: dict[str, Any], boxes: np.ndarray) -> list[Any]:
        return [0] * len(boxes)


@pytest.fixture(autouse=True)
def small_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large product in bf16 takes minutes on processors that have to emulate it."""
    monkeypatch.setattr(floor, "SIDES", {"cpu": 64})


@pytest.fixture(autouse=True)
def nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes half a minute, for tiny networks too."""
    monkeypatch.setattr(compiling.torch, "compile", lambda run, **_: run)
    monkeypatch.setattr(compiling.shutil, "which", lambda name: name)


@pytest.fixture(autouse=True)
def few_masks_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The starter looks closer at each, in bf16 too."""
    monkeypatch.setattr(speed_answers, "COMPARED", 2)


@pytest.fixture(scope="module")
def nets() -> Networks:
    clip = ClipConfig(CLIP_ARCHITECTURE, input_size=64, surgery_blocks=2)
    return Networks.random(SAM_CONFIG, clip, CPU)


@pytest.fixture(scope="module")
def bench(nets: Networks) -> Bench:
    return Bench(nets, nets.predictor(), None, Setting(CPU, turns=1))


@pytest.mark.parametrize("part", [name for name in PARTS if name != "starter"])
def test_a_part_gives_its_rows(part: str, bench: Bench) -> None:
    rows = PARTS[part](bench)
    assert rows and all(row.value for row in rows)
    assert all(row.ratio is None or row.ratio > 0 for row in rows)


def test_what_only_a_gpu_can_tell_is_said_to_be_missing(bench: Bench) -> None:
    missing = [row for part in ("batch", "clicks") for row in PARTS[part](bench)]
    aims = {(row.most, row.least) for row in missing if row.value == NO_GPU}
    assert aims == {(None, 10), (None, 0.4), (0.015, None)}


def test_micro_sam_is_compared_where_it_is_there_and_missed_where_not(bench: Bench) -> None:
    fake = FakeMicroSam()
    with_it = replace(bench, micro_sam=fake)  # type: ignore[arg-type]
    for part in (encode_rows, object_rows):
        there = [row for row in part(with_it) if row.name.startswith("micro-sam")]
        assert len(there) == 1 and there[0].ratio is not None
        missed = [row for row in part(bench) if row.name.startswith("micro-sam")]
        assert [row.value for row in missed] == [NO_MICRO_SAM]
    assert fake.planes == 2 + 1


def test_answers_that_are_not_equal_are_not_timed(bench: Bench, nets: Networks) -> None:
    other = Networks(tiny_sam(seed=5), nets.clip, nets.adapter)
    with pytest.raises(AssertionError, match="Not equal"):
        encode_rows(replace(bench, predictor=other.predictor()))


@pytest.mark.parametrize(("fast", "dtype"), [("auto", "float32"), ("bf16", "bfloat16")])
def test_a_rate_is_compared_with_products_of_the_precision_that_ran(
    fast: Any, dtype: str, bench: Bench
) -> None:
    rows = [
        row
        for part in ("encode", "batch")
        for row in PARTS[part](replace(bench, fast=fast))
        if row.name.startswith("rate") and fast in row.name
    ]
    assert [row.of for row in rows] == [f"{dtype} matrix product"] * 2


def test_a_batch_goes_as_a_stack_goes_on_a_gpu(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = bench.segmenter(bench.nets.adapter, "fp32")
    monkeypatch.setattr(Ahead, "heads_together", True)
    monkeypatch.setattr(Bench, "segmenter", lambda *_: segmenter)
    PARTS["batch"](bench)
    # One plane and two of them, in two turns each.
    assert segmenter.calls["trunk"] == segmenter.calls["head"] == 4


@pytest.mark.parametrize("way", ["nothing", "stock", "fp32", "fast"])
def test_each_way_to_encode_has_its_peak(way: str, nets: Networks) -> None:
    assert speed.peak(nets, "tiny", way, CPU, "bf16") > 0


def test_memory_is_compared_with_the_stock_predictor(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = {"nothing": 100, "stock": 400, "micro-sam": 500, "fp32": 200, "fast": 150}
    monkeypatch.setattr(speed, "run_apart", lambda _, words: peaks[words[-1]])
    rows = speed.memory_rows([])
    assert rows[0].value == "400 MB (300 above the weights)" and rows[0].ratio is None
    assert [row.ratio for row in rows[2:]] == [0.5, 0.375]


def test_the_command_prints_what_was_measured_where(
    monkeypatch: pytest.MonkeyPatch,
    nets: Networks,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Any,
) -> None:
    monkeypatch.setattr(speed.Networks, "random", lambda *_: nets)
    monkeypatch.setattr(speed.MicroSam, "is_there", lambda: False)
    out = tmp_path / "speed.md"
    speed.main(
        ["--device", "cpu", "--turns", "1", "--only", "objects", "clicks", "--out", str(out)]
    )
    printed = capsys.readouterr().out
    assert "without micro-sam" in printed and "100 objects" in printed
    assert f"python benchmarks/speed.py {speed.ON_GPU}" in printed
    assert out.read_text() == printed
    speed.main(["--device", "cpu", "--peak", "nothing"])
    assert json.loads(capsys.readouterr().out) > 0


def test_boxes_lie_side_by_side_inside_the_plane() -> None:
    boxes = grid_boxes(64, 10)
    assert boxes.shape == (10, 4) and boxes.min() == 0 and boxes.max() < 64
    assert len({tuple(box) for box in boxes.tolist()}) == 10
