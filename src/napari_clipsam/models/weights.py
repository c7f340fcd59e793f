"""Networks from weights files and back: recognised by their tensors, written whole.

A file of this project carries the network's configuration as JSON in its header. Any other SAM is
recognised by its tensors, never by its name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from napari_clipsam.errors import ConfigError, WeightsError
from napari_clipsam.models.identity import tensor_identity
from napari_clipsam.models.reading import is_file, read_header, read_state
from napari_clipsam.models.recognition import (
    ADVICE,
    architecture_of,
    misfits,
    sam_config_of,
    sam_state,
)
from napari_clipsam.models.sam import Sam, SamConfig, resize_positions
from napari_clipsam.outputs import replacing

if TYPE_CHECKING:
    from torch import Tensor

    from napari_clipsam.models.clip import Clip, ClipConfig
    from napari_clipsam.models.towers import AttentionWeights

__all__ = [
    "ClipFile",
    "architecture_of",
    "is_file",
    "load_clip",
    "load_sam",
    "read_state",
    "sam_config_of",
    "sam_state",
    "save_clip",
    "save_sam",
]

#: What building a network from a damaged configuration may fail with.
_UNBUILDABLE = (AssertionError, KeyError, RuntimeError, TypeError, ValueError, ZeroDivisionError)


def load_sam(path: str | Path, input_size: int | None = None) -> Sam:
    """Load a SAM from a file.

    Parameters
    ----------
    path : str or Path
        Of this project (`save_sam`), Meta, MedSAM or micro-sam.
    input_size : int, optional
        Side of the square input in pixels, 512, 768 or 1024; positions are interpolated to it.
        The file's own when not given.

    Returns
    -------
    Sam
        On the CPU, float32.

    Raises
    ------
    WeightsError
        As for `read_state`, or the tensors do not make up a SAM.
    ConfigError
        The input size does not fit the model.
    """
    path = Path(path)
    state = sam_state(read_state(path), str(path))
    config = _sam_config_in(path) or _recognised(state, path)
    if input_size is not None:
        config = replace(config, input_size=input_size)
        state = resize_positions(state, config)
    try:
        # Without storage: the initial values would only be thrown away.
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            sam = Sam(config)
    except _UNBUILDABLE as error:
        raise WeightsError(
            f"{path} describes a SAM that cannot be built ({config}). {ADVICE}"
        ) from error
    _load_strictly(sam, state, path)
    return sam


def save_sam(sam: Sam, path: str | Path, half: bool = True) -> None:
    """Write a SAM with its configuration into one safetensors file; an old file is replaced.

    Parameters
    ----------
    half : bool
        Store float16. Values are rounded then, so the identity of the loaded SAM is another one.

    Raises
    ------
    OutputError
        The file cannot be written; an old one is unchanged.
    """
    _save(sam.state_dict(), {"sam_config": json.dumps(asdict(sam.config))}, path, half)


class ClipFile:
    """A CLIP that `save_clip` wrote, loaded when it is first needed.

    A click needs none, and importing open_clip takes longer than to answer it.

    Parameters
    ----------
    path : str or Path

    Attributes
    ----------
    config : ClipConfig

    Raises
    ------
    WeightsError
        The file is no CLIP of this project.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self.config = _clip_config_in(self._path)

    @property
    def dim(self) -> int:
        """As `Clip.dim`."""
        return int(self.config.architecture["embed_dim"])

    @cached_property
    def identity(self) -> str:
        """As `Clip.identity`."""
        return tensor_identity(read_state(self._path))

    @cached_property
    def clip(self) -> Clip:
        """The network; what `load_clip` raises is raised here."""
        return load_clip(self._path)

    def vision_attention(self) -> list[AttentionWeights]:
        """As `Clip.vision_attention`."""
        return self.clip.vision_attention()


def load_clip(path: str | Path) -> Clip:
    """Load a CLIP that `save_clip` wrote; on the CPU, float32.

    Raises
    ------
    WeightsError
        As for `read_state`, or the file does not hold a CLIP of this project.
    """
    from napari_clipsam.models.clip import build_clip

    path = Path(path)
    state = read_state(path)
    config = _clip_config_in(path)
    # Building draws random numbers that loading overwrites; nobody else's draws may change by it.
    try:
        with torch.random.fork_rng(devices=[]):
            clip = build_clip(config)
    except _UNBUILDABLE as error:
        raise WeightsError(
            f"{path} describes a CLIP that cannot be built ({error}). Download or copy it again."
        ) from error
    _load_strictly(clip.model, state, path)
    return clip


