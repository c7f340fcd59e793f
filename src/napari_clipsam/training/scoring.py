"""What an adapter scores on held-out planes: the answers of a Segmenter that looks once."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from napari_clipsam.errors import OutOfMemory, Stopped
from napari_clipsam.inference.segmenter import Segmenter
from napari_clipsam.prompts import Prompts
from napari_clipsam.training.events import Preview
from napari_clipsam.training.metrics import dice, innermost_pixel, iou

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_clipsam.adapters.inject import Adapter
    from napari_clipsam.models.registry import LoadedModel
    from napari_clipsam.training.samples import Example
    from napari_clipsam.training.settings import Goal

__all__ = ["Scorer", "Scores", "choose_threshold", "held_out_scores"]

_MOST_OBJECTS = 12
_MIN_PIXELS = 20
_CACHE = 1 << 29
_LOWEST, _HIGHEST = 0.02, 0.5


@dataclass(frozen=True, eq=False)
class Scores:
    """What was measured.

    Attributes
    ----------
    dice : float or None
        Of the word's mask, mean over planes.
    iou : float or None
        Of objects after one click in their middle, mean over objects.
    presence : tuple of float
        Of the word on each plane.
    preview : Preview
        The first plane's answer.
    """

    dice: float | None
    iou: float | None
    presence: tuple[float, ...]
    preview: Preview

    @property
    def total(self) -> float:
        """The one number that is to rise."""
        return fmean(value for value in (self.dice, self.iou) if value is not None)

    @property
    def measure(self) -> str:
        """What `total` is, for people."""
        names = {"Dice": self.dice, "IoU": self.iou}
        return " and ".join(name for name, value in names.items() if value is not None)

    def to_json(self) -> dict[str, float]:
        """Those that apply."""
        values = {"dice": self.dice, "iou": self.iou}
        return {name: value for name, value in values.items() if value is not None}


class Scorer:
    """Measures adapters on the same planes again and again; their trunks are computed once.

    Parameters
    ----------
    model : LoadedModel
        On the device to compute on.
    examples : sequence of Example
    goal : {"concept", "object", "both"}
        An object is measured only where labels tell objects apart.
    check : callable, optional
        Called between the blocks of the networks; what it raises ends the measurement.

    Notes
    -----
    Objects are looked for once, at the plane's own scale, as adapters that were taught them do it;
    one to start from is measured like that too.
    """

    def __init__(
        self,
        model: LoadedModel,
        examples: Sequence[Example],
        goal: Goal,
        check: Callable[[], None] | None = None,
    ) -> None:
        device = next(model.sam.parameters()).device
        self._segmenter = Segmenter(model, None, str(device), cache_bytes=_CACHE)
        self._segmenter.check = check
        self.examples = tuple(examples)
        self.goal = goal

    def measure(self, adapter: Adapter | None, redrawn: bool = True) -> Scores:
        """Score an adapter, its presence threshold left aside; or the base without one.

        `redrawn` False leaves its concepts as its decoder marks them.
        """
        overlaps: list[float] = []
        ious: list[float] = []
        presences: list[float] = []
        preview: Preview | None = None
        self._use(adapter, redrawn)
        for example in self.examples:
            mask, presence = self._concept(example, example.words[0])
            overlaps.append(_known_dice(mask, example))
            if presence is not None:
                presences.append(presence)
            preview = preview or Preview(example, mask)
            if self.goal != "concept" and example.objects:
                ious += self._objects(example)
        assert preview is not None
        by_object = fmean(ious) if ious else None
        by_word = fmean(overlaps) if self.goal != "object" or by_object is None else None
        return Scores(by_word, by_object, tuple(presences), preview)

    def presences(
        self, adapter: Adapter, words: Sequence[str], seconds: float = float("inf")
    ) -> list[float]:
        """Presence of each word on each plane, as far as a stop, memory and some seconds allow."""
        end = time.perf_counter() + seconds
        found: list[float] = []
        self._use(adapter, redrawn=False)
        with suppress(Stopped, OutOfMemory):
            for word in words:
                for example in self.examples:
                    presence = self._concept(example, word)[1]
                    if presence is not None:
                        found.append(presence)
                    if time.perf_counter() > end:
                        return found
        return found

    def _use(self, adapter: Adapter | None, redrawn: bool) -> None:
        """Answer with an adapter that tells presence and refuses nothing.

        It is a copy that shares the weights: others may answer with this very adapter meanwhile.
        """
        if adapter is not None:
            threshold = 0.0 if adapter.config.object_mode else None
            adapter = copy.copy(adapter).with_info(threshold=threshold)
            redrawn = redrawn and adapter.config.redrawn_concepts
            adapter.config = replace(adapter.config, redrawn_concepts=redrawn)
        self._segmenter.set_adapter(adapter)

    def _concept(self, example: Example, word: str) -> tuple[NDArray[np.bool_], float | None]:
        found = self._segmenter.first_look(example.plane, word)
        return found.mask(), found.presence

    def _objects(self, example: Example) -> list[float]:
        masks = _objects(example)
        word = example.words[0]
        prompts = [Prompts(word, points=[innermost_pixel(mask)]) for mask in masks]
        answers = self._segmenter.answer_objects(example.plane, prompts, closely=False)
        return [iou(one.mask(), mask) for one, mask in zip(answers, masks, strict=True)]


def held_out_scores(
    model: LoadedModel, adapter: Adapter, examples: Sequence[Example], goal: Goal
) -> dict[str, float]:
    """``dice`` and ``iou`` of an adapter, as far as they apply (see `Scores`)."""
    return Scorer(model, examples, goal).measure(adapter).to_json()


def choose_threshold(present: Sequence[float], absent: Sequence[float]) -> float:
    """Presence below which a word is said not to be there.

    In the middle (of the log-odds) between the two kinds where they are apart; else where the mean
    of both shares that are told right is largest. Few planes say little, so it stays below half of
    the lowest presence of the word: a structure that is missed annoys more than a mask that can be
    cleared.

    Parameters
    ----------
    present, absent : sequence of float, 0..1
        Presence on planes with the word and without it.
    """
    if not present:
        return _HIGHEST
    values = _log_odds([*present, *absent])
    there, not_there = values[: len(present)], values[len(present) :]
    if not len(not_there):
        return min(_HIGHEST, min(present) / 2)
    if there.min() > not_there.max():
        middle = (there.min() + not_there.max()) / 2
    else:
        ordered = np.unique(values)
        cuts = np.concatenate([ordered[:1] - 1, (ordered[1:] + ordered[:-1]) / 2])
        right = [(there >= cut).mean() + (not_there < cut).mean() for cut in cuts]
        middle = cuts[int(np.argmax(right))]
    chosen = float(np.clip(1 / (1 + np.exp(-middle)), _LOWEST, _HIGHEST))
    return min(chosen, min(present) / 2)


def _log_odds(values: Sequence[float]) -> NDArray[np.float64]:
    clipped = np.clip(np.asarray(values, np.float64), 1e-6, 1 - 1e-6)
    return np.log(clipped / (1 - clipped))


def _known_dice(mask: NDArray[np.bool_], example: Example) -> float:
    true = example.labels > 0
    if example.known is not None:
        mask, true = mask & example.known, true & example.known
    return dice(mask, true)


def _objects(example: Example) -> list[NDArray[np.bool_]]:
    """Masks of the objects to click on, at most a dozen spread over their numbers.

    One that reaches into what is not known is none of them: that part may have been learnt from.
    """
    numbers, counts = np.unique(example.labels[example.labels > 0], return_counts=True)
    if example.known is not None:
        cut = np.unique(example.labels[~example.known])
        counts = np.where(np.isin(numbers, cut), 0, counts)
    numbers = numbers[counts >= _MIN_PIXELS]
    step = max(1, -(-len(numbers) // _MOST_OBJECTS))
    return [example.labels == number for number in numbers[::step]]
