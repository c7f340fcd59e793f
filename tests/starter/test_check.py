"""The independent check: its definitions by hand, and that it agrees or says where not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bright import squares

from starter import check


def test_overlaps_of_masks() -> None:
    a, b = np.zeros((2, 10, 10), bool)
    assert check.iou_of(a, b) == check.dice_of(a, b) == 1
    a[:4], b[2:6] = True, True
    assert check.iou_of(a, b) == pytest.approx(20 / 60)
    assert check.dice_of(a, b) == pytest.approx(40 / 80)


def test_hits_share_more_than_half() -> None:
    true = np.zeros((20, 20), int)
    true[:4, :4], true[10:14, :4], true[:4, 10:14] = 3, 8, 900
    found = np.zeros_like(true)
    found[:4, :3] = 7  # 12 of 16: a hit
    found[10:12, :4] = 2  # 8 of 16: not more than half
    found[16:18, 16:18] = 1  # nothing there
    # One hit, two false, two missed.
    assert check.ap50(found, true) == pytest.approx(1 / 5)
    assert check.ap50(true, true) == 1
    assert check.ap50(true * 0, true) == 0
    assert check.ap50(true * 0, true * 0) == 1


def test_the_click_is_the_first_of_the_deepest_pixels() -> None:
    mask = np.zeros((30, 40), bool)
    mask[2:12, 3:13] = True
    assert check.click(mask) == (6, 7)
    border = np.zeros((10, 10), bool)
    border[:, :5] = True
    assert check.click(border) == (2, 2)
    assert check.surrounding_box(mask) == (2, 3, 12, 13)


def test_planes_are_spread_over_the_set(bright_data: Path, tmp_path: Path) -> None:
    check.gather(bright_data, "dsb2018_nuclei", 5, tmp_path)
    assert sorted(p.name for p in (tmp_path / "images").iterdir()) == ["000.png", "001.png"]
    assert all((labels == squares()[1]).all() for _, labels in check.true_labels(tmp_path))


def test_both_ways_agree_on_the_same_planes(
    bright_data: Path,
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("NAPARI_CLIPSAM_HOME", str(tmp_path / "home"))
    words = ["--data", str(bright_data), "--run", str(tiny_run), "--device", "cpu", "--planes", "2"]
    assert check.main(words) == 0
    printed = capsys.readouterr().out
    rows = [line.split("|")[1:-1] for line in printed.splitlines() if line.startswith("| dsb")]
    measures = [row[1].strip() for row in rows]
    assert measures == [
        "concept, IoU",
        "concept, Dice",
        "instances, AP50",
        "click, IoU",
        "box, IoU",
    ]
    assert any(0 < float(row[2]) < 1 for row in rows), "nothing was found, so nothing was compared"

    kept = check.by_evaluate

    def off(*asked: object) -> dict[str, float]:
        said = kept(*asked)
        return said | {"box, IoU": said["box, IoU"] + 0.01}

    monkeypatch.setattr(check, "by_evaluate", off)
    assert check.main(words) == 1
    assert "0.0100" in capsys.readouterr().out


def test_a_command_that_fails_ends_the_check(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="ended with 2"):
        check.run("segment", str(tmp_path / "none.png"), "--text", "nuclei", "-o", "x.tif")
