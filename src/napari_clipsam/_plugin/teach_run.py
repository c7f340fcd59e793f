"""The lesson of a Teach dock: begun, watched, ended, its result used or taken back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from napari_clipsam._plugin import commands, teach_wording, wording
from napari_clipsam._plugin.engine import Lent, Loaded
from napari_clipsam._plugin.runner import Job, Urgency
from napari_clipsam._plugin.state import Choice, Hint, Progress
from napari_clipsam._plugin.taught import IN_MEMORY, Record, numbered, save, title
from napari_clipsam._plugin.teach_lesson import Kept, Plan, Prepared, lesson
from napari_clipsam._plugin.teach_preview import TeachPreview
from napari_clipsam._plugin.teach_state import Curve
from napari_clipsam._plugin.training_thread import Lesson
from napari_clipsam.errors import AdapterError, ConfigError, PlaneError, WeightsError
from napari_clipsam.training.events import TrainEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from napari_clipsam._plugin.state import Target
    from napari_clipsam._plugin.teach_pair import Pair
    from napari_clipsam._plugin.teach_state import TeachState, View
    from napari_clipsam._plugin.teaching import TeachController
    from napari_clipsam.errors import ClipSamError
    from napari_clipsam.training.events import Preview, TrainResult

    _Views = dict[View, tuple[int, NDArray[np.bool_]]]

__all__ = ["TeachRun"]

#: Parts of a progress bar.
_WHOLE = 1000
#: Loss terms that say how wrong masks are; others come and go with what a step learns.
_MASK_LOSSES = ("mask", "object")
_FRESH: dict[str, Any] = {
    "curve": Curve(),
    "score": "",
    "score_tip": "",
    "view": "",
    "views": (),
    "view_on": "",
    "can_go_on": False,
    "hint": None,
}
_NOTHING_KEPT: dict[str, Any] = {"saved": "", "saved_tip": "", "can_save": False}


@dataclass(frozen=True, eq=False)
class _Outcome:
    """A result that is better than what it began with.

    Attributes
    ----------
    record : Record
    result : TrainResult
    name : str
        For people.
    adapter : str
        As a `Setup` has it.
    """

    record: Record
    result: TrainResult
    name: str
    adapter: str


class TeachRun:
    """The lesson of a controller, one at a time, and what came of the last one."""

    def __init__(self, controller: TeachController) -> None:
        self._to = controller
        self._preview = TeachPreview(controller.viewer)
        self._pair: Pair | None = None
        self._record: Record | None = None
        self._is_resumed = False
        self._tested_on = ""
        self._result: TrainResult | None = None
        self._outcome: _Outcome | None = None
        self._views: _Views = {}
        self._go_back: Callable[[], None] = lambda: None
        self.is_running = False

    # -- beginning ---------------------------------------------------------------------------------

    def start(self, record: Record, pair: Pair, resume: bool = False) -> None:
        """Load the model, then teach it on a thread of its own."""
        self._outcome, self._go_back = None, lambda: None
        self._to.update(**_NOTHING_KEPT)
        self._start(record, pair, resume)

    def _start(self, record: Record, pair: Pair, resume: bool) -> None:
        to = self._to
        self._pair, self._record, self._is_resumed = pair, record, resume
        self._result = None
        self._views = {}
        self._preview.hide()
        self.is_running = True
        to.update(**_FRESH, busy=Progress("Getting ready"))
        self.show_use()
        plan = Plan(pair.source(), record, to.today(), resume)
        setup = to.settings().setup(record.model, record.adapter, record.clip)
        to.runner.submit(
            Job(
                "teach",
                partial(to.engine.lend, setup),
                Urgency.WORD,
                on_value=partial(self._on_lent, plan),
                on_error=self._on_end,
                on_stop=partial(self._on_end, None),
            )
        )

    def stop(self) -> None:
        """End the lesson; what is best so far is kept."""
        self._to.runner.stop("teach")
        self._to.trainer.stop()

    def go_on(self) -> None:
        """Teach on from where the last lesson was stopped, for the time that is set now.

        What came of it stays until there is something new.
        """
        to, record, pair = self._to, self._record, self._pair
        if not to.state.can_go_on or self.is_running or record is None or pair is None:
            return
        self._go_back = partial(self._show_former, self._views, to.state)
        minutes, steps = to.budget
        record = replace(record, minutes=minutes, steps=steps, is_stopped=False)
        self._start(record, pair, resume=True)

    def close(self) -> None:
        """End the lesson; what it has is found when somebody looks for it."""
        self.is_running = False
        self._to.runner.stop("teach")
        self._to.trainer.drop()
        self._preview.hide()

    def _on_lent(self, plan: Plan, value: Loaded | Lent) -> None:
        to = self._to
        if isinstance(value, Loaded):
            to.on_loaded(value)
            return
        if not self.is_running:
            return
        to.update(busy=Progress("Reading the slices"))

        def work(halt: Any) -> Iterator[Any]:
            give_way = partial(to.runner.let_pass, Urgency.WORD, halt)
            return lesson(plan, value, give_way, halt, to.fit)

        to.trainer.start(Lesson(work, self._on_events, self._on_end))

    # -- while it runs -----------------------------------------------------------------------------

    def _on_events(self, events: list[Any]) -> None:
        changes: dict[str, Any] = {}
        curve = self._to.state.curve
        for event in events:
            if isinstance(event, TrainEvent):
                curve = _with_event(curve, event)
                changes |= self._followed(event)
            elif isinstance(event, Prepared):
                changes |= self._prepared(event)
            elif isinstance(event, Kept):
                changes |= self._kept(event)
        self._to.update(**{**changes, "curve": changes.get("curve", curve)})

    def _prepared(self, event: Prepared) -> dict[str, Any]:
        self._record, self._tested_on = event.record, event.tested_on
        self._to.material.on_split(event.record, event.tested, event.tested_on)
        hint = None
        if event.trouble is not None:
            hint = Hint(f"{event.trouble} Until then this lesson is lost if napari ends.")
        note = " ".join(event.notes)
        return {"slices_note": note, "hint": hint}

    def _followed(self, event: TrainEvent) -> dict[str, Any]:
        measure, where = self._measure, self._tested_on
        changes: dict[str, Any] = {
            "busy": None,
            "learning": Progress(
                teach_wording.progress(event), round(_WHOLE * event.progress), _WHOLE
            ),
            "score": teach_wording.score(measure, event.baseline, event.best),
            "score_tip": teach_wording.score_tip(measure, event.best, where),
        }
        if event.note and event.stage == "train":
            changes["hint"] = Hint(event.note)
        if event.preview is not None:
            changes |= self._take_preview(event.preview)
        if event.result is not None:
            self._result = event.result
            curve = Curve()
            for one in event.result.curve:
                curve = _with_event(curve, one)
            note = Hint(event.note) if event.note else None
            changes |= {
                "curve": curve,
                "learning": None,
                "score": teach_wording.score(measure, event.result.baseline, event.result.best),
                "hint": teach_wording.ending(event.result, event.seconds) or note,
                "can_go_on": teach_wording.can_go_on(event.result),
            }
        return changes

    @property
    def _measure(self) -> str:
        assert self._record is not None
        return teach_wording.measure_of(self._record.goal)  # type: ignore[arg-type]

    # -- at its end --------------------------------------------------------------------------------

    def _kept(self, event: Kept) -> dict[str, Any]:
        assert self._record is not None and self._result is not None
        record, engine, chosen = self._record, self._to.engine, self._to.chosen
        if event.path is not None:
            self._outcome = _Outcome(record, self._result, event.path.stem, str(event.path))
            chosen.renewed.emit()
            saved, tip = f"Saved as {event.path.stem}", f"In {event.path.parent}"
            return {"saved": saved, "saved_tip": tip, "can_save": False}
        name = title(record.words, record.image, self._to.today())
        name = numbered(name, lambda free: IN_MEMORY + free in engine.in_memory)
        adapter = IN_MEMORY + name
        self._outcome = _Outcome(record, self._result, name, adapter)
        engine.in_memory[adapter] = self._result.adapter
        chosen.unsaved = (*chosen.unsaved, Choice(adapter, f"{name}, not saved"))
        hint = None if event.error is None else wording.error_hint(event.error)
        tip = "It can be used until napari ends"
        return {"saved": f"Not saved: {name}", "saved_tip": tip, "can_save": True, "hint": hint}

    def _on_end(self, error: ClipSamError | None) -> None:
        to = self._to
        if not self.is_running:
            return
        self.is_running = False
        to.update(busy=None, learning=None)
        if self._result is None:
            self._go_back()
            to.update(can_go_on=self._is_resumed)
        if error is not None:
            hint = wording.error_hint(error)
            cannot_go_on = self._is_resumed and isinstance(
                error, AdapterError | ConfigError | WeightsError
            )
            if cannot_go_on and self._record is not None:
                to.lost.put_back(self._record)
                hint = replace(hint, actions=(("discard", "Delete it"),))
                to.update(can_go_on=False)
            to.update(hint=hint)
        elif self._result is None:
            to.update(hint=teach_wording.stopped_early(self._is_resumed))
        if self._outcome is not None and self._outcome.result is self._result:
            self._use_unless_busy()
        self.show_use()
        to.on_lesson_over(self._record, self._result is not None)

    def _show_former(self, views: _Views, state: TeachState) -> None:
        """Show again how the lesson went that was to be gone on with."""
        self._views = views
        self._to.update(**{name: getattr(state, name) for name in _FRESH if name != "view"})

    # -- the result --------------------------------------------------------------------------------

    def use(self) -> None:
        """Let what was learnt answer."""
        if self._outcome is not None:
            self._choose(self._outcome.adapter, self._outcome.record)

    def roll_back(self) -> None:
        """Let what it began with answer again."""
        if self._outcome is not None:
            self._choose(self._outcome.record.adapter, self._outcome.record)

    def _choose(self, adapter: str, record: Record) -> None:
        self._to.chosen.choose(record.model, adapter, record.clip)

    def show_use(self) -> None:
        """Say whether what was learnt is what answers now."""
        outcome, chosen = self._outcome, self._to.setup
        is_used = outcome is not None and (chosen.model, chosen.adapter) == (
            outcome.record.model,
            outcome.adapter,
        )
        by_word = outcome is not None and outcome.record.goal != "object"
        has_stack = self._pair is not None and self._pair.axis is not None
        self._to.update(
            can_use=outcome is not None and not is_used,
            can_roll_back=is_used,
            can_segment=is_used and by_word and has_stack,
        )

    def segment_stack(self) -> None:
        """Find what was learnt in all slices, in the Segment dock."""
        outcome, viewer = self._outcome, self._to.viewer
        if outcome is None or not self._to.state.can_segment:
            return
        record, pair = outcome.record, self._pair
        if pair is None or pair.image.layer not in viewer.layers:
            raise PlaneError(f"{record.image} is not open any more. Open it again.")
        self.show_view("")
        target: Target = "concept" if record.goal == "concept" else "instances"
        commands.segment_stack(viewer, pair.image.layer.name, record.words[0], target)

    def save_again(self) -> None:
        """Try once more to put the result into the library."""
        outcome, to = self._outcome, self._to
        if outcome is None or not to.state.can_save:
            return

        def work() -> Iterator[Path]:
            from napari_clipsam.adapters.library import adapters_folder

            yield save(outcome.result, outcome.record, adapters_folder(), to.today())

        def done(path: Path) -> None:
            self._outcome = replace(outcome, name=path.stem, adapter=str(path))
            to.chosen.unsaved = tuple(c for c in to.chosen.unsaved if c.value != outcome.adapter)
            was_used = to.setup.adapter == outcome.adapter
            to.chosen.renewed.emit()
            to.update(saved=f"Saved as {path.stem}", saved_tip=f"In {path.parent}", can_save=False)
            to.update(hint=None)
            if was_used:
                self.use()
            self.show_use()

        job = Job("teach-save", work, Urgency.WORD, on_value=done, on_error=to.on_error)
        to.runner.submit(job)

    def _use_unless_busy(self) -> None:
        """Swap the result in, but not under a job that would then be of two minds."""
        if self._to.is_segmenting():
            self._to.update(
                hint=Hint(
                    "What was learnt is ready. The stack is still being segmented with what you "
                    "had; press Use to change over."
                )
            )
            return
        self.use()

    # -- before and after --------------------------------------------------------------------------

    def show_view(self, view: View) -> None:
        """Show the answer before or after teaching on the held-out slice, or none."""
        self._to.update(view=view if view in self._views else "")
        self._show(self._to.state.view, go=True)

    def on_layers(self) -> None:
        """A layer was removed, maybe the preview by the user."""
        if self._to.state.view and not self._preview.is_shown:
            self._to.update(view="")

    def _take_preview(self, preview: Preview) -> dict[str, Any]:
        assert self._pair is not None
        number = self._pair.source().number(preview.example.plane)
        view: View = "after" if "before" in self._views else "before"
        self._views[view] = number, preview.mask
        if self._to.state.view == view:
            self._show(view)
        where = self._pair.where(number)
        return {"views": tuple(self._views), "view_on": f"on {where}"}

    def _show(self, view: View, go: bool = False) -> None:
        pair = self._pair
        if not view or pair is None or pair.image.layer not in self._to.viewer.layers:
            self._preview.hide()
            return
        number, mask = self._views[view]
        if go:
            self._to.go_to(pair, number)
        self._preview.show(pair.image, pair.key(number), mask, is_after=view == "after")


def _with_event(curve: Curve, event: TrainEvent) -> Curve:
    """A curve with what an event tells."""
    wrong = [event.losses[name] for name in _MASK_LOSSES if name in event.losses]
    if wrong:
        curve = curve.with_loss(event.seconds, sum(wrong))
    if event.score is not None:
        curve = curve.with_score(event.seconds, event.score)
    return curve
