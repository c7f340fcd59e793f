"""Steps of the second part of a run, on windows of the views and on the whole."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
import torch
from lessons import WINDOWED, example, tiny_model
from torch import Tensor

from napari_clipsam.errors import PlaneError
from napari_clipsam.models.registry import LoadedModel
from napari_clipsam.training.learner import HeadLearner
from napari_clipsam.training.material import Material
from napari_clipsam.training.samples import Example
from napari_clipsam.training.settings import FitSettings
from napari_clipsam.training.starting import prepare_adapter
from napari_clipsam.training.views import ViewMaker
from napari_clipsam.training.windows import Window

CPU = torch.device("cpu")
SETTINGS = FitSettings(steps=1, rate=3e-2, clip_tuning="none")
WHOLE = Window.whole(WINDOWED)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny_model(windowed=True)


def make(model: LoadedModel, settings: FitSettings = SETTINGS, batch: int = 1) -> HeadLearner:
    adapter = prepare_adapter(model, None, settings, 2)
    examples = [example(0), example(1)]
    maker = ViewMaker(model, adapter, CPU, torch.float32, settings.cache_trunk, lambda: None)
    views = list(maker.views(examples, 2, 0, False))
    words = [e.words for e in examples]
    material = Material(model, adapter, views, words, 0, CPU, torch.float32, batch, lambda: None)
    return HeadLearner(material, settings)


def seen_by(monkeypatch: pytest.MonkeyPatch) -> list[Window]:
    """Windows of the steps that follow."""
    windows: list[Window] = []
    original = HeadLearner._condition

    def condition(self: HeadLearner, batch, words, named, present, window: Window):
        windows.append(window)
        return original(self, batch, words, named, present, window)

    monkeypatch.setattr(HeadLearner, "_condition", condition)
    return windows


def weights(learner: HeadLearner) -> dict[str, Tensor]:
    return {name: v.clone() for name, v in learner.material.adapter.state_dict().items()}


@pytest.mark.parametrize("cache_trunk", [True, False])
@pytest.mark.parametrize("goal", ["concept", "object", "both"])
def test_the_last_steps_look_at_the_whole(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch, goal: str, cache_trunk: bool
) -> None:
    learner = make(model, replace(SETTINGS, goal=goal, cache_trunk=cache_trunk), batch=2)
    windows = seen_by(monkeypatch)
    early, late = (0.0, 0.3, 0.69), (0.7, 1.0)
    for progress in (*early, *late):
        assert learner.step(progress)["loss"].isfinite()
    assert {window.side for window in windows[: len(early)]} == {4}
    assert windows[len(early) :] == [WHOLE] * len(late)


def test_heads_that_attend_globally_are_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    # The conditioned block of this one attends in windows that do not divide the grid.
    learner = make(tiny_model())
    windows = seen_by(monkeypatch)
    learner.step(0.0)
    assert windows == [Window.whole(learner.material.model.sam.config)]


def test_a_window_shows_some_of_what_is_labelled(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = make(model)
    drawn: list[float] = []
    original = HeadLearner._window

    def window(self: HeadLearner, batch, progress: float) -> Window:
        found = original(self, batch, progress)
        drawn.append(float(found.cut(batch.concept * batch.known).sum()))
        return found

    monkeypatch.setattr(HeadLearner, "_window", window)
    for _ in range(20):
        learner.step(0.1)
    assert min(drawn) > 1


@pytest.mark.parametrize("goal", ["concept", "both"])
def test_training_on_windows_lowers_the_loss_of_the_whole(model: LoadedModel, goal: str) -> None:
    learner = make(model, replace(SETTINGS, goal=goal))
    views = learner.material.views

    def loss() -> float:
        learner.material.generator.manual_seed(1)
        with torch.no_grad():
            return fmean(float(learner.terms([v], 1.0)["loss"]) for v in views for _ in range(4))

    before = loss()
    for step in range(40):
        assert learner.step(0.6 * step / 40)["loss"].isfinite()
    assert learner.updates == 40
    assert loss() < 0.8 * before


def test_without_blocks_none_of_their_weights_changes(model: LoadedModel) -> None:
    learner = make(model, replace(SETTINGS, blocks=False))
    before = weights(learner)
    for step in range(12):
        learner.step(step / 12)
    after = weights(learner)
    changed = {name for name, value in after.items() if not torch.equal(before[name], value)}
    assert any(name.startswith("blocks.") for name in before)
    assert not {name for name in changed if name.startswith("blocks.")}
    assert {name for name in changed if name.startswith("mask_decoder.")}
    assert {name for name in changed if name.startswith("deltas.")}


def test_with_blocks_they_change_too(model: LoadedModel) -> None:
    learner = make(model)
    before = weights(learner)
    for step in range(12):
        learner.step(step / 12)
    after = weights(learner)
    changed = {name for name, value in after.items() if not torch.equal(before[name], value)}
    assert {name for name in changed if name.startswith("blocks.")}
    for name, value in learner.average.state_dict().items():
        assert torch.isfinite(value).all()
        if name in changed and value.is_floating_point():
            assert not torch.equal(value, before[name]), f"the average of {name} follows"


def test_the_base_is_not_trained(model: LoadedModel) -> None:
    learner = make(model)
    before = {name: value.clone() for name, value in model.sam.state_dict().items()}
    learner.step(0.0)
    assert all(p.grad is None for p in (*model.sam.parameters(), *model.clip.parameters()))
    for name, value in model.sam.state_dict().items():
        assert torch.equal(before[name], value), name


def test_what_is_too_thin_to_be_shown_is_not_taught_as_missing(model: LoadedModel) -> None:
    shown, thin, empty = example(0), example(1, side=256), example(2)
    dots = np.zeros((256, 256), np.int32)
    dots[8::16, 8::16] = 1
    thin = replace(thin, labels=dots)
    empty = replace(empty, labels=np.zeros_like(empty.labels))
    adapter = prepare_adapter(model, None, SETTINGS, 2)
    maker = ViewMaker(model, adapter, CPU, torch.float32, True, lambda: None)

    def material(examples: list[Example]) -> Material:
        views = list(maker.views(examples, 1, 0, False))
        words = [e.words for e in examples]
        return Material(model, adapter, views, words, 0, CPU, torch.float32, 1, lambda: None)

    assert [view.example for view in material([shown, thin, empty]).views] == [0, 2]
    with pytest.raises(PlaneError, match="too thin to be seen"):
        material([thin, empty])
