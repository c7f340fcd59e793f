"""Which prompts a step asks with: where they lie, what they say, and what is compared."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lessons import SIDE, WINDOWED, tiny_model
from questions import CELL, CORNERS, NEGATIVE, POSITIVE, recorded
from torch import Tensor

from napari_clipsam.adapters.base import AdapterConfig
from napari_clipsam.adapters.inject import Adapter, build_adapter
from napari_clipsam.semantics import concept_prompts, make_signals
from napari_clipsam.training.losses import LossWeights
from napari_clipsam.training.prompting import Conditioned, concept_terms, object_terms
from napari_clipsam.training.views import Batch, large_enough
from napari_clipsam.training.windows import Window

CELLS = SIDE // CELL
LOSS = LossWeights()


def part(row: int, column: int) -> Window:
    """Four by four tokens, 16 x 16 cells."""
    return Window(row, column, 4, WINDOWED.grid, WINDOWED.patch_size)


WHOLE = Window.whole(WINDOWED)
windows = st.builds(part, st.integers(0, 4), st.integers(0, 4)) | st.just(WHOLE)
seeds = st.integers(0, 1 << 16)
few = settings(max_examples=30)


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    model = tiny_model(windowed=True)
    return build_adapter(AdapterConfig(n_conditioned=1), model.sam, model.clip, 0)


def objects_of(ids: Tensor, known: Tensor) -> tuple[tuple[int, ...], ...]:
    return tuple(map(large_enough, ids, known))


def scene(seed: int, views: int = 2) -> Batch:
    """Views with five square objects each, anywhere; the lowest rows are unknown."""
    rng = torch.Generator().manual_seed(seed)
    ids = torch.zeros(views, CELLS, CELLS, dtype=torch.int32)
    for view in ids:
        for number in range(1, 6):
            side = int(torch.randint(3, 8, (), generator=rng))
            y, x = torch.randint(0, CELLS - side, (2,), generator=rng).tolist()
            view[y : y + side, x : x + side] = number
    known = torch.ones(views, CELLS, CELLS)
    known[:, -3:] = 0
    resized = torch.full((views, 2), SIDE)
    return Batch(resized, None, None, None, (ids > 0).float(), known, ids, objects_of(ids, known))


def conditioned(window: Window, present: list[bool], seed: int = 0) -> Conditioned:
    """Views whose embeddings are filled with their numbers, so that prompts tell theirs."""
    rng = torch.Generator().manual_seed(seed)
    count = len(present)
    signals = make_signals(
        torch.randn(count, 65, 16, generator=rng),
        torch.nn.functional.normalize(torch.randn(count, 16, generator=rng), dim=-1),
    )
    numbers = torch.arange(count).view(-1, 1, 1, 1).float()
    embedding = numbers.expand(-1, WINDOWED.out_chans, window.side, window.side).clone()
    named = tuple(present)
    return Conditioned(embedding.requires_grad_(), signals, named, torch.tensor(present), window)


def concept(
    adapter: Adapter, seen: Conditioned, batch: Batch, by_clicks: bool, seed: int = 0
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return concept_terms(adapter, seen, batch, by_clicks, LOSS, generator)


def objects(
    adapter: Adapter, seen: Conditioned, batch: Batch, rounds: int, seed: int, count: int = 3
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return object_terms(adapter, seen, batch, count, rounds, LOSS, generator)


def cells_of(window: Window) -> tuple[slice, slice]:
    """Rows and columns of cells that a window shows."""
    first, last = 4 * window.row, 4 * (window.row + window.side)
    left, right = 4 * window.column, 4 * (window.column + window.side)
    return slice(first, last), slice(left, right)


def inside(window: Window, y: int, x: int) -> bool:
    rows, columns = cells_of(window)
    return rows.start <= y < rows.stop and columns.start <= x < columns.stop


def placed(window: Window, answers: Tensor) -> Tensor:
    """Maps of a window (N, h, w) where they lie in the whole, 0 around."""
    whole = answers.new_zeros(len(answers), CELLS, CELLS)
    whole[(slice(None), *cells_of(window))] = answers
    return whole


# ---------------------------------------------------------------- a word


@few
@given(windows, seeds)
def test_a_word_is_asked_by_the_points_and_the_mask_of_its_map(
    adapter: Adapter, window: Window, seed: int
) -> None:
    seen = conditioned(window, [True, True], seed)
    with recorded() as asked:
        concept(adapter, seen, scene(seed), by_clicks=False, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    config, resized = adapter.config, torch.full((2, 2), SIDE)
    made = concept_prompts(
        seen.signals, SIDE, CELLS, config.map_threshold, config.n_points, generator, resized
    )
    (one,) = asked
    assert torch.equal(one.points[:, :-1], made.points), "where they are in the whole"
    assert (one.labels[:, :-1] == POSITIVE).all() and (one.labels[:, -1] == -1).all()
    assert torch.equal(one.mask, made.mask[(..., *cells_of(window))])
    assert one.shapes == {(window.side, window.side)}
    places = adapter.prompt_encoder.get_dense_pe()
    assert torch.equal(one.places, window.cut(places))
    assert not one.multimask


@few
@given(windows, seeds)
def test_clicks_for_a_word_lie_on_the_structure_that_the_window_shows(
    adapter: Adapter, window: Window, seed: int
) -> None:
    batch = scene(seed)
    shown = batch.concept * batch.known
    # The trainer draws windows that show something of every view it can.
    present = [bool(window.cut(shown[i]).any()) for i in range(2)]
    with recorded() as asked:
        concept(adapter, conditioned(window, present), batch, by_clicks=True, seed=seed)
    for _, view, y, x in asked[0].of(POSITIVE):
        if present[view]:
            assert shown[view, y, x] == 1
            assert inside(window, y, x)
    assert not list(asked[0].of(NEGATIVE))


def test_a_word_gets_one_to_five_clicks_and_one_more_on_the_error(adapter: Adapter) -> None:
    counts = set()
    for seed in range(40):
        with recorded() as asked:
            concept(adapter, conditioned(WHOLE, [True]), scene(0, 1), by_clicks=True, seed=seed)
        first, second = (int((one.labels >= 0).sum()) for one in asked)
        assert second == first + 1
        assert not any(one.multimask for one in asked)
        counts.add(first)
    assert counts == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("everything", [True, False])
@few
@given(window=windows, seed=seeds)
def test_the_mask_of_a_word_is_corrected_where_it_is_wrong(
    adapter: Adapter, everything: bool, window: Window, seed: int
) -> None:
    batch = scene(seed, 1)
    shown = batch.concept * batch.known
    around = (1 - batch.concept) * batch.known
    if not window.cut(shown).any() or not window.cut(around).any():
        return
    side = 4 * window.side
    with recorded(lambda _: torch.full((1, side, side), 9.0 if everything else -9.0)) as asked:
        concept(adapter, conditioned(window, [True]), batch, by_clicks=True, seed=seed)
    given_before = asked[0].labels.shape[1] - 1
    assert torch.equal(asked[1].points[:, :given_before], asked[0].points[:, :-1])
    wanted, wrong = (NEGATIVE, around) if everything else (POSITIVE, shown)
    assert asked[1].labels[0, given_before] == wanted
    _, _, y, x = list(asked[1].of(wanted))[-1]
    assert wrong[0, y, x] == 1 and inside(window, y, x)


def test_what_is_unknown_is_no_error(adapter: Adapter) -> None:
    batch = scene(3, 1)
    known = torch.zeros_like(batch.known)
    known[0] = batch.concept[0]
    rest = batch.concept, known, batch.ids, objects_of(batch.ids, known)
    batch = Batch(batch.resized, None, None, None, *rest)
    # All that is known is right, whatever lies around it.
    with recorded(lambda one: torch.full((1, CELLS, CELLS), 9.0)) as asked:
        concept(adapter, conditioned(WHOLE, [True]), batch, by_clicks=True)
    assert not list(asked[1].of(NEGATIVE))
    for _, _, y, x in asked[1].of(POSITIVE):
        assert batch.concept[0, y, x] == 1


@pytest.mark.parametrize("by_clicks", [True, False])
def test_an_absent_word_teaches_presence_alone(adapter: Adapter, by_clicks: bool) -> None:
    terms = concept(adapter, conditioned(WHOLE, [False, False]), scene(0), by_clicks)
    assert set(terms) == {"presence"}
    assert torch.isfinite(terms["presence"])


@few
@given(windows, seeds)
def test_an_absent_word_keeps_to_the_points_of_its_map(
    adapter: Adapter, window: Window, seed: int
) -> None:
    seen = conditioned(window, [True, False], seed)
    with recorded() as asked:
        concept(adapter, seen, scene(seed), by_clicks=True, seed=seed)
    similarity = concept_prompts(
        seen.signals, SIDE, CELLS, adapter.config.map_threshold, 1, torch.Generator()
    ).similarity
    for _, view, y, x in asked[0].of(POSITIVE):
        if view == 1:
            assert similarity[1, 0, y, x] > adapter.config.map_threshold or (
                similarity[1, 0, y, x] == similarity[1].max()
            )


@pytest.mark.parametrize("by_clicks", [True, False])
def test_views_without_the_word_do_not_count_for_the_mask(
    adapter: Adapter, by_clicks: bool
) -> None:
    alone = scene(5)
    changed = scene(5)
    changed.concept[1] = 1 - changed.concept[1]
    seen = conditioned(WHOLE, [True, False])
    one, other = (concept(adapter, seen, batch, by_clicks) for batch in (alone, changed))
    assert one.keys() == other.keys() == {"mask", "quality", "presence"}
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


# ---------------------------------------------------------------- objects


@few
@given(windows, seeds)
def test_objects_are_asked_by_a_click_inside_or_a_box_around(
    adapter: Adapter, window: Window, seed: int
) -> None:
    batch = scene(seed)
    with recorded() as asked:
        objects(adapter, conditioned(window, [True, True]), batch, 1, seed)
    for one in asked:
        clicked = {prompt: (view, y, x) for prompt, view, y, x in one.of(POSITIVE)}
        for view, y, x in clicked.values():
            assert batch.ids[view, y, x] > 0 and batch.known[view, y, x] == 1
            assert inside(window, y, x)
        for prompt, view in enumerate(one.view.tolist()):
            is_corner = torch.isin(one.labels[prompt], torch.tensor(CORNERS))
            if not is_corner.any():
                assert prompt in clicked
                continue
            numbers = batch.ids[view].unique()[1:].tolist()
            if prompt in clicked:
                numbers = [int(batch.ids[clicked[prompt]])]
            corners = one.points[prompt][is_corner]
            assert any(surrounds(corners, batch, view, window, n) for n in numbers)


def surrounds(corners: Tensor, batch: Batch, view: int, window: Window, number: int) -> bool:
    """Whether a box is that of an object as the window shows it, give or take a tenth."""
    there = placed(window, window.cut((batch.ids == number) * batch.known)[view][None])[0]
    if there.sum() < 4:
        return False
    for axis in (0, 1):
        line = there.any(dim=axis).nonzero()[:, 0]
        first, last = CELL * int(line[0]), CELL * (int(line[-1]) + 1)
        slack = 0.1 * (last - first) + 1e-3
        low, high = corners[:, axis].tolist()
        start = (window.column, window.row)[axis] * window.patch
        if abs(low - first) > slack or abs(high - last) > slack:
            return False
        if not start <= low <= high <= start + window.pixels:
            return False
    return True


@few
@given(windows, seeds, st.sampled_from([(True, False), (False, True), (False, False)]))
def test_objects_are_those_of_views_that_show_their_word(
    adapter: Adapter, window: Window, seed: int, present: tuple[bool, bool]
) -> None:
    with recorded() as asked:
        terms = objects(adapter, conditioned(window, list(present)), scene(seed), 1, seed)
    assert all(present[view] for one in asked for view in one.view.tolist())
    assert set(terms) == ({"object", "object_quality"} if asked else set())
    if present == (False, False):
        assert not asked


def test_no_view_gives_more_objects_than_asked_for(adapter: Adapter) -> None:
    with recorded() as asked:
        objects(adapter, conditioned(WHOLE, [True, True]), scene(1), 1, 0, count=2)
    assert asked[0].view.tolist() == [0, 0, 1, 1]


def test_unknown_and_tiny_objects_are_not_asked_for(adapter: Adapter) -> None:
    ids = torch.zeros(1, CELLS, CELLS, dtype=torch.int32)
    ids[0, 4, 4:7] = 1  # three cells
    ids[0, 20:26, 20:26] = 2
    known = torch.ones(1, CELLS, CELLS)
    known[0, 16:] = 0
    rest = (ids > 0).float(), known, ids, objects_of(ids, known)
    batch = Batch(torch.full((1, 2), SIDE), None, None, None, *rest)
    assert not objects(adapter, conditioned(WHOLE, [True]), batch, 2, 0)


def test_only_a_lone_click_may_mean_several_things(adapter: Adapter) -> None:
    ways = set()
    for seed in range(40):
        with recorded() as asked:
            objects(adapter, conditioned(part(2, 2), [True]), scene(0, 1), 3, seed)
        for number, one in enumerate(asked):
            prompts = one.labels[0][one.labels[0] >= 0].tolist()
            assert one.multimask == (prompts == [POSITIVE])
            if number == 0:
                ways.add(tuple(prompts))
    assert ways == {(POSITIVE,), CORNERS, (POSITIVE, *CORNERS)}


@pytest.mark.parametrize("everything", [True, False])
@few
@given(window=windows, seed=seeds)
def test_objects_are_corrected_where_their_masks_are_wrong(
    adapter: Adapter, everything: bool, window: Window, seed: int
) -> None:
    batch = scene(seed)
    side = 4 * window.side
    value = 99.0 if everything else -99.0
    with recorded(lambda one: torch.full((len(one.view), side, side), value)) as asked:
        objects(adapter, conditioned(window, [True, True]), batch, 3, seed)
    assert len(asked) in (0, 3)
    for number, one in enumerate(asked):
        if number == 0:
            assert one.mask is None
        else:
            assert one.mask.shape == (len(one.view), 1, side, side)
            assert (one.mask == max(-32.0, min(value, 32.0))).all()
            assert not one.mask.requires_grad
        assert one.shapes == {(window.side, window.side)}
        surplus = list(one.of(NEGATIVE))
        assert len(surplus) == (number * len(one.view) if everything else 0)
        for prompt, view, y, x in surplus:
            assert inside(window, y, x) and batch.known[view, y, x] == 1
            hit = {int(batch.ids[v, r, c]) for p, v, r, c in one.of(POSITIVE) if p == prompt}
            assert int(batch.ids[view, y, x]) not in hit, "beside the object that was clicked"
        for prompt in range(len(one.view)):
            hit = {int(batch.ids[v, r, c]) for p, v, r, c in one.of(POSITIVE) if p == prompt}
            assert len(hit) <= 1, "all on one object"
            assert 0 not in hit


@few
@given(windows)
def test_gradients_reach_the_embedding_and_the_decoder(adapter: Adapter, window: Window) -> None:
    batch, seen = scene(1), conditioned(window, [True, True])
    terms = concept(adapter, seen, batch, by_clicks=True) | objects(adapter, seen, batch, 2, 0)
    adapter.zero_grad()
    torch.stack(list(terms.values())).sum().backward()
    assert seen.embedding.grad is not None and seen.embedding.grad.abs().sum() > 0
    assert any(p.grad is not None and p.grad.any() for p in adapter.mask_decoder.parameters())


# ---------------------------------------------------------------- structures that cover most


def test_of_a_structure_that_covers_most_the_gaps_are_found(adapter: Adapter) -> None:
    """Marking everything costs what missing a structure does, not what a few gaps do."""
    structure, seen = scene(0), conditioned(WHOLE, [True, True])
    covering = replace(structure, concept=1 - structure.concept)
    assert (covering.concept * covering.known).mean() > 0.5
    marked = torch.full((2, CELLS, CELLS), 8.0)
    with recorded(lambda asked: marked):
        with_gaps = concept(adapter, seen, covering, by_clicks=False)["mask"]
    with recorded(lambda asked: -marked):
        missed = concept(adapter, seen, structure, by_clicks=False)["mask"]
    torch.testing.assert_close(with_gaps, missed)
