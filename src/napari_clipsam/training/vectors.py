"""Concept vectors: what CLIP is told a word looks like (method 7.6).

Thresholding the similarity map passes no gradient, so a word's learned vector is first fitted to
the labels by itself, on CLIP's features of all views at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from napari_clipsam.semantics import text_vector

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["fit_vector", "map_loss", "patch_targets"]

_STEPS, _RATE = 80, 0.08
# Cosines of neighbouring structures differ by hundredths.
_SCALE = 10.0
_DECAY = 1e-3


def patch_targets(concept: Tensor, known: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """Share of each CLIP patch that the structure covers, and the weight of the patch.

    Parameters
    ----------
    concept, known : Tensor, shape (B, M, M)
    grid : int
        Patches along a side.

    Returns
    -------
    targets, weights : Tensor, shape (B, grid * grid)
    """
    seen = F.adaptive_avg_pool2d(known[:, None].float(), grid)
    covered = F.adaptive_avg_pool2d((concept * known)[:, None].float(), grid)
    return (covered / seen.clamp_min(1e-6)).flatten(1), seen.flatten(1)


def map_loss(cosine: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """How badly the cosines of patches tell structure from the rest.

    Logistic regression on cosines that are centred on the mean of both classes' means, so that only
    their differences count, as min-max leaves only those; both classes weigh the same.

    Parameters
    ----------
    cosine, targets, weights : Tensor, shape (B, N)

    Returns
    -------
    Tensor, scalar
        0 gradient where a class is missing.
    """
    positive, negative = weights * targets, weights * (1 - targets)
    n_positive = positive.sum(dim=1, keepdim=True)
    n_negative = negative.sum(dim=1, keepdim=True)
    means = (cosine * positive).sum(dim=1, keepdim=True) / n_positive.clamp_min(1e-6)
    means = means + (cosine * negative).sum(dim=1, keepdim=True) / n_negative.clamp_min(1e-6)
    logits = _SCALE * (cosine - means / 2)
    losses = positive * F.softplus(-logits) / n_positive.clamp_min(1e-6)
    losses = losses + negative * F.softplus(logits) / n_negative.clamp_min(1e-6)
    both = ((n_positive > 0.5) & (n_negative > 0.5)).float()
    return (losses * both).sum() / both.sum().clamp_min(1)


@torch.no_grad()
def fit_vector(
    delta: Tensor,
    concept: Tensor,
    redundant: Tensor,
    dense: Tensor,
    targets: Tensor,
    weights: Tensor,
) -> float:
    """Fit a word's learned vector in place.

    Parameters
    ----------
    delta : Tensor, shape (D,)
        Where it starts; filled with the best.
    concept, redundant : Tensor, shape (D,)
        c and r of the word.
    dense : Tensor, shape (B, 1 + N, D)
        V of the views.
    targets, weights : Tensor, shape (B, N)
        As `patch_targets` gives them.

    Returns
    -------
    float
        The loss that is left.
    """
    features = F.normalize(dense[:, 1:].float(), dim=-1)
    vector = delta.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([vector], lr=_RATE)
    best, lowest = vector.detach().clone(), vector.new_full((), torch.inf)
    with torch.enable_grad():
        for _ in range(_STEPS):
            text = text_vector(concept, redundant, vector)
            loss = map_loss(features @ text, targets, weights) + _DECAY * vector.square().sum()
            lower = loss.detach() < lowest
            best = torch.where(lower, vector.detach(), best)
            lowest = torch.where(lower, loss.detach(), lowest)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    delta.copy_(best)
    return float(lowest)
