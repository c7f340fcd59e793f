"""Lessons that were cut off: offered to be gone on with, or deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_clipsam._plugin import teach_wording
from napari_clipsam._plugin.importing import avoid_llvm_clash
from napari_clipsam._plugin.runner import Job, Urgency
from napari_clipsam._plugin.taught import IN_MEMORY, Record, Unreadable, unfinished

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from napari_clipsam._plugin.state import Hint
    from napari_clipsam._plugin.teach_pair import Pair
    from napari_clipsam._plugin.teaching import TeachController

__all__ = ["LostLessons"]


class LostLessons:
    """What closing napari or a crash left of a controller's lessons."""

    def __init__(self, controller: TeachController) -> None:
        self._to = controller
        self._found: list[Record | Unreadable] = []
        self._offered: Hint | None = None

    def look(self) -> None:
        """Look what there is, off the main thread."""
        to = self._to

        def work() -> Iterator[list[Record | Unreadable]]:
            avoid_llvm_clash()
            from napari_clipsam.adapters.library import adapters_folder

            yield list(unfinished(adapters_folder()))

        def take(found: list[Record | Unreadable]) -> None:
            self._found = found
            self.offer()

        to.runner.submit(
            Job("teach-files", work, Urgency.PREFETCH, on_value=take, on_error=to.on_error)
        )

    def offer(self) -> None:
        """Offer the latest one, if there is nothing else to say."""
        to = self._to
        lost = None if to.run.is_running else self._latest()
        former, self._offered = self._offered, None
        if lost is not None:
            self._offered = teach_wording.unfinished(lost, self._is_without_start(lost))
        if to.state.hint in (None, former):
            to.update(hint=self._offered)

    def put_back(self, record: Record) -> None:
        """Take back one that could not be gone on with."""
        self._found.insert(0, record)

    def go_on(self) -> None:
        """Go on with the one that is offered."""
        lost, to = self._latest(), self._to
        pair = to.material.pair_of(lost) if isinstance(lost, Record) else None
        if isinstance(lost, Record) and pair is not None:
            self._found.remove(lost)
            to.next.stop()
            to.update(goal=lost.goal, image=lost.image, labels=lost.labels)
            to.take_word(", ".join(lost.words))
            to.run.start(lost, pair, resume=True)

    def discard(self) -> None:
        """Delete the one that is offered."""
        lost = self._latest()
        if lost is not None:
            self._forget([lost])
        self.offer()

    def forget_of(self, pair: Pair, words: tuple[str, ...]) -> None:
        """Delete those of the same layers and words: who teaches anew does not want them."""
        about = (*pair.names, words)
        alike = [one for one in self._found if isinstance(one, Record)]
        self._forget([one for one in alike if (one.image, one.labels, one.words) == about])

    def _latest(self) -> Record | Unreadable | None:
        """The latest one whose layers are open, or that cannot be read."""
        for lost in self._found:
            if isinstance(lost, Unreadable) or self._to.material.pair_of(lost) is not None:
                return lost
        return None

    def _is_without_start(self, lost: Record | Unreadable) -> bool:
        """Whether it began with an adapter that ended with a former napari."""
        adapter = lost.adapter if isinstance(lost, Record) else ""
        return adapter.startswith(IN_MEMORY) and adapter not in self._to.engine.in_memory

    def _forget(self, gone: Sequence[Record | Unreadable]) -> None:
        to = self._to

        def work() -> Iterator[None]:
            from napari_clipsam.adapters.library import adapters_folder

            for one in gone:
                one.forget(adapters_folder())
            yield

        self._found = [lost for lost in self._found if lost not in gone]
        if gone:
            to.runner.submit(Job("teach-forget", work, Urgency.WORD, on_error=to.on_error))
