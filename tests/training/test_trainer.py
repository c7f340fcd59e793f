"""Training for real, on networks so small that it takes seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from lessons import example, split, tiny_model
from torch import Tensor

from napari_clipsam.adapters.base import AdapterConfig
from napari_clipsam.adapters.files import load_adapter, round_as_stored, save_adapter
from napari_clipsam.adapters.inject import Adapter, build_adapter
from napari_clipsam.errors import ConfigError, Stopped, WeightsError
from napari_clipsam.models.refiner import ConceptRefiner
from napari_clipsam.models.registry import LoadedModel
from napari_clipsam.training import trainer
from napari_clipsam.training.events import TrainEvent, TrainResult
from napari_clipsam.training.learner import HeadLearner
from napari_clipsam.training.material import Material
from napari_clipsam.training.samples import Split
from napari_clipsam.training.scoring import Scorer, held_out_scores
from napari_clipsam.training.settings import FitSettings
from napari_clipsam.training.settling import SHARES
from napari_clipsam.training.starting import prepare_adapter
from napari_clipsam.training.trainer import fit
from napari_clipsam.training.words import WordLearner

QUICK = FitSettings(minutes=None, steps=60, rate=3e-2, views=2)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny_model()


@pytest.fixture(scope="module")
def run(model: LoadedModel) -> list[TrainEvent]:
    """One whole run that others look at."""
    return list(fit(model, split(), QUICK))


def result_of(events: list[TrainEvent]) -> TrainResult:
    assert events[-1].stage == "done" and events[-1].result is not None
    return events[-1].result


def weights(adapter: Adapter) -> dict[str, torch.Tensor]:
    return adapter.state_dict()


def same(one: Adapter, other: Adapter) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---------------------------------------------------------------- what is learnt


def test_the_held_out_score_rises(run: list[TrainEvent]) -> None:
    result = result_of(run)
    assert result.improved
    assert result.best >= result.baseline + 0.3
    assert result.best > 0.6
    assert result.measure == "Dice"


def test_objects_are_learnt_as_well(model: LoadedModel) -> None:
    result = result_of(list(fit(model, split(), replace(QUICK, goal="both", steps=80))))
    assert result.best > result.baseline
    assert result.measure == "Dice and IoU"
    assert result.adapter.config.own_objects
    assert set(result.adapter.info.scores["after"]) == {"dice", "iou"}


def test_an_adapter_for_a_word_leaves_objects_to_the_base(run: list[TrainEvent]) -> None:
    config = result_of(run).adapter.config
    assert not config.own_objects and not config.conditioned_objects


def test_nothing_of_the_base_is_changed(model: LoadedModel) -> None:
    fresh = tiny_model()
    list(fit(model, split(), replace(QUICK, steps=4)))
    for network, before in ((model.sam, fresh.sam), (model.clip, fresh.clip)):
        for name, value in network.state_dict().items():
            assert torch.equal(value, before.state_dict()[name]), name


def test_it_goes_on_from_an_adapter_which_stays_as_it_was(
    model: LoadedModel, run: list[TrainEvent]
) -> None:
    start = result_of(run).adapter
    before = {name: value.clone() for name, value in weights(start).items()}
    result = result_of(list(fit(model, split(), replace(QUICK, steps=4), start)))
    assert result.baseline == pytest.approx(result_of(run).best)
    assert all(torch.equal(before[name], value) for name, value in weights(start).items())


def test_words_taught_before_stay_known(model: LoadedModel, run: list[TrainEvent]) -> None:
    start = result_of(run).adapter
    result = result_of(list(fit(model, split(words=("squares",)), QUICK, start)))
    assert result.improved
    assert result.adapter.info.words == ("blobs", "squares")
    assert set(result.adapter.taught) == {"blobs", "squares"}


def test_several_words_name_the_same(model: LoadedModel) -> None:
    words = ("blobs", "blob")
    result = result_of(list(fit(model, split(words=words), replace(QUICK, steps=30))))
    assert result.adapter.info.words[-1] == "blobs", "the first is the one that answers"
    assert set(result.adapter.taught) == set(words)


@pytest.mark.parametrize(
    "changes",
    [
        {"semantics": False},
        {"kind": "lora"},
        {"blocks": False},
        {"init": "paper"},
        {"n_conditioned": 3},
        {"clip_tuning": "none"},
        {"clip_tuning": "attention"},
        {"concept_prompts": "clicks"},
        {"concept_prompts": "both"},
        {"goal": "object"},
        {"cache_trunk": False},
    ],
)
def test_every_variant_trains(model: LoadedModel, changes: dict) -> None:
    events = list(fit(model, split(), replace(QUICK, steps=6, **changes)))
    losses = [event.losses["loss"] for event in events if "loss" in event.losses]
    assert losses and np.isfinite(losses).all()
    assert result_of(events).reason == "budget"


def test_without_blocks_only_the_decoder_moves(model: LoadedModel) -> None:
    settings = replace(QUICK, blocks=False, clip_tuning="none", steps=20)
    result = result_of(list(fit(model, split(), settings)))
    assert result.improved
    start = prepare_adapter(model, None, settings, 4)
    round_as_stored(start)
    for name, value in start.state_dict().items():
        is_kept = torch.equal(value, weights(result.adapter)[name])
        assert is_kept or not name.startswith("blocks."), name
    token = "mask_decoder.mask_tokens.weight"
    assert not torch.equal(weights(start)[token], weights(result.adapter)[token])


# ---------------------------------------------------------------- what is told


def test_events_tell_a_whole_story(run: list[TrainEvent]) -> None:
    assert [e.stage for e in run if e.result] == ["done"]
    progress = [event.progress for event in run]
    assert progress == sorted(progress) and progress[-1] == 1.0
    steps = [event.step for event in run]
    assert steps == sorted(steps) and steps[-1] == QUICK.steps
    first = next(event for event in run if event.score is not None)
    assert first.score == first.baseline == result_of(run).baseline
    assert first.preview is not None and first.preview.mask.shape == (64, 64)
    bests = [event.best for event in run if event.best is not None]
    assert bests == sorted(bests) and bests[-1] == result_of(run).best


def test_a_preview_comes_with_every_new_best(run: list[TrainEvent]) -> None:
    best = run[1].baseline
    for event in run[2:-1]:
        if event.score is not None:
            assert (event.preview is not None) == (event.score > best)
            best = max(best, event.score)


def test_notes_of_the_split_are_passed_on(model: LoadedModel) -> None:
    noted = replace(split(), notes=("Slice 9 was left out.",))
    events = fit(model, noted, replace(QUICK, steps=1))
    assert "Slice 9 was left out." in next(events).note


def test_the_adapter_says_how_it_was_made(run: list[TrainEvent]) -> None:
    info = result_of(run).adapter.info
    assert info.words == ("blobs",)
    assert info.provenance["settings"]["steps"] == QUICK.steps
    assert info.provenance["share"] in (*SHARES, 1.0)
    assert info.provenance["planes"] == ["stack Z=0", "stack Z=1", "stack Z=2"]
    assert info.scores["tested_on"] == "slice 3"
    assert info.scores["after"]["dice"] == pytest.approx(result_of(run).best)


def test_scores_hold_for_the_file_as_saved(
    model: LoadedModel, run: list[TrainEvent], tmp_path: Path
) -> None:
    result = result_of(run)
    path = save_adapter(result.adapter, tmp_path / "taught.safetensors")
    again = load_adapter(path, model.sam, model.clip)
    assert held_out_scores(model, again, split().held_out, "concept")["dice"] == result.best
    assert again.info == result.adapter.info


def test_the_taught_word_is_known_and_found(model: LoadedModel, run: list[TrainEvent]) -> None:
    from napari_clipsam.inference.segmenter import Segmenter
    from napari_clipsam.prompts import Prompts

    segmenter = Segmenter(model, result_of(run).adapter, "cpu")
    assert segmenter.known_words == ["blobs"]
    segmenter.set_plane(example(7).plane)
    found = segmenter.predict(Prompts(text="blobs"))
    assert found.match and found.presence is not None and found.threshold is not None


# ---------------------------------------------------------------- stopping and going on


def test_the_same_seed_gives_the_same_adapter(model: LoadedModel) -> None:
    settings = replace(QUICK, steps=10)
    one, other = (result_of(list(fit(model, split(), settings))) for _ in range(2))
    assert same(one.adapter, other.adapter)
    assert one.adapter.info == other.adapter.info
    different = result_of(list(fit(model, split(), replace(settings, seed=1))))
    assert not same(one.adapter, different.adapter)


def test_a_stop_keeps_the_best_within_a_second(model: LoadedModel) -> None:
    asked: list[float] = []

    def stop() -> bool:
        return bool(asked)

    settings = replace(QUICK, steps=300)
    events = []
    for event in fit(model, split(), settings, stop=stop):
        events.append(event)
        if event.best is not None and event.best > 0.5 and not asked:
            asked.append(time.perf_counter())
    # Twice the promise, for machines on which others compute, too.
    assert time.perf_counter() - asked[0] < 2.0
    result = result_of(events)
    assert result.reason == "stopped"
    assert result.improved and result.best > 0.5
    assert result.adapter.info.words == ("blobs",)


def test_a_stop_at_the_end_asks_for_no_more_words(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    presences = trainer.Scorer.presences
    at_end: list[int] = []

    def stopped(self: trainer.Scorer, *about: Any) -> list[float]:
        at_end.append(0)
        found = presences(self, *about)
        at_end.append(len(found))
        return found

    monkeypatch.setattr(trainer.Scorer, "presences", stopped)
    settings = replace(QUICK, steps=4)
    result = result_of(list(fit(model, split(), settings, stop=lambda: bool(at_end))))
    assert at_end == [0, 0]
    assert result.reason == "budget" and 0 < result.adapter.info.threshold <= 0.5


def test_a_stop_before_anything_was_measured_says_so(model: LoadedModel) -> None:
    with pytest.raises(Stopped):
        list(fit(model, split(), QUICK, stop=lambda: True))


def test_a_budget_of_minutes_is_kept(model: LoadedModel) -> None:
    start = time.perf_counter()
    result = result_of(list(fit(model, split(), replace(QUICK, steps=None, minutes=0.03))))
    assert time.perf_counter() - start < 6
    assert result.reason == "budget"


def test_settling_is_left_out_where_it_would_take_long(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = trainer.Scorer.measure

    def slow(self: trainer.Scorer, adapter: Adapter | None, redrawn: bool = True) -> Any:
        time.sleep(0.4)
        return measure(self, adapter, redrawn)

    monkeypatch.setattr(trainer.Scorer, "measure", slow)
    settled: list[int] = []
    monkeypatch.setattr(trainer, "settle", lambda *_: settled.append(1))
    list(fit(model, split(), replace(QUICK, steps=None, minutes=0.05)))
    assert not settled


def test_way_is_given_between_steps(model: LoadedModel) -> None:
    calls: list[int] = []
    list(fit(model, split(), replace(QUICK, steps=5), give_way=lambda: calls.append(1)))
    assert len(calls) > 10


def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(
    model: LoadedModel, tmp_path: Path
) -> None:
    settings = replace(QUICK, steps=16)
    whole = result_of(list(fit(model, split(), settings)))
    state = tmp_path / "run.pt"
    for cut in (2, 9):  # while the words are learnt, and afterwards
        state.unlink(missing_ok=True)
        reached = 0
        asked = threading.Event()
        for event in fit(model, split(), settings, checkpoint=state, stop=asked.is_set):
            reached = event.step
            if reached >= cut:
                asked.set()
        assert state.exists() and reached < 16
        resumed = result_of(list(fit(model, split(), settings, checkpoint=state, resume=True)))
        assert same(resumed.adapter, whole.adapter), cut
        assert resumed.best == whole.best


def test_a_stop_within_a_step_is_made_good(
    model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(QUICK, steps=50, views=1)
    whole = result_of(list(fit(model, split(), settings)))
    state = tmp_path / "run.pt"
    asked = threading.Event()
    signals = Material.signals

    def stopping(material: Material, *about: Any) -> Any:
        # After the draws of the step, before any of its blocks.
        if reached[0] >= 31:
            asked.set()
        return signals(material, *about)

    reached = [0]
    monkeypatch.setattr(trainer, "_TELL_SECONDS", 0.0)
    monkeypatch.setattr(Material, "signals", stopping)
    for event in fit(model, split(), settings, checkpoint=state, stop=asked.is_set):
        reached[0] = event.step
    assert result_of([event]).reason == "stopped" and result_of([event]).resumable
    monkeypatch.setattr(Material, "signals", signals)
    resumed = result_of(list(fit(model, split(), settings, checkpoint=state, resume=True)))
    assert same(resumed.adapter, whole.adapter)
    scored = [[e.step for e in r.curve if e.score is not None and e.step] for r in (whole, resumed)]
    assert scored[0] == scored[1]


def test_a_run_goes_on_with_more_time(model: LoadedModel, tmp_path: Path) -> None:
    state = tmp_path / "run.pt"
    list(fit(model, split(), replace(QUICK, steps=20), checkpoint=state))
    longer = replace(QUICK, steps=60)
    events = list(fit(model, split(), longer, checkpoint=state, resume=True))
    assert result_of(events).facts["steps"] == 60
    later = [event.progress for event in events if event.step > 20]
    assert later == sorted(later) and 0.3 < later[0] < 0.5


def test_a_state_of_another_run_is_refused(model: LoadedModel, tmp_path: Path) -> None:
    state = tmp_path / "run.pt"
    list(fit(model, split(), replace(QUICK, steps=2), checkpoint=state))
    with pytest.raises(ConfigError, match="other images"):
        list(fit(model, split(2), replace(QUICK, steps=2), checkpoint=state, resume=True))
    state.write_bytes(state.read_bytes()[:200])
    with pytest.raises(WeightsError, match="damaged"):
        list(fit(model, split(), replace(QUICK, steps=2), checkpoint=state, resume=True))


def test_without_space_for_the_state_training_goes_on_and_says_so(
    model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "_SAVE_SECONDS", 0.0)

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    events = list(fit(model, split(), QUICK, checkpoint=tmp_path / "run.pt"))
    notes = [event.note for event in events if event.note]
    assert len(notes) == 1 and "No space left" in notes[0]
    assert result_of(events).improved and not result_of(events).resumable
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- what is redrawn


def bare(result: TrainResult) -> bool:
    """Whether an adapter has no refiner of its own."""
    config = result.adapter.config
    return not (config.redrawn_concepts or config.refiner_widths or result.adapter.concept_refiner)


def test_what_a_word_marks_is_redrawn_where_that_is_better(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Truth(ConceptRefiner):
        """Draws what is bright, as the labels are."""

        def forward(self, x: Tensor) -> Tensor:
            return x[:, 0] - 1

    def perfect(*_: Any) -> Generator[TrainEvent, None, ConceptRefiner]:
        yield TrainEvent("refine")
        return Truth((8, 16))

    monkeypatch.setattr(trainer, "refine", perfect)
    events = list(fit(model, split(), replace(QUICK, steps=20)))
    result = result_of(events)
    last = [event for event in events if event.stage == "refine"][-1]
    assert result.best == last.score and last.score > 0.9
    assert isinstance(result.adapter.concept_refiner, Truth)
    assert result.adapter.config.redrawn_concepts
    assert last.preview is not None and last.preview.mask.any()


def test_a_refiner_that_draws_worse_is_not_kept(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Nothing(ConceptRefiner):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, 0] * 0 - 1

    def useless(*_: Any) -> Generator[TrainEvent, None, ConceptRefiner]:
        yield TrainEvent("refine")
        return Nothing((8, 16))

    monkeypatch.setattr(trainer, "refine", useless)
    result = result_of(list(fit(model, split(), QUICK)))
    assert bare(result) and result.improved and result.best > 0.6


@pytest.mark.parametrize("changes", [{"refine": False}, {"goal": "object"}])
def test_nothing_is_refined_where_it_is_not_wanted(model: LoadedModel, changes: dict) -> None:
    events = list(fit(model, split(), replace(QUICK, steps=8, **changes)))
    assert bare(result_of(events))
    assert not any(event.stage == "refine" for event in events)
    assert result_of(events).facts["steps"] == 8


def test_a_start_with_a_refiner_is_beaten_as_its_users_see_it(
    model: LoadedModel, run: list[TrainEvent]
) -> None:
    start = result_of(run).adapter
    assert start.config.redrawn_concepts, "else this tells nothing"
    scorer = Scorer(model, split().held_out, "concept")
    redrawn, plain = scorer.measure(start).total, scorer.measure(start, redrawn=False).total
    assert redrawn != plain
    result = result_of(list(fit(model, split(), replace(QUICK, steps=12), start)))
    assert result.baseline == redrawn
    assert result.best >= redrawn


def test_a_stop_while_it_refines_keeps_what_was_taught(model: LoadedModel) -> None:
    asked = threading.Event()
    for event in fit(model, split(), QUICK, stop=asked.is_set):
        if event.stage == "refine":
            asked.set()
    result = result_of([event])
    assert result.reason == "stopped" and result.improved and bare(result)
    trained = [e.score for e in result.curve if e.stage == "train" and e.score is not None]
    assert result.best >= 0.9 * max(trained)


# ---------------------------------------------------------------- when it does not go well


def test_when_nothing_is_better_the_start_is_kept(
    model: LoadedModel, run: list[TrainEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WordLearner, "fit_vectors", lambda self: None)
    start = result_of(run).adapter
    settings = replace(QUICK, rate=1e-9, steps=200, patience=3)
    events = list(fit(model, split(), settings, start))
    result = result_of(events)
    assert result.reason == "no better" and not result.improved
    assert result.best == result.baseline
    assert result.adapter.info == start.info
    for name, value in weights(start).items():
        assert torch.equal(value, weights(result.adapter)[name]), name


def test_a_run_that_goes_on_is_given_up_when_it_would_have_been(
    model: LoadedModel, run: list[TrainEvent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WordLearner, "fit_vectors", lambda self: None)
    monkeypatch.setattr(trainer, "_TELL_SECONDS", 0.0)
    start, state = result_of(run).adapter, tmp_path / "run.pt"
    settings = replace(QUICK, rate=1e-9, patience=3)
    whole = result_of(list(fit(model, split(), settings, start)))
    asked = threading.Event()
    for event in fit(model, split(), settings, start, state, stop=asked.is_set):
        if event.step == 13:  # with two scores to go
            asked.set()
    resumed = result_of(list(fit(model, split(), settings, start, state, resume=True)))
    assert whole.reason == resumed.reason == "no better"
    assert whole.facts["steps"] == resumed.facts["steps"] == 18
    assert [e.stage for e in resumed.curve] == [e.stage for e in whole.curve]


def test_when_nothing_beats_the_base_the_best_that_was_trained_comes_back(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = trainer.Scorer.measure

    def base_is_best(self: trainer.Scorer, adapter: Adapter | None, redrawn: bool = True) -> Any:
        scores = measure(self, adapter, redrawn)
        return replace(scores, dice=0.99) if adapter is None else scores

    monkeypatch.setattr(trainer.Scorer, "measure", base_is_best)
    events = list(fit(model, split(), replace(QUICK, steps=20)))
    result = result_of(events)
    assert not result.improved and result.baseline == 0.99
    trained = [e.score for e in events if e.step and e.score is not None]
    assert result.best == max(trained) < 0.99
    assert result.adapter.info.words == ("blobs",)
    assert all(e.best == 0.99 for e in events if e.best is not None)
    assert [e.preview is not None for e in events if e.stage == "train"].count(True) == 0


def test_a_loss_that_is_not_finite_ends_it_and_the_best_is_kept(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = HeadLearner.step

    def failing(self: HeadLearner, progress: float) -> dict[str, float] | None:
        if self.updates == 25:
            with torch.no_grad():
                next(self.material.adapter.mask_decoder.parameters()).fill_(float("nan"))
        return step(self, progress)

    monkeypatch.setattr(HeadLearner, "step", failing)
    result = result_of(list(fit(model, split(), QUICK)))
    assert result.reason == "not finite"
    assert result.improved
    assert all(value.isfinite().all() for value in weights(result.adapter).values())


def test_running_out_of_memory_keeps_the_best(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = HeadLearner.step

    def failing(self: HeadLearner, progress: float) -> dict[str, float] | None:
        if self.updates == 25:
            raise MemoryError
        return step(self, progress)

    monkeypatch.setattr(HeadLearner, "step", failing)
    events = list(fit(model, split(), QUICK))
    assert result_of(events).reason == "no memory" and result_of(events).improved
    assert "ran out of memory" in events[-1].note


def test_what_is_measured_first_is_the_start_itself(model: LoadedModel) -> None:
    config = AdapterConfig(n_conditioned=1, own_objects=False)
    start = build_adapter(config, model.sam, model.clip, seed=0).with_info(words=("blobs",))
    expected = held_out_scores(model, start, split().held_out, "both")
    settings = replace(QUICK, goal="both", rate=1e-9, steps=6)
    result = result_of(list(fit(model, split(), settings, start)))
    assert result.baseline == pytest.approx(fmean(expected.values()))
    if not result.improved:
        assert same(result.adapter, start)


def test_one_plane_is_enough(model: LoadedModel) -> None:
    whole = example(0)
    known = np.zeros(whole.labels.shape, bool)
    known[:, :32] = True
    parts = Split(
        (replace(whole, known=known),), (replace(whole, known=~known),), "half of slice 0"
    )
    result = result_of(list(fit(model, parts, QUICK)))
    assert result.improved
    assert result.tested_on == "half of slice 0"
