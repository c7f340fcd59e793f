"""Cells of the decoder's logits and the pixels they show."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_clipsam.geometry import Frame
from napari_clipsam.inference.grids import cells_of, on_grid, shown_cells, within

SIZE = 32
SIDES = st.integers(1, 300)


def frame_of(shape: tuple[int, int]) -> Frame:
    return Frame((40, 70), shape, 128)


@given(SIDES, SIDES)
def test_what_shows_no_plane_is_zero_on_the_grid(height: int, width: int) -> None:
    frame = frame_of((height, width))
    rows, cols = shown_cells(frame, SIZE)
    assert max(rows, cols) == SIZE and min(rows, cols) >= 1
    cells = on_grid(torch.ones(frame.shape), frame, SIZE)
    assert cells.shape == (SIZE, SIZE)
    torch.testing.assert_close(cells[:rows, :cols], torch.ones(rows, cols))
    assert not cells[rows:].any() and not cells[:, cols:].any()


@given(SIDES, SIDES, st.data())
def test_a_region_has_all_cells_that_show_some_of_it(
    height: int, width: int, data: st.DataObject
) -> None:
    frame = frame_of((height, width))
    region = []
    for origin, length in zip(frame.origin, frame.shape, strict=True):
        first = data.draw(st.integers(0, length - 1))
        region.append(slice(origin + first, origin + data.draw(st.integers(first + 1, length))))
    mask = cells_of((region[0], region[1]), frame, SIZE)
    assert mask.any()
    inside = torch.zeros(frame.shape, dtype=torch.bool)
    within(inside, frame, (region[0], region[1]))[...] = True
    rows, cols = shown_cells(frame, SIZE)
    y, x = inside.numpy().nonzero()
    assert mask[
        ((y + 0.5) * rows / height).astype(int), ((x + 0.5) * cols / width).astype(int)
    ].all()
    assert not mask[rows:].any() and not mask[:, cols:].any()


@given(SIDES, SIDES)
def test_the_region_of_a_whole_frame_is_all_of_its_values(height: int, width: int) -> None:
    frame = frame_of((height, width))
    values = torch.arange(height * width).view(height, width)
    assert torch.equal(within(values, frame, frame.slices), values)
