"""Which planes to label next."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_clip, tiny_sam

from napari_clipsam.adapters.base import AdapterConfig
from napari_clipsam.adapters.inject import build_adapter
from napari_clipsam.errors import PromptError
from napari_clipsam.geometry import Frame
from napari_clipsam.inference.requests import ObjectMask, Prediction
from napari_clipsam.inference.segmenter import Segmenter
from napari_clipsam.models.registry import LoadedModel
from napari_clipsam.planes import Plane, open_image, read_labels
from napari_clipsam.prompts import Prompts
from napari_clipsam.training.metrics import dice
from napari_clipsam.training.ranking import (
    Uncertain,
    most_uncertain,
    rank_planes,
    spread,
    uncertainty_of,
)

FRAME = Frame((0, 0), (64, 64), 256)


def answer(logits: np.ndarray | None, score: float = 0.8, **fields: object) -> Prediction:
    """An answer with one mask, as the Segmenter gives it."""
    frame = None if logits is None else FRAME
    found = ObjectMask((0, 0, 1, 1), np.ones((1, 1), bool), score, logits, frame)
    return Prediction((64, 64), "concept", (found,), **{"presence": 0.9, "threshold": 0.5} | fields)


def logits(inside: float, outside: float, share: float = 0.25) -> np.ndarray:
    values = np.full((64, 64), outside, np.float32)
    values[: round(64 * share)] = inside
    return values


# ---------------------------------------------------------------- one answer


def test_doubt_inside_and_outside_counts_and_the_amount_of_structure_does_not() -> None:
    sure = uncertainty_of(answer(logits(30, -30)))
    assert sure == pytest.approx(0, abs=1e-6)
    assert uncertainty_of(answer(logits(1, -30))) > sure + 0.1
    assert uncertainty_of(answer(logits(30, -2))) > sure + 0.1
    amounts = [uncertainty_of(answer(logits(1.5, -30, share))) for share in (0.1, 0.5, 1)]
    assert amounts == pytest.approx([amounts[0]] * 3, abs=1e-6)
    huge = np.where(logits(1, -1) > 0, np.float32(3e38), np.float32(-3e38))
    assert uncertainty_of(answer(huge)) == pytest.approx(0, abs=1e-6)


@given(st.floats(-80, 80), st.floats(-80, 80), st.floats(0.05, 1))
def test_it_is_what_the_mask_may_expect(inside: float, outside: float, share: float) -> None:
    values = logits(inside, outside, share)
    found = uncertainty_of(answer(values))
    assert 0 <= found <= 1
    p = 1 / (1 + np.exp(-values.astype(np.float64)))
    mask = p > 0.5
    if mask.any():
        assert found == pytest.approx(1 - 2 * p[mask].sum() / (mask.sum() + p.sum()), abs=1e-6)


def test_padding_beside_the_plane_does_not_count() -> None:
    wide = Frame((0, 0), (32, 64), 256)
    values = logits(30, -30)
    values[32:] = 0.1
    found = ObjectMask((0, 0, 1, 1), np.ones((1, 1), bool), 0.8, values, wide)
    assert uncertainty_of(Prediction((32, 64), "concept", (found,))) == pytest.approx(0, abs=1e-6)


def test_what_was_not_found_is_judged_by_its_presence() -> None:
    def nothing(presence: float | None, threshold: float | None = 0.5) -> float:
        absent = Prediction(
            (64, 64), "concept", match=False, presence=presence, threshold=threshold
        )
        return uncertainty_of(absent)

    assert nothing(0.0) == 0 and nothing(0.1) == pytest.approx(0.2)
    assert nothing(0.499) > 0.99
    assert nothing(0.9) == 1 and nothing(None, None) == 1
    assert uncertainty_of(answer(None, score=0.75)) == pytest.approx(0.25)


# ---------------------------------------------------------------- many planes


@dataclass
class Scripted:
    """Answers with what is written for a plane."""

    answers: dict[int, Prediction]
    asked: list[str] = field(default_factory=list)

    def first_look(self, plane: Plane, word: str) -> Prediction:
        self.asked.append(word)
        return self.answers[plane.index["Z"]]


def planes(count: int) -> list[tuple[int, Plane]]:
    stack = open_image(np.zeros((count, 64, 64), np.uint8), axes="ZYX")
    return [(z, stack.plane(z)) for z in range(count)]


def test_planes_are_asked_one_by_one_and_brought_into_order() -> None:
    refused = Prediction((64, 64), "concept", match=False, presence=0.01, threshold=0.5)
    scripted = Scripted({0: refused, 1: answer(logits(3, -5)), 2: answer(logits(0.5, -1))})
    done: list[int] = []
    found = rank_planes(scripted, iter(planes(3)), "mito", done.append)  # type: ignore[arg-type]
    assert next(found).key == 0 and len(scripted.asked) == 1
    ordered = most_uncertain([Uncertain(0, uncertainty_of(refused)), *found])
    assert [one.key for one in ordered] == [2, 1, 0]
    assert done == [1, 2, 3]
    assert scripted.asked == ["mito"] * 3


def test_the_answers_are_those_of_a_segmenter() -> None:
    model = LoadedModel("tiny", tiny_sam(), tiny_clip(), None)
    adapter = build_adapter(AdapterConfig(n_conditioned=1), model.sam, model.clip, seed=0)
    segmenter = Segmenter(model, adapter.with_info(threshold=0.0), "cpu")
    noise = np.random.default_rng(0).integers(0, 255, (4, 40, 60), np.uint8)
    stack = open_image(noise, axes="ZYX")
    found = list(rank_planes(segmenter, ((z, stack.plane(z)) for z in range(4)), "nuclei"))
    assert [one.key for one in found] == [0, 1, 2, 3]
    with pytest.raises(PromptError, match="empty"):
        list(rank_planes(segmenter, iter(planes(1)), " "))
    assert all(0 <= one.uncertainty <= 1 for one in found)
    again = list(rank_planes(segmenter, ((z, stack.plane(z)) for z in range(4)), "nuclei"))
    assert again == found


def test_on_real_slices_it_follows_the_error_of_the_starter(shared: Path) -> None:
    data = shared / "data" / "mouse_embryo_nuclei_3d"
    stack = open_image(data / "images" / "embryo_16_cell_stage.tif")
    labels = read_labels(data / "labels" / "embryo_16_cell_stage.tif")
    segmenter = Segmenter(device="cpu")
    slices = (1, 6, 12, 20, 30, 43)
    found = rank_planes(segmenter, ((z, stack.plane(z)) for z in slices), "nuclei")
    ordered = [one.key for one in most_uncertain(found)]
    errors = {}
    for z in slices:
        segmenter.set_plane(stack.plane(z))
        mask = segmenter.predict(Prompts(text="nuclei"), "concept").mask()
        errors[z] = 1 - dice(mask, labels.plane(z) > 0)
    assert set(ordered[:3]) == set(sorted(slices, key=lambda z: -errors[z])[:3])


# ---------------------------------------------------------------- apart from each other


def order(found: list[Uncertain]) -> list[object]:
    return [one.key for one in found]


def test_neighbours_of_what_is_taken_come_late() -> None:
    alike = [Uncertain(z, 0.5) for z in range(10)]
    chosen = order(spread(alike, taken=[0]))
    assert chosen[0] == 9 and chosen[1] in (4, 5)
    assert chosen[-1] == 0 and sorted(chosen) == list(range(10))


def test_what_is_unsure_comes_before_what_only_lies_apart() -> None:
    found = [Uncertain(z, 0.9 if z in (7, 8) else 0.5) for z in range(20)]
    chosen = order(spread(found, taken=[0]))
    assert chosen[0] == 8 and chosen[1] != 7
    assert order(spread(found))[0] in (7, 8)


@given(
    st.lists(
        st.tuples(st.integers(0, 99), st.floats(0, 1)), unique_by=lambda pair: pair[0], max_size=20
    ),
    st.lists(st.integers(0, 99), max_size=4),
)
def test_every_plane_is_in_the_order_once(pairs: list[tuple[int, float]], taken: list[int]) -> None:
    found = [Uncertain(*pair) for pair in pairs]
    assert sorted(order(spread(found, taken))) == sorted(key for key, _ in pairs)
    if found and not taken:
        assert spread(found)[0].uncertainty == max(one.uncertainty for one in found)


def test_keys_of_any_kind_have_a_place() -> None:
    found = [Uncertain(("film", z), 0.5) for z in range(5)]
    chosen = spread(found, [("film", 0)], position=lambda key: key[1])
    assert order(chosen)[0] == ("film", 4)
