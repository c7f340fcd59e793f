"""From the Teach button to a lesson: labels are looked at once more, then it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_clipsam._plugin import teach_wording
from napari_clipsam._plugin.state import Hint, Progress
from napari_clipsam._plugin.taught import Record
from napari_clipsam.errors import ClipSamError

if TYPE_CHECKING:
    from napari_clipsam._plugin.teach_pair import Pair
    from napari_clipsam._plugin.teach_slices import Looked
    from napari_clipsam._plugin.teaching import TeachController

__all__ = ["Beginning"]

_HISTORY = 20


class Beginning:
    """A lesson of a controller that was asked for and has not begun.

    Labels may have changed with nobody noticing: napari tells of strokes, not of their undoing.
    """

    def __init__(self, controller: TeachController) -> None:
        self._to = controller
        self._words: tuple[str, ...] = ()

    @property
    def is_asked(self) -> bool:
        """Whether a lesson is to begin once the labels were looked at."""
        return bool(self._words)

    def ask(self) -> None:
        """Begin a lesson about what the labels show.

        Raises
        ------
        WordError
            The words cannot be taught.
        """
        from napari_clipsam.training.samples import check_words

        to = self._to
        if to.run.is_running or self.is_asked:
            return
        words = tuple(word for word in to.state.words.split(",") if word.strip())
        if to.material.pair is None:
            to.update(hint=teach_wording.no_labels(to.state.image, True))
        elif not words:
            to.update(hint=teach_wording.no_words())
        else:
            self._words = check_words(words)
            to.update(hint=None, busy=Progress("Looking at the labels"))
            to.material.look_again()

    def drop(self) -> bool:
        """Begin nothing; returns whether something was to begin."""
        was_asked, self._words = self.is_asked, ()
        if was_asked and not self._to.run.is_running:
            self._to.update(busy=None)
        return was_asked

    def on_other_layers(self) -> None:
        """Layers or slices were changed before the lesson began."""
        if self.drop() and self._to.material.pair is not None:
            self._to.update(hint=Hint("The labels to learn from have changed. Press Teach again."))

    def on_looked(self, looked: Looked) -> None:
        """The labels were looked at: begin what was asked for."""
        words = self._words
        if not self.drop() or self._to.run.is_running:
            return
        try:
            self._begin(looked, words)
        except ClipSamError as error:
            self._to.on_error(error)

    def on_error(self, error: ClipSamError) -> None:
        """The labels cannot be looked at."""
        self.drop()
        self._to.on_error(error)

    def _begin(self, looked: Looked, words: tuple[str, ...]) -> None:
        to = self._to
        pair = to.material.fresh_pair()
        if looked.fault is not None:
            raise looked.fault
        if pair is None:
            to.update(hint=teach_wording.no_labels(to.state.image, True))
            return
        history = (*words, *(w for w in to.state.history if w not in words))[:_HISTORY]
        to.update(history=history)
        to.next.stop()
        to.lost.forget_of(pair, words)
        to.run.start(self._record(pair, looked, words), pair)

    def _record(self, pair: Pair, looked: Looked, words: tuple[str, ...]) -> Record:
        (minutes, steps), setup = self._to.budget, self._to.setup
        image, labels = pair.names
        return Record(
            stem="",
            words=words,
            image=image,
            labels=labels,
            shape=pair.image.shape,
            first=pair.first,
            axis=pair.axis,
            slices=looked.picked.numbers,
            partial=looked.picked.partial,
            tested=self._to.material.tested,
            goal=self._to.state.goal,
            minutes=minutes,
            steps=steps,
            model=setup.model,
            adapter=setup.adapter,
            clip=setup.clip,
        )
