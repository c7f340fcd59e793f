"""Numbers of the paper's released code, reproduced to the tolerance that comes with them.

The folder is `shared/parity` or the one given with `--parity`; network shapes, sizes and prompts
are read from its files. Exact parameter counts of the paper stand here too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from napari_clipsam.adapters.base import AdapterConfig
from napari_clipsam.adapters.inject import Adapter, build_adapter, parameter_counts
from napari_clipsam.adapters.released import Released, load_released, split_state
from napari_clipsam.adapters.semantic import conditioning
from napari_clipsam.models.clip import Clip, ClipConfig, build_clip, redundant_feature
from napari_clipsam.models.decoder import decode, embed_masks, embed_points
from napari_clipsam.models.sam import Sam, SamConfig
from napari_clipsam.semantics import (
    Signals,
    binary_prompt,
    make_signals,
    similarity_map,
    text_vector,
)

NORMALISATIONS = ("token", "channel")
#: The references keep every 64th token of the conditioning.
TOKEN_STEP = 64
THRESHOLD = 0.8

close = partial(torch.testing.assert_close, rtol=0)


def read_config(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["config"])


@pytest.fixture(scope="module")
def sam_numbers(parity_dir: Path) -> dict[str, Tensor]:
    return load_file(parity_dir / "sam_expected.safetensors")


@pytest.fixture(scope="module")
def clip_numbers(parity_dir: Path) -> dict[str, Tensor]:
    return load_file(parity_dir / "clip_expected.safetensors")


# ---------------------------------------------------------------- the networks


def decoder_heads(parity_dir: Path) -> int:
    return int(read_config(parity_dir / "sam_state.safetensors")["decoder_num_heads"])


def sam_and_adapter(parity_dir: Path, clip: Clip) -> tuple[Sam, Adapter]:
    """The networks of `sam_state.safetensors`, by the configuration in its metadata."""
    path = parity_dir / "sam_state.safetensors"
    shape = read_config(path)
    own, layers = split_state(load_file(path))
    sam = Sam(
        SamConfig(
            embed_dim=shape["embed_dim"],
            depth=shape["depth"],
            num_heads=shape["num_heads"],
            global_attn_indexes=tuple(shape["global_attn_indexes"]),
            input_size=shape["img_size"],
            patch_size=shape["patch_size"],
            window_size=shape["window_size"],
            out_chans=shape["out_chans"],
            decoder_mlp_dim=shape["decoder_mlp_dim"],
            decoder_heads=shape["decoder_num_heads"],
            iou_hidden_dim=shape["iou_head_hidden_dim"],
        )
    )
    sam.load_state_dict(own)
    config = AdapterConfig(
        n_conditioned=shape["depth"],
        init="paper",
        reduction=shape["embed_dim"] // len(layers["blocks.0.regular.fc1.weight"]),
        pad_before_norm=True,
        squash=True,
        object_mode=False,
    )
    adapter = build_adapter(config, sam, clip, clip_dim=shape["clip_dim"])
    found = adapter.load_state_dict(layers, strict=False)
    assert not found.unexpected_keys
    assert not [name for name in found.missing_keys if name.startswith("blocks.")]
    return sam, adapter


@pytest.fixture(scope="module")
def clip(parity_dir: Path, clip_numbers: dict[str, Tensor]) -> Clip:
    """The CLIP of `clip_state.safetensors` before surgery."""
    path = parity_dir / "clip_state.safetensors"
    shape = read_config(path)
    architecture = {
        "embed_dim": shape["embed_dim"],
        "quick_gelu": shape["quick_gelu"],
        "vision_cfg": {
            "image_size": shape["image_resolution"],
            "layers": shape["vision_layers"],
            "width": shape["vision_width"],
            "patch_size": shape["vision_patch_size"],
        },
        "text_cfg": {
            "context_length": shape["context_length"],
            "vocab_size": shape["vocab_size"],
            "width": shape["transformer_width"],
            "heads": shape["transformer_heads"],
            "layers": shape["transformer_layers"],
        },
    }
    clip = build_clip(ClipConfig(architecture, clip_numbers["input.image"].shape[-1]))
    clip.model.load_state_dict(load_file(path))
    return clip


@pytest.fixture(scope="module")
def released(parity_dir: Path) -> Released:
    return load_released(parity_dir / "released_checkpoint.pth", decoder_heads(parity_dir))


@dataclass(frozen=True, eq=False)
class Networks:
    sam: Sam
    adapter: Adapter


@pytest.fixture(scope="module", params=["state", "released"])
def networks(request: pytest.FixtureRequest, parity_dir: Path, clip: Clip) -> Networks:
    """SAM and adapter from the plain tensors, and again from the pickled checkpoint."""
    if request.param == "state":
        return Networks(*sam_and_adapter(parity_dir, clip))
    loaded = request.getfixturevalue("released")
    return Networks(loaded.sam, loaded.adapter)


# ---------------------------------------------------------------- signals and prompts


@pytest.fixture(scope="module", params=NORMALISATIONS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def signals(sam_numbers: dict[str, Tensor], name: str) -> Signals:
    return make_signals(sam_numbers["input.clip_tokens"], sam_numbers["input.text"], name)


def test_similarity(signals: Signals, sam_numbers: dict[str, Tensor], name: str) -> None:
    close(signals.similarity, sam_numbers[f"{name}.similarity"], atol=1e-5)


def test_similarity_map_and_dense_prompt(
    signals: Signals, sam_numbers: dict[str, Tensor], name: str, parity_dir: Path
) -> None:
    expected = sam_numbers[f"{name}.similarity_map_256"]
    input_size = read_config(parity_dir / "sam_state.safetensors")["img_size"]
    found = similarity_map(signals, input_size, expected.shape[-1])
    close(found, expected, atol=1e-5)
    prompt = binary_prompt(found, THRESHOLD)
    assert torch.equal(prompt.to(torch.uint8), sam_numbers[f"{name}.dense_prompt"])
    assert set(prompt.unique().tolist()) <= {0.0, 255.0}


def test_conditioning(signals: Signals, sam_numbers: dict[str, Tensor], name: str) -> None:
    found = conditioning(signals)[:, ::TOKEN_STEP]
    close(found, sam_numbers[f"{name}.conditioning"], atol=1e-5)


# ---------------------------------------------------------------- SAM with adapters


def model_input(sam_numbers: dict[str, Tensor], size: int) -> Tensor:
    """Each pixel of the small image repeated, plus a ramp along x; fed without mean and std."""
    small = sam_numbers["input.image_64"]
    step = size // small.shape[-1]
    large = small.repeat_interleave(step, dim=-2).repeat_interleave(step, dim=-1)
    return large + 0.1 * torch.linspace(-1, 1, size)


@pytest.fixture(scope="module")
def embedding(networks: Networks, signals: Signals, sam_numbers: dict[str, Tensor]) -> Tensor:
    sam, adapter = networks.sam, networks.adapter
    assert adapter.split == 0
    with torch.inference_mode():
        trunk = sam.trunk(model_input(sam_numbers, sam.config.input_size), adapter.split)
        return sam.head(trunk, adapter.split, adapter.condition(signals))


def test_image_embedding(embedding: Tensor, sam_numbers: dict[str, Tensor], name: str) -> None:
    close(embedding, sam_numbers[f"{name}.image_embedding"], atol=1e-4)


def test_low_res_logits(
    networks: Networks, embedding: Tensor, sam_numbers: dict[str, Tensor], name: str
) -> None:
    adapter = networks.adapter
    with torch.inference_mode():
        decoded = decode(
            adapter.mask_decoder,
            embedding,
            adapter.prompt_encoder.get_dense_pe(),
            points_with_padding(adapter, sam_numbers),
            embed_masks(adapter.prompt_encoder, sam_numbers[f"{name}.dense_prompt"].float(), 1),
            multimask=False,
        )
    close(decoded.logits, sam_numbers[f"{name}.low_res_logits"], atol=1e-5)


def points_with_padding(adapter: Adapter, sam_numbers: dict[str, Tensor]) -> Tensor:
    """Sparse tokens as `segment_anything` makes them for points without a box."""
    coords, labels = sam_numbers["input.points_xy"], sam_numbers["input.point_labels"].long()
    coords = torch.cat([coords, torch.zeros(1, 1, 2)], dim=1)
    labels = torch.cat([labels, torch.full((1, 1), -1)], dim=1)
    return embed_points(adapter.prompt_encoder, coords, labels)


def test_without_adapters_the_numbers_are_others(
    networks: Networks, sam_numbers: dict[str, Tensor]
) -> None:
    with torch.inference_mode():
        pixels = model_input(sam_numbers, networks.sam.config.input_size)
        plain = networks.sam.head(networks.sam.trunk(pixels, 0), 0)
    assert (plain - sam_numbers["token.image_embedding"]).abs().max() > 0.1


# ---------------------------------------------------------------- CLIP


@pytest.fixture(scope="module", params=["state", "released"])
def either_clip(request: pytest.FixtureRequest, clip: Clip) -> Clip:
    return clip if request.param == "state" else request.getfixturevalue("released").clip


def test_dense_tokens(either_clip: Clip, clip_numbers: dict[str, Tensor]) -> None:
    with torch.inference_mode():
        found = either_clip.dense(clip_numbers["input.image"])
    close(found, clip_numbers["dense_tokens"], atol=1e-4)


def test_text(either_clip: Clip, clip_numbers: dict[str, Tensor]) -> None:
    with torch.inference_mode():
        words = either_clip.encode_ids(clip_numbers["input.word_ids"])
        templates = either_clip.encode_ids(clip_numbers["input.template_ids"])
        redundant = redundant_feature(templates)
        text = text_vector(words.mean(dim=0), redundant)
    close(words, clip_numbers["text.word_features"], atol=1e-5)
    close(redundant, clip_numbers["text.redundant"][0], atol=1e-5)
    close(text, clip_numbers["text.t"][0], atol=1e-5)


# ---------------------------------------------------------------- parameter counts of the paper


VIT_B_16 = {
    "embed_dim": 512,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16},
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 512,
        "heads": 8,
        "layers": 12,
    },
}


@pytest.fixture(scope="module")
def full_size() -> Adapter:
    """Adapter of SAM ViT-B with CLIP ViT-B/16 in all blocks; shapes without values."""
    with pytest.MonkeyPatch.context() as patch, torch.device("meta"):
        for network in (Sam, Clip):
            patch.setattr(network, "identity", "of no values")
        sam, clip = Sam(SamConfig()), build_clip(ClipConfig(VIT_B_16))
        config = AdapterConfig(n_conditioned=12, init="paper", clip_tuning="attention")
        return build_adapter(config, sam, clip)


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameters_of_a_block(full_size: Adapter) -> None:
    for block in full_size.blocks:
        assert count(block.regular) == 295_872
        assert count(block.semantic) == 1_083_840


def test_parameters_of_the_parts(full_size: Adapter) -> None:
    counts = parameter_counts(full_size)
    assert counts == {
        "adapters": 16_556_544,
        "mask_decoder": 4_058_340,
        "prompt_encoder": 6_220,
        "clip_attention": 28_348_416,
        "concept_refiner": 0,
    }
    assert sum(counts.values()) - counts["clip_attention"] == 20_621_104


def test_all_that_is_counted_is_trained_and_nothing_else_but_target_and_presence(
    full_size: Adapter,
) -> None:
    assert all(p.requires_grad for p in full_size.parameters())
    extra = count(full_size.target_token) + count(full_size.presence)
    assert count(full_size) == sum(parameter_counts(full_size).values()) + extra
    assert extra == 2 * 256 + 256 + 3 + 1
