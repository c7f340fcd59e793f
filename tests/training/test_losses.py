"""Losses against values worked out by hand, and what an empty target does to gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from napari_clipsam.errors import ConfigError
from napari_clipsam.training.losses import (
    LossWeights,
    bce_loss,
    dice_loss,
    focal_loss,
    iou_loss,
    mask_loss,
    soft_iou,
)

close = torch.testing.assert_close
ALL = [bce_loss, dice_loss, focal_loss, iou_loss]


def logit(*probabilities: float) -> Tensor:
    """Logits (1, 1, n) of probabilities."""
    return torch.logit(torch.tensor(probabilities))[None, None]


def target(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[None, None]


# Three pixels: two true ones, found with 0.9 and 0.6, and a false one with 0.2.
LOGITS, TRUE = logit(0.9, 0.6, 0.2), target(1, 1, 0)


def test_bce_by_hand() -> None:
    expected = -(math.log(0.9) + math.log(0.6) + math.log(0.8)) / 3
    close(bce_loss(LOGITS, TRUE), torch.tensor([expected]))


def test_dice_by_hand() -> None:
    # Overlap 1.5, predicted 1.7, true 2; one is added above and below.
    close(dice_loss(LOGITS, TRUE), torch.tensor([1 - 4.0 / 4.7]))


def test_iou_by_hand() -> None:
    close(iou_loss(LOGITS, TRUE), torch.tensor([1 - 2.5 / 3.2]))


def test_focal_by_hand() -> None:
    expected = -(
        0.25 * 0.1**2 * math.log(0.9)
        + 0.25 * 0.4**2 * math.log(0.6)
        + 0.75 * 0.2**2 * math.log(0.8)
    )
    close(focal_loss(LOGITS, TRUE), torch.tensor([expected / 3]))


def test_the_default_is_the_papers_sum() -> None:
    expected = bce_loss(LOGITS, TRUE) + dice_loss(LOGITS, TRUE) + iou_loss(LOGITS, TRUE)
    close(mask_loss(LOGITS, TRUE), expected)


def test_terms_are_weighted_and_a_weight_of_zero_leaves_one_out() -> None:
    weights = LossWeights(bce=0.0, dice=2.0, iou=0.0, focal=20.0)
    expected = 2 * dice_loss(LOGITS, TRUE) + 20 * focal_loss(LOGITS, TRUE)
    close(mask_loss(LOGITS, TRUE, weights), expected)


@pytest.mark.parametrize(
    "weights",
    [{"bce": -1.0}, {"bce": 0.0, "dice": 0.0, "iou": 0.0}],
    ids=["negative", "all zero"],
)
def test_weights_that_cannot_work_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="not be negative and not all zero"):
        LossWeights(**weights)


# ---------------------------------------------------------------- each mask for itself


@pytest.mark.parametrize("loss", [*ALL, mask_loss])
def test_every_mask_has_its_own_loss(loss) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 5, generator=generator)
    true = (torch.rand(3, 4, 5, generator=generator) > 0.5).float()
    alone = torch.cat([loss(logits[i : i + 1], true[i : i + 1]) for i in range(3)])
    assert alone.shape == (3,)
    close(loss(logits, true), alone)


@pytest.mark.parametrize("loss", ALL)
def test_pixels_of_weight_zero_do_not_count(loss) -> None:
    weight = target(1, 1, 1, 0)
    seen = loss(LOGITS, TRUE)
    for unknown in (logit(0.99), logit(0.01)):
        logits = torch.cat([LOGITS, unknown], dim=2)
        close(loss(logits, torch.cat([TRUE, target(0)], dim=2), weight), seen)


@pytest.mark.parametrize("loss", ALL)
def test_where_no_pixel_counts_the_loss_is_zero(loss) -> None:
    close(loss(LOGITS, TRUE, torch.zeros_like(TRUE)), torch.zeros(1))


@pytest.mark.parametrize("loss", [*ALL, mask_loss])
def test_a_certain_right_answer_costs_nothing_a_wrong_one_much(loss) -> None:
    true = target(1, 0, 1, 0)
    right = 40 * (true - 0.5)
    assert loss(right, true) < 1e-4
    assert loss(-right, true) > 0.5


@pytest.mark.parametrize("loss", [*ALL, mask_loss])
@pytest.mark.parametrize("size", [1e4, float(torch.finfo(torch.float16).max)])
def test_huge_logits_give_finite_gradients(loss, size: float) -> None:
    logits = torch.tensor([[[size, -size, size, -size]]], requires_grad=True)
    value = loss(logits, target(1, 1, 0, 0))
    value.sum().backward()
    assert value.isfinite().all() and logits.grad.isfinite().all()


# ---------------------------------------------------------------- empty targets


@pytest.mark.parametrize("loss", [dice_loss, iou_loss])
def test_an_empty_target_is_skipped_by_overlap_losses(loss) -> None:
    logits = LOGITS.clone().requires_grad_()
    value = loss(logits, target(0, 0, 0))
    value.sum().backward()
    close(value, torch.zeros(1))
    close(logits.grad, torch.zeros_like(LOGITS))


def test_an_empty_target_still_teaches_by_bce_alone() -> None:
    logits = LOGITS.clone().requires_grad_()
    value = mask_loss(logits, target(0, 0, 0))
    value.sum().backward()
    close(value, bce_loss(LOGITS, target(0, 0, 0)))
    close(logits.grad, torch.sigmoid(LOGITS) / 3)


def test_an_empty_target_leaves_its_neighbours_gradient_alone() -> None:
    logits = torch.cat([LOGITS, LOGITS]).requires_grad_()
    dice_loss(logits, torch.cat([TRUE, target(0, 0, 0)])).sum().backward()
    assert (logits.grad[0] != 0).all() and (logits.grad[1] == 0).all()


# ---------------------------------------------------------------- what the IoU head learns


def test_soft_iou_by_hand() -> None:
    logits = torch.tensor([[[3.0, 0.1, -2.0, 5.0]]], requires_grad=True)
    found = soft_iou(logits, target(1, 1, 1, 0))
    close(found, torch.tensor([2 / 4]))
    assert not found.requires_grad
    close(soft_iou(logits, target(1, 1, 1, 0), target(1, 1, 1, 0)), torch.tensor([2 / 3]))
    close(soft_iou(logits[..., :1], target(1)), torch.tensor([1.0]))


def test_soft_iou_of_nothing_is_zero() -> None:
    close(soft_iou(torch.full((1, 2, 2), -1.0), torch.zeros(1, 2, 2)), torch.zeros(1))
