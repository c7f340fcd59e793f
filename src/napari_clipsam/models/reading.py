"""Weights files as named tensors, read without running any code in them.

What a file is, its first bytes tell, not its name: safetensors, an archive of torch, or neither. Of
a TorchScript archive, the tensors are read and the program is not run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from napari_clipsam.errors import WeightsError
from napari_clipsam.models.torchscript import FOREIGN, is_torchscript, read_torchscript

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SUFFIXES", "is_file", "kind_of", "read_header", "read_state"]

#: Endings by which a name is taken for a file's.
SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".safetensors")
#: Names that weights are nested under, the most telling first.
_NESTS = ("model_state_dict", "model_state", "state_dict", "model", "sam", "net", "module")
#: What wrappers put before every name: data parallel and compiled models.
_WRAPPERS = ("module.", "_orig_mod.")


def is_file(name: str) -> bool:
    """Tell whether a name means a file: it is one, or is written like the path of one."""
    looks = "/" in name or "\\" in name or Path(name).suffix.lower() in SUFFIXES
    return looks or Path(name).is_file()


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a weights file without running any code in it.

    Parameters
    ----------
    path : str or Path
        safetensors, or what ``torch.save`` wrote. Tensors nested in a dict (``model_state``,
        ``state_dict``, ...) are found, the prefixes of data-parallel and compiled models removed.

    Returns
    -------
    dict of str to Tensor
        On the CPU, as stored.

    Raises
    ------
    WeightsError
        The file is missing, cut off, of another make, or would run code.
    """
    return _unwrapped(_tensors_of(Path(path)))


def read_header(path: str | Path) -> dict[str, str]:
    """Metadata of a safetensors file; empty for any other."""
    if kind_of(Path(path)) != "safetensors":
        return {}
    with _opened(Path(path)) as file:
        return dict(file.metadata() or {})


def kind_of(path: Path) -> str:
    """Tell by a file's first bytes whether it is ``safetensors`` or what ``torch`` writes.

    Raises
    ------
    WeightsError
        It is neither, empty, a folder, or not there.
    """
    if path.is_dir():
        raise WeightsError(f"{path} is a folder. Give the weights file in it.")
    try:
        with path.open("rb") as file:
            start, size = file.read(9), path.stat().st_size
    except FileNotFoundError as error:
        raise WeightsError(f"There is no file {path}. Check the path.") from error
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}). Check the path.") from error
    if not start:
        raise WeightsError(f"{path} is empty. Download or copy it again.")
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < max(size, 100_000_000):
        return "safetensors"
    # A zip archive, or a pickle (of protocol 2 to 5) as torch wrote it before 1.6.
    if start.startswith(b"PK\x03\x04") or (start[:1] == b"\x80" and start[1:2] in b"\2\3\4\5"):
        return "torch"
    raise WeightsError(
        f"{path} is not a weights file: it is neither safetensors nor what torch.save writes. "
        "Choose a .safetensors, .pth or .pt file, or download it again."
    )


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path} is damaged or cut off ({error}). Download or copy it again."
        ) from error


def _tensors_of(path: Path) -> dict[str, Tensor]:
    if kind_of(path) == "safetensors":
        with _opened(path) as file:
            # Copied: a mapped file could not be replaced on Windows while the model lives.
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    try:
        if is_torchscript(path):
            return read_torchscript(path)
        # Opened here: by a path, torch would go by its ending.
        with path.open("rb") as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
    # A damaged or hostile pickle makes the reader fail with almost any exception.
    except Exception as error:
        raise _refusal(path, str(error)) from error
    found = _nested_tensors(content)
    if not found:
        raise WeightsError(
            f"{path} holds no named tensors. Choose a file with a model's state dict."
        )
    return found


def _refusal(path: Path, reason: str) -> WeightsError:
    """What to say of a torch file that could not be read."""
    if any(part in reason for part in ("weights_only", "Unsupported", FOREIGN)):
        return WeightsError(
            f"{path} holds more than tensors, or is damaged: reading it could run code, so it was "
            "not read. Save the model's state_dict() alone (micro-sam: export_custom_sam_model), "
            "and give that."
        )
    return WeightsError(f"{path} is damaged or cut off. Download or copy it again.")


def _nested_tensors(content: object, depth: int = 3) -> dict[str, Tensor]:
    """The mapping of names to tensors inside a checkpoint; the largest where names do not tell."""
    if not isinstance(content, Mapping):
        return {}
    items = {key: value for key, value in content.items() if isinstance(key, str)}
    own = {key: value for key, value in items.items() if isinstance(value, torch.Tensor)}
    if depth == 0:
        return own
    nests = sorted(items, key=lambda key: _NESTS.index(key) if key in _NESTS else len(_NESTS))
    inner = {key: _nested_tensors(items[key], depth - 1) for key in nests}
    for key in _NESTS:
        if len(inner.get(key, ())) > len(own):
            return inner[key]
    return max([own, *inner.values()], key=len)


def _unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes of wrappers where every name has them."""
    for _ in _WRAPPERS:
        for prefix in _WRAPPERS:
            if state and all(name.startswith(prefix) for name in state):
                state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state
