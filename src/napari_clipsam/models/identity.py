"""The identity of a set of weights: a hash of its tensors."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

__all__ = ["tensor_identity"]


def tensor_identity(state: Mapping[str, Tensor]) -> str:
    """Hash names, shapes and float32 values of tensors.

    The same weights give the same identity whatever file, precision of storage or device they come
    from, as long as the stored values are equal.

    Returns
    -------
    str
        32 hexadecimal digits (BLAKE2b).
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(state):
        tensor = state[name].detach()
        if tensor.is_floating_point():
            tensor = tensor.to("cpu", torch.float32)
        tensor = tensor.cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
