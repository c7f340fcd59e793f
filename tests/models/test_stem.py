"""The convolutional stem: what size its tokens have, and what each of them sees."""

import pytest
import torch
from tiny import randomise, tiny_sam
from torch import nn

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


@pytest.mark.parametrize(("row", "column"), [(4, 8), (5, 10), (6, 9), (9, 5)])
def test_a_spot_shows_where_it_is_and_far_around(stem: PyramidStem, row: int, column: int) -> None:
    # Without the norms, which carry the mean of the plane everywhere, reach is a matter of wiring.
    for module in stem.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
    spot = torch.zeros(1, 3, 128, 128)
    # A convolution of stride 2 looks around the corner of its pixels.
    spot[..., 8 * row - 2 : 8 * row + 3, 8 * column - 2 : 8 * column + 3] = 3.0
    with torch.inference_mode():
        change = (stem(spot) - stem(torch.zeros_like(spot))).abs().sum(-1)[0]

    assert divmod(int(change.argmax()), 16) == (row, column)
    rows, columns = (change > 1e-6).nonzero().T
    reach = int(torch.maximum((rows - row).abs(), (columns - column).abs()).max())
    assert reach >= 9, "72 pixels, farther than strides up to 8 see here"
    centre = [float((change.sum(axis) * torch.arange(16)).sum() / change.sum()) for axis in (1, 0)]
    assert centre == pytest.approx((row, column), abs=1.5)


def test_stands_in_for_the_patch_embedding_of_a_sam() -> None:
    sam = tiny_sam(stem_widths=WIDTHS, stem_blocks=BLOCKS, window_size=4)
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        wanted = sam.image_encoder(x)
        found = sam.head(sam.trunk(x, 2), 2)

    assert found.shape == (1, 32, 8, 8)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
