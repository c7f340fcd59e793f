"""Tiny networks, a few generated images and tiny data sets for the recipe and its report."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest
from bright import squares
from PIL import Image
from tiny import randomise, tiny_clip, tiny_sam

from napari_clipsam.adapters.base import AdapterConfig
from napari_clipsam.adapters.files import save_adapter
from napari_clipsam.adapters.inject import build_adapter
from napari_clipsam.models.weights import save_clip, save_sam
from starter import config, loop, validate
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
    monkeypatch.setattr(config, "REFINERS", {"refiner": (8, 16), "concept_refiner": (8, 16)})
    monkeypatch.setattr(loop, "_store", lambda *_: store)
    monkeypatch.setattr(validate, "validation_samples", lambda data: samples[:2])


COLUMNS = ("file", "label", "split", "modality", "style", "concepts", "label_type")


def _write_set(root: Path, name: str, rows: list[tuple[str, ...]]) -> Path:
    folder = root / name
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    with (folder / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return folder


@pytest.fixture
def bright_data(tmp_path: Path) -> Path:
    """The training sets in small: bright squares, of which the histology shows half.

    On the blood smear the first two of four squares are boxed as white, the third as red cells.
    """
    root = tmp_path / "data"
    image, labels = squares()
    half = image.copy()
    half[:, 40:] = 0
    names = "nuclei;nucleus"
    kinds = (
        ("a", "fluorescence", "fluorescence_256x256", image),
        ("b", "histology", "histology_purple_on_white", half),
    )
    rows = [
        (f"images/{n}.png", f"labels/{n}.png", "test", modality, style, names, "instance")
        for n, modality, style, _ in kinds
    ]
    folder = _write_set(root, "dsb2018_nuclei", rows)
    for name, _, _, pixels in kinds:
        Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
        Image.fromarray(labels).save(folder / "labels" / f"{name}.png")

    style = "phase_contrast_large_cells"
    row = ("images/a.png", "labels/a.png", "test", "phase contrast", style, "cells", "instance")
    folder = _write_set(root, "usiigaci_phase_contrast", [row])
    Image.fromarray(image).save(folder / "images" / "a.png")
    Image.fromarray(labels).save(folder / "labels" / "a.png")

    smear = ("images/a.png", "labels/boxes.csv", "test", "brightfield", "blood smear")
    words = ("white blood cells;leukocytes", "red blood cells;erythrocytes")
    folder = _write_set(root, "bccd_blood_boxes", [(*smear, word, "boxes") for word in words])
    Image.fromarray(image).save(folder / "images" / "a.png")
    (folder / "labels" / "boxes.csv").write_text(
        "file,concept,x0,y0,x1,y1\n"
        "images/a.png,white blood cells,5,5,15,14\n"
        "images/a.png,white blood cells,40,5,50,15\n"
        "images/a.png,red blood cells,8,35,18,46\n"
        "images/a.png,red blood cells,0,50,5,55\n"
    )
    return root


@pytest.fixture
def tiny_run(tmp_path: Path) -> Path:
    """A folder as a run leaves it, with random networks of a few thousand weights."""
    folder = tmp_path / "run"
    folder.mkdir()
    sam, clip = tiny_sam(), tiny_clip()
    save_sam(sam, folder / "sam.safetensors", half=False)
    save_clip(clip, folder / "clip.safetensors", half=False)
    adapter = build_adapter(AdapterConfig(n_conditioned=1), sam, clip, seed=0)
    randomise(adapter, 0, spread=0.3)
    adapter.with_info(words=("cells", "nuclei"), threshold=0.0)
    save_adapter(adapter, folder / "adapter.safetensors")
    return folder
