"""What a fine-tuning run tells while it goes on; frozen values, so they may cross threads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from napari_clipsam.adapters.inject import Adapter
    from napari_clipsam.training.samples import Example

__all__ = ["Estimate", "Preview", "Reason", "TrainEvent", "TrainResult"]

Stage = Literal["encode", "train", "refine", "done"]
Reason = Literal["budget", "stopped", "no better", "not finite", "no memory"]


@dataclass(frozen=True)
class Estimate:
    """What a run will need, told before it starts.

    Attributes
    ----------
    seconds : float
    memory : int
        Bytes beyond the model itself, at the peak.
    steps : int
        Steps that the budget is expected to allow.
    """

    seconds: float
    memory: int
    steps: int


@dataclass(frozen=True, eq=False)
class Preview:
    """A held-out plane as it is answered now.

    Attributes
    ----------
    example : Example
    mask : ndarray of bool, shape (H, W)
    """

    example: Example
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class TrainEvent:
    """Something that happened.

    Attributes
    ----------
    stage : {"encode", "train", "refine", "done"}
    step : int
        Optimiser steps done.
    progress : float
        Share of the budget that is used, 0..1.
    seconds, seconds_left : float
        `seconds` counts earlier parts of a resumed run too.
    losses : mapping of str to float
        Means of the terms since the last event; empty where nothing was trained.
    score : float or None
        Held-out score, if it was just measured; 0..1, higher is better.
    baseline, best : float or None
        Score before training, and the best so far.
    preview : Preview or None
        Comes with a `score` that is a new best, and once with the baseline.
    note : str
        For people; may be empty.
    result : TrainResult or None
        With the stage "done" alone.
    """

    stage: Stage
    step: int = 0
    progress: float = 0.0
    seconds: float = 0.0
    seconds_left: float = 0.0
    losses: Mapping[str, float] = field(default_factory=dict)
    score: float | None = None
    baseline: float | None = None
    best: float | None = None
    preview: Preview | None = None
    note: str = ""
    result: TrainResult | None = None


@dataclass(frozen=True, eq=False)
class TrainResult:
    """How a run ended.

    Attributes
    ----------
    adapter : Adapter
        The best one, in evaluation mode, its `info` complete: words, threshold, provenance, scores.
        Where nothing was better than the start, the start's weights; where the start was the base,
        the best that was trained.
    baseline, best : float
        Held-out score before training and of `adapter`.
    improved : bool
    measure : str
        What the score is: ``Dice`` of the word's mask, ``IoU`` of objects after one click, or
        ``Dice and IoU``, their mean. Objects are measured only where labels tell them apart.
    tested_on : str
        For people: the held-out planes by name, or the part of the plane.
    reason : {"budget", "stopped", "no better", "not finite", "no memory"}
        What ended it.
    curve : tuple of TrainEvent
        Those with losses or a score, without previews.
    facts : dict
        ``seconds``, ``steps`` and ``planes`` of the run.
    resumable : bool
        Whether the state of the run was written at its end, so that it can go on.
    """

    adapter: Adapter
    baseline: float
    best: float
    improved: bool
    measure: str
    tested_on: str
    reason: Reason
    curve: tuple[TrainEvent, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    resumable: bool = False
