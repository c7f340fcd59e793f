"""A refiner learns on labelled planes what a word's structure looks like."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from lessons import example, tiny_model

from napari_clipsam.adapters.base import AdapterConfig
from napari_clipsam.adapters.inject import Adapter, build_adapter
from napari_clipsam.errors import Stopped
from napari_clipsam.models.refiner import ConceptRefiner
from napari_clipsam.models.registry import LoadedModel
from napari_clipsam.training import concept_refining
from napari_clipsam.training.concept_refining import RefinerLearner, first_refiner, refine
from napari_clipsam.training.concept_windows import KEPT, ConceptWindows
from napari_clipsam.training.events import TrainEvent
from napari_clipsam.training.pacing import Pace
from napari_clipsam.training.samples import Example
from napari_clipsam.training.settings import FitSettings

SETTINGS = FitSettings(minutes=None, steps=40)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny_model()


@pytest.fixture(scope="module")
def adapter(model: LoadedModel) -> Adapter:
    made = build_adapter(AdapterConfig(n_conditioned=1), model.sam, model.clip, seed=0)
    made.teach("blobs")
    return made


def a_refiner(seed: int = 0) -> ConceptRefiner:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ConceptRefiner((8, 16))


def disks(known: int = 255) -> ConceptWindows:
    """Bright disks that the adapter marks as squares; `known` of the left half."""
    rows, cols = np.indices((KEPT, 2 * KEPT))
    disk = ((rows % 48 - 24) ** 2 + (cols % 48 - 24) ** 2 < 200) * 255
    square = ((abs(rows % 48 - 24) < 20) & (abs(cols % 48 - 24) < 20)) * 255
    all_known = np.full_like(disk, 255)
    all_known[:, :KEPT] = known
    maps = np.stack([disk, disk, disk, square, square, disk, all_known]).astype(np.uint8)
    return ConceptWindows([maps], 4, 0, torch.device("cpu"))


def test_it_learns_to_draw_what_the_pixels_show() -> None:
    learner = RefinerLearner(disks(), a_refiner(), replace(SETTINGS, rate=1e-2))
    losses = [float(learner.step(i / 40)["loss"]) for i in range(40)]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def test_pixels_that_are_not_known_teach_nothing() -> None:
    windows = disks(known=0)
    learner = RefinerLearner(windows, a_refiner(), SETTINGS)
    seen = windows.draw()
    other = [one.clone() for one in seen]
    for one in other:
        one[5] = torch.where(one[6] > 0.99, one[5], 1 - one[5])
    assert any(not torch.equal(a, b) for a, b in zip(seen, other, strict=True))
    assert torch.equal(learner.terms(seen, 0)["loss"], learner.terms(other, 0)["loss"])


def test_it_goes_on_from_what_redrew_concepts_before(
    model: LoadedModel, adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, base = a_refiner(1), a_refiner(2)
    taught = build_adapter(adapter.config, model.sam, model.clip, seed=0).with_refiner(own)
    monkeypatch.setattr(model.sam, "concept_refiner", base)

    def same(one: ConceptRefiner, other: ConceptRefiner) -> bool:
        pairs = zip(one.parameters(), other.parameters(), strict=True)
        return all(torch.equal(a, b) and a is not b for a, b in pairs)

    assert same(first_refiner(model.sam, taught, 0), own)
    assert same(first_refiner(model.sam, adapter, 0), base)
    assert same(first_refiner(model.sam, None, 0), base)
    monkeypatch.setattr(model.sam, "concept_refiner", None)
    assert same(first_refiner(model.sam, None, 0), first_refiner(model.sam, adapter, 0))
    assert all(p.requires_grad for p in first_refiner(model.sam, None, 0).parameters())


def run(
    model: LoadedModel, adapter: Adapter, examples: list[Example], pace: Pace, stops: int = 0
) -> tuple[int, ConceptRefiner | None]:
    """Events of a run that is stopped when it was asked so often, and the refiner."""
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == stops:
            raise Stopped("Enough.")

    events, tell = 0, lambda: TrainEvent("refine")
    parts = refine(model, adapter, a_refiner(), examples, SETTINGS, pace, check, tell)
    while True:
        try:
            next(parts)
            events += 1
        except StopIteration as end:
            return events, end.value


def test_it_takes_its_share_of_the_steps(model: LoadedModel, adapter: Adapter) -> None:
    pace = Pace(SETTINGS)
    pace.step = 20
    events, refiner = run(model, adapter, [example(0), example(1)], pace)
    assert pace.step == 20 + round(concept_refining.REFINE_SHARE * 40)
    assert events >= 2
    assert refiner is not None and not refiner.training
    assert not any(p.requires_grad for p in refiner.parameters())
    before = a_refiner().state_dict()
    assert any(not torch.equal(before[name], v) for name, v in refiner.state_dict().items())


def test_where_nothing_is_to_be_seen_nothing_is_refined(
    model: LoadedModel, adapter: Adapter
) -> None:
    pace = Pace(SETTINGS)
    blank = replace(example(0), labels=np.zeros((64, 64), np.uint16))
    assert run(model, adapter, [blank], pace)[1] is None
    assert pace.step == 0


def test_it_stops_when_asked(model: LoadedModel, adapter: Adapter) -> None:
    pace = Pace(SETTINGS)
    with pytest.raises(Stopped):
        run(model, adapter, [example(0)], pace, stops=10)
    assert pace.step < 10


def test_a_loss_that_is_not_finite_leaves_no_refiner(
    model: LoadedModel, adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = RefinerLearner.terms
    monkeypatch.setattr(concept_refining, "_TELL_SECONDS", 0.0)
    monkeypatch.setattr(
        RefinerLearner, "terms", lambda *a: {"loss": terms(*a)["loss"] * float("nan")}
    )
    assert run(model, adapter, [example(0)], Pace(SETTINGS))[1] is None
