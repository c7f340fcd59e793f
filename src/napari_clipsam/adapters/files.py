"""An adapter as one safetensors file with a JSON header.

The header says all there is to know without reading a tensor: format version, configuration, words,
which base and CLIP it belongs to, how it was made and what it scored. What is stored is what
counts: scores are to be measured on the adapter as loaded from its file.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from napari_clipsam.adapters.base import AdapterConfig
from napari_clipsam.adapters.inject import Adapter, AdapterInfo, build_adapter
from napari_clipsam.errors import AdapterError, ConfigError, InputError, OutputError
from napari_clipsam.models.reading import read_header as read_metadata
from napari_clipsam.outputs import replacing

if TYPE_CHECKING:
    from torch import Tensor

    from napari_clipsam.models.clip import ClipFacts
    from napari_clipsam.models.sam import Sam

__all__ = [
    "FORMAT_VERSION",
    "AdapterHeader",
    "is_adapter",
    "load_adapter",
    "read_header",
    "round_as_stored",
    "save_adapter",
]

FORMAT_VERSION = 1
_KEY = "napari_clipsam_adapter"


@dataclass(frozen=True)
class AdapterHeader:
    """What an adapter file says of itself.

    Attributes
    ----------
    format_version : int
    config : AdapterConfig
    info : AdapterInfo
    taught : tuple of str
        Words with a learned vector.
    unknown : tuple of str
        Settings of a newer version that this one leaves out.
    n_parameters : int
        Trained numbers, those of the decoder included.
    size : int
        Of the file, bytes.
    """

    format_version: int
    config: AdapterConfig
    info: AdapterInfo
    taught: tuple[str, ...]
    unknown: tuple[str, ...]
    n_parameters: int
    size: int


def save_adapter(
    adapter: Adapter, path: str | Path, overwrite: bool = False, half: bool = True
) -> Path:
    """Write an adapter, whole or not at all, and read it back.

    Parameters
    ----------
    adapter : Adapter
    path : str or Path
        Ends in ``.safetensors``.
    overwrite : bool
        Whether an existing file may be replaced; it stays as it was if anything fails.
    half : bool
        Store weights as float16, but for those out of its range. Buffers stay float32.

    Returns
    -------
    Path

    Raises
    ------
    OutputError
        The name, the folder or an existing file speak against it, or what was read back differs.
    AdapterError
        A weight is not finite.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise OutputError(f"{path} is not the name of an adapter. Let it end in .safetensors.")
    trained = {name for name, _ in adapter.named_parameters()}
    tensors = {
        name: _stored(name, value.detach().cpu(), half and name in trained)
        for name, value in adapter.state_dict().items()
    }
    try:
        metadata = {_KEY: json.dumps(_header_of(adapter), sort_keys=True)}
    except TypeError as error:
        raise AdapterError(
            f"The adapter's provenance or scores cannot be written as JSON ({error}). "
            "Use text, numbers, lists and dicts in them."
        ) from error
    with replacing(path, overwrite) as part:
        if not _write(part, tensors, metadata):
            raise OutputError(
                f"{path} did not read back as it was written, so it was not kept. Check the disk "
                "and its free space, or choose another folder."
            )
    return path


def is_adapter(path: str | Path) -> bool:
    """Whether a file calls itself an adapter, whatever else may be wrong with it.

    Raises
    ------
    WeightsError
        It is no weights file, or damaged.
    """
    return _KEY in read_metadata(path)


