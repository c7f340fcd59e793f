"""The convolutional stem: what size its tokens have, and what each of them sees."""

import pytest
import torch
from tiny import randomise, tiny_sam

from napari_clipsam.models.stem import PyramidStem

WIDTHS, BLOCKS = (8, 8, 16, 16, 24), (0, 1, 1, 0, 2)


@pytest.fixture
def stem() -> PyramidStem:
    stem = PyramidStem(12, WIDTHS, BLOCKS)
    randomise(stem, 0, spread=0.1)
    return stem.eval()


@pytest.mark.parametrize("size", [32, 64, 72])
def test_one_token_for_eight_pixels(stem: PyramidStem, size: int) -> None:
    assert stem(torch.zeros(2, 3, size, size)).shape == (2, size // 8, size // 8, 12)


def test_a_spot_shows_where_it_is(stem: PyramidStem) -> None:
    plain = torch.zeros(1, 3, 128, 128)
    spotted = plain.clone()
    spotted[..., 40:48, 88:96] = 3.0  # row 5, column 11
    with torch.inference_mode():
        change = (stem(spotted) - stem(plain)).abs().sum(-1)[0]

    row, column = divmod(int(change.argmax()), change.shape[1])
    # A convolution of stride 2 looks at the corner of its pixels, so a neighbour may win.
    assert abs(row - 5) <= 1 and abs(column - 11) <= 1
    assert change[row, column] > 4 * change.median()


def test_stands_in_for_the_patch_embedding_of_a_sam() -> None:
    sam = tiny_sam(stem_widths=WIDTHS, stem_blocks=BLOCKS, window_size=4)
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        wanted = sam.image_encoder(x)
        found = sam.head(sam.trunk(x, 2), 2)

    assert found.shape == (1, 32, 8, 8)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
