"""CLIPs of open_clip: by name of an architecture and a tag, from a file on this machine."""

from __future__ import annotations

import importlib.util
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from napari_clipsam.errors import WeightsError
from napari_clipsam.models.clip import Clip, ClipConfig, build_model, check_complete
from napari_clipsam.models.reading import read_state
from napari_clipsam.models.recognition import misfits
from napari_clipsam.models.towers import check_vision_config, patch_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

__all__ = ["check_open_clip", "check_tag", "load_open_clip"]

#: What OpenAI's files hold beside tensors of the model.
_BOOKKEEPING = ("input_resolution", "context_length", "vocab_size")
#: What some files hold that is computed anew when a model is built.
_COMPUTED = ("attn_mask", "position_ids")
#: Without these, transformers would look for the rest of a tokenizer on the hub.
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def check_tag(architecture: str, tag: str) -> dict[str, Any]:
    """What open_clip knows of the weights of a tag: their addresses, activation, ...

    Raises
    ------
    WeightsError
        The architecture or tag is not known.
    """
    import open_clip

    _check_architecture(architecture)
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag not in tags:
        raise WeightsError(
            f"open_clip has no weights '{tag}' for {architecture}. "
            f"Give the path of a file or one of: {', '.join(tags) or 'none'}."
        )
    return dict(open_clip.get_pretrained_cfg(architecture, tag))


def check_open_clip(architecture: str) -> None:
    """Refuse an architecture that could not be used by its name, whatever its weights.

    Raises
    ------
    WeightsError
        It is not known or cannot be built, its vision tower gives no dense features, or its words
        need more than its weights.
    """
    _built(architecture, None)


def load_open_clip(
    architecture: str, file: str | Path, tag: str | None = None, input_size: int = 512
) -> Clip:
    """Any ViT open_clip knows, from a file on this machine.

    Parameters
    ----------
    architecture : str
        open_clip's name, e.g. ``ViT-B-16``; without a tag, one with ``-quickgelu`` for weights of
        OpenAI.
    file : str or Path
        Weights as open_clip, OpenAI or the hub publish them. Where words need a tokenizer of
        `transformers`, its files lie beside it, as in the publisher's folder on the hub.
    tag : str, optional
        open_clip's name of these weights, which tells their activation.
    input_size : int
        Side of the square its vision tower is to see, pixels.

    Raises
    ------
    WeightsError
        The architecture is not known, the weights or the tokenizer are missing or do not fit, or
        the vision tower gives no dense features.
    """
    model, description, tokenizer = _built(architecture, tag, Path(file))
    _fill(model, read_state(file), str(file))
    return Clip(model, ClipConfig(description, input_size), tokenizer)


def _check_architecture(architecture: str) -> None:
    import open_clip

    if architecture not in open_clip.list_models():
        raise WeightsError(
            f"open_clip has no architecture '{architecture}'. "
            "Choose one of `python -c 'import open_clip; print(open_clip.list_models())'`."
        )


def _built(
    architecture: str, tag: str | None, file: Path | None = None
) -> tuple[Any, dict[str, Any], Any]:
    """A model of open_clip with initial weights, its description, and its tokenizer.

    Without the file that is to fill it, one has shapes and no values where its make allows, which
    takes no time.
    """
    import open_clip

    _check_architecture(architecture)
    description = open_clip.get_model_config(architecture)
    source = open_clip.get_pretrained_cfg(architecture, tag) if tag else {}
    # Which activation the weights were trained with, only their tag knows.
    description["quick_gelu"] = bool(description.get("quick_gelu") or source.get("quick_gelu"))
    check_vision_config(architecture, description["vision_cfg"])
    check_complete(description)
    tokenizer_folder = _tokenizer_folder(architecture, description["text_cfg"], file)
    empty = file is None and "timm_model_name" not in description["vision_cfg"]
    try:
        # Initial values are overwritten; the draws of others must not change by it.
        with (
            torch.random.fork_rng(devices=[]),
            torch.device("meta") if empty else nullcontext(),
        ):
            model = build_model(description)
        if tokenizer_folder is None:
            tokenizer = open_clip.get_tokenizer(architecture)
        else:
            tokenizer = _tokenizer_in(tokenizer_folder, description["text_cfg"])
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise WeightsError(
            f"{architecture} cannot be built here ({error}). Choose another, e.g. ViT-B-16."
        ) from error
    patch_size(model.visual)
    return model, description, tokenizer


def _tokenizer_folder(architecture: str, text: Mapping[str, Any], file: Path | None) -> Path | None:
    """Where the files of a tokenizer are that open_clip does not bring; None where it does.

    Left alone, `transformers` would fetch them, which nobody could check.

    Raises
    ------
    WeightsError
        They are not there, or nothing that reads them.
    """
    others = "choose another CLIP, e.g. ViT-B-16"
    name = text.get("hf_tokenizer_name")
    if not name:
        return None
    if file is None:
        raise WeightsError(
            f"The words of {architecture} need a tokenizer beside its weights, so it goes by no "
            f"tag. Get both from the hub ({name}), keep them in one folder, and give the CLIP as "
            f"{architecture}:FOLDER/FILE; or {others}."
        )
    if missing := [part for part in _TOKENIZER if not (file.parent / part).is_file()]:
        raise WeightsError(
            f"The words of {architecture} need its tokenizer beside {file}: there is no "
            f"{' and no '.join(missing)}. Get it from the hub ({name}), or {others}."
        )
    if importlib.util.find_spec("transformers") is None:
        raise WeightsError(
            f"{architecture} needs the package transformers for its words. Install it with "
            f"`pip install transformers`, or {others}."
        )
    return file.parent


def _tokenizer_in(folder: Path, text: Mapping[str, Any]) -> Any:
    """A tokenizer as open_clip sets it up, from files on this machine; none of their code runs."""
    from open_clip.tokenizer import HFTokenizer

    given = ("context_length", "tokenizer_mode")
    return HFTokenizer(
        str(folder),
        **{name: text[name] for name in given if name in text},
        **text.get("tokenizer_kwargs", {}),
        local_files_only=True,
        trust_remote_code=False,
    )


def _fill(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load weights as they are published, of whatever age and make open_clip knows."""
    state = {
        name: value
        for name, value in state.items()
        if name not in _BOOKKEEPING and not name.endswith(_COMPUTED)
    }
    try:
        state = _in_open_clips_names(model, state)
        model.load_state_dict(state)
    except (RuntimeError, KeyError) as error:
        reason = misfits(model.state_dict(), state)
        raise WeightsError(
            f"{source} does not hold weights of this CLIP architecture. Of its tensors are "
            f"{reason}. Choose the architecture the file was made for."
        ) from error


def _in_open_clips_names(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names and shapes as this model has them."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    state = convert_state_dict(model, state)
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    for name in ("logit_scale", "logit_bias"):
        wanted = getattr(model, name, None)
        if wanted is not None and name in state:
            state[name] = state[name].reshape(wanted.shape)
    return state
