"""Slices as people write them, and file names of what was taught."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_clipsam._plugin import teach_wording
from napari_clipsam._plugin.taught import free_stem, take_lock, title
from napari_clipsam._plugin.teach_slices import Picked, parse, written
from napari_clipsam._plugin.teach_state import Curve
from napari_clipsam.errors import ConfigError


@settings(max_examples=30)
@given(st.dictionaries(st.integers(0, 99), st.booleans()))
def test_what_is_written_reads_back(slices: dict[int, bool]) -> None:
    picked = Picked(tuple(sorted(slices)), tuple(sorted(n for n, part in slices.items() if part)))
    assert parse(written(picked.numbers, picked.partial), 100) == picked


@pytest.mark.parametrize(
    ("text", "numbers", "partial"),
    [
        ("3,7 , 12", (3, 7, 12), ()),
        ("12 7 3", (3, 7, 12), ()),
        ("3 - 5; 9", (3, 4, 5, 9), ()),
        ("5–3", (3, 4, 5), ()),
        ("3, 4-5 ~", (3, 4, 5), (4, 5)),
        ("3, 3~", (3,), (3,)),
        ("", (), ()),
        (" , ", (), ()),
    ],
)
def test_people_write_in_many_ways(
    text: str, numbers: tuple[int, ...], partial: tuple[int, ...]
) -> None:
    assert parse(text, 20) == Picked(numbers, partial)


@pytest.mark.parametrize("text", ["a", "3.5", "-3", "3-", "~", "3--5", "1e3", "²", "20", "0-20"])
def test_what_is_no_slice_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"(is no slice|There is no slice 20)\. Write numbers"):
        parse(text, 20)


def test_numbers_beside_each_other_are_written_short() -> None:
    assert written((3, 4, 5, 9, 12), (4,)) == "3, 4~, 5, 9, 12"
    assert written((3, 4, 5, 9)) == "3-5, 9"


@settings(max_examples=30)
@given(st.text(min_size=1, max_size=300))
def test_any_word_makes_a_name_that_a_file_can_have(word: str) -> None:
    stem = free_stem(Path("nowhere"), title((word,), "em.tif", date(2026, 11, 22)))
    assert stem and len(stem.encode()) <= 200
    assert not set(stem) & set('<>:"/\\|?*\n\0') and stem == stem.strip(" .")


def test_a_lock_is_held_once(tmp_path: Path) -> None:
    lock = take_lock(tmp_path, "a")
    assert lock is not None and take_lock(tmp_path, "a") is None
    lock.release()
    lock.release()
    again = take_lock(tmp_path, "a")
    assert again is not None
    again.release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (59, "59 s"), (60, "1 min"), (160, "2 min 40 s"), (1800, "30 min")],
)
def test_times_are_said_in_words(seconds: float, words: str) -> None:
    assert teach_wording.time_needed(seconds) == words


def test_a_long_curve_stays_short_and_keeps_its_shape() -> None:
    curve = Curve()
    for step in range(5000):
        curve = curve.with_loss(float(step), 5000.0 - step)
    times, losses = zip(*curve.losses, strict=True)
    assert len(losses) <= 401
    assert list(times) == sorted(times) and list(losses) == sorted(losses, reverse=True)
    assert times[-1] == 4999
