"""How much of what was learnt is kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lessons import example, tiny_model

from napari_clipsam.adapters.base import AdapterConfig
from napari_clipsam.adapters.inject import Adapter, build_adapter
from napari_clipsam.models.registry import LoadedModel
from napari_clipsam.training.events import Preview
from napari_clipsam.training.scoring import Scorer, Scores
from napari_clipsam.training.settling import SHARES, blend, settle


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny_model()


def adapter_at(model: LoadedModel, level: float) -> Adapter:
    """An adapter with a taught word, all weights the same."""
    adapter = build_adapter(AdapterConfig(n_conditioned=1), model.sam, model.clip, seed=0)
    adapter.teach("blobs")
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.fill_(level)
    return adapter.requires_grad_(False)


def share_of(adapter: Adapter) -> float:
    """How far an adapter is on the way from 0 to 1."""
    return float(adapter.presence.bias)


class Table(Scorer):
    """Scores that depend on how much was kept alone."""

    def __init__(self, planes: int, score: Callable[[float], float]) -> None:
        self.examples = tuple(example(i) for i in range(planes))
        self.score = score

    def measure(self, adapter: Adapter | None) -> Scores:
        assert adapter is not None
        first = self.examples[0]
        return Scores(self.score(share_of(adapter)), None, (), Preview(first, first.labels > 0))


def settled(
    model: LoadedModel, held_out: Table, learnt: Table, baseline: float = 0.0
) -> tuple[float, float]:
    """Share that is kept and its score on what is held out."""
    begin, best = adapter_at(model, 0.0).state_dict(), adapter_at(model, 1.0)
    scores = held_out.measure(best)
    adapter, found, share = settle(begin, best, scores, held_out, learnt, baseline)
    assert share_of(adapter) == pytest.approx(share)
    assert found.total == held_out.score(share)
    return share, found.total


def test_the_least_that_is_as_good_is_kept(model: LoadedModel) -> None:
    flat = Table(1, lambda share: 0.9), Table(4, lambda share: 0.95)
    assert settled(model, *flat) == (SHARES[0], 0.9)


def test_all_is_kept_where_less_is_worse(model: LoadedModel) -> None:
    rising = Table(1, lambda share: 0.5 + 0.4 * share), Table(4, lambda share: share)
    assert settled(model, *rising) == (1.0, 0.9)


def test_outlines_closer_than_two_people_draw_them_are_not_asked_for(model: LoadedModel) -> None:
    close = Table(2, lambda share: 0.941 if share < 1 else 0.999)
    assert settled(model, close, close)[0] == SHARES[0]


def test_planes_that_were_learnt_from_count_as_those_held_out(model: LoadedModel) -> None:
    dented = Table(1, lambda share: 0.94 if share < 1 else 0.96)
    kept, _ = settled(model, dented, Table(4, lambda share: 0.9))
    assert kept == SHARES[0]


@given(st.floats(0.2, 1.0), st.floats(0.0, 1.0))
def test_what_is_kept_beats_what_was_there(
    model: LoadedModel, needed: float, elsewhere: float
) -> None:
    held_out = Table(1, lambda share: 0.8 if share >= needed else 0.1)
    _, score = settled(model, held_out, Table(7, lambda share: elsewhere), baseline=0.1)
    assert score > 0.1


def test_a_blend_lies_between_and_words_keep_their_vectors(model: LoadedModel) -> None:
    begin, end = adapter_at(model, 2.0).state_dict(), adapter_at(model, 4.0)
    between = blend(begin, end, 0.25)
    delta = between.delta("blobs")
    assert delta is not None and delta.eq(4.0).all()
    assert all(
        value.eq(2.5).all()
        for name, value in between.named_parameters()
        if not name.startswith("deltas.")
    )
    assert share_of(end) == 4.0


def test_words_that_began_without_a_vector_are_no_trouble(model: LoadedModel) -> None:
    begin = build_adapter(AdapterConfig(n_conditioned=1), model.sam, model.clip, seed=0)
    between = blend(begin.state_dict(), adapter_at(model, 1.0), 0.5)
    assert between.taught == ("blobs",)
