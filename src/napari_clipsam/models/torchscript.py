"""The tensors of a TorchScript archive, read without running the program in it.

OpenAI publishes its CLIPs as such programs. Their tensors hang on a tree of objects in a pickle
next to the code; the tree is read by an unpickler that knows tensors and nothing else, so neither
the code nor anything the pickle asks for is run.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["FOREIGN", "is_torchscript", "read_torchscript"]

#: Said of what no network is made of.
FOREIGN = "is no part of a network"

_DTYPES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
}


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive; one that is damaged is not."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a TorchScript archive, by the names a state dict gives them.

    Raises
    ------
    pickle.UnpicklingError
        The archive holds anything but objects with tensors, numbers and text.
    """
    with zipfile.ZipFile(path) as archive:
        (entry,) = (n for n in archive.namelist() if n.count("/") == 1 and n.endswith("/data.pkl"))
        folder = entry.removesuffix("data.pkl")
        root = _Reader(archive, folder).load()
    return dict(_tensors(root, ""))


class _Object:
    """What stands in for any object of the program: attributes and no behaviour."""

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


class _Reader(pickle.Unpickler):
    """Knows tensors, and makes an `_Object` of whatever class the program defines."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{folder}data.pkl")))
        self._archive = archive
        self._folder = folder

    def find_class(self, module: str, name: str) -> Any:
        """Give the few things there are."""
        if module.partition(".")[0] == "__torch__":
            return _Object
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch.jit._pickle" and name.startswith(("build_", "restore_type_tag")):
            return _as_it_is
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise pickle.UnpicklingError(f"{module}.{name} {FOREIGN}")

    def persistent_load(self, pid: Any) -> Tensor:
        """The numbers of a storage, as a flat tensor."""
        _, dtype, key, _, count = pid
        if not (isinstance(dtype, torch.dtype) and str(key).isdigit()):
            raise pickle.UnpicklingError(f"{pid} {FOREIGN}")
        stored = bytearray(self._archive.read(f"{self._folder}data/{key}"))
        if not stored:
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(stored, dtype=dtype, count=count)


def _tensor(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> Tensor:
    return torch.as_strided(storage, size, stride, offset)


def _as_it_is(value: object, *_: object) -> object:
    return value


def _tensors(node: object, prefix: str) -> Iterator[tuple[str, Tensor]]:
    if not isinstance(node, _Object):
        return
    for name, value in vars(node).items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        else:
            yield from _tensors(value, f"{prefix}{name}.")
