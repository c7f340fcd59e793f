"""Reads checkpoints that the paper's code wrote (method section 6).

One pickled dict holds a SAM with adapters in every block (`model_state_dict`) and a CLIP after
surgery (`clip_model`), whose last vision blocks have other names for their attention.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from napari_clipsam.adapters.base import AdapterConfig
from napari_clipsam.adapters.inject import Adapter, build_adapter
from napari_clipsam.errors import AdapterError, ConfigError, WeightsError
from napari_clipsam.models import weights
from napari_clipsam.models.clip import Clip, ClipConfig, build_clip
from napari_clipsam.models.sam import Sam

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

__all__ = ["Released", "load_released", "split_state"]

_ADAPTER_KEY = re.compile(
    r"image_encoder\.blocks\.(\d+)\.(MLP_Adapter|Space_Adapter)\.(\w+)\.(\w+)"
)
_LAYERS = {"MLP_Adapter": "semantic", "Space_Adapter": "regular"}
_PARTS = {
    "D_fc1": "fc1",
    "D_fc2": "fc2",
    "text_projection": "text_proj",
    "vis_projection": "vision_proj",
}
_ATTENTION = {
    "attn.qkv.weight": "attn.in_proj_weight",
    "attn.qkv.bias": "attn.in_proj_bias",
    "attn.proj.weight": "attn.out_proj.weight",
    "attn.proj.bias": "attn.out_proj.bias",
}
_OPERATED_KEY = re.compile(r"visual\.transformer\.resblocks\.(\d+)\.attn\.qkv\.weight")
_HEAD_WIDTH = 64


class Released(NamedTuple):
    """The three parts of a checkpoint."""

    sam: Sam
    clip: Clip
    adapter: Adapter


def load_released(path: str | Path, decoder_heads: int = 8, clip: Clip | None = None) -> Released:
    """Load a checkpoint of the paper's code.

    Parameters
    ----------
    path : str or Path
        A ``.pth`` file. No code in it is run.
    decoder_heads : int
        Attention heads of the mask decoder, which no tensor tells; 8 in every SAM of Meta.
    clip : Clip, optional
        Used where the checkpoint was saved without its CLIP; ignored where it has one.

    Returns
    -------
    Released
        The SAM without adapters, the CLIP, and the adapter with the trained decoder.

    Raises
    ------
    AdapterError
        The file is not such a checkpoint, or its parts do not fit each other.
    WeightsError
        The file cannot be read, or its SAM or CLIP is incomplete.
    ConfigError
        The mask decoder cannot have so many heads.
    """
    checkpoint = _read(path)
    sam_state, layers = split_state(_tensors(checkpoint, "model_state_dict", path))
    sam = _build_sam(sam_state, decoder_heads, path)
    stored = checkpoint.get("clip_model")
    if stored is not None:
        clip = _build_clip(_tensors(checkpoint, "clip_model", path), path)
    if clip is None:
        raise AdapterError(
            f"{path} was saved without its CLIP. Give the CLIP it was trained with (clip=...)."
        )
    adapter = _build_adapter(sam, clip, layers, path, own_clip=stored is not None)
    return Released(sam, clip, adapter)


def split_state(
    state: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split a released SAM's tensors into SAM's own and those of the adapter.

    Returns
    -------
    sam : dict
        Under `segment_anything`'s names.
    layers : dict
        Under the names in `Adapter`, ``blocks.0.semantic.fc1.weight`` and so on.
    """
    sam: dict[str, Tensor] = {}
    layers: dict[str, Tensor] = {}
    for name, tensor in state.items():
        match = _ADAPTER_KEY.fullmatch(name)
        if match is None:
            sam[name] = tensor
            continue
        block, layer, part, kind = match.groups()
        layers[f"blocks.{block}.{_LAYERS[layer]}.{_PARTS.get(part, part)}.{kind}"] = tensor
    return sam, layers


def _read(path: str | Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"There is no file {path}. Check the path.") from error
    # What a foreign file makes the unpickler raise is not confined to its own error.
    except Exception as error:
        raise WeightsError(
            f"{path} cannot be read as a checkpoint: it is damaged, incomplete, or holds more than "
            f"tensors ({type(error).__name__}). Download it again from where it was published."
        ) from error
    if not isinstance(content, dict) or "model_state_dict" not in content:
        raise AdapterError(
            f"{path} is not a checkpoint of the paper's code: expected a dict with "
            "'model_state_dict' and 'clip_model'. An adapter of this program is a .safetensors."
        )
    return content


def _tensors(checkpoint: Mapping[str, Any], key: str, path: str | Path) -> dict[str, Tensor]:
    state = checkpoint[key]
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise AdapterError(
            f"'{key}' in {path} is not a dict of tensors, as the paper's code writes it. "
            "Save the networks' state_dict."
        )
    return {str(name).removeprefix("module."): tensor for name, tensor in state.items()}


