"""What a taught adapter says of itself: words, presence threshold, provenance, scores."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from napari_clipsam.training.scoring import Scorer, Scores, choose_threshold
from napari_clipsam.training.starting import absent_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_clipsam.adapters.inject import Adapter
    from napari_clipsam.models.registry import LoadedModel
    from napari_clipsam.training.samples import Split
    from napari_clipsam.training.settings import FitSettings

__all__ = ["ABSENT_ASKED", "describe", "taught_before"]

#: Words that are not there by which the presence threshold is chosen.
ABSENT_ASKED = 8


def taught_before(start: Adapter | None) -> list[str]:
    """Words an adapter was taught, as they were typed."""
    if start is None:
        return []
    return [word for word in start.info.words if start.delta(word) is not None]


def describe(
    adapter: Adapter,
    model: LoadedModel,
    split: Split,
    settings: FitSettings,
    before: Sequence[str],
    scorer: Scorer,
    scores: tuple[Scores, Scores],
    step: int,
    share: float,
    seconds: float,
) -> None:
    """Fill in `Adapter.info`; the same for the same seed, but where time was short.

    Parameters
    ----------
    before : sequence of str
        Words it was taught earlier.
    scores : tuple of Scores
        Before the training, and of the adapter.
    step : int
        At which it was best.
    share : float
        Of what was learnt then that it holds (see `settling`).
    seconds : float
        That asking for absent words may take.
    """
    new = dict.fromkeys(word for e in split.train for word in reversed(e.words))
    threshold = None
    if adapter.config.object_mode:
        asked = absent_words(model, [*new, *before])[:ABSENT_ASKED]
        absent = scorer.presences(adapter, asked, seconds)
        threshold = choose_threshold(scores[1].presence, absent)
    adapter.info = replace(
        adapter.info,
        words=tuple(dict.fromkeys([*(word for word in before if word not in new), *new])),
        threshold=threshold,
        provenance={
            "model": model.name,
            "settings": settings.to_json(),
            "planes": [example.plane.name for example in split.train],
            "steps": step,
            "share": share,
        },
        scores={
            "tested_on": split.tested_on,
            "before": scores[0].to_json(),
            "after": scores[1].to_json(),
        },
    )
