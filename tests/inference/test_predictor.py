"""Without word and adapter: what `segment_anything` gives with the same weights, at its scale."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.build_sam import _build_sam
from tiny import randomise

from napari_clipsam.inference.requests import ObjectMask
from napari_clipsam.inference.segmenter import Segmenter
from napari_clipsam.models.clip import Clip
from napari_clipsam.models.registry import LoadedModel
from napari_clipsam.models.sam import Sam, SamConfig
from napari_clipsam.planes import open_image
from napari_clipsam.prompts import Prompts

SHAPES = {
    "landscape": (210, 330),
    "portrait": (400, 130),
    "larger than the input": (1100, 1300),
    "tiny": (7, 9),
    "one pixel": (1, 1),
    "thin": (2, 300),
}


class Pair(NamedTuple):
    """The original and ours, with the same plane."""

    predictor: SamPredictor
    segmenter: Segmenter
    shape: tuple[int, int]


@pytest.fixture(scope="module")
def networks(clip: Clip) -> tuple[SamPredictor, Segmenter]:
    with torch.random.fork_rng(devices=[]):
        original = _build_sam(32, 2, 2, [1])
    randomise(original, seed=3, spread=0.15)
    original.pixel_mean, original.pixel_std = (
        torch.tensor(values).view(-1, 1, 1)
        for values in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    )
    ours = Sam(SamConfig(embed_dim=32, depth=2, num_heads=2, global_attn_indexes=(1,)))
    ours.load_state_dict(original.state_dict())
    segmenter = Segmenter(LoadedModel("small", ours, clip, None), device="cpu")
    return SamPredictor(original), segmenter


def show(networks: tuple[SamPredictor, Segmenter], shape: tuple[int, int]) -> Pair:
    """Both with a plane of patches of 8 pixels."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (-(-shape[0] // 8), -(-shape[1] // 8), 3), dtype=np.uint8)
    rgb = coarse.repeat(8, axis=0).repeat(8, axis=1)[: shape[0], : shape[1]].copy()
    predictor, segmenter = networks
    predictor.set_image(rgb)
    segmenter.set_plane(open_image(rgb).plane())
    return Pair(predictor, segmenter, shape)


@pytest.fixture(scope="module", params=SHAPES)
def pair(request: pytest.FixtureRequest, networks: tuple[SamPredictor, Segmenter]) -> Pair:
    return show(networks, SHAPES[request.param])


def at(shape: tuple[int, int], *fractions: tuple[float, float]) -> np.ndarray:
    """Points (y, x) at these fractions of a plane, on no pixel's centre."""
    return np.array(fractions) * (np.array(shape) - 1) + 0.23


def original(
    pair: Pair, prompts: Prompts, mask: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The original's answer: masks, quality and low-resolution logits, best first."""
    ambiguous = len(prompts.points) == 1 and not len(prompts.boxes) and mask is None
    masks, quality, low = pair.predictor.predict(
        prompts.points[:, ::-1].copy() if len(prompts.points) else None,
        prompts.labels.copy() if len(prompts.points) else None,
        prompts.boxes[0][[1, 0, 3, 2]] if len(prompts.boxes) else None,
        None if mask is None else mask[None],
        multimask_output=ambiguous,
        return_logits=True,
    )
    order = np.argsort(-quality)
    return masks[order], quality[order], low[order]


def check(
    pair: Pair, prompts: Prompts, previous: ObjectMask | None = None, mask: np.ndarray | None = None
) -> None:
    found = pair.segmenter.predict(prompts, previous=previous)
    masks, quality, low = original(pair, prompts, mask)
    answers = [*found.objects, *found.alternatives]

    assert len(answers) == len(low) and found.target == "object"
    assert np.std(low) > 0.05
    for answer, full, expected, logits in zip(answers, masks, quality, low, strict=True):
        np.testing.assert_allclose(answer.logits, logits, atol=1e-4, rtol=0)
        assert answer.score == pytest.approx(expected.clip(0, 1), abs=1e-4)
        ours = np.zeros(pair.shape, bool)
        ours[answer.slices] = answer.mask
        sure = np.abs(full) > 1e-4
        np.testing.assert_array_equal(ours[sure], (full > 0)[sure])


def test_the_planes_are_not_blank_to_the_networks(pair: Pair) -> None:
    full, _, _ = original(pair, Prompts(points=at(pair.shape, (0.5, 0.4))))

    assert (np.abs(full) > 1e-4).mean() > 0.99


def test_one_click_gives_the_same_three_masks(pair: Pair) -> None:
    check(pair, Prompts(points=at(pair.shape, (0.7, 0.2))))


def test_a_negative_click(pair: Pair) -> None:
    check(pair, Prompts(points=at(pair.shape, (0.1, 0.9)), labels=[0]))


def test_several_points(pair: Pair) -> None:
    points = at(pair.shape, (0.7, 0.2), (0, 0), (0.99, 0.98))
    check(pair, Prompts(points=points, labels=[1, 0, 1]))


def test_a_box(pair: Pair) -> None:
    h, w = pair.shape
    check(pair, Prompts(boxes=[(0.2 * h, 0.1 * w, 0.8 * h, w)]))


def test_a_box_that_reaches_beyond_the_plane(pair: Pair) -> None:
    h, w = pair.shape
    check(pair, Prompts(boxes=[(-3, 0.5 * w, h + 4, 1.5 * w)]))


def test_points_and_box(pair: Pair) -> None:
    h, w = pair.shape
    points = at(pair.shape, (0.5, 0.5), (0.3, 0.6))
    check(pair, Prompts(points=points, labels=[1, 0], boxes=[(0.1 * h, 0, h, 0.9 * w)]))


def test_an_earlier_mask_goes_in_as_it_came_out(pair: Pair) -> None:
    h, w = pair.shape
    first = Prompts(points=at(pair.shape, (0.7, 0.2)))
    earlier = pair.segmenter.predict(first).objects[0]
    logits = earlier.logits
    points = Prompts(points=[*first.points, *at(pair.shape, (0.4, 0.4))], labels=[1, 0])
    box = Prompts(boxes=[(0.2 * h, 0.1 * w, h, w)])

    for prompts in (Prompts(), points, box):
        check(pair, prompts, earlier, logits)


def test_a_mask_alone_or_in_a_box(networks: tuple[SamPredictor, Segmenter]) -> None:
    # Here a pixel of the mask prompt shows one of the plane, so that nothing is resampled.
    pair = show(networks, (256, 256))
    low = np.random.default_rng(5).normal(size=(256, 256)).astype(np.float32)

    check(pair, Prompts(mask=low), mask=low)
    check(pair, Prompts(mask=low, boxes=[(20, 30, 150, 200)]), mask=low)
