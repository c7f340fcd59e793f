from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lessons import tiny_model
from tiny import CLIP_ARCHITECTURE

from napari_clipsam.adapters.base import AdapterConfig
from napari_clipsam.adapters.inject import build_adapter
from napari_clipsam.errors import ConfigError
from napari_clipsam.models.clip import ClipConfig, build_clip
from napari_clipsam.models.registry import LoadedModel
from napari_clipsam.training.settings import FitSettings
from napari_clipsam.training.starting import FEW_PLANES, absent_words, prepare_adapter

SETTINGS = FitSettings(steps=1)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny_model()


def test_few_planes_tune_clip_by_lora_many_its_attention(model: LoadedModel) -> None:
    few = prepare_adapter(model, None, SETTINGS, FEW_PLANES - 1)
    many = prepare_adapter(model, None, SETTINGS, FEW_PLANES)
    assert (few.config.clip_tuning, many.config.clip_tuning) == ("lora", "attention")


def test_a_start_is_copied_with_what_it_lacks(model: LoadedModel) -> None:
    config = AdapterConfig(n_conditioned=2, own_objects=False, redrawn_concepts=True)
    start = build_adapter(config, model.sam, model.clip, seed=3)
    start.teach("blobs").data.fill_(0.5)
    made = prepare_adapter(model, start, SETTINGS, 3)
    assert made.taught == ("blobs",) and made.delta("blobs").eq(0.5).all()
    assert made.config.n_conditioned == 2 and made.config.clip_tuning == "lora"
    assert not made.config.redrawn_concepts, "the refiner does not know what it will be taught"
    for name, value in start.state_dict().items():
        assert torch.equal(made.state_dict()[name], value)


def test_objects_become_its_own_once_they_are_taught(model: LoadedModel) -> None:
    config = AdapterConfig(n_conditioned=1, own_objects=False, conditioned_objects=False)
    start = build_adapter(config, model.sam, model.clip, seed=3)
    kept = prepare_adapter(model, start, SETTINGS, 3).config
    # One whose objects the base decodes, as the starter's, does so from its own embedding then.
    config = AdapterConfig(n_conditioned=1, own_objects=False)
    like_starter = build_adapter(config, model.sam, model.clip, seed=3)
    assert not prepare_adapter(model, like_starter, SETTINGS, 3).config.conditioned_objects
    taught = prepare_adapter(model, start, replace(SETTINGS, goal="both"), 3).config
    assert not kept.own_objects and not kept.conditioned_objects
    assert taught.own_objects and taught.conditioned_objects


def test_adapters_of_the_papers_code_are_not_gone_on_from(model: LoadedModel) -> None:
    config = AdapterConfig(n_conditioned=1, object_mode=False)
    start = build_adapter(config, model.sam, model.clip, seed=3)
    with pytest.raises(ConfigError, match="Start from the base"):
        prepare_adapter(model, start, SETTINGS, 3)


def test_absent_words_name_something_else(model: LoadedModel) -> None:
    assert "car" in absent_words(model, ["nuclei"]) and "car" not in absent_words(model, ["Car"])
    config = ClipConfig(
        CLIP_ARCHITECTURE,
        input_size=64,
        surgery_blocks=2,
        words=frozenset({"nuclei", "nucleus", "cells"}),
        synonyms={
            "nuclei": ("nuclei", "nucleus"),
            "nucleus": ("nuclei", "nucleus"),
            "cells": ("cells",),
        },
    )
    closed = LoadedModel("closed", model.sam, build_clip(config), None)
    assert absent_words(closed, ["Nucleus"]) == ["cells"]
    assert absent_words(closed, ["bright nuclei"]) == ["cells"]
    assert absent_words(closed, ["organelles"]) == ["nuclei", "nucleus", "cells"]
