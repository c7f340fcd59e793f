"""Close-ups: squares of a plane, what they show, and where things lie in them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_clipsam.inference.close_ups import MARGIN, CloseUp

edges = st.floats(-50, 300, allow_nan=False)
sizes = st.floats(0.5, 200, allow_nan=False)


@given(edges, edges, sizes, sizes)
def test_a_close_up_shows_a_box_in_its_middle(y: float, x: float, h: float, w: float) -> None:
    place = CloseUp.around((y, x, y + h, x + w))
    assert place.side >= MARGIN * max(h, w)
    assert abs(place.y0 + place.side / 2 - (y + h / 2)) <= 0.5
    assert abs(place.x0 + place.side / 2 - (x + w / 2)) <= 0.5
    cells = place.box_cells((y, x, y + h, x + w), 64)
    assert (cells >= -0.5 * 64 / place.side).all() and (cells <= 64.5 * 64 / 16).all()


@given(st.integers(0, 59), st.integers(0, 79), st.integers(-20, 60), st.integers(-20, 80))
def test_a_pixel_lies_where_it_is_shown(y: int, x: int, y0: int, x0: int) -> None:
    place = CloseUp(y0, x0, 32)
    rgb = np.zeros((60, 80, 3), np.uint8)
    rgb[y, x] = 255
    at = place.cells((y, x), 32)
    inside = (at >= 0).all() and (at < 32).all()
    if inside:
        row, column = np.floor(at).astype(int)
        assert (place.image(rgb, 32)[row, column] == 255).all()


def test_the_edge_of_a_plane_goes_on_beyond_it() -> None:
    rgb = np.zeros((10, 10, 3), np.uint8)
    rgb[0] = 200
    seen = CloseUp(-16, -3, 16).image(rgb, 16)
    assert (seen == 200).all()


@pytest.mark.parametrize("origin", [(3, 4), (-5, 2), (12, 14), (-40, 0), (100, 100)])
def test_a_mask_covers_what_lies_inside(origin: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random((9, 11)) < 0.5
    seen = CloseUp(0, 0, 16).mask(mask, origin, 16)
    wanted = np.zeros((300, 300), bool)
    y, x = (100 + o for o in origin)
    wanted[y : y + 9, x : x + 11] = mask
    np.testing.assert_array_equal(seen, 255 * wanted[100:116, 100:116])


def test_cells_of_a_reduced_mask_are_covered_in_part() -> None:
    mask = np.zeros((64, 64), bool)
    mask[:, :32] = True
    seen = CloseUp(0, 0, 64).mask(mask, (0, 0), 16)
    assert seen.mean() == pytest.approx(127.5, abs=1)
    assert set(np.unique(seen[:, :7])) == {255} and set(np.unique(seen[:, 9:])) == {0}


def test_no_mask_covers_nothing() -> None:
    assert not CloseUp(0, 0, 20).mask(np.zeros((0, 0), bool), (0, 0), 16).any()
