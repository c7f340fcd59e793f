"""Several planes at once, as many as the device has room for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from napari_clipsam.errors import OutOfMemory
from napari_clipsam.inference.devices import free_memory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_clipsam.inference.segmenter import Segmenter
    from napari_clipsam.planes import Plane

__all__ = ["PlaneBatches"]

_MOST = 16


class PlaneBatches:
    """Encodes planes in batches whose size follows from what the first plane took.

    What a batch leaves fits in the Segmenter's caches, or all would be computed again one by one.

    On a CPU, whose cores one plane keeps busy, planes go one by one, so that the numbers are those
    of single planes to the last bit.

    Parameters
    ----------
    segmenter : Segmenter
    words : sequence of str
        What will be looked for in each plane.

    Attributes
    ----------
    size : int
        Planes that should come next.
    """

    def __init__(self, segmenter: Segmenter, words: Sequence[str] = ()) -> None:
        self._segmenter, self._words = segmenter, tuple(words)
        self._device = segmenter.device
        self._known = self._device.type != "cuda"
        self.size = 1

    def encode(self, planes: Sequence[Plane]) -> None:
        """Encode planes; where they do not fit together, in smaller batches from then on."""
        if not planes:
            return
        if not self._known:
            self._learn(planes)
            return
        try:
            self._segmenter.ahead.encode_planes(planes, self._words)
        except OutOfMemory:
            if len(planes) == 1:
                raise
            self.size = half = max(1, len(planes) // 2)
            for first in range(0, len(planes), half):
                self.encode(planes[first : first + half])

    def _learn(self, planes: Sequence[Plane]) -> None:
        """Encode the first planes and see what one took."""
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        self._segmenter.ahead.encode_planes(planes, self._words)
        taken = torch.cuda.max_memory_allocated(self._device) - before
        if not taken:
            # They are blank, or known already.
            return
        room = free_memory(self._device) // 2 * len(planes) // taken
        kept = self._segmenter.ahead.most_planes(len(self._words))
        self.size = max(1, min(_MOST, room, kept))
        self._known = True
