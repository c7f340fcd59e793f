"""What somebody in front of napari waits for, as a table."""

from __future__ import annotations

from benchmarks.interactive import ROWS, SCENES, table


def test_the_table_holds_medians_the_worst_and_what_is_aimed_at() -> None:
    lines = table({"dock": [0.5, 2.0, 0.7], "rest": [0.25, 1.5]}).splitlines()
    assert len(lines) == 4
    assert lines[2].endswith("| 700 ms | 2.00 s | at most 1.00 s |")
    assert lines[3].endswith("| 0.88 | 1.50 | at most 1.00 |")
    assert len(table({key: [1.0] for key in ROWS}).splitlines()) == 2 + len(ROWS)


def test_every_scene_is_started_by_its_name() -> None:
    assert list(SCENES) == ["first-click", "first-word", "clicks"]
