"""What the engine keeps between two questions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from napari.layers import Image
from tiny import tiny_clip, tiny_sam

from napari_clipsam._machine import Memory
from napari_clipsam._plugin import engine as engine_module
from napari_clipsam._plugin.engine import Engine, Lent, Setup
from napari_clipsam._plugin.layers import open_layer
from napari_clipsam.inference.requests import ObjectMask
from napari_clipsam.models.weights import save_clip, save_sam
from napari_clipsam.training.budget import Probe
from napari_clipsam.training.events import Estimate
from napari_clipsam.training.settings import FitSettings


def test_what_teaching_needs_is_tried_out_once_for_all_budgets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[tuple[Any, ...]] = []

    def probe(model: Any, n_planes: int, settings: FitSettings, start: Any, check: Any) -> Probe:
        tried.append((model.name, n_planes, settings.goal, start is None))
        return Probe(0.5, 0.0, 0.1, 0.1, 0.1, 1000, 2000, 3000)

    monkeypatch.setattr("napari_clipsam.training.budget.probe", probe)
    engine = Engine(lambda: None)
    setup, settings = Setup(device="cpu"), FitSettings(minutes=1)

    def asked(setup: Setup, n_planes: int, settings: FitSettings) -> Estimate:
        *_, found = engine.estimate(setup, n_planes - 1, 1, settings)
        assert isinstance(found, Estimate)
        return found

    short = asked(setup, 2, settings)
    assert asked(setup, 2, replace(settings, minutes=10)).seconds > short.seconds
    assert asked(setup, 2, replace(settings, minutes=None, steps=7)).steps == 7
    assert tried == [("starter", 2, "concept", False)]

    asked(setup, 2, replace(settings, goal="both"))
    asked(setup, 3, settings)
    asked(replace(setup, adapter="none"), 3, settings)
    assert tried[1:] == [
        ("starter", 2, "both", False),
        ("starter", 3, "concept", False),
        ("starter", 3, "concept", True),
    ]


@pytest.mark.parametrize(("model", "enough"), [("starter", 3e9), ("vit_h", 9e9)])
def test_a_model_is_loaded_ahead_only_where_it_leaves_room(
    model: str, enough: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = enough / 2
    monkeypatch.setattr(engine_module, "memory", lambda: Memory(None, free))
    asked: list[Setup] = []
    monkeypatch.setattr(Engine, "load", lambda _, setup: asked.append(setup) or iter(()))
    engine, setup = Engine(lambda: None), Setup(model)
    read: Any = None
    assert not [*engine.prepare(setup, read, (), None), *asked]
    free = enough
    assert not [*engine.prepare(setup, read, (), None)] and asked == [setup]


def test_it_says_which_plane_it_encodes_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, setup = Engine(lambda: None), Setup()
    said: list[Any] = []
    ahead = SimpleNamespace(prepare=lambda plane, word: said.append(engine.encoding))
    model = SimpleNamespace(ahead=ahead)
    monkeypatch.setattr(Engine, "load", lambda *_: iter(()))
    monkeypatch.setattr(Engine, "_ready", model)
    read: Any = open_layer(Image(np.zeros((3, 8, 8), np.uint8))).reader()
    keys = ((1, None, None), (2, None, None))
    for _ in engine.prepare(setup, read, keys, None):
        said.append(engine.encoding)
    assert said == [keys[0], None, keys[1], None]


def test_parts_with_its_like_are_encoded_before_the_planes_beside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[Any] = []
    ahead = SimpleNamespace(
        prepare=lambda plane, word, part=None: said.append((plane.index, word, part)),
        parts_like=lambda shape, like: [(shape, like), "further"],
    )
    model = SimpleNamespace(ahead=ahead)
    monkeypatch.setattr(Engine, "load", lambda *_: iter(()))
    monkeypatch.setattr(Engine, "_ready", model)
    read: Any = open_layer(Image(np.zeros((3, 8, 9), np.uint8))).reader()
    keys, like = ((1, None, None), (2, None, None)), ObjectMask((0, 0, 1, 1), np.ones((1, 1)), 1.0)
    steps = Engine(lambda: None).prepare(Setup(), read, keys, "nuclei", like)
    assert list(steps) == [None] * 4, "somebody who asks meanwhile need not wait for all"
    here, beside = read(keys[0]).index, read(keys[1]).index
    assert said == [
        (here, "nuclei", None),
        (here, "nuclei", ((8, 9), like)),
        (here, "nuclei", "further"),
        (beside, "nuclei", None),
    ]


def test_another_clip_reads_the_words_of_the_same_model(tmp_path: Path) -> None:
    sam, clip = tmp_path / "sam.safetensors", tmp_path / "clip.safetensors"
    save_sam(tiny_sam(), sam, half=False)
    save_clip(tiny_clip(), clip, half=False)
    engine, setup = Engine(lambda: None), Setup(str(sam), "none", "cpu")

    def clip_of(setup: Setup) -> str:
        *_, lent = engine.lend(setup)
        assert isinstance(lent, Lent) and lent.model.sam.identity == tiny_sam().identity
        return lent.model.clip.identity

    starters = clip_of(setup)
    assert clip_of(replace(setup, clip=str(clip))) == tiny_clip().identity != starters
    assert clip_of(setup) == starters
