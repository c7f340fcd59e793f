"""The report: every number against one that can be counted by hand, and what is kept of it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from bright import BrightSegmenter, squares
from scipy import ndimage

from napari_clipsam import Prompts
from napari_clipsam.inference.requests import PredictRequest
from napari_clipsam.training.metrics import dice
from starter import measures, report, word_measures
from starter.baseline import otsu_watershed
from starter.data import load_split
from starter.measures import Lab, Row
from starter.synthetic import generate

AREAS = np.bincount(squares()[1].ravel())[1:]


@pytest.fixture
def lab(bright_data: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """The stand-in for a model, on small data."""
    monkeypatch.setattr(Lab, "segmenter", BrightSegmenter())
    return Lab(bright_data)


def value(rows: list[Row], what: str, on: str) -> float | None:
    (row,) = [row for row in rows if row.what == what and row.on == on]
    return row.value


# ---------------------------------------------------------------- without a model


def test_touching_discs_are_told_apart_whichever_is_brighter() -> None:
    yy, xx = np.mgrid[:80, :100]
    discs = [np.hypot(yy - 40, xx - x) < 16 for x in (30, 58)]
    grey = np.where(discs[0] | discs[1], 200, 30).astype(np.uint8)
    for bright, pixels in ((True, grey), (False, 255 - grey)):
        found = otsu_watershed(np.dstack([pixels] * 3), bright)
        assert found.max() == 2
        assert len({found[40, 25], found[40, 63]} - {0}) == 2
        assert dice(found > 0, discs[0] | discs[1]) > 0.97


def test_a_plane_of_one_grey_has_no_objects() -> None:
    assert not otsu_watershed(np.full((20, 30, 3), 7, np.uint8), True).any()


def test_the_plane_of_a_hundred_nuclei_has_a_hundred() -> None:
    image = measures.hundred_nuclei()
    assert image.shape == (512, 512) and image.dtype == np.uint8
    assert ndimage.label(ndimage.gaussian_filter(image, 2) > 70)[1] == 100


# ---------------------------------------------------------------- sections


def test_clicks_and_boxes_are_reported_by_modality(lab: Lab) -> None:
    for rows in (measures.clicks(lab), measures.boxes(lab)):
        what = rows[0].what
        assert value(rows, what, "dsb2018_nuclei") == pytest.approx(6 / 8)
        assert value(rows, what, "dsb2018_nuclei, fluorescence") == 1
        assert value(rows, what, "dsb2018_nuclei, histology") == 0.5
        assert [row.count for row in rows] == [8, 4, 4]
    assert [row.target for row in measures.clicks(lab)] == [0.80, 0.84, None]


def test_words_stand_beside_what_needs_no_model(lab: Lab) -> None:
    rows = measures.concept(lab)
    half = (AREAS[0] + AREAS[2]) / AREAS.sum()
    expected = (1 + 2 * half / (1 + half)) / 2
    assert value(rows, "'nuclei', Dice", "dsb2018_nuclei") == pytest.approx(expected)
    assert [row.value for row in rows[3:]] == [0, 0, 0] and all(r.at_most for r in rows[3:])
    # In histology it looks for dark things, which here is the background, its holes filled.
    plain = {row.on: row.plain for row in rows[:3]}
    assert plain["dsb2018_nuclei, fluorescence"] > 0.85
    assert plain["dsb2018_nuclei, histology"] == pytest.approx(
        2 * AREAS.sum() / (AREAS.sum() + 60 * 80), abs=0.02
    )
    (every, *_) = measures.instances(lab)
    assert every.value == pytest.approx((1 + 2 / 4) / 2)


def test_a_limit_looks_at_planes_evenly_spread(lab: Lab) -> None:
    assert Lab(lab.data, limit=2).spread([0, 1, 2, 3, 4]) == [0, 2]
    assert Lab(lab.data, limit=9).spread([0, 1]) == [0, 1]
    assert len(list(Lab(lab.data, limit=1).planes("dsb2018_nuclei", "nuclei"))) == 1


def test_what_is_asked_as_absent_is_neither_there_nor_hidden(bright_data: Path) -> None:
    rng = np.random.default_rng(0)
    (sample,) = load_split(bright_data, ("bccd_blood_boxes",), "test")
    absent = word_measures.absent_words(sample, rng)
    hidden = {"white blood cells", "red blood cells", "cells", "nuclei", "platelets", "spots"}
    assert not hidden & set(absent["concepts"])
    assert {"mitochondria", "synapses"} <= set(absent["concepts"])
    assert len(absent["unseen"]) == 4


def test_presence_counts_words_that_are_found_and_refused(lab: Lab) -> None:
    rows = word_measures.presence(lab)
    assert value(rows, "a word that is there is found", "all") == 1
    # The stand-in finds everything but mitochondria: one word of those absent in each image.
    (absent,) = [row for row in rows if row.what == "a word that is not there is refused"]
    assert absent.value == pytest.approx(4 / absent.count)
    assert value(rows, "... refused, terms never seen", "all") == 0
    assert 0.5 < value(rows, "presence, AUROC", "all words") < 1


def test_auroc_counts_pairs_in_order() -> None:
    assert word_measures.auroc([0.9, 0.4], [0.4, 0.1]) == pytest.approx((1 + 1 + 0.5 + 1) / 4)


def test_a_model_that_reads_the_word_leaves_the_other_structure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Reader:
        """Knows generated images by heart; may take every word for the first structure."""

        def __init__(self, always: str | None = None) -> None:
            self.always = always
            self.known = {s.image.tobytes(): s for s in samples}

        def set_plane(self, image: np.ndarray) -> None:
            self.sample = self.known[image.tobytes()]

        def predict(self, prompts: Prompts) -> SimpleNamespace:
            word = self.always or prompts.text
            labels = self.sample.concepts.get(word, next(iter(self.sample.concepts.values())))
            return SimpleNamespace(mask=lambda: labels > 0)

    samples = list(word_measures._paired(3))
    assert all(len(sample.concepts) >= 2 for sample in samples)
    assert np.array_equal(samples[0].image, generate(_seed_of(samples[0])).image)
    results = {}
    for name, reader in (("reads", Reader()), ("ignores", Reader("(the first)"))):
        monkeypatch.setattr(Lab, "segmenter", reader)
        rows = word_measures.two_words(Lab(Path(), limit=3))
        results[name] = [r.value for r in rows if r.on == "generated pairs"]
    assert results["reads"][0] == 1 and results["reads"][1] <= 0.05
    assert results["ignores"][0] <= 0.6 and results["ignores"][1] >= 0.4


def _seed_of(sample: word_measures.Sample) -> int:
    return int(sample.source.rsplit("/", 1)[1])


def test_centres_are_counted_inside_the_boxes_of_their_word(lab: Lab) -> None:
    rows = word_measures.blood(lab)
    on = "bccd_blood_boxes"
    assert value(rows, "'white blood cells', precision of centres", on) == 2 / 4
    assert value(rows, "'white blood cells', recall of boxes", on) == 1
    assert value(rows, "'red blood cells', recall of boxes", on) == 1 / 2
    assert value(rows, "'platelets', precision of centres", on) == 0
    assert value(rows, "'platelets', recall of boxes", on) is None
    judged = {row.what for row in rows if row.target is not None}
    assert judged == {
        "'white blood cells', precision of centres",
        "'platelets', precision of centres",
        "'red blood cells', recall of boxes",
    }


def test_speed_and_size_have_units(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []

    def looks(lab: Lab, request: PredictRequest) -> tuple[float, float, int]:
        asked.append(request.target)
        return 0.03, 0.5, 99

    monkeypatch.setattr(measures, "_loading", lambda lab, threads: 0.25)
    monkeypatch.setattr(measures, "_both_looks", looks)
    rows = {row.what: row for row in measures.speed(lab)}
    assert set(asked) == {"concept", "object", "instances"}
    assert rows["loading the model"].value == 0.25
    size = rows["files"]
    assert size.unit == "MB" and 20 < size.value <= 30 and size.reached
    click = rows["a click after the first, median"]
    assert click.unit == "ms" and click.value == pytest.approx(30) and click.reached
    assert rows["... and its closer look, where it is small"].value == pytest.approx(530)
    every = rows["every one of 100 nuclei (99 found)"]
    assert every.unit == "s" and every.value == 0.03


# ---------------------------------------------------------------- what is kept and printed


def test_targets_are_bounds_from_below_or_above() -> None:
    assert Row("a", "b", 0.8, 0.8).reached
    assert Row("a", "b", 0.79, 0.8).reached is False
    assert Row("a", "b", 0.1, 0.1, at_most=True).reached
    assert Row("a", "b", 0.11, 0.1, at_most=True).reached is False
    assert Row("a", "b", 0.5).reached is None
    assert Row("a", "b", None, 0.5).reached is None


def test_the_table_says_what_was_reached() -> None:
    rows = [
        Row("click", "set", 0.8124, 0.8, count=1234, plain=0.5),
        Row("time", "cpu", 51.23, 40, at_most=True, unit="ms"),
        Row("nothing", "set", None),
    ]
    *_, first, second, third = report.table({"x": rows}).splitlines()
    assert first == "| click | set | 1,234 | >= 0.8 | 0.812 | 0.500 | yes |"
    assert second == "| time | cpu |  | <= 40 ms | 51.2 ms |  | **no** |"
    assert third == "| nothing | set |  |  | - |  |  |"


def test_a_section_is_measured_once_for_a_model(
    bright_data: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []

    def section(name: str) -> object:
        def run(lab: Lab) -> list[Row]:
            measured.append(name)
            return [Row(name, "set", 0.5, 0.4)]

        return run

    monkeypatch.setattr(report, "SECTIONS", {name: section(name) for name in "ab"})
    monkeypatch.setattr(Lab, "segmenter", BrightSegmenter())
    lab, out = Lab(bright_data, tiny_run), tmp_path / "out"
    assert list(report.measure(lab, out, ["a"], again=False)) == ["a"]
    assert list(report.measure(lab, out, ["a", "b"], again=False)) == ["a", "b"]
    assert measured == ["a", "b"]
    assert report.measure(lab, out, [], again=False)["b"] == [Row("b", "set", 0.5, 0.4)]
    report.measure(lab, out, ["b"], again=True)
    assert measured == ["a", "b", "b"]
    # Fewer planes, or another file, and nothing that is known counts.
    assert report.measure(Lab(bright_data, tiny_run, limit=1), out, [], again=False) == {}
    (tiny_run / "adapter.safetensors").write_bytes(b"another")
    assert report.measure(lab, out, [], again=False) == {}


def test_the_command_measures_a_run_and_writes_the_table(
    bright_data: Path, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["--data", str(bright_data), "--out", str(out), "--run", str(tiny_run)]
    report.main([*words, "--only", "click", "blood", "--device", "cpu"])
    printed = capsys.readouterr().out
    assert "targets reached" in printed
    assert (out / "report.md").read_text().strip() in printed
    kept = json.loads((out / "click.json").read_text())
    assert kept["rows"][0]["on"] == "dsb2018_nuclei" and kept["rows"][0]["count"] == 8
    assert not (out / "concept.json").exists()