def save_clip(clip: Clip, path: str | Path, half: bool = True) -> None:
    """Write a CLIP of open_clip's own towers with its configuration into one safetensors file.

    Parameters
    ----------
    half : bool
        Store float16; as for `save_sam`.

    Raises
    ------
    ConfigError
        The CLIP is of another make, so it could not be built again from its configuration.
    OutputError
        The file cannot be written; an old one is unchanged.
    """
    from open_clip import CLIP

    if type(clip.model) is not CLIP:
        raise ConfigError(
            "Only a CLIP of open_clip's own towers can be written to a file. Load this one by its "
            "architecture and tag instead."
        )
    config = {name: _plain(getattr(clip.config, name)) for name in _names_of(clip.config)}
    header = {"clip_config": json.dumps(config, sort_keys=True)}
    _save(clip.model.state_dict(), header, path, half)


def _recognised(state: Mapping[str, Tensor], path: Path) -> SamConfig:
    try:
        return sam_config_of(state)
    except (KeyError, IndexError, ValueError, ZeroDivisionError, ConfigError) as error:
        raise WeightsError(f"{path} holds a SAM of an unknown make ({error}). {ADVICE}") from error


def _sam_config_in(path: Path) -> SamConfig | None:
    """Configuration in a file's header, if it has one."""
    return _config_in(path, "sam_config", SamConfig)


def _clip_config_in(path: Path) -> ClipConfig:
    from napari_clipsam.models.clip import ClipConfig

    config = _config_in(path, "clip_config", ClipConfig)
    if config is None:
        raise WeightsError(
            f"{path} does not say which CLIP it holds. Give weights of open_clip as ARCH:FILE, "
            "e.g. ViT-B-16:weights.safetensors."
        )
    return replace(config, words=frozenset(config.words))


def _config_in(path: Path, key: str, kind: type) -> Any:
    text = read_header(path).get(key)
    if text is None:
        return None
    try:
        values = json.loads(text)
        unknown = sorted(set(values) - {f.name for f in fields(kind)})
        if unknown:
            raise WeightsError(
                f"{path} was written by a newer version ({', '.join(unknown)} is not known here). "
                "Update napari-clipsam."
            )
        return kind(**{name: _tuples(value) for name, value in values.items()})
    except (ValueError, TypeError, AttributeError, ConfigError) as error:
        raise WeightsError(
            f"The configuration in {path} cannot be read ({error}). Download or copy it again."
        ) from error


def _names_of(config: Any) -> list[str]:
    return [f.name for f in fields(config)]


def _plain(value: Any) -> Any:
    """A configuration's value as JSON has it; sets in order."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, frozenset | set):
        return sorted(value)
    return value


def _tuples(value: Any) -> Any:
    """A value of JSON with tuples for lists."""
    if isinstance(value, dict):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(_tuples(inner) for inner in value) if isinstance(value, list) else value


def _load_strictly(model: torch.nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Put every tensor of a state, as float32, in its place, or say what did not fit."""
    if complaints := misfits(model.state_dict(), state):
        raise WeightsError(
            f"The tensors in {path} do not fit this model: {complaints}. Choose another file, or "
            "download it again."
        )
    full = {n: v.float() if v.is_floating_point() else v for n, v in state.items()}
    model.load_state_dict(full, assign=True)


def _save(
    state: Mapping[str, Tensor], header: dict[str, str], path: str | Path, half: bool
) -> None:
    tensors = {name: _stored(value.detach().cpu(), half) for name, value in state.items()}
    with replacing(path, overwrite=True) as part:
        try:
            # One entry in the header: safetensors writes several in a random order.
            save_file(tensors, part, metadata=header)
        except SafetensorError as error:
            # A full disk, too, which `replacing` knows how to tell.
            raise OSError(str(error)) from error


def _stored(tensor: Tensor, half: bool) -> Tensor:
    """A tensor as it is stored: float16 unless a value would leave its range."""
    if half and tensor.is_floating_point():
        rounded = tensor.half()
        if rounded.isfinite().all() or not tensor.isfinite().all():
            tensor = rounded
    return tensor.contiguous()