def _load(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load strictly, as float32; the first thing that does not fit is named."""
    try:
        module.load_state_dict({n: v.float() for n, v in state.items()}, assign=True)
    except RuntimeError as error:
        reason = [line.strip() for line in str(error).splitlines()][:2][-1]
        raise WeightsError(
            f"The tensors of {what} are not those of the released code ({reason}). "
            "Use the file as it was published."
        ) from error


def _build_sam(state: Mapping[str, Tensor], decoder_heads: int, path: str | Path) -> Sam:
    state = weights.sam_state(state, str(path))
    try:
        config = replace(weights.sam_config_of(state), decoder_heads=decoder_heads)
        # Without storage: the initial values, drawn as random numbers, would only be thrown away.
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            sam = Sam(config)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise WeightsError(
            f"The SAM in {path} is not one of the released code ({error}). Use the file as it was "
            "published."
        ) from error
    except AssertionError as error:
        raise ConfigError(
            f"A mask decoder of width {config.out_chans} cannot have {decoder_heads} heads "
            f"({error}). Give the number it was trained with (decoder_heads=...)."
        ) from error
    _load(sam, state, f"the SAM in {path}")
    return sam


def _build_adapter(
    sam: Sam, clip: Clip, layers: Mapping[str, Tensor], path: str | Path, own_clip: bool
) -> Adapter:
    bottleneck = layers.get("blocks.0.semantic.fc1.weight")
    projection = layers.get("blocks.0.semantic.vision_proj.weight")
    if bottleneck is None or projection is None or 0 in bottleneck.shape:
        raise AdapterError(
            f"{path} has no adapters: expected MLP_Adapter and Space_Adapter in every block of its "
            "SAM. To use it as a plain SAM, import it as a model."
        )
    clip_dim = projection.shape[1]
    if not own_clip and clip_dim != clip.dim:
        raise AdapterError(
            f"{path} was trained with a CLIP of width {clip_dim}; the one given has {clip.dim}. "
            "Give the CLIP it was trained with."
        )
    config = AdapterConfig(
        n_conditioned=sam.config.depth,
        init="paper",
        normalisation="token",
        reduction=bottleneck.shape[1] // bottleneck.shape[0],
        pad_before_norm=True,
        squash=True,
        object_mode=False,
    )
    adapter = build_adapter(config, sam, clip, seed=0, clip_dim=clip_dim)
    own = {n.removeprefix("blocks."): tensor for n, tensor in layers.items()}
    _load(adapter.blocks, own, f"the adapters in {path}")
    return adapter


def _build_clip(state: Mapping[str, Tensor], path: str | Path) -> Clip:
    """Build the CLIP of a checkpoint from its tensors."""
    try:
        config = _clip_config(state)
    except (KeyError, IndexError, ValueError) as error:
        raise WeightsError(
            f"The CLIP in {path} is not one of OpenAI's make after surgery ({error}). "
            "Use the file as it was published."
        ) from error
    # Building draws random numbers that loading overwrites; nobody else's draws may change by it.
    with torch.random.fork_rng(devices=[]):
        clip = build_clip(config)
    _load(clip.model, _undo_surgery(state), f"the CLIP in {path}")
    return clip


def _undo_surgery(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the attention of the last blocks its first names back."""
    restored = {}
    for name, tensor in state.items():
        if name.startswith("visual.attn."):
            # The last block's attention a second time.
            continue
        for operated, original in _ATTENTION.items():
            if name.endswith(operated):
                name = name.removesuffix(operated) + original
        restored[name] = tensor
    return restored


def _clip_config(state: Mapping[str, Tensor]) -> ClipConfig:
    operated = {int(m.group(1)) for m in map(_OPERATED_KEY.fullmatch, state) if m}
    layers = _count_blocks(state, "visual.transformer")
    if not operated or operated != set(range(min(operated), layers)):
        raise ValueError("its last vision blocks have no attn.qkv")
    width, _, patch, _ = state["visual.conv1.weight"].shape
    input_size = round((len(state["visual.positional_embedding"]) - 1) ** 0.5) * patch
    vocabulary, text_width = state["token_embedding.weight"].shape
    architecture = {
        "embed_dim": state["visual.proj"].shape[1],
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": input_size,
            "layers": layers,
            "width": width,
            "patch_size": patch,
            "head_width": _HEAD_WIDTH,
        },
        "text_cfg": {
            "context_length": len(state["positional_embedding"]),
            "vocab_size": vocabulary,
            "width": text_width,
            "heads": text_width // _HEAD_WIDTH,
            "layers": _count_blocks(state, "transformer"),
        },
    }
    return ClipConfig(architecture, input_size, len(operated))


def _count_blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    pattern = re.compile(re.escape(prefix) + r"\.resblocks\.(\d+)\.")
    return len({m.group(1) for m in map(pattern.match, state) if m})
