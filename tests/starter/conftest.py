"""Tiny networks and a few generated images for the recipe's stages."""

from __future__ import annotations

import dataclasses

import pytest

from starter import all as all_stages
from starter import config, stage_adapter, stage_clip, stage_sam, validate
from starter.batches import load_store
from starter.data import Sample
from starter.synthetic import generate_family

SIZE = 64


@pytest.fixture(scope="session")
def samples() -> list[Sample]:
    families = ("fluorescence_nuclei", "fluorescence_fibres", "blood_smear", "histology")
    return [generate_family(name, seed, 96) for seed, name in enumerate(families)]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, samples: list[Sample]) -> None:
    """Small shapes, a small store and no validation data."""
    shape = dataclasses.replace(
        config.SAM,
        embed_dim=16,
        depth=2,
        num_heads=2,
        input_size=SIZE,
        window_size=4,
        out_chans=16,
        decoder_mlp_dim=16,
        decoder_heads=2,
        iou_hidden_dim=16,
        stem_widths=(8, 8, 16, 16, 16),
        stem_blocks=(0, 1, 1, 1, 1),
    )
    monkeypatch.setattr(config, "SAM", shape)
    monkeypatch.setattr(config, "ADAPTER", dataclasses.replace(config.ADAPTER, n_conditioned=2))
    clip = config.clip_config()
    vision = {"image_size": SIZE, "patch_size": 16, "width": 64, "layers": 4, "head_width": 64}
    architecture = {**clip.architecture, "embed_dim": 32, "vision_cfg": vision}
    small = dataclasses.replace(clip, architecture=architecture, input_size=SIZE)
    monkeypatch.setattr(config, "clip_config", lambda: small)
    store = load_store([(1.0, samples)], "cpu")
    for stage in (stage_sam, stage_clip, stage_adapter, all_stages):
        monkeypatch.setattr(stage, "training_store", lambda options: store)
    monkeypatch.setattr(validate, "validation_samples", lambda data: samples[:2])
