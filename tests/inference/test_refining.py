"""Masks redrawn from close-ups: where they land, and which of several is best."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_clipsam.inference.masks import cut_to_box
from napari_clipsam.inference.refining import focus, redraw, redraw_clicks
from napari_clipsam.inference.requests import ObjectMask
from napari_clipsam.models.refiner import refiner_input
from napari_clipsam.prompts import Prompts

RGB = np.zeros((90, 120, 3), np.uint8)


class Stub:
    """Draws what one channel shows; the brighter the close-up, the better it is said to be."""

    def __init__(self, channel: int) -> None:
        self.channel = channel
        self.seen: list[Tensor] = []

    def __call__(self, *seen: Tensor) -> tuple[Tensor, Tensor]:
        x = refiner_input(*seen)
        self.seen.append(x)
        return x[:, self.channel] - 0.5, torch.sigmoid(x[:, self.channel].mean(dim=(1, 2)))


def disc(y: float, x: float, radius: float) -> NDArray[np.bool_]:
    rows, cols = np.mgrid[: RGB.shape[0], : RGB.shape[1]]
    return np.hypot(rows - y, cols - x) <= radius


def cut(mask: NDArray[np.bool_], score: float = 0.3) -> ObjectMask:
    return ObjectMask(*cut_to_box(mask, (0, 0)), score, np.zeros((16, 16), np.float32))


def whole(one: ObjectMask) -> NDArray[np.bool_]:
    mask = np.zeros(RGB.shape[:2], bool)
    mask[one.slices] = one.mask
    return mask


def iou(one: ObjectMask, mask: NDArray[np.bool_]) -> float:
    found = whole(one)
    return float((found & mask).sum() / (found | mask).sum())


@pytest.mark.parametrize(
    ("y", "x", "radius"), [(40, 50, 9), (40, 50, 30), (3, 4, 12), (88, 117, 15), (45, 60, 80)]
)
def test_a_mask_comes_back_where_it_was(y: float, x: float, radius: float) -> None:
    mask = disc(y, x, radius)
    before = cut(mask)
    (after,) = redraw(Stub(3), RGB, [before], [Prompts(points=[(y, x)])])
    assert iou(after, mask) > 0.95
    assert after.score != before.score and after.logits is before.logits


def test_a_box_says_where_to_look_even_if_nothing_was_marked() -> None:
    nothing = cut(np.zeros(RGB.shape[:2], bool))
    box = Prompts(boxes=[(20, 30, 44, 60)])
    (after,) = redraw(Stub(8), RGB, [nothing], [box])
    assert after.box == (20, 30, 44, 60) and after.mask.all()
    (left,) = redraw(Stub(8), RGB, [nothing], [Prompts(points=[(5, 5)])])
    assert left is nothing


def test_many_are_redrawn_in_their_order() -> None:
    places = [(15 + 20 * (i // 5), 12 + 22 * (i % 5)) for i in range(20)]
    masks = [disc(y, x, 4 + i % 3) for i, (y, x) in enumerate(places)]
    stub = Stub(3)
    found = redraw(stub, RGB, [cut(m) for m in masks], [Prompts(points=[p]) for p in places])
    assert [iou(one, mask) > 0.9 for one, mask in zip(found, masks, strict=True)] == [True] * 20
    assert max(len(x) for x in stub.seen) <= 16, "memory does not grow with the number of objects"


def test_specks_do_not_widen_a_close_up() -> None:
    mask = disc(40, 40, 10)
    mask[85, 110] = True
    stub = Stub(3)
    redraw(stub, RGB, [cut(mask)], [Prompts(points=[(40, 40)])])
    assert float(stub.seen[0][0, 3].mean()) > 0.25


def test_a_click_beside_the_mask_is_in_the_close_up() -> None:
    one = cut(disc(40, 40, 6))
    far = Prompts(points=[(70, 90), (10, 10)], labels=[1, 0])
    assert focus(one, far, RGB.shape).tolist() == [34, 34, 71, 91]


def test_a_box_far_beyond_the_plane_shows_the_plane() -> None:
    nothing, stub = cut(np.zeros(RGB.shape[:2], bool)), Stub(8)
    (after,) = redraw(stub, RGB, [nothing], [Prompts(boxes=[(-1e30, 20, 1e30, 60)])])
    assert after.box == (0, 20, 90, 60)
    assert stub.seen[0].isfinite().all()


class Chooser:
    """Draws the last of three masks that differ, and what it is given where they do not."""

    def __call__(self, *seen: Tensor) -> tuple[Tensor, Tensor]:
        masks = seen[1]
        return masks[:, 2] - 0.5, torch.full((len(masks),), 0.5)


def test_what_a_click_means_comes_first_and_replaces_its_like() -> None:
    discs = [disc(40, 50, radius) for radius in (6, 20, 12)]
    masks = [cut(mask, score) for mask, score in zip(discs, (0.9, 0.8, 0.7), strict=True)]
    for i, one in enumerate(masks):
        assert one.logits is not None
        one.logits[:] = i
    click = Prompts(points=[(40, 50)])
    (found,) = redraw_clicks(Chooser(), RGB, [masks], [click])
    assert [iou(one, mask) > 0.85 for one, mask in zip(found, (discs[2], *discs[:2]), strict=True)]
    assert iou(found[0], discs[2]) > 0.9
    logits = [int(one.logits[0, 0]) for one in found if one.logits is not None]
    assert logits == [2, 0, 1], "corrections go on from what the decoder drew most like it"


def test_the_choice_is_shown_more_of_what_is_around_it() -> None:
    masks, stub = [cut(disc(40, 50, r)) for r in (10, 11, 12)], Stub(3)
    redraw_clicks(stub, RGB, [masks], [Prompts(points=[(40, 50)])])
    wide, close = (float(x[0, 3].mean()) for x in stub.seen)
    assert wide < 0.75 * close


def test_a_click_that_marked_nothing_means_nothing() -> None:
    nothing = cut(np.zeros(RGB.shape[:2], bool))
    (found,) = redraw_clicks(Chooser(), RGB, [[nothing] * 3], [Prompts(points=[(40, 50)])])
    assert [one.area for one in found] == [0, 0, 0]
