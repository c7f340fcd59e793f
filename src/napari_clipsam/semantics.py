"""The semantic signals of the method (section 2), and prompts made from them.

B counts (image, concept) pairs, N = h * w CLIP patches, D CLIP's joint width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

# At run time too: TorchScript reads the annotations of what an exported network calls.
from torch import Tensor

__all__ = [
    "ConceptPrompts",
    "Normalisation",
    "Signals",
    "binary_prompt",
    "concept_prompts",
    "cosine_statistics",
    "make_signals",
    "min_max",
    "plane_cells",
    "point_draws",
    "points_from_map",
    "prompts_within",
    "similarity_map",
    "text_vector",
    "valid_patches",
]

Normalisation = Literal["token", "channel"]
_EPSILON = 1e-6


@dataclass(frozen=True, eq=False)
class Signals:
    """What CLIP contributes for B (image, concept) pairs.

    Attributes
    ----------
    vision : Tensor, shape (B, 1 + N, D)
        Vn, the dense features normalised over tokens or channels.
    text : Tensor, shape (B, D)
        t, unit length.
    similarity : Tensor, shape (B, 1 + N, 1)
        s = <Vn, t>.
    cosine : Tensor, shape (B, N)
        True cosine of every patch with t, whatever the normalisation; what presence reads.
    valid : Tensor of bool, shape (B, N)
        False for patches that lie wholly in the padding.
    grid : (int, int)
        Patches along y and x.
    """

    vision: Tensor
    text: Tensor
    similarity: Tensor
    cosine: Tensor
    valid: Tensor
    grid: tuple[int, int]

    def map(self) -> Tensor:
        """Similarity of the patches after min-max, (B, 1, h, w), 0 in the padding."""
        return min_max(self.similarity[:, 1:, 0], self.valid).unflatten(1, self.grid)[:, None]


def text_vector(concept: Tensor, redundant: Tensor, delta: Tensor | None = None) -> Tensor:
    """t = l2norm(c - r + delta), (..., D); delta is a taught word's learned vector."""
    difference = concept - redundant
    return F.normalize(difference if delta is None else difference + delta, dim=-1)


def make_signals(
    dense: Tensor,
    text: Tensor,
    normalisation: Normalisation = "channel",
    valid: Tensor | None = None,
) -> Signals:
    """Signals from CLIP's dense tokens and text vectors.

    Parameters
    ----------
    dense : Tensor, shape (B, 1 + N, D)
        V, CLS first, not normalised; N is a square number.
    text : Tensor, shape (B, D)
        t. It is treated as a constant unless it requires grad (a word being taught).
    normalisation : {"token", "channel"}
        Axis of ||V||: over tokens as the paper's code does, or over channels (Eq. 1).
    valid : Tensor of bool, shape (B, N), optional
        Patches that show the plane; all when not given.
    """
    unit = F.normalize(dense, dim=-1)
    vision = unit if normalisation == "channel" else F.normalize(dense, dim=1)
    similarity = vision @ text[:, :, None]
    n = dense.shape[1] - 1
    side = math.isqrt(n)
    if valid is None:
        valid = torch.ones(dense.shape[0], n, dtype=torch.bool, device=dense.device)
    cosine = (unit[:, 1:] @ text[:, :, None])[..., 0]
    return Signals(vision, text, similarity, cosine, valid, (side, side))


def min_max(values: Tensor, valid: Tensor) -> Tensor:
    """Scale each row of (B, N) to 0..1 over its valid entries; the others become 0."""
    low = values.masked_fill(~valid, float("inf")).amin(dim=1, keepdim=True)
    high = values.masked_fill(~valid, float("-inf")).amax(dim=1, keepdim=True)
    scaled = (values - low) / (high - low).clamp_min(_EPSILON)
    return scaled.masked_fill(~valid, 0.0)


def similarity_map(signals: Signals, input_size: int, size: int) -> Tensor:
    """S resized by way of the model's input size, as the paper does, (B, 1, size, size)."""
    full = F.interpolate(
        signals.map(), size=(input_size, input_size), mode="bilinear", align_corners=False
    )
    return F.interpolate(full, size=(size, size), mode="bilinear", align_corners=False)


def binary_prompt(
    similarity: Tensor, threshold: float, high: float = 255.0, low: float = 0.0
) -> Tensor:
    """Dense prompt of a similarity map: `high` above the threshold, `low` elsewhere."""
    return torch.where(similarity > threshold, high, low)


def plane_cells(resized: Tensor, input_size: int, size: int) -> Tensor:
    """Cells of a size x size grid over the model's input whose centre shows the plane.

    Parameters
    ----------
    resized : Tensor of int, shape (B, 2)
        Height and width of each plane in model pixels; the rest of the square is padding. Cells of
        the first row and column count even where a plane is thinner than they are.

    Returns
    -------
    Tensor of bool, shape (B, 1, size, size)
    """
    centres = (torch.arange(size, device=resized.device) + 0.5) * (input_size / size)
    inside = centres < resized.clamp_min(input_size / size)[:, :, None]
    return (inside[:, 0, :, None] & inside[:, 1, None, :])[:, None]


