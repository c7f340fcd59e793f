"""What share of a budget is used, and what is kept for the end."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_clipsam.training.pacing import SETTLE_SHARE, SETTLED_ON, Pace
from napari_clipsam.training.settings import FitSettings


def test_whichever_budget_ends_first_counts() -> None:
    pace = Pace(FitSettings(minutes=1.0, steps=100))
    assert pace.share(50, 6.0) == pytest.approx(0.5)
    assert pace.share(5, 30.0) == pytest.approx(0.5)
    assert pace.share(500, 0.0) == 1.0


def test_time_that_was_kept_takes_none_from_the_steps() -> None:
    pace = Pace(FitSettings(minutes=0.01))
    with pace.reserved():
        time.sleep(0.4)
    assert pace.seconds > 0.4 and pace.progress < 0.3


def test_a_run_that_goes_on_has_used_what_it_had() -> None:
    pace = Pace(FitSettings(minutes=None, steps=100))
    pace.go_on(40, 80.0)
    assert pace.step == 40 and 80 <= pace.seconds < 90
    assert pace.progress == pytest.approx(0.4)
    # What is left goes at the pace so far.
    assert pace.left == pytest.approx(120, rel=0.1)


def test_nothing_is_foretold_before_anything_is_done() -> None:
    assert Pace(FitSettings(minutes=None, steps=100)).left == 0.0
    assert Pace(FitSettings(minutes=2.0)).left == pytest.approx(120, abs=1)


@given(st.floats(0.01, 30), st.integers(1, 20), st.integers(1, 40), st.floats(0.1, 60))
def test_what_comes_after_the_last_step_takes_no_more_than_its_shares(
    plane: float, held_out: int, learnt: int, minutes: float
) -> None:
    pace = Pace(FitSettings(minutes=minutes))
    chosen = pace.reserve_settling(plane, held_out, learnt)
    assert 0 <= chosen <= learnt and (chosen == 0 or chosen + held_out <= SETTLED_ON)
    whole = 60 * minutes
    assert pace.share(0, (1 - 2 * SETTLE_SHARE) * whole * (1 - 1e-6)) < 1.0
    assert pace.share(0, whole) == 1.0


def test_what_comes_after_the_last_step_is_missing_from_the_budget() -> None:
    pace = Pace(FitSettings(minutes=3.0))
    assert pace.reserve_settling(plane=0.5, held_out=1, learnt=4) == 4
    # Five planes are settled on, and eight words asked for that are not there.
    assert pace.share(0, 172.9) < 1.0 == pace.share(0, 173.1)
    pace = Pace(FitSettings(minutes=3.0))
    assert pace.reserve_settling(plane=8.0, held_out=1, learnt=4) == 0
    assert pace.share(0, 161.9) < 1.0 == pace.share(0, 162.1)


def test_with_steps_alone_there_is_always_time() -> None:
    pace = Pace(FitSettings(minutes=None, steps=5))
    assert pace.reserve_settling(1e6, 1, 4) == 4 and pace.asking == math.inf
    assert Pace(FitSettings(minutes=3.0)).asking == pytest.approx(18)
