"""The picture of a learning curve."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_clipsam.errors import OutputError
from napari_clipsam.training.curve import draw_curve
from napari_clipsam.training.events import TrainEvent, TrainResult

STAR, LINE = (230, 159, 0), (0, 114, 178)


def events(scores: list[float | None], seconds: float = 1.5) -> tuple[TrainEvent, ...]:
    return tuple(
        TrainEvent(
            "train",
            step=10 * k,
            seconds=seconds * k,
            losses={"mask": 0.4 / (k + 1), "loss": 1 / (k + 1)} if k else {},
            score=score,
            baseline=0.4,
        )
        for k, score in enumerate(scores)
    )


def result(curve: tuple[TrainEvent, ...], best: float = 0.8) -> TrainResult:
    return TrainResult(None, 0.4, best, True, "Dice", "slice 12", "budget", curve)  # type: ignore[arg-type]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def where(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Rows and columns of the pixels of a colour."""
    return np.argwhere((np.abs(picture.astype(int) - colour) < 6).all(axis=2))


def test_the_best_is_marked_where_it_was_measured(tmp_path: Path) -> None:
    early = pixels(draw_curve(result(events([0.4, 0.8, 0.6, 0.5])), tmp_path / "early.png"))
    late = pixels(draw_curve(result(events([0.4, 0.5, 0.6, 0.8])), tmp_path / "late.png"))
    assert early.shape == late.shape and min(early.shape[:2]) >= 500
    stars = [where(picture, STAR) for picture in (early, late)]
    # The other star is that of the legend, in the same place.
    leftmost, rightmost = (np.median(star[star[:, 0] < 250, 1]) for star in stars)
    assert leftmost + 100 < rightmost
    assert len(where(early, LINE)) > 100


@pytest.mark.parametrize(
    "curve",
    [
        (),
        events([0.4]),
        events([0.4, None, 0.6], seconds=0.0),
        (TrainEvent("train", losses={"loss": float("nan")}, score=float("nan")),),
    ],
)
def test_runs_that_ended_early_are_drawn_too(tmp_path: Path, curve: tuple[TrainEvent, ...]) -> None:
    for name, run in (("events", curve), ("result", result(curve))):
        path = draw_curve(run, tmp_path / f"{name}.png")
        assert len(np.unique(pixels(path))) > 2


def test_no_file_is_replaced_unasked_and_no_part_is_left(tmp_path: Path) -> None:
    path = tmp_path / "curve.png"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        draw_curve(events([0.4, 0.5]), path)
    assert path.read_text() == "mine"
    draw_curve(events([0.4, 0.5]), path, overwrite=True)
    assert pixels(path).any()
    assert list(tmp_path.iterdir()) == [path]


def test_no_window_system_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    draw_curve(result(events([0.4, 0.5])), tmp_path / "curve.png")
