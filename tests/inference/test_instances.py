"""Instances inside a concept, with a decoder that knows the truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from napari_clipsam.inference.instances import InstanceSettings, find_instances, seeds_in

INPUT = 256
M = 64


def discs(*circles: tuple[float, float, float], size: int = M) -> np.ndarray:
    """Labels 1..n of circles (y, x, radius); the first of two that overlap is whole."""
    yy, xx = np.indices((size, size))
    labels = np.zeros((size, size), int)
    for number, (y, x, r) in enumerate(circles, 1):
        labels[(np.hypot(yy - y, xx - x) <= r) & (labels == 0)] = number
    return labels


def concept_of(labels: np.ndarray) -> Tensor:
    return torch.tensor(np.where(labels > 0, 6.0, -6.0), dtype=torch.float32)


class Oracle:
    """Decodes a click into the object under it, and counts."""

    def __init__(self, labels: np.ndarray, quality: float = 0.9) -> None:
        self.labels, self.quality = labels, quality
        self.clicks: list[Tensor] = []

    def __call__(self, xy: Tensor) -> tuple[Tensor, Tensor]:
        self.clicks.append(xy)
        # SAM adds half a pixel to a click.
        cells = ((xy + 0.5) / (INPUT / M)).long()
        logits = [
            np.where(self.labels == self.labels[y, x], 8.0, -8.0) if self.labels[y, x] else empty()
            for x, y in cells.tolist()
        ]
        return (
            torch.tensor(np.array(logits), dtype=torch.float32)[:, None],
            torch.full((len(xy),), self.quality),
        )


def empty() -> np.ndarray:
    return np.full((M, M), -8.0)


def found_labels(logits: Tensor) -> np.ndarray:
    labels = np.zeros((M, M), int)
    for number, mask in enumerate((logits[:, 0] > 0).numpy(), 1):
        assert not labels[mask].any()
        labels[mask] = number
    return labels


def same_objects(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two label maps differ in their numbers alone."""
    pairs = set(zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))
    return len(pairs) == len(np.unique(a)) == len(np.unique(b)) and (0, 0) in pairs


SCENES = {
    "apart": discs((10, 10, 6), (10, 40, 8), (45, 20, 9), (50, 50, 4), (30, 55, 3)),
    "touching": discs((20, 15, 9), (20, 32, 9), (35, 23, 8), (50, 40, 7), (50, 53, 6)),
    "on the border": discs((0, 0, 8), (63, 30, 7), (30, 63, 6), (63, 63, 5)),
    "grid": discs(*[(y, x, 4) for y in range(6, 60, 11) for x in range(6, 60, 11)]),
    "one": discs((32, 32, 28)),
}


@pytest.mark.parametrize("scene", SCENES)
def test_all_objects_are_found_once(scene: str) -> None:
    labels = SCENES[scene]
    logits, scores = find_instances(concept_of(labels), Oracle(labels), INPUT)

    assert same_objects(found_labels(logits), labels)
    assert scores.tolist() == pytest.approx([0.9] * len(logits))


def test_what_the_first_seeds_miss_is_seeded_again() -> None:
    labels, far_apart = discs((20, 15, 9), (20, 32, 8), (34, 24, 7)), 30
    counts = []
    for rounds in (1, 2, 3):
        oracle = Oracle(labels)
        settings = InstanceSettings(rounds=rounds, seed_distance=far_apart)
        counts.append(len(find_instances(concept_of(labels), oracle, INPUT, settings)[0]))
        assert len(oracle.clicks) == rounds

    assert counts == [1, 2, 3]


def test_an_empty_concept_has_no_instances() -> None:
    oracle = Oracle(np.zeros((M, M), int))
    logits, scores = find_instances(torch.full((M, M), -3.0), oracle, INPUT)

    assert logits.shape == (0, 1, M, M) and scores.shape == (0,)
    assert oracle.clicks == []


def test_where_nothing_is_decoded_there_are_none() -> None:
    nothing = Oracle(np.zeros((M, M), int))
    logits, scores = find_instances(concept_of(SCENES["apart"]), nothing, INPUT)

    assert len(logits) == len(scores) == 0
    assert len(nothing.clicks) > 1


def test_padding_is_ignored() -> None:
    labels = discs((10, 10, 6), (10, 50, 6), (50, 30, 9), (47, 55, 6))
    concept, oracle = concept_of(labels), Oracle(labels)
    logits, scores = find_instances(concept, oracle, INPUT, shown=(45, 48))

    # Two lie mostly outside; of one that does, what shows is large enough to be an object.
    visible = np.zeros_like(labels)
    visible[:45, :48] = labels[:45, :48]
    shown = found_labels(logits)
    shown[45:], shown[:, 48:] = 0, 0
    assert same_objects(shown, visible)
    for xy in oracle.clicks:
        assert (xy[:, 0] < 48 * 4).all() and (xy[:, 1] < 45 * 4).all()
    # What spills into the padding takes nothing from an object's score.
    assert scores.tolist() == pytest.approx([0.9] * len(scores))


