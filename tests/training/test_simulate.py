"""Simulated prompts: inside what they mean, on the error they correct, around what they box."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from napari_clipsam.training.simulate import (
    box_prompts,
    correction_points,
    inner_points,
    random_points,
)

SEEDS = st.integers(0, 10_000)
SIZES = st.tuples(st.integers(1, 24), st.integers(1, 24))
INPUT = 240


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw_masks(n: int, size: tuple[int, int], seed: int) -> Tensor:
    """Random masks (n, h, w), none of them empty."""
    masks = torch.rand(n, *size, generator=seeded(seed)) > 0.8
    masks[:, size[0] // 2, size[1] // 2] = True
    return masks.float()


def value_at(masks: Tensor, points: Tensor) -> Tensor:
    """What each mask holds in the cell that a point in model pixels lies in."""
    h, w = masks.shape[1:]
    column = ((points[:, 0] + 0.5) * w / INPUT).floor().long()
    row = ((points[:, 1] + 0.5) * h / INPUT).floor().long()
    return masks[torch.arange(len(masks)), row, column]


# ---------------------------------------------------------------- points


@pytest.mark.parametrize("choose", [random_points, inner_points])
@given(size=SIZES, seed=SEEDS)
def test_points_lie_inside_their_mask(choose, size: tuple[int, int], seed: int) -> None:
    masks = draw_masks(4, size, seed)
    points = choose(masks, INPUT, seeded(seed))
    assert points.shape == (4, 2) and points.dtype == torch.float32
    assert (value_at(masks, points) == 1).all()


def test_points_are_centres_of_cells_as_x_and_y() -> None:
    masks = torch.zeros(1, 4, 8)
    masks[0, 1, 6] = 1
    # Cells are 30 pixels wide and 60 high.
    expected = torch.tensor([[6.5 * 30 - 0.5, 1.5 * 60 - 0.5]])
    for choose in (random_points, inner_points):
        torch.testing.assert_close(choose(masks, INPUT), expected)


def test_random_points_reach_every_pixel_of_a_mask_alike() -> None:
    masks = torch.zeros(4000, 2, 4)
    masks[:, 0, :2] = masks[:, 1, 3] = 1
    points = random_points(masks, INPUT, seeded(0))
    _, counts = points.unique(dim=0, return_counts=True)
    assert len(counts) == 3
    assert counts.min() > 1200


def test_inner_points_prefer_the_middle() -> None:
    masks = torch.zeros(500, 24, 24)
    masks[:, 2:22, 2:22] = 1
    centre = torch.tensor([INPUT / 2, INPUT / 2])
    reach = [
        (choose(masks, INPUT, seeded(0)) - centre).norm(dim=1).mean()
        for choose in (inner_points, random_points)
    ]
    assert reach[0] < 0.6 * reach[1]


@pytest.mark.parametrize("choose", [random_points, inner_points])
def test_an_empty_mask_gives_its_first_cell(choose) -> None:
    points = choose(torch.zeros(1, 4, 4), INPUT, seeded(0))
    torch.testing.assert_close(points, torch.tensor([[29.5, 29.5]]))


@pytest.mark.parametrize("choose", [random_points, inner_points, box_prompts])
def test_the_seed_decides(choose) -> None:
    masks = draw_masks(20, (24, 24), 0)
    one, same, other = (choose(masks, INPUT, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


# ---------------------------------------------------------------- corrections


@given(size=SIZES, seed=SEEDS)
def test_corrections_lie_on_the_error_and_say_what_is_true_there(
    size: tuple[int, int], seed: int
) -> None:
    masks = draw_masks(4, size, seed)
    predicted = torch.rand(masks.shape, generator=seeded(seed + 1)) > 0.6
    points, labels = correction_points(predicted, masks, INPUT, seeded(seed))
    assert points.shape == (4, 2) and labels.dtype == torch.int64
    true = value_at(masks, points)
    assert torch.equal(labels, true.long())
    wrong = (predicted != (masks > 0.5)).flatten(1).any(dim=1)
    claimed = value_at(predicted.float(), points)
    assert (claimed != true)[wrong].all()


def test_a_missed_object_gets_a_positive_click_and_a_surplus_a_negative_one() -> None:
    masks = torch.zeros(2, 4, 4)
    masks[0, 1, 2] = 1
    predicted = torch.zeros(2, 4, 4, dtype=torch.bool)
    predicted[1, 3, 0] = True
    points, labels = correction_points(predicted, masks, INPUT)
    assert labels.tolist() == [1, 0]
    torch.testing.assert_close(points, torch.tensor([[149.5, 89.5], [29.5, 209.5]]))


@given(size=SIZES, seed=SEEDS)
def test_without_an_error_the_click_is_a_positive_one_inside(
    size: tuple[int, int], seed: int
) -> None:
    masks = draw_masks(3, size, seed)
    points, labels = correction_points(masks > 0.5, masks, INPUT, seeded(seed))
    assert labels.tolist() == [1, 1, 1]
    assert (value_at(masks, points) == 1).all()


# ---------------------------------------------------------------- boxes


@given(size=SIZES, seed=SEEDS)
def test_a_box_without_jitter_is_the_tight_one(size: tuple[int, int], seed: int) -> None:
    masks = draw_masks(3, size, seed)
    boxes = box_prompts(masks, INPUT, jitter=0.0)
    scale = torch.tensor([INPUT / size[1], INPUT / size[0]])
    for box, mask in zip(boxes, masks, strict=True):
        rows, cols = torch.nonzero(mask, as_tuple=True)
        low = torch.stack([cols.min(), rows.min()]) * scale
        high = torch.stack([cols.max() + 1, rows.max() + 1]) * scale
        torch.testing.assert_close(box, torch.cat([low, high]), atol=1e-3, rtol=0)


@given(size=SIZES, seed=SEEDS, jitter=st.floats(0.01, 0.4))
def test_jitter_moves_each_side_by_a_share_of_its_length_and_not_out_of_the_image(
    size: tuple[int, int], seed: int, jitter: float
) -> None:
    masks = draw_masks(3, size, seed)
    tight = box_prompts(masks, INPUT, jitter=0.0)
    boxes = box_prompts(masks, INPUT, jitter, seeded(seed))
    assert (boxes >= 0).all() and (boxes <= INPUT).all()
    assert (boxes[:, :2] < boxes[:, 2:]).all()
    extent = (tight[:, 2:] - tight[:, :2]).repeat(1, 2)
    assert ((boxes - tight).abs() <= jitter * extent + 1e-3).all()
