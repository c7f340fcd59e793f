"""The Teach dock's controller: layers and words become a lesson, its result an adapter in use.

It knows napari's layers but no Qt, runs on the main thread alone, and never waits: a `Runner` looks
at labels and lends the model, a `Trainer` teaches it.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from napari_clipsam._plugin import commands, wording
from napari_clipsam._plugin.teach_begin import Beginning
from napari_clipsam._plugin.teach_lost import LostLessons
from napari_clipsam._plugin.teach_material import Material
from napari_clipsam._plugin.teach_next import NextSlices
from napari_clipsam._plugin.teach_run import TeachRun
from napari_clipsam._plugin.teach_state import BY_STEPS, TeachState
from napari_clipsam.errors import ClipSamError, PlaneError

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari.components import ViewerModel

    from napari_clipsam._plugin.chosen import Chosen
    from napari_clipsam._plugin.engine import Engine, Loaded, Setup
    from napari_clipsam._plugin.runner import Runner
    from napari_clipsam._plugin.settings import Settings
    from napari_clipsam._plugin.taught import Record
    from napari_clipsam._plugin.teach_lesson import Fit
    from napari_clipsam._plugin.teach_pair import Pair
    from napari_clipsam._plugin.teach_state import View
    from napari_clipsam._plugin.training_thread import Trainer
    from napari_clipsam.training.settings import Goal

__all__ = ["TeachController"]


class TeachController:
    """One viewer's teaching.

    Parameters
    ----------
    viewer : ViewerModel
    runner : Runner
        Where the model works for everybody; clicks go before lessons there.
    engine : Engine
        The model; bound to the runner.
    trainer : Trainer
        Where lessons run.
    chosen : Chosen
        Model and adapter of the viewer.
    settings : callable
        Gives the user's preferences as they are now.
    fit : callable, optional
        Teaches, `training.trainer.fit` by default.
    today : callable
        The date results are named after.

    Attributes
    ----------
    state : TeachState
        What a dock shows; `changed` is emitted with each new one.
    """

    changed = Signal(object)

    def __init__(
        self,
        viewer: ViewerModel,
        runner: Runner,
        engine: Engine,
        trainer: Trainer,
        chosen: Chosen,
        settings: Callable[[], Settings],
        fit: Fit | None = None,
        today: Callable[[], date] = date.today,
    ) -> None:
        self.viewer, self.runner, self.engine, self.trainer = viewer, runner, engine, trainer
        self.chosen, self.settings, self.fit, self.today = chosen, settings, fit, today
        self.state = TeachState()
        self.device = ""
        self.next = NextSlices(self)
        self.begin = Beginning(self)
        self.run = TeachRun(self)
        self.material = Material(self)
        self.lost = LostLessons(self)
        self._closed = False
        if engine.ready is not None:
            self.on_loaded(engine.ready)
        self._connect()
        self._show_history()
        self.material.on_layers()
        trainer.after(self._look_for_lost)

    # -- what the dock may ask for -----------------------------------------------------------------

    def set_image(self, name: str) -> None:
        """Learn from another image."""
        self._anew(lambda: self.material.set_image(name))

    def set_labels(self, name: str) -> None:
        """Learn from other labels."""
        self._anew(lambda: self.material.set_labels(name))

    def set_words(self, text: str) -> None:
        """Say what the labels show; commas between several words for the same structure."""
        self.forgive()
        self.update(words=text)

    def take_word(self, word: str) -> None:
        """Fill in a word from elsewhere."""
        self.material.on_layers()
        self.update(words=word, words_given=self.state.words_given + 1)

    def set_goal(self, goal: Goal) -> None:
        """Learn all of it, each one, or both."""
        if goal != self.state.goal:
            self.update(goal=goal)
            self._anew(self.material.look)

    def set_slices(self, text: str) -> None:
        """Choose the slices to learn from."""
        self._anew(lambda: self.material.set_slices(text))

    def set_tested_on(self, text: str) -> None:
        """Choose the slices to test on."""
        self._anew(lambda: self.material.set_tested_on(text))

    def choose_slices(self) -> None:
        """Let the tool choose the slices again."""
        self._anew(self.material.choose)

    def set_budget(self, value: str) -> None:
        """Choose for how long to learn."""
        self.update(budget=value)
        self.material.estimate()

    def set_steps(self, steps: int) -> None:
        """Choose how many steps to learn for."""
        self.update(steps=steps)
        self.material.estimate()

    def teach(self) -> None:
        """Begin a lesson."""
        self._guarded(self.begin.ask)

    def stop(self) -> None:
        """End the lesson; what is best so far is kept."""
        self.begin.drop()
        self.run.stop()

    def go_on(self) -> None:
        """Teach on from where the lesson was stopped."""
        self._guarded(self.run.go_on)

    def show_view(self, view: View) -> None:
        """Show the answer before or after teaching on the held-out slice, "" for none."""
        self._guarded(lambda: self.run.show_view(view))

    def use(self) -> None:
        """Let what was learnt answer."""
        self.update(hint=None)
        self.run.use()

    def roll_back(self) -> None:
        """Let what it began with answer again."""
        self.update(hint=None)
        self.run.roll_back()

    def save_again(self) -> None:
        """Try once more to put the result into the library."""
        self.run.save_again()

    def segment_stack(self) -> None:
        """Find what was learnt in all slices, in the Segment dock."""
        self._guarded(self.run.segment_stack)

    def go(self) -> None:
        """Go to the slice to label next."""
        self._guarded(self.next.go)

    def skip(self) -> None:
        """Go to the one after it."""
        self._guarded(self.next.skip)

    def act(self, action: str) -> None:
        """Do what a button of the hint says."""
        actions: dict[str, Callable[[], None]] = {
            "new-labels": self.material.new_labels,
            "go-on": self.lost.go_on,
            "discard": self.lost.discard,
        }
        self.update(hint=None)
        self._guarded(actions[action])

    def close(self) -> None:
        """Let go of everything; may be called twice. A lesson ends, and can be gone on with."""
        if self._closed:
            return
        self._closed = True
        self.begin.drop()
        self.run.close()
        self.next.stop()
        for kind in ("teach-look", "teach-estimate", "teach-files"):
            self.runner.stop(kind)
        self.material.close()
        self._disconnect()

    # -- what its parts use ------------------------------------------------------------------------

    def update(self, **changes: Any) -> None:
        """Change the state and tell the dock, if anything is new."""
        new = replace(self.state, **changes)
        if new != self.state:
            self.state = new
            self.changed.emit(new)

    @property
    def setup(self) -> Setup:
        """The model and adapter that answer in the viewer."""
        settings, chosen = self.settings(), self.chosen
        return settings.setup(chosen.model or settings.model, chosen.usable_adapter(), chosen.clip)

    @property
    def budget(self) -> tuple[float | None, int | None]:
        """Minutes or steps to learn for."""
        if self.state.budget == BY_STEPS:
            return None, self.state.steps
        return float(self.state.budget), None

    def on_loaded(self, value: Loaded) -> None:
        """Learn what the model knows and where it runs."""
        self.device = value.device
        self.update(known_words=value.words)

    def on_error(self, error: ClipSamError) -> None:
        """Show an error; the plugin goes on."""
        self.update(hint=wording.error_hint(error))

    def forgive(self) -> None:
        """Say no more of an error: what it was about is changed."""
        if self.state.hint is not None and self.state.hint.is_error:
            self.update(hint=None)

    def on_lesson_over(self, record: Record | None, has_result: bool) -> None:
        """Propose what to label next."""
        pair, looked = self.material.pair, self.material.looked
        if record is None or pair is None:
            return
        self.material.look()
        if has_result and looked is not None and pair.names == (record.image, record.labels):
            self.next.start(pair, looked.labels, record.words[0])

    def is_segmenting(self) -> bool:
        """Whether a stack is being segmented."""
        segment = commands.controller_in(self.viewer)
        return segment is not None and segment.progress is not None

    def go_to(self, pair: Pair, number: int, label: bool = False) -> None:
        """Show a slice; to label it, with the brush of its labels ready.

        Raises
        ------
        PlaneError
            The image is not open any more.
        """
        if pair.image.layer not in self.viewer.layers:
            raise PlaneError(f"{pair.image.layer.name} is not open any more. Open it again.")
        layer, dims = pair.image.layer, self.viewer.dims
        ahead = dims.ndim - layer.ndim
        former = pair.labels.mode
        dims.ndisplay = 2
        shown = [ahead + axis for axis in pair.image.shown_axes(pair.key(number))]
        if sorted(dims.displayed) != shown:
            dims.order = (*(a for a in range(dims.ndim) if a not in shown), *shown)
        world = pair.image.point_of(pair.key(number))
        for axis in range(layer.ndim):
            if ahead + axis not in shown:
                dims.set_point(ahead + axis, world[axis])
        if label and pair.labels in self.viewer.layers:
            self.viewer.layers.selection.active = pair.labels
            pair.labels.visible = True
            if pair.labels.editable:
                pair.labels.mode = "paint" if former == "pan_zoom" else former

    # -- reactions ---------------------------------------------------------------------------------

    def _guarded(self, act: Callable[[], object]) -> None:
        try:
            act()
        except ClipSamError as error:
            self.on_error(error)

    def _anew(self, act: Callable[[], object]) -> None:
        self.forgive()
        self._guarded(act)

    def _on_layers(self, _: object = None) -> None:
        self._guarded(self.material.on_layers)
        self.run.on_layers()
        self.lost.offer()

    def _look_for_lost(self) -> None:
        if not self._closed:
            self.lost.look()

    def _on_view(self, _: object = None) -> None:
        self._guarded(self.material.on_view)

    def _on_chosen(self, _model: str, _adapter: str) -> None:
        self.run.show_use()
        self.material.estimate()

    def _show_history(self) -> None:
        segment = commands.controller_in(self.viewer)
        if segment is not None:
            self.update(history=segment.state.history)

    def _events(self) -> list[tuple[Any, Callable[..., None]]]:
        layers, dims = self.viewer.layers.events, self.viewer.dims.events
        return [
            (layers.inserted, self._on_layers),
            (layers.removed, self._on_layers),
            (layers.renamed, self._on_layers),
            (dims.current_step, self._on_view),
            (dims.order, self._on_view),
            (dims.ndisplay, self._on_view),
        ]

    def _connect(self) -> None:
        commands.register(self.viewer, self)
        for event, reaction in self._events():
            event.connect(reaction)
        self.chosen.changed.connect(self._on_chosen)

    def _disconnect(self) -> None:
        for event, reaction in self._events():
            event.disconnect(reaction)
        self.chosen.changed.disconnect(self._on_chosen, missing_ok=True)
        commands.forget(self.viewer, self)
