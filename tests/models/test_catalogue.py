"""What is known by name says where it comes from, and states no checksum that nobody states."""

from __future__ import annotations

import re

import pytest

from napari_clipsam.errors import WeightsError
from napari_clipsam.models.catalogue import CLIPS, SAMS, ModelEntry, clip_entry
from napari_clipsam.models.sam import SAM_CONFIGS, Sam

ALL = [entry for entry in (*SAMS.values(), *CLIPS.values()) if entry.name != "starter"]


@pytest.mark.parametrize("entry", ALL, ids=lambda entry: entry.name)
def test_every_model_says_what_a_user_has_to_know(entry: ModelEntry) -> None:
    assert all(address.startswith("https://") for address in entry.sources) and entry.sources
    assert entry.size_mb is not None and entry.size_mb > 100
    assert "unknown" not in (entry.domain, entry.licence) and not entry.installed
    assert entry.checksum is None or entry.checksum.origin == "publisher"
    assert entry.checksum is not None or entry.kind == "clip"


@pytest.mark.parametrize("entry", ALL, ids=lambda entry: entry.name)
def test_a_checksum_in_an_address_is_the_one_that_is_stated(entry: ModelEntry) -> None:
    in_address = re.findall(r"(?<![0-9a-f])[0-9a-f]{6,64}(?=[./])", entry.source or "")
    digests = [found for found in in_address if not found.isdigit()]
    assert not digests or (entry.checksum is not None and entry.checksum.value in digests)


@pytest.mark.parametrize("name", [name for name in SAMS if name != "starter"])
def test_the_architecture_of_a_sam_is_known_and_its_size_follows(name: str) -> None:
    entry = SAMS[name]
    expected = {"vit_b": 93.7, "vit_l": 312.3, "vit_h": 641.1}[entry.architecture]

    assert entry.architecture in SAM_CONFIGS
    assert entry.size_mb == pytest.approx(expected * 4, rel=0.01)
    assert name == "medsam" or name.startswith(entry.architecture)


def test_the_millions_of_weights_above_are_those_of_the_network() -> None:
    import torch

    with torch.device("meta"):
        sam = Sam(SAM_CONFIGS["vit_b"])
    assert sum(p.numel() for p in sam.parameters()) / 1e6 == pytest.approx(93.7, abs=0.1)


@pytest.mark.parametrize("name", [name for name in CLIPS if name != "starter"])
def test_every_clip_is_one_that_open_clip_knows(name: str) -> None:
    import open_clip

    architecture, _, tag = name.partition(":")
    source = open_clip.get_pretrained_cfg(architecture, tag)

    assert clip_entry(name) is CLIPS[name]
    assert CLIPS[name].source in (source["url"], *_on_hub(source["hf_hub"]))


def _on_hub(place: str) -> list[str]:
    return [
        f"https://huggingface.co/{place}resolve/main/{file}"
        for file in ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    ]


def test_other_clips_of_open_clip_are_known_by_their_tag() -> None:
    openai, laion, hub, file = (
        clip_entry(name)
        for name in (
            "ViT-B-32:openai",
            "ViT-B-32:laion400m_e32",
            "ViT-B-32:laion2b_s34b_b79k",
            "ViTamin-S:datacomp1b",
        )
    )

    assert openai.checksum is not None and f"/{openai.checksum.value}/" in str(openai.source)
    assert laion.checksum is not None and f"-{laion.checksum.value}.pt" in str(laion.source)
    assert hub.checksum is None and list(hub.sources) == _on_hub(
        "laion/CLIP-ViT-B-32-laion2B-s34B-b79K/"
    )
    assert file.sources == (
        "https://huggingface.co/jienengchen/ViTamin-S/resolve/main/pytorch_model.bin",
    )
    assert {entry.kind for entry in (openai, laion, hub, file)} == {"clip"}


@pytest.mark.parametrize("name", ["ViT-B-32:opanai", "ViT-Z-99:openai"])
def test_what_open_clip_does_not_know_is_refused(name: str) -> None:
    with pytest.raises(WeightsError, match="open_clip has no"):
        clip_entry(name)


def test_a_mirror_of_the_hub_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example.org/")

    (first, _) = CLIPS["ViT-B-16:laion2b_s34b_b88k"].sources
    assert first.startswith("https://mirror.example.org/laion/CLIP-ViT-B-16")
    assert SAMS["vit_b"].sources == (SAMS["vit_b"].source,)
