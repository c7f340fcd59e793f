"""What a machine has, in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_clipsam import _machine
from napari_clipsam._machine import processor_name, size_text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 kB"),
        (45_300, "45 kB"),
        (960_000, "1 MB"),
        (1_540_000, "1.5 MB"),
        (9_960_000, "10 MB"),
        (375_042_383, "375 MB"),
        (960e6, "1 GB"),
        (1_250_000_000, "1.2 GB"),
        (64_400_000_000, "64 GB"),
    ],
)
def test_sizes_are_told_in_few_digits(size: float, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("info", "name"),
    [
        (b"processor\t: 0\nmodel name\t: Fast \xff CPU\nmodel name\t: Slow CPU", "Fast \ufffd CPU"),
        (b"processor\t: 0", "riscv64"),
        (None, "riscv64"),
    ],
)
def test_a_processor_has_the_name_that_the_system_knows(
    info: bytes | None, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if info is not None:
        (tmp_path / "cpuinfo").write_bytes(info)
    monkeypatch.setattr(_machine, "_CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(_machine.platform, "processor", lambda: "")
    monkeypatch.setattr(_machine.platform, "machine", lambda: "riscv64")

    assert processor_name.__wrapped__() == name
