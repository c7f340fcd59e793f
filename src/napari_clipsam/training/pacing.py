"""How much of its budget a run has used."""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from napari_clipsam.training.describing import ABSENT_ASKED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_clipsam.training.settings import FitSettings

__all__ = ["SETTLED_ON", "SETTLE_SHARE", "Pace"]

#: Labelled planes that settling looks at, and the share of the time it may take; another such share
#: is kept for asking for words that are not there.
SETTLED_ON, SETTLE_SHARE = 8, 0.1


class Pace:
    """Steps and seconds of a run against its budget; whichever ends first counts.

    Parameters
    ----------
    settings : FitSettings

    Attributes
    ----------
    step : int
        Steps taken, in earlier parts of the run too.
    """

    def __init__(self, settings: FitSettings) -> None:
        self.step = 0
        self._settings = settings
        self._before = self._reserved = self._aside = 0.0
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Time spent, in earlier parts of the run too."""
        return self._before + time.perf_counter() - self._started

    @property
    def progress(self) -> float:
        """Share of the budget that is used, 0..1."""
        return self.share(self.step, self.seconds - self._aside)

    @property
    def left(self) -> float:
        """Seconds until the budget is used, as far as the pace so far tells."""
        if self._settings.minutes is not None and self._settings.steps is None:
            return (1 - self.progress) * 60 * self._settings.minutes
        return self.seconds / self.progress * (1 - self.progress) if self.progress > 0 else 0.0

    @property
    def asking(self) -> float:
        """Seconds that asking for words that are not there may take."""
        minutes = self._settings.minutes
        return math.inf if minutes is None else SETTLE_SHARE * 60 * minutes

    @contextmanager
    def reserved(self) -> Iterator[None]:
        """Time spent here is that which `reserve_settling` kept, not that of steps."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._aside += time.perf_counter() - begun

    def share(self, step: int, seconds: float) -> float:
        """Share of the budget that some steps and seconds are, 0..1."""
        done = 0.0
        if self._settings.steps is not None:
            done = step / self._settings.steps
        if self._settings.minutes is not None:
            done = max(done, seconds / (60 * self._settings.minutes - self._reserved))
        return min(1.0, done)

    def go_on(self, step: int, seconds: float) -> None:
        """Take up the steps and seconds of an earlier part of the run."""
        self.step, self._before = step, seconds
        self._started = time.perf_counter()

    def reserve_settling(self, plane: float, held_out: int, learnt: int) -> int:
        """Keep time for what takes no steps (`settling.settle`, `describing.describe`).

        Parameters
        ----------
        plane : float
            Seconds that a first answer on a plane took; settling needs about twice as long.
        held_out, learnt : int
            Planes that are measured on and those that are learnt from.

        Returns
        -------
        int
            Planes learnt from that there is time to settle on; without any there is no settling.
        """
        chosen = min(SETTLED_ON - held_out, learnt)
        # A later answer has the trunk already.
        asking = min(ABSENT_ASKED * held_out * plane / 2, self.asking)
        if self._settings.minutes is not None:
            allowed = SETTLE_SHARE * 60 * self._settings.minutes
            chosen = min(chosen, int(allowed / (2 * plane)) - held_out)
        chosen = max(0, chosen)
        self._reserved = asking + (2 * plane * (chosen + held_out) if chosen else 0.0)
        return chosen
