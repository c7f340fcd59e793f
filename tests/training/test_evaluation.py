"""Scores of the `evaluate` command, against values counted by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from bright import BrightSegmenter
from numpy.testing import assert_array_equal

from napari_clipsam.errors import ConfigError, PromptError
from napari_clipsam.planes import open_image
from napari_clipsam.training.evaluated import Question
from napari_clipsam.training.evaluation import ask, evaluate, survey
from napari_clipsam.training.labelled import LabelledImage, LabelledPlane

SOURCE = LabelledImage(Path("a.tif"), Path("b.tif"), "instance")


def labelled(seen: np.ndarray, labels: np.ndarray, source: LabelledImage = SOURCE) -> LabelledPlane:
    plane = open_image(np.where(seen > 0, 255, 0).astype(np.uint8)).plane()
    return LabelledPlane(source, plane, labels)


@pytest.fixture
def two() -> LabelledPlane:
    """Two true objects: one seen whole with 10 pixels too many, one seen half; one speck."""
    labels = np.zeros((40, 40), np.uint16)
    labels[2:12, 3:13] = 7  # 100 pixels
    labels[20:30, 20:30] = 300  # 100 pixels
    labels[36, 3:22] = 9  # 19 pixels: too small to be clicked on
    seen = np.zeros_like(labels)
    seen[2:13, 3:13] = 1  # 110 pixels, 100 shared
    seen[20:30, 20:26] = 1  # 60 pixels, all shared
    return labelled(seen, labels)


# ---------------------------------------------------------------- what is asked


@pytest.mark.parametrize(
    ("prompts", "target", "expected"),
    [
        ("text", None, "concept"),
        ("text", "instances", "instances"),
        ("point", None, "object"),
        ("box", "object", "object"),
    ],
)
def test_targets_follow_from_prompts(prompts: str, target: str | None, expected: str) -> None:
    assert Question(prompts, "nuclei", target).target == expected


@pytest.mark.parametrize(
    ("options", "error", "saying"),
    [
        (("text", None), ConfigError, "needs a word"),
        (("text", "nuclei", "object"), ConfigError, "do not go with the target 'object'"),
        (("point", "nuclei", "concept"), ConfigError, "do not go with the target 'concept'"),
        (("box", None, "instances"), ConfigError, "do not go with"),
        (("point", " "), PromptError, "empty"),
    ],
)
def test_questions_that_make_no_sense(
    options: tuple[str, ...], error: type[Exception], saying: str
) -> None:
    with pytest.raises(error, match=saying):
        Question(*options)


def test_one_click_for_each_object_at_its_innermost_pixel(two: LabelledPlane) -> None:
    segmenter = BrightSegmenter()
    ask(segmenter, two, Question("point", "nuclei"))
    # Of a square with sides of 10 the four middle pixels are equally deep; the first counts.
    assert [prompts.points.tolist() for prompts, _ in segmenter.asked] == [[[6, 7]], [[24, 24]]]
    assert all(prompts.text == "nuclei" for prompts, _ in segmenter.asked)
    assert all(target == "object" for _, target in segmenter.asked)


def test_one_tight_half_open_box_for_each_object(two: LabelledPlane) -> None:
    segmenter = BrightSegmenter()
    ask(segmenter, two, Question("box"))
    boxes = [prompts.boxes.tolist() for prompts, _ in segmenter.asked]
    assert boxes == [[[2, 3, 12, 13]], [[20, 20, 30, 30]]]
    assert all(prompts.text is None for prompts, _ in segmenter.asked)


def test_the_border_of_the_image_counts_as_background() -> None:
    labels = np.zeros((30, 30), np.uint8)
    labels[:10, :5] = 1
    segmenter = BrightSegmenter()
    ask(segmenter, labelled(labels, labels), Question("point"))
    # Three pixels from the left and right border at best: rows 2 to 7, of which the first.
    assert segmenter.asked[0][0].points.tolist() == [[2, 2]]


def test_labels_without_background_have_objects_too() -> None:
    labels = np.ones((10, 10), np.uint8)
    labels[5:] = 2
    segmenter = BrightSegmenter()
    ask(segmenter, labelled(labels == 1, labels), Question("box"))
    boxes = [prompts.boxes.tolist() for prompts, _ in segmenter.asked]
    assert boxes == [[[0, 0, 5, 10]], [[5, 0, 10, 10]]]


# ---------------------------------------------------------------- scores


def test_objects_are_scored_one_by_one(two: LabelledPlane) -> None:
    result = evaluate(BrightSegmenter(), [two, two], Question("point", "nuclei"))
    assert result.mean_iou == pytest.approx((100 / 110 + 60 / 100) / 2)
    assert result.n_objects == 4
    assert result.dice is None and result.ap50 is None


def test_objects_weigh_the_same_whatever_plane_they_are_in(two: LabelledPlane) -> None:
    labels = np.zeros((40, 40), np.uint16)
    labels[5:15, 5:15] = 1
    result = evaluate(BrightSegmenter(), [two, labelled(labels, labels)], Question("box"))
    assert result.mean_iou == pytest.approx((100 / 100 + 60 / 100 + 1) / 3)
    assert [plane.iou for plane in result.planes] == pytest.approx([0.8, 1.0])


def test_a_concept_is_scored_by_plane(two: LabelledPlane) -> None:
    empty = labelled(np.zeros((9, 9)), np.zeros((9, 9), np.uint8))
    result = evaluate(BrightSegmenter(), [two, empty], Question("text", "nuclei"))
    shared, either = 160, 100 + 100 + 19 + 10
    assert result.mean_iou == pytest.approx((shared / either + 1) / 2)
    assert result.dice == pytest.approx((2 * shared / (170 + 219) + 1) / 2)
    assert result.n_objects == 3


def test_no_match_is_an_empty_answer(two: LabelledPlane) -> None:
    result = evaluate(BrightSegmenter(), [two], Question("text", "mitochondria"))
    (plane,) = result.planes
    assert plane.iou == 0 and plane.match is False and plane.presence == 0.1


def test_instances_are_scored_by_average_precision(two: LabelledPlane) -> None:
    empty = labelled(np.zeros((9, 9)), np.zeros((9, 9), np.uint8))
    result = evaluate(BrightSegmenter(), [two, empty], Question("text", "nuclei", "instances"))
    # Two true positives, no false one, the speck is missed; nothing and nothing is 1.
    assert result.ap50 == pytest.approx((2 / 3 + 1) / 2)
    assert result.mean_iou is None and result.dice is None


def test_the_answer_can_be_drawn(two: LabelledPlane) -> None:
    answer = ask(BrightSegmenter(), two, Question("box"))
    assert_array_equal(np.unique(answer.labels), [0, 7, 300])
    assert answer.ious == pytest.approx((1.0, 0.6))


def test_planes_without_objects_count_but_do_not_weigh(two: LabelledPlane) -> None:
    empty = labelled(np.zeros((9, 9)), np.zeros((9, 9), np.uint8))
    result = evaluate(BrightSegmenter(), [empty, two], Question("point"))
    assert [plane.iou is None for plane in result.planes] == [True, False]
    assert result.to_json()["n_planes"] == 2 and result.to_json()["n_objects"] == 2


# ---------------------------------------------------------------- results


def kinds_of(two: LabelledPlane, *kinds: tuple[str, str]) -> list[LabelledPlane]:
    return [
        LabelledPlane(LabelledImage(Path("a"), Path("b"), "instance", *kind), two.plane, two.labels)
        for kind in kinds
    ]


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ([("", "")], {}),
        ([("", "dim"), ("", "pale")], {("", "dim"): 1, ("", "pale"): 1}),
        ([("fluorescence", "")] * 2, {("fluorescence", ""): 2}),
        (
            [("fluorescence", "dim"), ("histology", "pale"), ("fluorescence", "dim")],
            {("fluorescence", "dim"): 2, ("histology", "pale"): 1},
        ),
        (
            [("fluorescence", "dim"), ("histology", "pale"), ("fluorescence", "bright")],
            {
                ("fluorescence", ""): 2,
                ("fluorescence", "bright"): 1,
                ("fluorescence", "dim"): 1,
                ("histology", "pale"): 1,
            },
        ),
    ],
)
def test_groups_are_by_style_and_by_modality_of_several_styles(
    two: LabelledPlane, kinds: list[tuple[str, str]], expected: dict[tuple[str, str], int]
) -> None:
    result = evaluate(BrightSegmenter(), kinds_of(two, *kinds), Question("box"))
    assert {kind: len(part.planes) for kind, part in result.groups().items()} == expected


def test_groups_are_among_the_plain_values(two: LabelledPlane) -> None:
    planes = kinds_of(two, ("fluorescence", "dim"), ("fluorescence", "bright"))
    found = evaluate(BrightSegmenter(), planes, Question("text", "nuclei")).to_json()
    whole, *styles = found["per_group"]
    assert whole["modality"] == "fluorescence" and whole["style"] is None
    assert whole["n_planes"] == 2 and whole["n_objects"] == 6
    assert whole["dice"] == pytest.approx(found["dice"]) and "ap50" not in whole
    assert [part["style"] for part in styles] == ["bright", "dim"]


def test_semantic_labels_have_no_number_of_objects(two: LabelledPlane) -> None:
    source = LabelledImage(Path("a"), Path("b"), "semantic")
    plane = LabelledPlane(source, two.plane, two.labels)
    result = evaluate(BrightSegmenter(), [plane], Question("text", "nuclei"))
    assert result.to_json()["n_objects"] is None


def test_plain_values_leave_out_what_does_not_apply(two: LabelledPlane) -> None:
    found = evaluate(BrightSegmenter(), [two], Question("text", "nuclei")).to_json()
    assert set(found) == {
        "prompts",
        "target",
        "text",
        "mean_iou",
        "dice",
        "n_planes",
        "n_objects",
        "seconds_per_plane",
        "per_plane",
    }
    assert found["per_plane"][0]["image"] == "a.tif"
    assert found["seconds_per_plane"] == found["per_plane"][0]["seconds"] > 0


def test_progress_is_told_plane_by_plane(two: LabelledPlane) -> None:
    done: list[int] = []
    evaluate(BrightSegmenter(), [two] * 3, Question("box"), done.append)
    assert done == [1, 2, 3]


# ---------------------------------------------------------------- labels that cannot answer


@pytest.fixture
def pair(tmp_path: Path) -> LabelledImage:
    """Two planes; objects 1 and 2 in the first, a speck in the second."""
    labels = np.zeros((2, 20, 20), np.uint8)
    labels[0, 1:6, 1:6], labels[0, 10:15, 10:15], labels[1, 0, 0] = 1, 2, 3
    for name, content in (("i", labels * 0), ("l", labels)):
        tifffile.imwrite(tmp_path / f"{name}.tif", content)
    return LabelledImage(tmp_path / "i.tif", tmp_path / "l.tif")


def as_semantic(pair: LabelledImage, value: int = 1) -> LabelledImage:
    labels = tifffile.imread(pair.labels)
    tifffile.imwrite(pair.labels, np.where(labels > 0, value, 0).astype(np.uint8))
    return pair


def test_planes_and_objects_are_counted_beforehand(pair: LabelledImage) -> None:
    assert survey([pair, pair], Question("box")) == (
        survey([pair], Question("box")).__class__(4, 4)
    )
    assert survey([pair], Question("text", "nuclei")).n_objects == 3


@pytest.mark.parametrize("value", [1, 255])
@pytest.mark.parametrize("options", [("box",), ("text", "nuclei", "instances")])
def test_semantic_labels_are_refused_where_objects_are_needed(
    pair: LabelledImage, value: int, options: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError, match="semantic: one number for all objects"):
        survey([as_semantic(pair, value)], Question(*options))
    survey([pair], Question("text", "nuclei"))


def test_a_table_decides_what_is_semantic(pair: LabelledImage) -> None:
    named = {
        kind: LabelledImage(pair.image, pair.labels, kind) for kind in ("semantic", "instance")
    }
    with pytest.raises(ConfigError, match="semantic"):
        survey([named["semantic"]], Question("point"))
    as_semantic(pair)
    assert survey([named["instance"]], Question("point")).n_objects == 1


def test_labels_without_an_object_to_click_on(pair: LabelledImage) -> None:
    tifffile.imwrite(pair.labels, np.zeros((2, 20, 20), np.uint8))
    with pytest.raises(ConfigError, match="no object of 20 pixels or more"):
        survey([pair], Question("point"))
    assert survey([pair], Question("text", "nuclei")).n_objects == 0
