"""What SAM a file holds, told by its tensors alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from napari_clipsam.errors import WeightsError
from napari_clipsam.models.sam import SAM_CONFIGS, SamConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

__all__ = ["ADVICE", "architecture_of", "misfits", "sam_config_of", "sam_state"]

_ANCHOR = "prompt_encoder.no_mask_embed.weight"
_PARTS = ("image_encoder.", "prompt_encoder.", "mask_decoder.", "refiner.", "concept_refiner.")
_ESSENTIAL = (
    "image_encoder.blocks.0.attn.qkv.weight",
    "image_encoder.blocks.0.attn.rel_pos_h",
    "image_encoder.neck.0.weight",
    "prompt_encoder.mask_downscaling.3.weight",
    _ANCHOR,
    "mask_decoder.transformer.layers.0.mlp.lin1.weight",
    "mask_decoder.iou_prediction_head.layers.0.weight",
)
#: Ends the message of a file that is refused.
ADVICE = "Choose SAM weights as Meta, MedSAM or micro-sam publish them (.pth, .safetensors)."


def misfits(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """How tensors differ from those that a network has, in a few words; "" where they fit."""
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    wrong = [n for n in expected if n in found and expected[n].shape != found[n].shape]
    kinds = ((missing, "missing"), (extra, "too many"), (wrong, "of another shape"))
    return ", ".join(f"{len(names)} {what} (e.g. {names[0]})" for names, what in kinds if names)


def sam_state(state: Mapping[str, Tensor], source: str = "The file") -> dict[str, Tensor]:
    """Bring the tensors of a SAM checkpoint to `segment_anything`'s names.

    Parameters
    ----------
    state : mapping of str to Tensor
        As `read_state` returns it. A prefix before SAM's names (``sam.``, ``model.``, ...) is found
        and removed; other tensors, such as a second decoder, are left out.
    source : str
        Starts the error message.

    Raises
    ------
    WeightsError
        A tensor no SAM is without is missing.
    """
    anchors = [name for name in state if name.endswith(_ANCHOR)]
    prefix = min(anchors, key=len)[: -len(_ANCHOR)] if anchors else _common_prefix(state)
    named = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
    named = {name: value for name, value in named.items() if name.startswith(_PARTS)}
    missing = [name for name in _ESSENTIAL if name not in named]
    if missing:
        raise WeightsError(f"{source} holds no {_difference(state, named, missing)}. {ADVICE}")
    return named


def sam_config_of(state: Mapping[str, Tensor]) -> SamConfig:
    """Recognise the shape of a SAM by its tensors.

    What no tensor shows is assumed: 8 heads in the mask decoder, an input of 512 pixels for a
    pyramid stem without global attention, and windows of 14 tokens where no block has windows.

    Parameters
    ----------
    state : mapping of str to Tensor
        As `sam_state` returns it.
    """
    encoder = _below(state, "image_encoder.")
    embed_dim = encoder["neck.0.weight"].shape[1]
    depth = 1 + max(int(n.split(".")[1]) for n in encoder if n.startswith("blocks."))
    tables = [encoder[f"blocks.{i}.attn.rel_pos_h"] for i in range(depth)]
    sides = [(table.shape[0] + 1) // 2 for table in tables]
    stem = _stem_of(encoder)
    patch = 8 if stem[0] else encoder["patch_embed.proj.weight"].shape[-1]
    if "pos_embed" in encoder:
        grid = encoder["pos_embed"].shape[1]
    else:
        grid = max(sides) if len(set(sides)) > 1 else 512 // patch
    windows = [side for side in sides if side != grid]
    decoder = _below(state, "mask_decoder.")
    return SamConfig(
        embed_dim=embed_dim,
        depth=depth,
        num_heads=embed_dim // tables[0].shape[1],
        global_attn_indexes=tuple(i for i, side in enumerate(sides) if side == grid),
        input_size=grid * patch,
        patch_size=patch,
        window_size=windows[0] if windows else 14,
        out_chans=encoder["neck.0.weight"].shape[0],
        decoder_mlp_dim=decoder["transformer.layers.0.mlp.lin1.weight"].shape[0],
        decoder_heads=8,
        iou_hidden_dim=decoder["iou_prediction_head.layers.0.weight"].shape[0],
        mask_in_chans=state["prompt_encoder.mask_downscaling.3.weight"].shape[0],
        stem_widths=stem[0],
        stem_blocks=stem[1],
        refiner_widths=_widths_of(state, "refiner."),
        concept_refiner_widths=_widths_of(state, "concept_refiner."),
    )


def architecture_of(config: SamConfig) -> str:
    """Name of a SAM's shape whatever its input size: vit_b, vit_l, vit_h or custom."""
    for name, known in SAM_CONFIGS.items():
        if replace(config, input_size=known.input_size) == known:
            return name
    return "custom"


def _common_prefix(state: Mapping[str, Tensor]) -> str:
    """What stands before SAM's names in a file without prompt encoder, for the error message."""
    for name in state:
        for part in _PARTS:
            if part in name:
                return name[: name.index(part)]
    return ""


def _difference(
    state: Mapping[str, Tensor], named: Mapping[str, Tensor], missing: list[str]
) -> str:
    """What was expected of a file and what was found."""
    if not named:
        first = next(iter(state), None)
        found = {0: "no tensor", 1: f"one tensor, {first}"}.get(
            len(state), f"{len(state)} tensors, the first {first}"
        )
        return f"SAM: expected an image encoder, a prompt encoder and a mask decoder, found {found}"
    of = f"complete SAM: of the {len(_ESSENTIAL)} tensors that tell its shape"
    if len(missing) == 1:
        return f"{of}, one is missing: {missing[0]}"
    return f"{of}, {len(missing)} are missing, the first {missing[0]}"


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): value for n, value in state.items() if n.startswith(prefix)}


def _widths_of(state: Mapping[str, Tensor], prefix: str) -> tuple[int, ...]:
    """Widths of a refiner; empty where there is none."""
    names = [f"{prefix}first.0.weight"]
    while names[-1] in state:
        names.append(f"{prefix}down.{len(names) - 1}.0.weight")
    return tuple(state[name].shape[0] for name in names[:-1])


def _stem_of(encoder: Mapping[str, Tensor]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Widths and residual blocks of a pyramid stem; empty for SAM's patch embedding."""
    widths: list[int] = []
    blocks: list[int] = []
    while (name := f"patch_embed.down.{len(widths)}.0.weight") in encoder:
        stage = name.removesuffix("0.weight")
        widths.append(encoder[name].shape[0])
        blocks.append(sum(n.startswith(stage) and n.endswith("norm1.weight") for n in encoder))
    return tuple(widths), tuple(blocks)
