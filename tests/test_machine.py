"""What a machine has, in words."""

from __future__ import annotations

import pytest

from napari_clipsam._machine import size_text


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
