"""Small convolutional networks that redraw masks from the pixels around them."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "CELLS",
    "CONCEPT_WIDTHS",
    "WINDOW",
    "ConceptRefiner",
    "MaskRefiner",
    "concept_input",
    "refiner_input",
]

#: Cells along each side of a close-up.
CELLS = 64
#: Cells along each side of a window on a concept.
WINDOW = 96
#: Of a concept refiner that is made anew.
CONCEPT_WIDTHS = (16, 24, 32, 48)

_CHANNELS, _CONCEPT_CHANNELS = 9, 5
# Of a click's mark, in cells; and the contrast, grey values, below which a close-up stays flat.
_REACH, _FLAT = 1.5, 4.0


class _Convolutions(nn.Sequential):
    """Two convolutions, normalised in groups."""

    def __init__(self, before: int, after: int) -> None:
        parts: list[nn.Module] = []
        for width in (before, after):
            conv = nn.Conv2d(width, after, 3, padding=1, bias=False)
            parts += [conv, nn.GroupNorm(8, after), nn.ReLU(inplace=True)]
        super().__init__(*parts)


class _UNet(nn.Module):
    """Channels (N, C, S, S) to features at their own scale and at the coarsest.

    Parameters
    ----------
    channels : int
    widths : tuple of int
        Channels at each scale, the finest first; multiples of 8.
    """

    def __init__(self, channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.widths = widths
        pairs = list(pairwise(widths))
        self.first = _Convolutions(channels, widths[0])
        self.down = nn.ModuleList(_Convolutions(a, b) for a, b in pairs)
        self.up = nn.ModuleList(_Convolutions(a + b, a) for a, b in reversed(pairs))
        self.mask = nn.Conv2d(widths[0], 1, 1)

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, W, S, S) and (N, V, s, s)."""
        x = self.first(x.contiguous(memory_format=torch.channels_last))
        seen = []
        for down in self.down:
            seen.append(x)
            x = down(F.max_pool2d(x, 2))
        deep = x
        for up in self.up:
            fine = seen.pop()
            x = F.interpolate(x, size=fine.shape[-2:], mode="bilinear", align_corners=False)
            x = up(torch.cat([x, fine], dim=1))
        return x, deep


class MaskRefiner(_UNet):
    """Close-up of an object: pixels, masks it may have and prompts to its mask and its worth.

    Parameters
    ----------
    widths : tuple of int
        Channels at each scale, the finest first; multiples of 8.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__(_CHANNELS, widths)
        self.worth = nn.Sequential(
            nn.Linear(widths[-1] + widths[0], 64), nn.ReLU(inplace=True), nn.Linear(64, 1)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Redraw masks.

        Parameters
        ----------
        x : Tensor, shape (N, 9, S, S)
            What `refiner_input` makes.

        Returns
        -------
        logits : Tensor, shape (N, S, S)
        worth : Tensor, shape (N,)
            The IoU that is expected, 0..1.
        """
        x, deep = self.features(x)
        logits = self.mask(x)
        inside = torch.sigmoid(logits.detach())
        marked = (x * inside).sum(dim=(2, 3)) / inside.sum(dim=(2, 3)).clamp_min(1.0)
        worth = self.worth(torch.cat([deep.mean(dim=(2, 3)), marked], dim=1))
        return logits[:, 0], torch.sigmoid(worth[:, 0])


class ConceptRefiner(_UNet):
    """Window on a concept: pixels and where it is thought to be to its mask.

    Parameters
    ----------
    widths : tuple of int
        Channels at each scale, the finest first; multiples of 8.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__(_CONCEPT_CHANNELS, widths)

    def forward(self, x: Tensor) -> Tensor:
        """Redraw a concept: what `concept_input` makes, (N, 5, S, S), to logits (N, S, S)."""
        return self.mask(self.features(x)[0])[:, 0]


def refiner_input(
    rgb: Tensor, masks: Tensor, points: Tensor, labels: Tensor, box: Tensor
) -> Tensor:
    """Put together what a refiner sees of N close-ups.

    Parameters
    ----------
    rgb : Tensor, shape (N, 3, S, S)
        Grey values 0..255; each close-up is normalised on its own.
    masks : Tensor, shape (N, 3, S, S)
        How much of each cell a mask covers, 0..1: the three that a click may mean, best first, or
        thrice the one there is.
    points, labels : Tensor, shapes (N, K, 2) and (N, K)
        (y, x) in cells, 0 at the first edge; 1 is a click on the object, 0 beside it, -1 none.
    box : Tensor, shape (N, 4)
        (y0, x0, y1, x1) in cells; NaN for none.

    Returns
    -------
    Tensor, shape (N, 9, S, S)
    """
    size = rgb.shape[-1]
    cells = torch.arange(size, device=rgb.device) + 0.5
    # (N, K, 2, S): how far every row and column is from a click.
    away = points[..., None].nan_to_num(-1e3) - cells
    marks = torch.exp(-(away**2) / (2 * _REACH**2))
    marks = marks[:, :, 0, :, None] * marks[:, :, 1, None, :]
    on, beside = ((marks * (labels == kind)[..., None, None]).amax(dim=1) for kind in (1, 0))
    first, last = box.nan_to_num(0)[:, :2, None], box.nan_to_num(0)[:, 2:, None]
    covered = (torch.minimum(cells + 0.5, last) - torch.maximum(cells - 0.5, first)).clamp(0, 1)
    framed = covered[:, 0, :, None] * covered[:, 1, None, :]
    marked = torch.stack([on, beside, framed], dim=1)
    return torch.cat([_normalised(rgb), masks, marked], dim=1)


def concept_input(rgb: Tensor, chance: Tensor, similarity: Tensor) -> Tensor:
    """Put together what a concept refiner sees of N windows.

    Parameters
    ----------
    rgb : Tensor, shape (N, 3, S, S)
        Grey values 0..255; each window is normalised on its own.
    chance : Tensor, shape (N, S, S)
        That the concept is there, 0..1.
    similarity : Tensor, shape (N, S, S)
        Of image and word, 0..1.

    Returns
    -------
    Tensor, shape (N, 5, S, S)
    """
    return torch.cat([_normalised(rgb), chance[:, None], similarity[:, None]], dim=1)


def _normalised(rgb: Tensor) -> Tensor:
    deviation, mean = torch.std_mean(rgb, dim=(1, 2, 3), keepdim=True, correction=0)
    return (rgb - mean) / (deviation + _FLAT)
