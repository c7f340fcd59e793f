"""What the dock says."""

from __future__ import annotations

import pytest
from plugin.fakes import HERE, square

from napari_clipsam._plugin.wording import object_row
from napari_clipsam.session.objects import SessionObject


@pytest.mark.parametrize(
    ("side", "pixel", "words"),
    [(300, None, "90000"), (300, 1.0, "90000"), (300, 0.52, "46800"), (11, 0.25, "30.25")],
)
def test_sizes_are_numbers_that_people_read(side: int, pixel: float | None, words: str) -> None:
    masks = {HERE: square(0, 0, side)}
    one = SessionObject("a", 1, "im", None, None, "object", {}, masks, "starter", "none", "now")
    assert object_row(one, pixel, 0.5).size == words
