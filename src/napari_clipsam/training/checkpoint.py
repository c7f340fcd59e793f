"""The state of a training run on disk: whole or not there, and safe to read."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from napari_clipsam.errors import ConfigError, WeightsError
from napari_clipsam.outputs import replacing

if TYPE_CHECKING:
    from napari_clipsam.models.registry import LoadedModel
    from napari_clipsam.training.samples import Split
    from napari_clipsam.training.settings import FitSettings

__all__ = ["load_state", "run_fingerprint", "save_state", "state_path"]

_VERSION = 1


def state_path(adapter_file: Path) -> Path:
    """Where the state of the training of an adapter file is kept."""
    return adapter_file.with_name(adapter_file.name.removesuffix(".safetensors") + ".training.pt")


def run_fingerprint(model: LoadedModel, split: Split, settings: FitSettings, start: str) -> str:
    """Tell a run from others: its networks, planes, labels, words and settings but for the end."""
    kept = settings.to_json()
    for name in ("minutes", "steps", "patience"):
        del kept[name]
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(kept, sort_keys=True).encode())
    digest.update(f"{model.sam.identity} {model.clip.identity} {start}".encode())
    for part in (split.train, split.held_out):
        for example in part:
            digest.update(f"{example.plane.fingerprint} {example.words}".encode())
            digest.update(f"{example.objects} {example.labels.dtype}".encode())
            digest.update(example.labels.tobytes())
            if example.known is not None:
                digest.update(example.known.tobytes())
    return digest.hexdigest()


def save_state(path: Path, fingerprint: str, state: dict[str, Any]) -> None:
    """Write the state; the former file stays until the new one is whole.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    content = {"version": _VERSION, "fingerprint": fingerprint, **state}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with replacing(path, overwrite=True) as part:
        part.write_bytes(buffer.getbuffer())


def load_state(path: Path, fingerprint: str, device: torch.device) -> dict[str, Any]:
    """Read the state of the same run.

    Raises
    ------
    WeightsError
        The file is missing, damaged, or not one of these.
    ConfigError
        It belongs to a run on other planes, labels, words or settings.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"There is no {path} to go on from. Train from the start.") from error
    # A damaged or hostile pickle makes the reader fail with almost any exception.
    except Exception as error:
        raise WeightsError(
            f"{path} is damaged, so training cannot go on from it. Delete it and train anew."
        ) from error
    if not isinstance(state, dict) or state.get("version") != _VERSION:
        raise WeightsError(
            f"{path} is not the state of a training run of this version. Delete it and train anew."
        )
    if state["fingerprint"] != fingerprint:
        raise ConfigError(
            f"{path} belongs to training on other images, labels, words or settings. Give those, "
            "or delete it and train anew."
        )
    return state
