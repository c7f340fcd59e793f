"""From low-resolution logits to masks in data pixels."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from napari_clipsam.geometry import Frame, whole_plane
from napari_clipsam.inference.masks import (
    cut_to_box,
    full_logits,
    mask_prompt,
    object_masks,
    small_masks,
)
from napari_clipsam.inference.requests import ObjectMask, Prediction

FRAMES = [
    whole_plane((48, 64), 64),
    whole_plane((200, 90), 64),
    whole_plane((30, 41), 64),
    Frame((13, 7), (64, 64), 64),
    Frame((13, 7), (90, 20), 64, squash=True),
    whole_plane((1, 1), 64),
    whole_plane((3, 200), 64),
]


def blobs(n: int, size: int = 16, seed: int = 0) -> Tensor:
    """Logits of n smooth blobs, each of several low-resolution pixels."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        noise = ndimage.gaussian_filter(rng.normal(size=(size, size)), size / 8)
        found.append((noise - np.quantile(noise, rng.uniform(0.5, 0.9))) * 100)
    return torch.tensor(np.array(found), dtype=torch.float32)


def spread(one: ObjectMask, shape: tuple[int, int]) -> np.ndarray:
    """A mask over the whole plane."""
    whole = np.zeros(shape, bool)
    whole[one.slices] = one.mask
    return whole


@pytest.mark.parametrize("frame", FRAMES, ids=str)
def test_logits_are_resized_in_the_two_steps_of_sam(frame: Frame) -> None:
    logits = blobs(2)
    h, w = frame.resized
    steps = F.interpolate(logits[:, None], (64, 64), mode="bilinear", align_corners=False)
    steps = F.interpolate(steps[..., :h, :w], frame.shape, mode="bilinear", align_corners=False)

    assert torch.equal(full_logits(logits, frame), steps[:, 0])


@pytest.mark.parametrize("frame", FRAMES, ids=str)
def test_masks_lie_where_the_frame_lies(frame: Frame) -> None:
    logits = blobs(3)
    shape = tuple(s.stop + 5 for s in frame.slices)
    found = object_masks(logits, torch.tensor([0.2, 1.3, -0.1]), frame)

    wanted = np.zeros((3, *shape), bool)
    wanted[(slice(None), *frame.slices)] = (full_logits(logits, frame) > 0).numpy()
    for one, mask, low in zip(found, wanted, logits, strict=True):
        np.testing.assert_array_equal(spread(one, shape), mask)
        np.testing.assert_array_equal(one.logits, low)
        assert one.frame == frame
    assert [one.score for one in found] == pytest.approx([0.2, 1.0, 0.0])


@pytest.mark.parametrize("frame", FRAMES[:5], ids=str)
def test_small_masks_agree_with_whole_ones(frame: Frame) -> None:
    logits, shape = blobs(30, seed=2), tuple(s.stop for s in frame.slices)
    scores = torch.arange(30) / 30
    whole = {one.score: spread(one, shape) for one in object_masks(logits, scores, frame)}
    small = {
        one.score: spread(one, shape) for (one,) in small_masks(logits[:, None], scores, frame)
    }

    assert set(small) == {score for score, mask in whole.items() if mask.any()}
    for score, mask in small.items():
        assert (mask & whole[score]).sum() > 0.9 * (mask | whole[score]).sum()
    shared = sum((small[k] & whole[k]).sum() for k in small)
    joined = sum((small[k] | whole[k]).sum() for k in small)
    assert shared / joined > 0.98


def test_empty_masks_are_kept_as_objects_and_left_out_as_instances() -> None:
    logits, scores = torch.full((1, 16, 16), -5.0), torch.tensor([0.7])
    (empty,) = object_masks(logits, scores, FRAMES[0])

    assert (empty.box, empty.mask.shape, empty.area) == ((0, 0, 0, 0), (0, 0), 0)
    assert empty.logits is not None and empty.slices == (slice(0, 0), slice(0, 0))
    assert small_masks(logits[:, None], scores, FRAMES[0]) == []
    none, unscored = torch.zeros(0, 16, 16), torch.zeros(0)
    assert object_masks(none, unscored, FRAMES[0]) == []
    assert small_masks(none[:, None], unscored, FRAMES[0]) == []


