"""Checkpoints of the paper's code: what is read from them, and what is refused.

The numbers they give are held by `test_parity.py`; here a small one is written as theirs are.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import randomise, tiny_clip, tiny_sam
from torch import Tensor

from napari_clipsam.adapters.base import AdapterConfig
from napari_clipsam.adapters.inject import Adapter, build_adapter
from napari_clipsam.adapters.released import load_released
from napari_clipsam.errors import AdapterError, ClipSamError, ConfigError, WeightsError
from napari_clipsam.models.clip import Clip, ClipConfig, build_clip
from napari_clipsam.models.sam import Sam

HEADS = 2
ARCHITECTURE = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 64, "layers": 3, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 9, "vocab_size": 40, "width": 64, "heads": 1, "layers": 1},
}
LAYERS = {"semantic": "MLP_Adapter", "regular": "Space_Adapter"}
PARTS = {
    "fc1": "D_fc1",
    "fc2": "D_fc2",
    "text_proj": "text_projection",
    "vision_proj": "vis_projection",
}


@pytest.fixture(scope="module")
def sam() -> Sam:
    return tiny_sam(decoder_heads=HEADS)


@pytest.fixture(scope="module")
def clip() -> Clip:
    clip = build_clip(ClipConfig(ARCHITECTURE, input_size=64, surgery_blocks=2))
    randomise(clip.model, 1)
    return clip


@pytest.fixture(scope="module")
def adapter(sam: Sam, clip: Clip) -> Adapter:
    config = AdapterConfig(3, init="paper", object_mode=False)
    return build_adapter(config, sam, clip, seed=3)


@pytest.fixture
def checkpoint(sam: Sam, clip: Clip, adapter: Adapter) -> dict[str, Any]:
    """The networks as the released trainer would write them."""
    state = dict(sam.state_dict())
    for name, value in adapter.blocks.state_dict().items():
        block, layer, part, kind = name.split(".")
        state[f"image_encoder.blocks.{block}.{LAYERS[layer]}.{PARTS[part]}.{kind}"] = value
    operated = dict(clip.model.state_dict())
    for block in (1, 2):
        stem = f"visual.transformer.resblocks.{block}.attn."
        for new, old in (("qkv.", "in_proj_"), ("proj.", "out_proj.")):
            for kind in ("weight", "bias"):
                operated[stem + new + kind] = operated.pop(stem + old + kind)
                operated[f"visual.attn.{new}{kind}"] = operated[stem + new + kind]
    return {"epoch": 3, "model_state_dict": state, "clip_model": operated, "best_val": 0.5}


@pytest.fixture
def save(tmp_path: Path) -> Callable[[object], Path]:
    def write(content: object) -> Path:
        path = tmp_path / "released.pth"
        torch.save(content, path)
        return path

    return write


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], expected[name]) for name in expected
    )


# ---------------------------------------------------------------- what is read


def test_the_three_networks_come_back(
    checkpoint: dict[str, Any], save: Any, sam: Sam, clip: Clip, adapter: Adapter
) -> None:
    state = torch.get_rng_state()
    loaded = load_released(save(checkpoint), decoder_heads=HEADS)
    assert torch.equal(torch.get_rng_state(), state)
    assert loaded.sam.config == sam.config and same(loaded.sam.state_dict(), sam.state_dict())
    assert same(loaded.clip.model.state_dict(), clip.model.state_dict())
    assert same(loaded.adapter.state_dict(), adapter.state_dict())
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded.clip.dense(pixels), clip.dense(pixels))


def test_the_adapter_is_set_up_as_the_released_code_is(
    checkpoint: dict[str, Any], save: Any
) -> None:
    sam, clip, adapter = load_released(save(checkpoint), decoder_heads=HEADS)
    config = adapter.config
    assert config.n_conditioned == 3 and adapter.split == 0
    assert config.init == "paper" and config.normalisation == "token"
    assert config.pad_before_norm and config.squash and not config.object_mode
    assert clip.config.input_size == 64 and clip.config.surgery_blocks == 2
    assert adapter.info.base_identity == sam.identity
    assert adapter.info.clip_identity == clip.identity


def test_another_bottleneck_is_recognised(
    checkpoint: dict[str, Any], save: Any, sam: Sam, clip: Clip
) -> None:
    config = AdapterConfig(3, init="paper", object_mode=False, reduction=8)
    narrow = build_adapter(config, sam, clip, seed=3)
    for name, value in narrow.blocks.state_dict().items():
        block, layer, part, kind = name.split(".")
        key = f"image_encoder.blocks.{block}.{LAYERS[layer]}.{PARTS[part]}.{kind}"
        checkpoint["model_state_dict"][key] = value
    loaded = load_released(save(checkpoint), decoder_heads=HEADS)
    assert loaded.adapter.config.reduction == 8
    assert same(loaded.adapter.state_dict(), narrow.state_dict())


def test_names_and_precision_of_distributed_training_are_read(
    checkpoint: dict[str, Any], save: Any, sam: Sam
) -> None:
    state = checkpoint["model_state_dict"]
    wrapped = {f"module.{name}": value.double() for name, value in state.items()}
    checkpoint["model_state_dict"] = wrapped
    loaded = load_released(save(checkpoint), decoder_heads=HEADS)
    assert same(loaded.sam.state_dict(), sam.state_dict())


def test_a_checkpoint_without_clip_takes_the_one_given(
    checkpoint: dict[str, Any], save: Any, clip: Clip
) -> None:
    checkpoint["clip_model"] = None
    path = save(checkpoint)
    with pytest.raises(AdapterError, match=r"saved without its CLIP.*clip=") as caught:
        load_released(path, decoder_heads=HEADS)
    assert path.name in str(caught.value)
    loaded = load_released(path, HEADS, clip=clip)
    assert loaded.clip is clip and loaded.adapter.info.clip_identity == clip.identity


def test_a_clip_of_another_width_is_refused(checkpoint: dict[str, Any], save: Any) -> None:
    checkpoint["clip_model"] = None
    architecture = {**tiny_clip().config.architecture, "embed_dim": 24}
    other = build_clip(ClipConfig(architecture, input_size=64))
    with pytest.raises(AdapterError, match=r"CLIP of width 16; the one given has 24"):
        load_released(save(checkpoint), HEADS, clip=other)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("heads", [3, 64])
def test_heads_the_decoder_cannot_have_are_refused(
    checkpoint: dict[str, Any], save: Any, heads: int
) -> None:
    with pytest.raises(ConfigError, match=rf"cannot have {heads} heads .*decoder_heads="):
        load_released(save(checkpoint), decoder_heads=heads)


def test_a_missing_or_damaged_file_is_refused(
    checkpoint: dict[str, Any], save: Any, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match="There is no file"):
        load_released(tmp_path / "none.pth")
    path = save(checkpoint)
    raw = path.read_bytes()
    for content in (raw[: len(raw) // 2], raw[:100], b"", b"hello"):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match="damaged, incomplete"):
            load_released(path)


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return (Path.touch, (self.path,))


def test_code_in_a_pickle_is_not_run(tmp_path: Path, save: Any) -> None:
    trap = tmp_path / "trap"
    path = save({"model_state_dict": Hostile(trap)})
    with pytest.raises(WeightsError, match="more than tensors"):
        load_released(path)
    path.write_bytes(pickle.dumps({"model_state_dict": Hostile(trap)}))
    with pytest.raises(WeightsError, match="more than tensors"):
        load_released(path)
    assert not trap.exists()


@pytest.mark.parametrize(
    "content",
    [[1, 2], {"epoch": 3}, {"model_state_dict": [1]}, {"model_state_dict": {"a": 1}}],
    ids=str,
)
def test_another_pickle_is_refused(content: object, save: Any) -> None:
    with pytest.raises(AdapterError, match=r"not a checkpoint of the paper|not a dict of tensors"):
        load_released(save(content))


def test_a_safetensors_file_is_refused(tmp_path: Path) -> None:
    """Some versions of torch can read it, others cannot."""
    path = tmp_path / "a.safetensors"
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises((AdapterError, WeightsError), match="checkpoint"):
        load_released(path)


def test_a_plain_sam_is_refused(sam: Sam, save: Any) -> None:
    content = {"model_state_dict": sam.state_dict(), "clip_model": None}
    with pytest.raises(AdapterError, match="has no adapters: expected MLP_Adapter"):
        load_released(save(content), HEADS, clip=tiny_clip())


DAMAGE = [
    ("model_state_dict", "image_encoder.blocks.1.MLP_Adapter.D_fc1.weight", "adapters"),
    ("model_state_dict", "image_encoder.blocks.2.Space_Adapter.D_fc2.bias", "adapters"),
    ("model_state_dict", "image_encoder.blocks.2.norm1.weight", "SAM"),
    ("model_state_dict", "image_encoder.patch_embed.proj.weight", "SAM"),
    ("model_state_dict", "mask_decoder.iou_token.weight", "SAM"),
    ("model_state_dict", "prompt_encoder.no_mask_embed.weight", "SAM"),
    ("clip_model", "visual.proj", "CLIP"),
    ("clip_model", "visual.transformer.resblocks.2.attn.qkv.weight", "CLIP"),
    ("clip_model", "transformer.resblocks.0.ln_1.bias", "CLIP"),
]


@pytest.mark.parametrize(("part", "name", "what"), DAMAGE)
@pytest.mark.parametrize("damage", ["missing", "another shape"])
def test_tensors_that_do_not_fit_are_refused(
    checkpoint: dict[str, Any], save: Any, part: str, name: str, what: str, damage: str
) -> None:
    """Whatever is wrong, it is an error of this package that names the part."""
    value = checkpoint[part].pop(name)
    if damage == "another shape":
        checkpoint[part][name] = value.flatten()[:-1].clone()
    with pytest.raises(ClipSamError, match=what) as caught:
        load_released(save(checkpoint), decoder_heads=HEADS)
    assert caught.value.exit_code == 2


def test_a_clip_before_surgery_is_refused(
    checkpoint: dict[str, Any], save: Any, clip: Clip
) -> None:
    checkpoint["clip_model"] = dict(clip.model.state_dict())
    with pytest.raises(WeightsError, match="after surgery"):
        load_released(save(checkpoint), decoder_heads=HEADS)
