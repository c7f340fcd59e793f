"""The benchmark runs on networks of any shape, and its table says what was measured."""

from __future__ import annotations

import itertools

import pytest
import torch
from tiny import CLIP_ARCHITECTURE, SAM_CONFIG

from benchmarks.core import (
    Networks,
    Row,
    Setting,
    click_rows,
    compared,
    encoder_rows,
    table,
    word_rows,
)
from napari_clipsam.models.clip import ClipConfig

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def nets() -> Networks:
    clip = ClipConfig(CLIP_ARCHITECTURE, input_size=64, surgery_blocks=2)
    return Networks.random(SAM_CONFIG, clip, CPU)


@pytest.mark.parametrize(("part", "rows"), [(encoder_rows, 5), (word_rows, 2), (click_rows, 3)])
def test_a_part_gives_its_ratios(part: object, rows: int, nets: Networks) -> None:
    found = part(nets, Setting(CPU, turns=1))
    assert len(found) == rows
    assert found[0].ratio is None
    assert all(row.ratio > 0 for row in found[1:])


def test_answers_that_are_not_equal_are_not_timed(nets: Networks) -> None:
    broken = Networks(nets.sam, nets.clip, nets.adapter)
    weight = broken.adapter.blocks[-1].semantic.fc2.weight
    weight += 1
    try:
        with pytest.raises(AssertionError, match="not close"):
            encoder_rows(broken, Setting(CPU, turns=1))
    finally:
        weight -= 1


def test_variants_take_turns_and_the_first_turn_does_not_count() -> None:
    ran: list[str] = []
    ticks = itertools.count()
    setting = Setting(CPU, clock=lambda: float(next(ticks)))
    times = setting.race({name: lambda name=name: ran.append(name) for name in "ab"}, turns=2)
    assert "".join(ran) == "ababab"
    assert times == {"a": [1.0, 1.0], "b": [1.0, 1.0]}


def test_a_ratio_is_that_of_the_turns_not_of_the_sums() -> None:
    row = compared("a", {"a": [1.0, 20.0, 3.0], "b": [2.0, 10.0, 6.0]}, "a", "b", "b", most=1.1)
    assert row.ratio == 0.5 and row.value == "3.00 s"
    assert table([row, Row("all", "2.00 s")]).splitlines()[2:] == [
        "| a | 3.00 s | 0.50 x b | 0.50 to 2.00 | 1.10 |",
        "| all | 2.00 s |  |  |  |",
    ]
