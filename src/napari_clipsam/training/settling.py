"""Settling between where a run began and its best.

What a few planes teach is partly about them alone. Weights on the way back to a start that knows
other images often tell new ones better than either end (Wortsman et al. 2022, robust fine-tuning).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from napari_clipsam.adapters.files import round_as_stored
from napari_clipsam.training.scoring import Scorer, Scores

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from napari_clipsam.adapters.inject import Adapter

__all__ = ["SHARES", "blend", "settle"]

#: Shares of what was learnt that are tried, beside all of it.
SHARES = (0.25, 0.5, 0.75)
# Of the best score; a score is not known better than that. Nor do two people's outlines of the same
# structure agree better than the second.
_AS_GOOD, _ENOUGH = 0.985, 0.94


def settle(
    begin: Mapping[str, Tensor],
    best: Adapter,
    scores: Scores,
    held_out: Scorer,
    learnt: Scorer,
    baseline: float,
) -> tuple[Adapter, Scores, float]:
    """Find the least of what was learnt that is as good on all labelled planes, or good enough.

    Parameters
    ----------
    begin : mapping of str to Tensor
        State of the adapter before it was trained.
    best : Adapter
    scores : Scores
        Of `best` on what is held out.
    held_out, learnt : Scorer
        On planes that were held out, and on some that were learnt from.
    baseline : float
        Score on what is held out that has to be beaten.

    Returns
    -------
    adapter : Adapter
        As a file holds it.
    scores : Scores
        On what is held out.
    share : float
        Of what was learnt, 1 for `best` itself.
    """
    tried = [(best, scores, 1.0, _mean(scores, best, held_out, learnt))]
    for share in reversed(SHARES):
        adapter = blend(begin, best, share)
        found = held_out.measure(adapter)
        if found.total > baseline:
            tried.append((adapter, found, share, _mean(found, adapter, held_out, learnt)))
    enough = min(_AS_GOOD * max(mean for *_, mean in tried), _ENOUGH)
    adapter, scores, share, _ = next(one for one in reversed(tried) if one[3] >= enough)
    return adapter, scores, share


def blend(begin: Mapping[str, Tensor], end: Adapter, share: float) -> Adapter:
    """An adapter some way from a former state to another, as a file would hold it.

    Words keep their vectors: without its own a new word means nothing.
    """
    adapter = copy.deepcopy(end)
    state = adapter.state_dict()
    for name, value in begin.items():
        if not name.startswith("deltas.") and value.is_floating_point():
            state[name] = torch.lerp(value.to(state[name]), state[name], share)
    adapter.load_state_dict(state)
    round_as_stored(adapter)
    return adapter


def _mean(found: Scores, adapter: Adapter, held_out: Scorer, learnt: Scorer) -> float:
    """Mean score over all planes."""
    planes = len(held_out.examples), len(learnt.examples)
    scores = found.total, learnt.measure(adapter).total
    return sum(n * score for n, score in zip(planes, scores, strict=True)) / sum(planes)
