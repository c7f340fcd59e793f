from __future__ import annotations

from dataclasses import replace

import pytest
from lessons import tiny_model

from napari_clipsam.models.registry import LoadedModel
from napari_clipsam.training.budget import estimate, step_memory
from napari_clipsam.training.settings import FitSettings
from napari_clipsam.training.starting import FEW_PLANES

STEPS = FitSettings(minutes=None, steps=20, views=2)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny_model()


def test_a_budget_of_minutes_is_what_it_takes(model: LoadedModel) -> None:
    told = estimate(model, 3, 1, FitSettings(minutes=2.0))
    assert told.seconds == pytest.approx(120, rel=0.1)
    assert told.steps > 20 and told.memory > 0


def test_steps_are_counted_as_given(model: LoadedModel) -> None:
    told = estimate(model, 3, 1, STEPS)
    assert told.steps == 20
    assert 0 < told.seconds < 60
    assert estimate(model, 3, 1, replace(STEPS, steps=2000)).seconds > 10 * told.seconds


def test_more_views_need_more_memory(model: LoadedModel) -> None:
    few, many = (estimate(model, n, 1, STEPS).memory for n in (1, 40))
    assert many > few


def test_planes_that_are_measured_on_count_where_clip_is_tuned_whole(model: LoadedModel) -> None:
    few, enough = (estimate(model, FEW_PLANES - 4, n, STEPS).memory for n in (3, 4))
    assert enough > few


def test_more_conditioned_blocks_keep_more_for_their_gradients(model: LoadedModel) -> None:
    settings = replace(STEPS, clip_tuning="none", refine=False)
    one, all_of_them = (
        step_memory(model, replace(settings, n_conditioned=n)) for n in (1, model.sam.config.depth)
    )
    assert all_of_them > one > 0
