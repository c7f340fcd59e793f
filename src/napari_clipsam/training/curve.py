"""The learning curve of a run as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_clipsam.outputs import replacing
from napari_clipsam.training.events import TrainEvent, TrainResult

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["draw_curve"]

#: Blue, orange and grey that stay apart for every kind of colour vision; shapes differ, too.
_SCORE, _BEST, _LOSS, _BEFORE = "#0072b2", "#e69f00", "#56606b", "#888888"


def draw_curve(
    run: TrainResult | Sequence[TrainEvent], path: str | Path, overwrite: bool = False
) -> Path:
    """Draw held-out score and training loss over time as a PNG.

    Parameters
    ----------
    run : TrainResult or sequence of TrainEvent
        A run that has ended, or what is known of one so far.
    path : str or Path
    overwrite : bool
        Whether an existing file may be replaced.

    Returns
    -------
    Path

    Raises
    ------
    OutputError
        As for `outputs.replacing`.
    """
    from matplotlib.figure import Figure

    events = run.curve if isinstance(run, TrainResult) else run
    measure = run.measure if isinstance(run, TrainResult) else "Score"
    figure = Figure(figsize=(7, 5), dpi=120, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    at, unit = _abscissa(events)
    _draw_scores(above, events, at, _baseline(run))
    losses = [(at(e), _loss(e)) for e in events if e.losses]
    losses = [(x, y) for x, y in losses if math.isfinite(y)]
    if losses:
        below.plot(*zip(*losses, strict=True), color=_LOSS, linewidth=1.5)
    above.set_ylabel(f"{measure}, held out")
    below.set_ylabel("loss, training")
    below.set_xlabel(unit)
    figure.suptitle(_title(run))
    path = Path(path)
    with replacing(path, overwrite) as part:
        figure.savefig(part, format="png")
    return path


def _draw_scores(
    axes: Any, events: Sequence[TrainEvent], at: Callable[[TrainEvent], float], before: float | None
) -> None:
    scored = [(at(e), e.score) for e in events if e.score is not None and math.isfinite(e.score)]
    axes.set_ylim(0, 1)
    if before is not None:
        axes.axhline(
            before, color=_BEFORE, linestyle="--", linewidth=1.2, label=f"before: {before:.2f}"
        )
    if scored:
        axes.plot(
            *zip(*scored, strict=True), color=_SCORE, marker="o", markersize=4, label="measured"
        )
        x, best = max(scored, key=lambda pair: pair[1])
        axes.plot(
            [x],
            [best],
            color=_BEST,
            marker="*",
            markersize=14,
            markeredgecolor="black",
            linestyle="none",
            label=f"best: {best:.2f}",
        )
    if scored or before is not None:
        axes.legend(loc="lower right", frameon=False)


def _abscissa(events: Sequence[TrainEvent]) -> tuple[Callable[[TrainEvent], float], str]:
    """What events are drawn over: seconds, or steps where nobody took the time."""
    if any(event.seconds > 0 for event in events):
        return (lambda event: event.seconds), "seconds"
    return (lambda event: event.step), "steps"


def _baseline(run: TrainResult | Sequence[TrainEvent]) -> float | None:
    if isinstance(run, TrainResult):
        return run.baseline
    return next((event.baseline for event in run if event.baseline is not None), None)


def _loss(event: TrainEvent) -> float:
    """The sum of the terms."""
    return event.losses["loss"] if "loss" in event.losses else sum(event.losses.values())


def _title(run: TrainResult | Sequence[TrainEvent]) -> str:
    if not isinstance(run, TrainResult):
        return "Held-out score while training"
    return f"{run.measure} on {run.tested_on}: {run.baseline:.2f} → {run.best:.2f}"
