"""Signals of CLIP and the prompts made from them, on tokens small enough to check by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from napari_clipsam.semantics import (
    Signals,
    binary_prompt,
    concept_prompts,
    cosine_statistics,
    make_signals,
    min_max,
    plane_cells,
    point_draws,
    points_from_map,
    similarity_map,
    text_vector,
)

close = torch.testing.assert_close


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------- text


def test_text_vector_is_the_unit_difference() -> None:
    found = text_vector(torch.tensor([3.0, 5.0]), torch.tensor([0.0, 1.0]))
    close(found, torch.tensor([0.6, 0.8]))


def test_text_vector_with_a_taught_word() -> None:
    concept, redundant = torch.tensor([3.0, 5.0]), torch.tensor([0.0, 1.0])
    delta = torch.tensor([-3.0, 0.0], requires_grad=True)
    found = text_vector(concept, redundant, delta)
    close(found, torch.tensor([0.0, 1.0]))
    found[0].backward()
    # d(x / |x|) at x = (0, 4) moves the first component by a quarter.
    close(delta.grad, torch.tensor([0.25, 0.0]))


def test_text_vectors_of_several_words_are_normalised_one_by_one() -> None:
    found = text_vector(random(4, 6), random(6, seed=1))
    close(found.norm(dim=-1), torch.ones(4))


# ---------------------------------------------------------------- signals


def hand_made(normalisation: str) -> Signals:
    """CLS and four patches of two channels, asked for the first channel."""
    dense = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [0.0, 2.0], [4.0, 0.0], [0.0, 4.0]]])
    return make_signals(dense, torch.tensor([[1.0, 0.0]]), normalisation)


def test_channel_normalisation_is_a_true_cosine() -> None:
    signals = hand_made("channel")
    close(signals.similarity[0, 1:, 0], torch.tensor([0.6, 0.0, 1.0, 0.0]))
    close(signals.cosine, signals.similarity[:, 1:, 0])
    assert signals.grid == (2, 2)


def test_token_normalisation_divides_each_channel_by_its_norm_over_tokens() -> None:
    signals = hand_made("token")
    # The first channel is (0, 3, 0, 4, 0), its norm 5; the second (0, 4, 2, 0, 4), its norm 6.
    close(signals.vision[0, 1], torch.tensor([3 / 5, 4 / 6]))
    close(signals.similarity[0, :, 0], torch.tensor([0.0, 0.6, 0.0, 0.8, 0.0]))


def test_cosine_is_that_of_channels_whatever_the_normalisation() -> None:
    close(hand_made("token").cosine, hand_made("channel").cosine)


@pytest.mark.parametrize("normalisation", ["token", "channel"])
def test_a_channel_or_patch_of_zeros_stays_finite(normalisation: str) -> None:
    dense = random(1, 5, 3)
    dense[:, 2] = 0
    dense[:, :, 1] = 0
    signals = make_signals(dense, F.normalize(random(1, 3, seed=1)), normalisation)
    for tensor in (signals.vision, signals.similarity, signals.cosine, signals.map()):
        assert tensor.isfinite().all()


@pytest.mark.parametrize("normalisation", ["token", "channel"])
def test_every_pair_is_normalised_on_its_own(normalisation: str) -> None:
    dense, text = random(3, 5, 4), F.normalize(random(3, 4, seed=1))
    together = make_signals(dense, text, normalisation)
    for i in range(3):
        alone = make_signals(dense[i : i + 1], text[i : i + 1], normalisation)
        close(together.similarity[i : i + 1], alone.similarity)
        close(together.map()[i : i + 1], alone.map())


def test_gradient_reaches_a_word_being_taught_and_clip() -> None:
    dense = random(1, 5, 4).requires_grad_()
    delta = torch.zeros(4, requires_grad=True)
    text = text_vector(random(4, seed=1), random(4, seed=2), delta)[None]
    make_signals(dense, text).similarity.sum().backward()
    assert dense.grad.abs().max() > 0 and delta.grad.abs().max() > 0


# ---------------------------------------------------------------- min-max


def test_min_max_by_hand() -> None:
    found = min_max(torch.tensor([[2.0, 4.0, 3.0]]), torch.ones(1, 3, dtype=torch.bool))
    close(found, torch.tensor([[0.0, 1.0, 0.5]]))


def test_min_max_leaves_the_padding_out() -> None:
    valid = torch.tensor([[True, True, True, False, False]])
    found = min_max(torch.tensor([[2.0, 4.0, 3.0, -100.0, 100.0]]), valid)
    close(found, torch.tensor([[0.0, 1.0, 0.5, 0.0, 0.0]]))


@pytest.mark.parametrize("value", [0.0, 0.3, -7.0])
def test_min_max_of_a_constant_map_is_zero(value: float) -> None:
    found = min_max(torch.full((2, 4), value), torch.ones(2, 4, dtype=torch.bool))
    close(found, torch.zeros(2, 4))


def test_min_max_where_all_is_padding_is_zero() -> None:
    found = min_max(random(1, 4), torch.zeros(1, 4, dtype=torch.bool))
    close(found, torch.zeros(1, 4))


@given(st.integers(1, 40), st.integers(0, 1000), st.floats(-50, 50), st.floats(0.1, 50))
def test_min_max_ignores_offset_and_scale(n: int, seed: int, offset: float, scale: float) -> None:
    values, valid = random(2, n, seed=seed).double(), random(2, n, seed=seed + 1) > -1
    found = min_max(values, valid)
    assert found.amin() >= 0 and found.amax() <= 1
    close(min_max(values * scale + offset, valid), found, atol=1e-6, rtol=0)


# ---------------------------------------------------------------- maps and dense prompts


def test_the_map_puts_patches_in_raster_order() -> None:
    dense = torch.zeros(1, 1 + 9, 2)
    dense[..., 1] = 1.0
    dense[0, 1 + 5] = torch.tensor([1.0, 0.0])
    found = make_signals(dense, torch.tensor([[1.0, 0.0]])).map()
    expected = torch.zeros(1, 1, 3, 3)
    expected[0, 0, 1, 2] = 1.0
    close(found, expected)


def test_similarity_map_is_bilinear_by_way_of_the_input_size() -> None:
    signals = hand_made("channel")
    corners = similarity_map(signals, 64, 16)
    assert corners.shape == (1, 1, 16, 16)
    close(corners[0, 0, [0, 0, -1, -1], [0, -1, 0, -1]], signals.cosine[0])
    # Halfway between 0.6 on the left and 0 on the right.
    close(corners[0, 0, 0, 7:9].mean(), torch.tensor(0.3))


def test_binary_prompt_is_above_the_threshold_only() -> None:
    found = binary_prompt(torch.tensor([0.0, 0.8, 0.80001, 1.0]), 0.8)
    assert found.tolist() == [0.0, 0.0, 255.0, 255.0]
    logits = binary_prompt(torch.tensor([0.0, 1.0]), 0.8, high=10.0, low=-10.0)
    assert logits.tolist() == [-10.0, 10.0]


# ---------------------------------------------------------------- points


def cell_of(points: Tensor, cells: int, input_size: int) -> Tensor:
    """(column, row) of points in model pixels."""
    return ((points + 0.5) * cells / input_size).floor().long()


def test_points_are_centres_of_cells_above_the_threshold() -> None:
    similarity = torch.zeros(1, 1, 4, 4)
    similarity[0, 0, 1, 3] = 0.9
    points = points_from_map(similarity, 0.8, 3, 64, seeded(0))
    # Column 3 covers pixels 48 to 63, row 1 pixels 16 to 31.
    close(points, torch.tensor([55.5, 23.5]).expand(1, 3, 2))


def test_points_are_drawn_with_replacement_and_uniformly() -> None:
    similarity = torch.zeros(1, 1, 4, 4)
    similarity[0, 0, 0, 0] = similarity[0, 0, 2, 1] = 1.0
    points = points_from_map(similarity, 0.8, 2000, 64, seeded(0))
    first = (points[0] == torch.tensor([7.5, 7.5])).all(dim=1)
    second = (points[0] == torch.tensor([23.5, 39.5])).all(dim=1)
    assert (first | second).all()
    assert 0.45 < first.float().mean() < 0.55


def test_the_seed_decides_the_points() -> None:
    similarity = torch.rand(2, 1, 16, 16, generator=seeded(3))
    draw = [points_from_map(similarity, 0.5, 5, 1024, seeded(s)) for s in (1, 1, 2)]
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])


def test_numbers_choose_what_a_generator_that_gives_them_would() -> None:
    similarity = torch.rand(2, 1, 16, 16, generator=seeded(3))
    drawn = points_from_map(similarity, 0.5, 5, 1024, seeded(1))
    chosen = points_from_map(similarity, 0.5, 5, 1024, point_draws(seeded(1), 2, 5))
    assert torch.equal(drawn, chosen)
    ends = points_from_map(similarity, 0.5, 2, 1024, torch.tensor([[0.0, 1.0]]).expand(2, 2))
    first, last = (torch.nonzero(similarity[0, 0] > 0.5)[i].flip(0) for i in (0, -1))
    assert torch.equal(cell_of(ends[0], 16, 1024), torch.stack([first, last]))


def test_where_nothing_is_above_the_threshold_the_maximum_is_taken() -> None:
    similarity = torch.zeros(1, 1, 4, 4)
    similarity[0, 0, 2, 2] = 0.4
    points = points_from_map(similarity, 0.8, 4, 64, seeded(0))
    assert (cell_of(points, 4, 64) == 2).all()


@given(
    st.sampled_from(["random", "constant", "border"]),
    st.integers(1, 256),
    st.integers(1, 256),
    st.integers(0, 1000),
)
def test_points_never_lie_in_the_padding(kind: str, height: int, width: int, seed: int) -> None:
    input_size, patch, size = 256, 32, 64
    side = input_size // patch
    edge = torch.arange(side) * patch
    valid = (edge[:, None] < height) & (edge[None, :] < width)
    dense = random(1, 1 + side**2, 4, seed=seed)
    if kind == "constant":
        dense = torch.ones_like(dense)
    elif kind == "border":
        last = torch.where(valid.flatten())[0][-1]
        dense[0, 1 + last] = 50 * torch.eye(4)[0]
        dense[..., 0].clamp_min_(0.0)
    text = torch.eye(4)[:1]
    signals = make_signals(dense, text, "channel", valid.flatten()[None])
    inside = plane_cells(torch.tensor([[height, width]]), input_size, size)
    similarity = similarity_map(signals, input_size, size)
    points = points_from_map(similarity, 0.8, 20, input_size, seeded(seed), inside)
    cell = input_size / size
    x, y = points[0].unbind(-1)
    assert (x >= 0).all() and (x < max(width, cell)).all()
    assert (y >= 0).all() and (y < max(height, cell)).all()


def test_plane_cells_by_hand() -> None:
    found = plane_cells(torch.tensor([[64, 33], [1, 64]]), 64, 4)
    assert found.shape == (2, 1, 4, 4)
    assert found[0, 0].tolist() == [[True, True, False, False]] * 4
    # A plane one pixel high is thinner than a cell; its first row counts all the same.
    assert found[1, 0].tolist() == [[True] * 4] + [[False] * 4] * 3


# ---------------------------------------------------------------- all prompts of a concept


def padded(seed: int = 0) -> tuple[Signals, Tensor]:
    """Signals of a plane that fills the upper 40 of 64 model pixels, and its height and width."""
    valid = torch.ones(1, 64, dtype=torch.bool)
    valid[:, 40:] = False
    dense = random(1, 65, 4, seed=seed)
    dense[0, 1 + 36] = 50 * torch.eye(4)[0]
    return make_signals(dense, torch.eye(4)[:1], "channel", valid), torch.tensor([[38, 64]])


def test_prompts_of_a_concept_come_from_one_map() -> None:
    signals, resized = padded()
    found = concept_prompts(signals, 64, 32, 0.8, 6, seeded(0), resized)
    inside = plane_cells(resized, 64, 32)
    close(found.similarity, similarity_map(signals, 64, 32) * inside)
    close(found.mask, binary_prompt(found.similarity, 0.8))
    drawn = points_from_map(found.similarity, 0.8, 6, 64, seeded(0), inside)
    close(found.points, drawn)


def test_the_padding_holds_no_prompt_of_a_concept() -> None:
    """The strongest patch lies on the border, a part of it in the padding."""
    signals, resized = padded()
    found = concept_prompts(signals, 64, 32, 0.5, 200, seeded(0), resized)
    assert found.mask[..., :19, :].any() and not found.mask[..., 19:, :].any()
    assert not found.similarity[..., 19:, :].any()
    assert (found.points[..., 1] < 38).all()
    whole = concept_prompts(signals, 64, 32, 0.5, 200, seeded(0))
    assert whole.mask[..., 19:, :].any()


def test_without_an_adapter_the_mask_prompt_is_logits() -> None:
    signals, resized = padded()
    found = concept_prompts(signals, 64, 32, 0.8, 6, seeded(0), resized, as_logits=True)
    assert set(found.mask.unique().tolist()) == {-10.0, 10.0}
    assert torch.equal(found.mask > 0, found.similarity > 0.8)


# ---------------------------------------------------------------- presence


def test_presence_statistics_by_hand() -> None:
    signals = hand_made("channel")
    # Maximum; the top hundredth of four patches is one of them; mean of 0.6, 0, 1, 0.
    close(cosine_statistics(signals), torch.tensor([[1.0, 1.0, 0.4]]))


def test_presence_statistics_of_many_patches_leave_the_padding_out() -> None:
    values = torch.linspace(-1, 1, 400)
    valid = torch.ones(1, 400, dtype=torch.bool)
    valid[0, 300:] = False
    empty = torch.zeros(1, 401, 1)
    signals = Signals(empty, torch.zeros(1, 1), empty, values[None], valid, (20, 20))
    seen = values[:300]
    expected = torch.stack([seen[-1], seen[-3:].mean(), seen.mean()])
    close(cosine_statistics(signals), expected[None])


def test_presence_does_not_depend_on_the_order_of_patches() -> None:
    dense, text = random(1, 17, 4), F.normalize(random(1, 4, seed=1))
    order = torch.cat(
        [torch.zeros(1, dtype=torch.long), 1 + torch.randperm(16, generator=seeded(0))]
    )
    one = cosine_statistics(make_signals(dense, text))
    other = cosine_statistics(make_signals(dense[:, order], text))
    close(one, other)