def test_the_masks_that_a_small_object_may_have_stay_together() -> None:
    some = blobs(3, seed=4)
    some[1] = -5.0
    (found,) = small_masks(some[None], torch.tensor([0.7]), FRAMES[0])
    assert [bool(one.area) for one in found] == [True, False, True]
    assert small_masks(some[None, [1, 0, 2]], torch.tensor([0.7]), FRAMES[0]) == []


def test_a_mask_in_the_padding_alone_is_none() -> None:
    logits = torch.full((1, 16, 16), -5.0)
    logits[0, 14:] = 5.0  # the plane ends at row 12
    frame = whole_plane((48, 64), 64)

    assert small_masks(logits[:, None], torch.ones(1), frame) == []
    assert object_masks(logits, torch.ones(1), frame)[0].area == 0


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9))
def test_boxes_are_tight(seed: int, height: int, width: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.15
    (y0, x0, y1, x1), part = cut_to_box(mask, (100, 200))

    if not mask.any():
        assert (y0, x0, y1, x1) == (0, 0, 0, 0) and part.size == 0
        return
    rows, cols = mask.nonzero()
    assert (y0, x0) == (100 + rows.min(), 200 + cols.min())
    assert (y1, x1) == (101 + rows.max(), 201 + cols.max())
    np.testing.assert_array_equal(part, mask[y0 - 100 : y1 - 100, x0 - 200 : x1 - 200])


@pytest.mark.parametrize("squash", [False, True])
def test_a_mask_becomes_a_prompt_as_logits_of_the_plane_do(squash: bool) -> None:
    disc = np.hypot(*np.ogrid[-1:1:20j, -1:1:30j]) < 1
    one = ObjectMask((20, 70, 40, 100), disc, 1.0)
    whole = np.where(spread(one, (100, 120)), 10, -10).astype(np.float32)
    for frame in (Frame((10, 60), (50, 40), 64, squash), Frame((30, 0), (70, 120), 64, squash)):
        wanted = frame.mask_to_model(whole, 16)
        np.testing.assert_array_equal(mask_prompt(one, frame, 16), wanted)
        assert wanted.max() > 0


def test_a_mask_outside_the_frame_says_nothing() -> None:
    one = ObjectMask((0, 0, 5, 5), np.ones((5, 5), bool), 1.0)

    assert (mask_prompt(one, Frame((50, 50), (64, 64), 64), 16) == -10).all()


def test_many_objects_of_a_large_plane_take_little_memory() -> None:
    frame, n = whole_plane((2000, 2000), 512), 100
    centres = np.stack(np.divmod(np.arange(n), 10), 1) * 12 + 8
    grid = np.indices((128, 128)).transpose(1, 2, 0)[None]
    distance = np.linalg.norm(grid - centres[:, None, None], axis=-1)
    logits = torch.tensor(5 - distance, dtype=torch.float32)
    tracemalloc.start()
    found = [best for (best,) in small_masks(logits[:, None], torch.ones(n), frame)]
    answer = Prediction((2000, 2000), "instances", tuple(found))
    labels, union = answer.labels(), answer.mask()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(np.unique(labels)) == n + 1
    assert (union == (labels > 0)).all()
    kept = sum(one.mask.nbytes + one.logits.nbytes for one in found)
    assert kept < 1.1 * (logits.nbytes + n * 160 * 160)
    # Labels and union of the plane and what is kept, not a plane for each object.
    assert peak < kept + labels.nbytes + union.nbytes + 4e6
    # The logits of one object do not hold those of all.
    assert all(one.logits.base is None for one in found)
