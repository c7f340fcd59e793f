"""Caches of what does not change: trunk embeddings, dense features, image embeddings."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from torch import Tensor

__all__ = ["TensorCache"]


class TensorCache:
    """Least-recently-used tensors, bounded in bytes.

    Parameters
    ----------
    max_bytes : int
        The oldest entries go when the sum of all is above this; the newest always stays.
    dtype : torch.dtype
        What floating values are rounded to, before first use too: a hit and a miss give the same
        tensor, so the same mask.
    """

    def __init__(self, max_bytes: int, dtype: torch.dtype = torch.float32) -> None:
        self.max_bytes = max_bytes
        self.dtype = dtype
        self.bytes = 0
        self._entries: OrderedDict[Hashable, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """The tensor of a key, made and kept if it is not there; in `dtype`."""
        if key in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key]
        tensor = _rounded(make(), self.dtype)
        if key in self._entries:
            # Made meanwhile for somebody else.
            return self._entries[key]
        self._entries[key] = tensor
        self.bytes += tensor.nbytes
        while self.bytes > self.max_bytes and len(self._entries) > 1:
            _, oldest = self._entries.popitem(last=False)
            self.bytes -= oldest.nbytes
        return tensor

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.bytes = 0


def _rounded(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor in another dtype; what float16 cannot hold becomes the end of its range."""
    if dtype != torch.float16:
        return tensor.to(dtype)
    limit = torch.finfo(dtype).max
    return tensor.float().clamp(-limit, limit).to(dtype)
