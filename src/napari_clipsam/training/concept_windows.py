"""What a concept refiner learns from: windows on labelled planes, as the adapter answers them.

The adapter is more certain of planes it learnt from than of any other, so what it says is shown
more or less certain than it was; light, focus and noise change as for the adapter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from napari_clipsam.inference.concept_windows import ConceptMaps, resized
from napari_clipsam.models.refiner import WINDOW
from napari_clipsam.training.augment import relight

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from napari_clipsam.geometry import Frame
    from napari_clipsam.inference.segmenter import Segmenter
    from napari_clipsam.training.samples import Example

__all__ = [
    "KEPT",
    "ConceptWindows",
    "doubted",
    "labelled_maps",
    "moved",
    "squares",
    "turned",
    "with_room",
]

#: Side of the part of a plane that a window is cut from, cells: there is room to move.
KEPT = 3 * WINDOW // 2
# Tiles of a plane that is too large to be shown whole.
_TILES = 4
# Scale of a window, and how its log-odds are multiplied and moved.
_SCALE, _SHARPER, _SHIFT = 0.4, 0.25, 0.5


class ConceptWindows:
    """Windows on maps, drawn anew for every step.

    Parameters
    ----------
    maps : sequence of ndarray
        As `labelled_maps` makes them.
    batch : int
        Windows of a step.
    seed : int
    device : torch.device
        To learn on.

    Attributes
    ----------
    generator : torch.Generator
        Of all that is drawn.
    """

    def __init__(
        self, maps: Sequence[NDArray[np.uint8]], batch: int, seed: int, device: torch.device
    ) -> None:
        self.maps, self.batch, self.device = maps, batch, device
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self) -> list[Tensor]:
        """Windows (7, S, S) of a step: grey values, then as the maps, 0..1."""
        seed = int(torch.randint(1 << 31, (), generator=self.generator))
        rng = np.random.default_rng(seed)
        parts = torch.stack([self._part(rng) for _ in range(self.batch)])
        parts = moved(parts, self.generator)
        parts[:, 3] = doubted(parts[:, 3], self.generator)
        return list(turned(parts, rng))

    def _part(self, rng: np.random.Generator) -> Tensor:
        maps = self.maps[int(rng.integers(len(self.maps)))]
        y, x = (int(rng.integers(length - KEPT + 1)) for length in maps.shape[1:])
        part = maps[:, y : y + KEPT, x : x + KEPT]
        rgb = relight(part[:3].transpose(1, 2, 0), rng).transpose(2, 0, 1)
        soft = torch.from_numpy(part[3:].astype(np.float32)) / 255
        return torch.cat([torch.from_numpy(rgb.astype(np.float32)), soft])


def labelled_maps(segmenter: Segmenter, example: Example) -> Iterator[NDArray[np.uint8]]:
    """Tell what the adapter in use says of a labelled plane, and what is there.

    Parameters
    ----------
    segmenter : Segmenter
        Its adapter knows the example's word.
    example : Example

    Yields
    ------
    ndarray of uint8, shape (7, R, C)
        Of the plane, twice where it is looked at at two scales, or of a few of its tiles that show
        the structure: grey values of three channels, chance, similarity, the structure, and what is
        known of it, 255 for all.
    """
    shown = example.labels > 0
    known = np.ones(shown.shape, bool) if example.known is None else example.known

    def shows(frame: Frame) -> bool:
        return bool((shown & known)[frame.slices].any())

    found = segmenter.concept_maps(example.plane, example.words[0], shows)
    for frame, maps in islice(found, _TILES):
        there = [shown[frame.slices], known[frame.slices]]
        targets = [torch.from_numpy(mask.astype(np.float32)) for mask in there]
        yield with_room(maps, targets)


def with_room(maps: ConceptMaps, targets: Sequence[Tensor]) -> NDArray[np.uint8]:
    """Maps and targets (h, w), 0..1, of the same crop as bytes (5 + T, R, C), large enough.

    R and C are `KEPT` at least; what is added repeats the edges.
    """
    shape = maps.chance.shape
    soft = [maps.chance, maps.similarity, *(resized(target, shape) for target in targets)]
    scaled = (torch.stack(soft) * 255).round().byte().numpy()
    every = np.concatenate([maps.rgb.transpose(2, 0, 1), scaled])
    edges = [(0, 0)]
    for length in shape:
        room = max(0, KEPT - length)
        edges.append((room // 2, room - room // 2))
    return np.pad(every, edges, mode="edge")


def moved(maps: Tensor, generator: torch.Generator) -> Tensor:
    """Squares of `WINDOW` cells out of maps (N, C, `KEPT`, `KEPT`), anywhere in them and scaled."""
    draws = torch.rand(len(maps), 3, generator=generator)
    scale = torch.exp(2 * _SCALE * draws[:, :1] - _SCALE)
    side = WINDOW * scale.clamp(max=KEPT / WINDOW)
    return squares(maps, draws[:, 1:] * (KEPT - side), side, WINDOW)


def doubted(chance: Tensor, generator: torch.Generator) -> Tensor:
    """Chances (N, S, S), 0..1, less or more certain than they were."""
    draws = torch.randn(2, len(chance), 1, 1, generator=generator)
    sharper, shift = torch.exp(_SHARPER * draws[0]), _SHIFT * draws[1]
    return torch.sigmoid(torch.logit(chance, eps=1e-3) * sharper + shift)


def squares(maps: Tensor, first: Tensor, side: Tensor, size: int) -> Tensor:
    """Squares of `size` cells out of maps (N, C, S, S), from `first` (N, 2) on, `side` (N, 1) wide.

    Both are cells of the maps.
    """
    cells = (torch.arange(size) + 0.5) / size
    y, x = ((first[:, i : i + 1] + cells * side) * 2 / maps.shape[-1] - 1 for i in (0, 1))
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=-1)
    return F.grid_sample(maps, grid, padding_mode="border", align_corners=False)


def turned(maps: Tensor, rng: np.random.Generator) -> Tensor:
    """Maps (N, C, S, S) mirrored or turned, all alike."""
    maps = torch.rot90(maps, int(rng.integers(4)), (2, 3))
    return maps.flip(3) if rng.random() < 0.5 else maps
