"""The regular adapter: a bottleneck after attention (method section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from napari_clipsam.adapters.base import AdapterConfig

__all__ = ["RegularAdapter"]


class RegularAdapter(nn.Module):
    """``a + scale * fc2(GELU(fc1(a)))``; with ``init="paper"`` the bottleneck has an inner skip."""

    def __init__(self, dim: int, config: AdapterConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, dim // config.reduction)
        self.fc2 = nn.Linear(dim // config.reduction, dim)
        self.scale = config.scale
        self.inner_skip = config.init == "paper"
        if config.init == "zero":
            nn.init.zeros_(self.fc2.weight)
            nn.init.zeros_(self.fc2.bias)

    def forward(self, a: Tensor) -> Tensor:
        """Attention output (..., C) to its adapted value."""
        update = self.fc2(F.gelu(self.fc1(a)))
        if self.inner_skip:
            update = a + update
        return a + self.scale * update