def read_header(path: str | Path) -> AdapterHeader:
    """Read what an adapter file says of itself, and no tensor.

    Raises
    ------
    AdapterError
        The file is missing, damaged, not an adapter, or of a newer format.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError as error:
        raise AdapterError(f"There is no adapter {path}. Check the path.") from error
    except (SafetensorError, OSError) as error:
        raise AdapterError(
            f"{path} is damaged, cut off, or not an adapter ({error}). "
            "Expected a .safetensors file that fine-tuning wrote; copy or download it again."
        ) from error
    if _KEY not in metadata:
        raise AdapterError(
            f"{path} is a safetensors file, but not an adapter of napari-clipsam. Choose a file "
            "that fine-tuning wrote; weights of a model are imported as a model."
        )
    try:
        return _parse(json.loads(metadata[_KEY]), path, size)
    except (ValueError, TypeError, KeyError, AttributeError, ConfigError) as error:
        raise AdapterError(
            f"The header of {path} cannot be read ({error}). Copy or download the file again."
        ) from error


def load_adapter(path: str | Path, sam: Sam, clip: ClipFacts) -> Adapter:
    """Load an adapter for the base and the CLIP it was trained on.

    Parameters
    ----------
    path : str or Path
    sam, clip : Sam, ClipFacts
        Neither is changed; the adapter shares no tensor with them.

    Returns
    -------
    Adapter
        On the device of `sam`, float32.

    Raises
    ------
    AdapterError
        As for `read_header`; or the file belongs to another base or CLIP; or its tensors do not
        fit its configuration.

    Warns
    -----
    UserWarning
        The file has settings of a newer version, which are left out.
    """
    header = read_header(path)
    _check_identity(path, "base model", header.info.base_identity, sam.identity)
    _check_identity(path, "CLIP", header.info.clip_identity, clip.identity)
    if header.unknown:
        warnings.warn(
            f"{path} was written by a newer version; its settings {', '.join(header.unknown)} are "
            "left out. Update napari-clipsam to use them.",
            stacklevel=2,
        )
    try:
        adapter = build_adapter(header.config, sam, clip, seed=0)
        for word in header.taught:
            adapter.teach(word)
    except InputError as error:
        raise AdapterError(f"{path} cannot be used here. {error}") from error
    try:
        adapter.load_state_dict(load_file(path))
    except (RuntimeError, SafetensorError, OSError) as error:
        reason = [line.strip() for line in str(error).splitlines()][:2][-1]
        raise AdapterError(
            f"The tensors in {path} do not fit its configuration ({reason}). "
            "Copy or download the file again."
        ) from error
    adapter.info = header.info
    return adapter


@torch.no_grad()
def round_as_stored(adapter: Adapter) -> None:
    """Round an adapter's weights in place to what its file will hold.

    What is measured afterwards holds for the file. Values that are not finite stay.
    """
    for parameter in adapter.parameters():
        rounded = parameter.half().to(parameter.dtype)
        if rounded.isfinite().all():
            parameter.copy_(rounded)


def _stored(name: str, tensor: Tensor, half: bool) -> Tensor:
    """A contiguous copy as it is stored; no value is lost to infinity."""
    if not tensor.isfinite().all():
        raise AdapterError(
            f"The adapter's {name} has values that are not finite: its training diverged. Train "
            "again with a lower learning rate."
        )
    rounded = tensor.half() if half else tensor
    return (rounded if rounded.isfinite().all() else tensor).clone().contiguous()


def _header_of(adapter: Adapter) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "config": adapter.config.to_json(),
        "info": asdict(adapter.info),
        "taught": list(adapter.taught),
        "n_parameters": sum(p.numel() for p in adapter.parameters()),
    }


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> bool:
    """Write a file; whether it reads back bit for bit."""
    try:
        # `save_file` would make the file readable by its owner alone.
        path.write_bytes(save(tensors, metadata))
        with safe_open(path, framework="pt") as file:
            if file.metadata() != metadata:
                return False
        read = load_file(path)
    except SafetensorError:
        return False
    return read.keys() == tensors.keys() and all(
        read[n].dtype == tensors[n].dtype and torch.equal(read[n], tensors[n]) for n in tensors
    )


def _parse(header: Mapping[str, Any], path: Path, size: int) -> AdapterHeader:
    version = header["format_version"]
    if version > FORMAT_VERSION:
        raise AdapterError(
            f"{path} has format version {version}; this napari-clipsam reads up to "
            f"{FORMAT_VERSION}. Update napari-clipsam."
        )
    config, unknown = AdapterConfig.from_json(header["config"])
    known = {f.name for f in fields(AdapterInfo)}
    facts = {name: value for name, value in header["info"].items() if name in known}
    _check_types(facts)
    info = AdapterInfo(**{**facts, "words": tuple(facts.get("words", ()))})
    unknown += sorted(set(header["info"]) - known)
    return AdapterHeader(
        version, config, info, tuple(header["taught"]), tuple(unknown), header["n_parameters"], size
    )


def _check_types(facts: Mapping[str, Any]) -> None:
    """Refuse facts of another type than `AdapterInfo` has, before anybody relies on them."""
    kinds = {"words": list, "provenance": dict, "scores": dict}
    kinds |= {"base_identity": str, "clip_identity": str}
    for name, kind in kinds.items():
        if not isinstance(facts.get(name, kind()), kind):
            raise TypeError(f"{name} is {facts[name]!r}")
    if not all(isinstance(word, str) for word in facts.get("words", ())):
        raise TypeError(f"words are {facts['words']!r}")
    if not isinstance(facts.get("threshold"), float | int | None):
        raise TypeError(f"threshold is {facts['threshold']!r}")


def _check_identity(path: str | Path, what: str, wanted: str, given: str) -> None:
    if wanted != given:
        raise AdapterError(
            f"{path} belongs to another {what}: it was trained on {wanted}, this one is {given}. "
            f"Choose the {what} it was trained on, or train a new adapter on this one."
        )
