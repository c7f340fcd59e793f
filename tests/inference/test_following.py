"""What is asked next, what belongs to an object, and how it stands out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import ndimage
from slices import disc

from napari_clipsam.errors import ConfigError
from napari_clipsam.inference.following import (
    check_spacing,
    contrast_of,
    meant,
    next_prompts,
    overlap,
    overlap_of_leaning,
    touching,
)
from napari_clipsam.inference.masks import cut_to_box
from napari_clipsam.inference.requests import ObjectMask
from napari_clipsam.planes import Plane
from napari_clipsam.prompts import Prompts

SHAPE = (24, 30)


def mask_of(full: np.ndarray) -> ObjectMask:
    return ObjectMask(*cut_to_box(full, (0, 0)), 0.9)


def whole(one: ObjectMask) -> np.ndarray:
    full = np.zeros(SHAPE, bool)
    full[one.slices] = one.mask
    return full


def plane(rgb: np.ndarray) -> Plane:
    return Plane(rgb.astype(np.uint8), "", {}, "")


blobs = st.integers(0, 2**32 - 1).map(
    lambda seed: (
        ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(SHAPE), 1.5) > 0.12
    )
)


@given(blobs, blobs)
def test_parts_are_kept_if_they_share_pixels_with_the_last_mask(
    now: np.ndarray, before: np.ndarray
) -> None:
    kept = whole(touching(mask_of(now), mask_of(before)))
    parts, count = ndimage.label(now, np.ones((3, 3)))
    wanted = np.zeros(SHAPE, bool)
    for part in range(1, count + 1):
        if (before & (parts == part)).any():
            wanted |= parts == part
    np.testing.assert_array_equal(kept, wanted if wanted.any() else now)


def test_a_seed_is_what_was_clicked() -> None:
    large, small, speck = (disc(SHAPE, 12, x, r) for x, r in ((8, 6), (20, 4), (27, 1)))
    seed = mask_of(large | small | speck)

    def clicked(*points: tuple[float, float], labels: list[int] | None = None) -> np.ndarray:
        return whole(meant(seed, Prompts(points=points, labels=labels)))

    np.testing.assert_array_equal(clicked((12.4, 19.7)), small)
    np.testing.assert_array_equal(clicked((12, 20), (12, 27)), small | speck)
    for one in (
        whole(meant(seed, None)),
        clicked((12, 27), labels=[0]),
        # Beside all parts, and outside the box.
        clicked((12, 15)),
        clicked((0, 0)),
    ):
        np.testing.assert_array_equal(one, large | small)
    whole_one = mask_of(large)
    assert meant(whole_one, None) is whole_one


@given(blobs, st.floats(0, 10))
def test_the_point_is_inside_and_the_box_around(full: np.ndarray, lean: float) -> None:
    assume(full.any())
    last = mask_of(full)
    asked = next_prompts(last, lean)
    y, x = asked.points[0].astype(int)
    depth = ndimage.distance_transform_edt(np.pad(full, 1))[1:-1, 1:-1]
    assert depth[y, x] == depth.max()
    room = np.array(last.box) - asked.boxes[0]
    side = max(last.box[2] - last.box[0], last.box[3] - last.box[1])
    np.testing.assert_allclose(room, np.array([1, 1, -1, -1]) * min(lean, side / 4), atol=1e-9)


@pytest.mark.parametrize("lean", [0, 1, 3, 6, 11, 25])
def test_leaning_discs_share_what_discs_of_pixels_do(lean: float) -> None:
    still, moved = disc((80, 80), 40, 25, 12), disc((80, 80), 40, 25 + lean, 12)
    wanted = (still & moved).sum() / (still | moved).sum()
    assert overlap_of_leaning(int(still.sum()), lean) == pytest.approx(wanted, abs=0.03)


@given(blobs, blobs)
def test_overlap_is_intersection_over_union(a: np.ndarray, b: np.ndarray) -> None:
    union = (a | b).sum()
    wanted = (a & b).sum() / union if union else 0.0
    assert overlap(mask_of(a), mask_of(b)) == pytest.approx(wanted)


def test_contrast_is_the_colour_inside_less_that_around() -> None:
    full = disc(SHAPE, 12, 14, 5)
    rgb = np.zeros((*SHAPE, 3))
    rgb[..., 2] = 100
    rgb[full] = (80, 0, 40)
    found = contrast_of(plane(rgb), mask_of(full))

    assert found is not None
    np.testing.assert_allclose(found.step, [80, 0, -60])
    assert found.size == pytest.approx(100) and found.tells
    half = contrast_of(plane(np.where(full[..., None], [40, 0, 70], rgb)), mask_of(full))
    assert found.share(half) == pytest.approx(0.5)
    assert half.share(found) == pytest.approx(2.0)
    inverse = contrast_of(plane(np.where(full[..., None], [0, 0, 255], rgb)), mask_of(full))
    assert found.share(inverse) < 0


def test_contrast_below_the_noise_tells_nothing() -> None:
    full = disc(SHAPE, 12, 14, 5)
    noise = np.random.default_rng(0).normal(100, 30, (*SHAPE, 1)).repeat(3, 2)
    faint, clear = (
        contrast_of(plane((noise + step * full[..., None]).clip(0, 255)), mask_of(full))
        for step in (5, 60)
    )
    assert not faint.tells and clear.tells


def test_there_is_no_contrast_without_surroundings_or_object() -> None:
    everything = np.ones(SHAPE, bool)
    grey = plane(np.zeros((*SHAPE, 3)))
    assert contrast_of(grey, mask_of(everything)) is None
    assert contrast_of(grey, mask_of(~everything)) is None
    one_pixel = np.zeros(SHAPE, bool)
    one_pixel[0, 0] = True
    found = contrast_of(grey, mask_of(one_pixel))
    assert found is not None and found.size == 0 and found.share(found) == 0


@pytest.mark.parametrize("spacing", [0.0, -1.0, float("inf"), float("nan")])
def test_a_distance_that_makes_no_sense_is_refused(spacing: float) -> None:
    with pytest.raises(ConfigError, match="makes no sense"):
        check_spacing(spacing)
