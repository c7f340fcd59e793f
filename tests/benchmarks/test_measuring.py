"""Variants take turns, a ratio is that of the turns, and the table says what is aimed at."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from tiny import SAM_CONFIG

from benchmarks.floor import matrix_rates, operations
from benchmarks.measuring import NO_GPU, Row, Setting, compared, run_apart, table
from napari_clipsam.models.sam import SAM_CONFIGS

CPU = torch.device("cpu")


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
    rows = [row, Row("all", "2.00 s", most=0.015), Row("speed", NO_GPU, of="stock", least=10)]
    assert table(rows).splitlines()[2:] == [
        "| a | 3.00 s | 0.50 x b | 0.50 to 2.00 | 1.10 |  |",
        "| all | 2.00 s |  |  | 15 ms |  |",
        f"| speed | {NO_GPU} |  |  |  | 10.00 |",
    ]


def test_operations_are_those_of_the_layers() -> None:
    vit_b = operations(SAM_CONFIGS["vit_b"])
    assert vit_b.global_ == pytest.approx(55.2e9, rel=0.005)
    assert vit_b.total == 4 * vit_b.global_ + 8 * vit_b.windowed + vit_b.ends
    assert operations(SAM_CONFIGS["vit_l"]).total > 2.5 * vit_b.total


def test_the_rate_of_a_matrix_product_is_of_its_multiply_adds() -> None:
    ticks = itertools.count()
    setting = Setting(CPU, clock=lambda: float(next(ticks)))
    rates = matrix_rates(setting, (torch.float32, torch.bfloat16), side=SAM_CONFIG.input_size)
    assert rates == {torch.float32: 64.0**3, torch.bfloat16: 64.0**3}


def test_what_runs_apart_says_why_it_failed(tmp_path: Path) -> None:
    script = tmp_path / "a.py"
    script.write_text("import sys\nprint('note')\nprint(int(sys.argv[1]) + 1)")
    assert run_apart(script, [3]) == 4
    with pytest.raises(RuntimeError, match="invalid literal"):
        run_apart(script, ["x"])
