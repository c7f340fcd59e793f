"""Caches of what does not change: trunk embeddings, dense features, image embeddings."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from torch import Tensor

    from napari_clipsam.inference.shelf import Shelf

__all__ = ["TensorCache"]


class TensorCache:
    """Least-recently-used tensors in memory, bounded in bytes, and behind them those on disk.

    Parameters
    ----------
    max_bytes : int
        The oldest entries go when the sum of all is above this; the newest always stays.
    dtype : torch.dtype
        What floating values are rounded to, before first use too: a hit and a miss give the same
        tensor, so the same mask.
    shelf : Shelf, optional
        Where entries are kept on disk as well.
    label : str
        Tells entries on disk from those of other networks.
    """

    def __init__(
        self,
        max_bytes: int,
        dtype: torch.dtype = torch.float32,
        shelf: Shelf | None = None,
        label: str = "",
    ) -> None:
        self.max_bytes = max_bytes
        self.dtype = dtype
        self.bytes = 0
        self._shelf, self._label = shelf, label
        self._entries: OrderedDict[Hashable, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """The tensor of a key, made and kept if it is not there; in `dtype`.

        One that was on disk is on the CPU.
        """
        if key in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key]
        tensor = self._from_shelf(key)
        if tensor is None:
            tensor = _rounded(make(), self.dtype)
            self._to_shelf(key, tensor)
        if key in self._entries:
            # Made meanwhile for somebody else.
            return self._entries[key]
        self._keep(key, tensor)
        return tensor

    def fill(self, keys: Sequence[Hashable], make: Callable[[list[int]], Tensor]) -> None:
        """Make what is neither in memory nor on disk, all at once.

        Parameters
        ----------
        keys : sequence of hashable
        make : callable
            Takes the places in `keys` that are wanted; returns their tensors, stacked.
        """
        missing = [
            i
            for i, key in enumerate(keys)
            if key not in self._entries
            and (self._shelf is None or self._name(key) not in self._shelf)
        ]
        if not missing:
            return
        for i, tensor in zip(missing, _rounded(make(missing), self.dtype).split(1), strict=True):
            # A part of the batch would keep all of it alive.
            self._to_shelf(keys[i], tensor)
            self._keep(keys[i], tensor.clone())

    def holds(self, *shape: int) -> int:
        """How many tensors of a shape there is memory for."""
        return self.max_bytes // (math.prod(shape) * self.dtype.itemsize)

    def clear(self) -> None:
        """Forget everything in memory."""
        self._entries.clear()
        self.bytes = 0

    def _keep(self, key: Hashable, tensor: Tensor) -> None:
        if (former := self._entries.pop(key, None)) is not None:
            self.bytes -= former.nbytes
        self._entries[key] = tensor
        self.bytes += tensor.nbytes
        while self.bytes > self.max_bytes and len(self._entries) > 1:
            _, oldest = self._entries.popitem(last=False)
            self.bytes -= oldest.nbytes

    def _name(self, key: Hashable) -> str:
        return f"{self._label} {self.dtype} {key!r}"

    def _from_shelf(self, key: Hashable) -> Tensor | None:
        found = None if self._shelf is None else self._shelf.get(self._name(key))
        return None if found is None else torch.from_numpy(found)

    def _to_shelf(self, key: Hashable, tensor: Tensor) -> None:
        if self._shelf is not None:
            # In memory of its own: what is written later must not change meanwhile.
            self._shelf.put_later(self._name(key), tensor.detach().cpu().clone().numpy())


def _rounded(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor in another dtype; what float16 cannot hold becomes the end of its range."""
    if dtype != torch.float16:
        return tensor.to(dtype)
    limit = torch.finfo(dtype).max
    return tensor.float().clamp(-limit, limit).to(dtype)