def test_objects_that_reach_into_what_is_searched_are_found_whole() -> None:
    labels = discs((16, 30, 8), (16, 50, 8), (48, 16, 8))
    searched = np.zeros((M, M), bool)
    searched[:, :28] = True
    oracle = Oracle(labels)
    logits, _ = find_instances(concept_of(labels), oracle, INPUT, searched=searched)
    found = found_labels(logits)
    np.testing.assert_array_equal(found > 0, (labels == 1) | (labels == 3))
    x = (torch.cat(oracle.clicks)[:, 0] + 0.5) / (INPUT / M)
    assert x.max() < 28


def test_objects_outside_the_concept_are_left_out() -> None:
    labels = discs((20, 20, 8), (40, 45, 8))
    concept = concept_of(np.where(labels == 1, 1, 0))
    # A click on the first gives both as one: half of it is outside.
    both = Oracle((labels > 0).astype(int))

    assert len(find_instances(concept, both, INPUT, InstanceSettings(min_inside=0.6))[0]) == 0
    assert len(find_instances(concept, both, INPUT, InstanceSettings(min_inside=0.4))[0]) == 1


def test_objects_of_low_quality_are_left_out() -> None:
    labels = SCENES["apart"]
    bad = find_instances(concept_of(labels), Oracle(labels, quality=0.3), INPUT)

    assert len(bad[0]) == 0


def test_the_score_is_quality_times_stability() -> None:
    labels = discs((32, 32, 10))
    ramp = torch.tensor(10 - np.hypot(*(np.indices((M, M)) - 32)), dtype=torch.float32)

    def decode(xy: Tensor) -> tuple[Tensor, Tensor]:
        return ramp.expand(len(xy), 1, M, M), torch.full((len(xy),), 0.8)

    _, scores = find_instances(concept_of(labels), decode, INPUT)
    stability = (ramp > 1).sum() / (ramp > -1).sum()
    assert scores.tolist() == pytest.approx([0.8 * float(stability)])


def test_best_come_first() -> None:
    labels = SCENES["apart"]
    oracle = Oracle(labels)

    def decode(xy: Tensor) -> tuple[Tensor, Tensor]:
        logits, _ = oracle(xy)
        return logits, 0.5 + 0.4 * xy[:, 0] / INPUT

    logits, scores = find_instances(concept_of(labels), decode, INPUT)
    columns = [(mask.nonzero()[:, 1].float().mean()) for mask in logits[:, 0] > 0]
    assert scores.tolist() == sorted(scores.tolist(), reverse=True)
    assert columns == sorted(columns, reverse=True)


def test_specks_are_no_objects() -> None:
    labels = discs((20, 20, 1), (40, 40, 5))

    assert len(find_instances(concept_of(labels), Oracle(labels), INPUT)[0]) == 1


def test_the_kept_logits_are_the_decoders_own() -> None:
    labels = SCENES["touching"]
    oracle = Oracle(labels)
    logits, _ = find_instances(concept_of(labels), oracle, INPUT)

    assert set(logits.unique().tolist()) == {-8.0, 8.0}


# ---------------------------------------------------------------- seeds


def test_seeds_lie_deepest_inside() -> None:
    labels = discs((15, 15, 9), (40, 45, 13))
    seeds = seeds_in(labels > 0, 3, 100)

    assert seeds.tolist() == [[40, 45], [15, 15]]


def test_the_border_of_the_plane_is_an_edge() -> None:
    whole = np.ones((21, 31), bool)
    (y, x), *others = seeds_in(whole, 3, 100).tolist()

    assert y == 10 and 10 <= x <= 20
    assert all(row == 10 for row, _ in others)


@pytest.mark.parametrize("distance", [2, 5, 8])
def test_seeds_keep_their_distance(distance: int) -> None:
    noise = np.random.default_rng(0).random((60, 60)) < 0.9
    seeds = seeds_in(noise, distance, 1000)
    gaps = np.abs(seeds[:, None] - seeds[None]).max(axis=2) + 1000 * np.eye(len(seeds))

    assert len(seeds) > 5
    assert gaps.min() > distance
    assert noise[seeds[:, 0], seeds[:, 1]].all()


def test_seeds_are_limited_and_the_same_each_time() -> None:
    region = SCENES["grid"] > 0
    all_of_them = seeds_in(region, 3, 100)

    np.testing.assert_array_equal(seeds_in(region.copy(), 3, 100), all_of_them)
    np.testing.assert_array_equal(seeds_in(region, 3, 7), all_of_them[:7])
    assert seeds_in(np.zeros((9, 9), bool), 3, 100).shape == (0, 2)
    assert seeds_in(np.ones((1, 1), bool), 3, 100).tolist() == [[0, 0]]