def valid_patches(resized: Tensor, input_size: int, grid: int) -> Tensor:
    """Patches (B, grid * grid) that show any of their planes; see `plane_cells` for `resized`."""
    line = torch.arange(grid, device=resized.device) * (input_size / grid)
    inside = line < resized[:, :, None]
    return (inside[:, 0, :, None] & inside[:, 1, None, :]).flatten(1)


def point_draws(generator: torch.Generator, pairs: int, count: int) -> Tensor:
    """Numbers in 0..1 that choose points, (pairs, count), on the generator's device."""
    device = generator.device
    draws = torch.rand(pairs, count, dtype=torch.float64, generator=generator, device=device)
    # Apple's devices know no more than 32 bits.
    return draws.float()


def points_from_map(
    similarity: Tensor,
    threshold: float,
    count: int,
    input_size: int,
    generator: torch.Generator | Tensor,
    inside: Tensor | None = None,
) -> Tensor:
    """Points drawn uniformly, with replacement, where a map exceeds the threshold.

    Parameters
    ----------
    similarity : Tensor, shape (B, 1, h, w)
        A map in 0..1; where nothing exceeds the threshold the maximum is taken.
    generator : torch.Generator or Tensor
        One on the CPU gives the same points on every device for a seed; or what it would give,
        numbers (B, count) in 0..1 beside the map.
    inside : Tensor of bool, shape (B, 1, h, w), optional
        Cells that may be chosen (`plane_cells`); without it a point may lie in the padding, since
        the map of a patch on the border reaches beyond it and a constant map is 0 everywhere.

    Returns
    -------
    Tensor, shape (B, count, 2)
        (x, y) in model pixels, float32, at the centres of the chosen cells.
    """
    h, w = similarity.shape[-2:]
    flat = similarity.detach().flatten(1).float()
    if inside is not None:
        flat = flat.masked_fill(~inside.flatten(1), float("-inf"))
    above = flat > threshold
    above |= (~above.any(dim=1, keepdim=True)) & (flat >= flat.amax(dim=1, keepdim=True))
    if isinstance(generator, torch.Generator):
        generator = point_draws(generator, len(flat), count).to(flat.device)
    # The n-th of the cells that may be chosen, in steps that a traced network can repeat anywhere.
    ranks = (generator * above.sum(dim=1, keepdim=True)).ceil().clamp_min(1)
    chosen = torch.searchsorted(above.cumsum(dim=1), ranks.long())
    x = (chosen % w + 0.5) * (input_size / w)
    y = (chosen // w + 0.5) * (input_size / h)
    # SAM's prompt encoder adds half a pixel itself.
    return torch.stack([x, y], dim=-1) - 0.5


def cosine_statistics(signals: Signals) -> Tensor:
    """Maximum, mean of the top 1 % and mean of the raw cosine over valid patches, (B, 3)."""
    values = signals.cosine.masked_fill(~signals.valid, float("-inf"))
    count = signals.valid.sum(dim=1)
    ordered = values.sort(dim=1, descending=True).values
    shown = ~ordered.isinf()
    top = shown & (shown.cumsum(dim=1) <= (count // 100).clamp_min(1)[:, None])
    finite = ordered.masked_fill(~shown, 0.0)
    top_mean = (finite * top).sum(dim=1) / top.sum(dim=1).clamp_min(1)
    mean = finite.sum(dim=1) / count.clamp_min(1)
    return torch.stack([ordered[:, 0], top_mean, mean], dim=1)


@dataclass(frozen=True, eq=False)
class ConceptPrompts:
    """Prompts of a concept, made from its similarity map.

    Attributes
    ----------
    points : Tensor, shape (B, K, 2)
        Positive points, (x, y) in model pixels.
    mask : Tensor, shape (B, 1, M, M)
        Dense prompt.
    similarity : Tensor, shape (B, 1, M, M)
        The map they were made from, 0..1.
    """

    points: Tensor
    mask: Tensor
    similarity: Tensor


def concept_prompts(
    signals: Signals,
    input_size: int,
    mask_size: int,
    threshold: float,
    count: int,
    generator: torch.Generator | Tensor,
    resized: Tensor | None = None,
    as_logits: bool = False,
) -> ConceptPrompts:
    """Points and dense prompt of section 3, for inference and training alike.

    Parameters
    ----------
    generator : torch.Generator or Tensor
        As for `points_from_map`.
    resized : Tensor of int, shape (B, 2), optional
        Height and width of each plane in model pixels, where the square has padding.
    as_logits : bool
        Dense prompt of +-10 for a SAM that has no adapter, instead of the adapter's {0, 255}.
    """
    inside = None if resized is None else plane_cells(resized, input_size, mask_size)
    return prompts_within(
        signals, input_size, mask_size, threshold, count, generator, inside, as_logits
    )


def prompts_within(
    signals: Signals,
    input_size: int,
    mask_size: int,
    threshold: float,
    count: int,
    generator: torch.Generator | Tensor,
    inside: Tensor | None = None,
    as_logits: bool = False,
) -> ConceptPrompts:
    """`concept_prompts` for cells that are known to show the plane, (B, 1, M, M)."""
    similarity = similarity_map(signals, input_size, mask_size)
    high, low = (10.0, -10.0) if as_logits else (255.0, 0.0)
    if inside is not None:
        similarity = similarity * inside
    return ConceptPrompts(
        points_from_map(similarity, threshold, count, input_size, generator, inside),
        binary_prompt(similarity, threshold, high, low),
        similarity,
    )
