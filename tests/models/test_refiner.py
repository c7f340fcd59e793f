"""The refiners: what they are shown, and what comes out of them."""

import pytest
import torch
from tiny import randomise

from napari_clipsam.models.refiner import ConceptRefiner, MaskRefiner, concept_input, refiner_input

NONE = torch.full((1, 4), torch.nan)


def shown(
    rgb: torch.Tensor, points: list[list[float]], labels: list[int], box: torch.Tensor = NONE
) -> torch.Tensor:
    masks = torch.zeros(1, 3, *rgb.shape[2:])
    return refiner_input(rgb, masks, torch.tensor([points]), torch.tensor([labels]), box)[0]


@pytest.fixture
def rgb() -> torch.Tensor:
    return torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 100 + 50


@pytest.fixture
def refiner() -> MaskRefiner:
    refiner = MaskRefiner((8, 16))
    randomise(refiner, 0)
    return refiner.eval()


def test_clicks_are_marked_where_they_are_and_apart_by_kind(rgb: torch.Tensor) -> None:
    seen = shown(rgb, [[4.5, 20.5], [30.5, 2.5], [9.0, 9.0]], [1, 0, -1])
    on, beside = seen[6], seen[7]
    assert divmod(int(on.argmax()), 32) == (4, 20)
    assert divmod(int(beside.argmax()), 32) == (30, 2)
    assert on.max() == beside.max() == 1
    assert on[9, 9] < 1e-3 > beside[9, 9], "a point of kind -1 is none"


def test_a_box_covers_its_cells_in_part_at_the_edges(rgb: torch.Tensor) -> None:
    box = torch.tensor([[2.0, 3.25, 5.5, 8.0]])
    framed = shown(rgb, [[torch.nan, torch.nan]], [-1], box)[8]
    assert framed.sum() == pytest.approx(3.5 * 4.75)
    assert framed[2, 4] == 1 and framed[2, 3] == 0.75 and framed[5, 4] == 0.5
    assert framed[1].sum() == 0 == framed[:, 8].sum()


def test_what_is_not_given_is_nowhere(rgb: torch.Tensor) -> None:
    seen = shown(rgb, [[torch.nan, torch.nan]], [-1])
    assert seen.isfinite().all()
    assert not seen[3:].any()


def test_light_and_contrast_hardly_matter(rgb: torch.Tensor) -> None:
    usual, dim = (shown(x, [[5.0, 5.0]], [1]) for x in (rgb, rgb / 2 + 20))
    torch.testing.assert_close(usual[:3], dim[:3], atol=0.3, rtol=0)
    flat = shown(torch.full_like(rgb, 7.0), [[5.0, 5.0]], [1])
    assert not flat[:3].any(), "noise of a flat close-up is not blown up"


def test_close_ups_of_a_batch_do_not_see_each_other(refiner: MaskRefiner) -> None:
    x = torch.randn(3, 9, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits, worth = refiner(x)
        alone = [refiner(x[i : i + 1]) for i in range(3)]
    assert logits.shape == (3, 32, 32) and worth.shape == (3,)
    assert ((worth > 0) & (worth < 1)).all()
    torch.testing.assert_close(logits, torch.cat([one for one, _ in alone]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(worth, torch.cat([one for _, one in alone]), atol=1e-5, rtol=1e-4)


def test_the_worth_does_not_move_the_mask(refiner: MaskRefiner) -> None:
    x = torch.randn(1, 9, 32, 32, generator=torch.Generator().manual_seed(2))
    _, worth = refiner(x)
    worth.sum().backward()
    assert refiner.mask.weight.grad is None, "a mask is not made worse to be judged better"


def test_a_concept_is_drawn_from_pixels_chance_and_similarity(rgb: torch.Tensor) -> None:
    chance, similarity = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(3))
    seen = concept_input(rgb, chance, similarity)
    torch.testing.assert_close(seen[:, 3:], torch.stack([chance, similarity], dim=1))
    refiner = ConceptRefiner((8, 16))
    randomise(refiner, 0)
    with torch.inference_mode():
        usual, other = (
            refiner.eval()(concept_input(rgb, c, similarity)) for c in (chance, 1 - chance)
        )
    assert usual.shape == (1, 32, 32)
    assert not torch.allclose(usual, other)
