"""Which slice to label next: the one the model is least sure of."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, cast

from napari_clipsam._plugin.engine import Loaded
from napari_clipsam._plugin.runner import Job, Urgency

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from napari_clipsam._plugin.teach_pair import Pair, Slices
    from napari_clipsam._plugin.teaching import TeachController
    from napari_clipsam.planes import Plane
    from napari_clipsam.training.ranking import Uncertain
    from napari_clipsam.training.samples import SliceLabels

__all__ = ["NextSlices"]

#: More slices than these are looked at in even steps.
_MOST = 60


class NextSlices:
    """Unlabelled slices of a controller's stack by how unsure the model is there."""

    def __init__(self, controller: TeachController) -> None:
        self._to = controller
        self._pair: Pair | None = None
        self._found: list[Uncertain] = []
        self._labelled: tuple[int, ...] = ()
        self._order: list[int] = []
        self._total = 0
        self._at = 0

    def start(self, pair: Pair, labels: SliceLabels, word: str) -> None:
        """Look at the unlabelled slices while nobody waits; at none if the word is not known."""
        self.stop()
        step = -(-len(labels.unlabelled) // _MOST)
        numbers = labels.unlabelled[:: max(1, step)]
        if pair.axis is None or not numbers:
            return
        to, self._pair, self._total = self._to, pair, len(numbers)
        self._labelled = labels.used
        planes = partial(_planes, pair.source(), numbers)

        def work() -> Iterator[Loaded | Uncertain]:
            setup = to.setup
            yield from to.engine.load(setup)
            # Of a word that was not learnt the model is sure everywhere: it finds nothing.
            if to.engine.ready is not None and to.engine.ready.knows(word):
                yield from to.engine.rank(setup, planes(), word)

        job = Job("teach-next", work, Urgency.IDLE, self._take, self._done, to.on_error)
        to.runner.submit(job)
        self._show()

    def stop(self) -> None:
        """Look no further, and forget what was found."""
        self._to.runner.stop("teach-next")
        self._pair, self._found, self._order, self._total, self._at = None, [], [], 0, 0
        self._show()

    def leave_out(self, pair: Pair | None, labelled: tuple[int, ...]) -> None:
        """Do not propose slices that are labelled by now."""
        if pair is None or not pair.is_like(self._pair):
            return
        self._labelled = labelled
        if not self._total and any(number in self._order for number in labelled):
            self._sort()

    def go(self) -> None:
        """Go to the slice that is proposed."""
        if self._pair is not None and self._order:
            self._to.go_to(self._pair, self._order[self._at], label=True)

    def skip(self) -> None:
        """Propose the next one, and go there."""
        if self._at + 1 < len(self._order):
            self._at += 1
            self._show()
            self.go()

    def _take(self, value: Loaded | Uncertain) -> None:
        if isinstance(value, Loaded):
            self._to.on_loaded(value)
            return
        self._found.append(value)
        self._show()

    def _done(self) -> None:
        self._total = 0
        self._sort()

    def _sort(self) -> None:
        """The least sure first, but not all from one place."""
        from napari_clipsam.training.ranking import spread

        left = [one for one in self._found if one.key not in self._labelled]
        self._order = [cast("int", one.key) for one in spread(left, self._labelled)]
        self._at = 0
        self._show()

    def _show(self) -> None:
        changes: dict[str, Any] = {"next_slice": "", "can_go": False, "has_next": False}
        order = self._order
        if self._total:
            done = f"{len(self._found)} of {self._total}"
            changes["next_slice"] = f"Looking for what to label next, {done}"
        elif order:
            rank = "least sure" if not self._at else f"{self._at + 1} of {len(order)}"
            changes |= {
                "next_slice": f"Label next: slice {order[self._at]} ({rank})",
                "can_go": True,
                "has_next": self._at + 1 < len(order),
            }
        self._to.update(**changes)


def _planes(source: Slices, numbers: tuple[int, ...]) -> Iterator[tuple[int, Plane]]:
    for number in numbers:
        yield number, source.plane(number)
