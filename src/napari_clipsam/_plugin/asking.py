"""Questions about the plane that is shown, and what their answers change."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from napari_clipsam._plugin import choices, drafts, wording
from napari_clipsam._plugin.engine import Ask, Found, Loaded, Similar, Tiles
from napari_clipsam._plugin.marks import box_around
from napari_clipsam._plugin.runner import Job, Urgency
from napari_clipsam._plugin.state import Hint, Progress
from napari_clipsam.prompts import Prompts

if TYPE_CHECKING:
    from napari_clipsam._plugin.controller import SegmentController
    from napari_clipsam._plugin.engine import Setup
    from napari_clipsam._plugin.state import Target
    from napari_clipsam.inference.requests import ObjectMask, Prediction
    from napari_clipsam.session.objects import PlaneKey, SessionState

__all__ = ["Asking"]

_CLICK_ONE = Hint("Click the one you mean.")
_BOX_IN_CONCEPT = Hint(
    "A box, lasso or scribble means one object. Look for every one, or just this one.",
    (("target-instances", "Every one"), ("target-object", "Just this one")),
)


class _Answered(NamedTuple):
    """A question that has a first answer, what holds since then, and which model said so."""

    ask: Ask
    first: Prediction
    state: SessionState
    setup: Setup


class Asking:
    """Asks for a controller; one question at a time, the latest wins."""

    def __init__(self, controller: SegmentController) -> None:
        self._to = controller
        self._awaited: Ask | None = None
        self._answered: _Answered | None = None
        # Whether a closer look at what prompts alone have found may still come.
        self._looks_closer = False

    def drop(self) -> None:
        """Wait for no answer any more, not even for one that is on its way already."""
        self._awaited, self._looks_closer = None, False
        self._to.runner.stop("answer")

    def plane(self) -> None:
        """Ask for the word in the plane that is shown."""
        key = self._to.focus.key()
        prompts = self._to.focus.prompts(key, self._to.state.word)
        if self._to.state.target == "object":
            if prompts.has_object:
                self._ask_object(key, prompts)
            else:
                self._to.update(hint=_CLICK_ONE)
        elif self._to.state.target == "instances":
            self._submit(Urgency.WORD, key, Prompts(self._to.state.word), "instances", None)
        else:
            self._ask_concept(key, prompts)

    def on_prompts(self, key: PlaneKey) -> None:
        """The user added, moved or removed a prompt."""
        self._to.guarded(lambda: self._answer_prompts(key))

    def _answer_prompts(self, key: PlaneKey) -> None:
        prompts = self._to.focus.prompts(key, self._to.state.word or None)
        target = self._to.state.target if self._to.state.word else "object"
        if target == "concept":
            self._ask_concept(key, prompts)
        elif target == "instances":
            self._change_instances(key, prompts)
        elif prompts.has_object:
            self._ask_object(key, prompts)
        else:
            self._to.do("remove clicks", drafts.without_plane(self._to.keeper.state.draft, key))

    def _ask_concept(self, key: PlaneKey, prompts: Prompts) -> None:
        if len(prompts.boxes) or prompts.mask is not None:
            self._to.update(hint=_BOX_IN_CONCEPT)
            return
        self._submit(Urgency.WORD, key, prompts, "concept", None)

    def _ask_object(self, key: PlaneKey, prompts: Prompts) -> None:
        draft = self._to.keeper.state.draft
        previous = None
        # A mask that was about to be replaced is no start: all prompts are asked for anew.
        can_refine = len(draft) == 1 and len(prompts.boxes) < 2 and prompts.mask is None
        if can_refine and not self._looks_closer:
            previous = drafts.earlier_mask(draft[0], key, prompts)
        self._submit(Urgency.CLICK, key, prompts, "object", previous)

    def _change_instances(self, key: PlaneKey, prompts: Prompts) -> None:
        """A click or box adds an object to those found, a negative click removes the one under it.

        Such prompts have done their work at once, so they do not stay.
        """
        draft = self._to.keeper.state.draft
        under = [
            drafts.object_at(draft, key, y, x)
            for (y, x), label in zip(prompts.points, prompts.labels, strict=True)
            if label == 0
        ]
        removed = {one.key for one in under if one is not None}
        positive = prompts.labels == 1
        added = Prompts(prompts.text, prompts.points[positive], None, prompts.boxes, prompts.mask)
        self._to.focus.forget_prompts()
        if removed:
            self._to.do("remove an object", tuple(o for o in draft if o.key not in removed))
            self._to.update(answer=f"removed {wording.count(len(removed), 'object')}", hint=None)
        if added.has_object:
            self._submit(Urgency.CLICK, key, added, "object", None, adds=True)

    def from_labels(self) -> None:
        """A label under the cursor's slice as a mask to refine with the next clicks."""
        key = self._to.focus.key()
        mask = choices.label_mask(self._to.viewer, self._to.focus, key)
        self._to.update(target="object")
        self._to.focus.set_prompts(key, Prompts(mask=mask, boxes=[box_around(mask)]))
        self._ask_object(key, self._to.focus.prompts(key, self._to.state.word or None))

    def _submit(
        self,
        urgency: Urgency,
        key: PlaneKey,
        prompts: Prompts,
        target: Target,
        previous: ObjectMask | None,
        adds: bool = False,
    ) -> None:
        """Ask the model; a newer question takes the place of this one."""
        ask = Ask(self._to.focus.reader(), key, prompts, target, previous)
        if self._to.progress is None:
            self._to.update(busy=Progress(f"Looking for {prompts.text or 'the object'}"))
        self._awaited = ask
        self._looks_closer = target == "object" and previous is None
        then = partial(self._on_answer, ask, adds)
        self._to.runner.submit(
            Job(
                "answer",
                partial(self._to.engine.answer, self._to.setup, ask),
                urgency,
                on_value=then,
                on_done=partial(self._on_done, ask),
                on_error=self._to.on_error,
                on_stop=lambda: self._to.update(busy=self._to.progress),
                need=key if target == "object" else None,
            )
        )
        if self._to.models.is_loaded:
            self.make_room()

    def make_room(self) -> None:
        """Where somebody waits, make the layers for the answer while the model works.

        That takes napari a good part of a second, and more while the model is being imported.
        """
        if self._awaited is not None and self._to.state.busy is not None:
            self._to.focus.expect_answer()

    def _on_answer(self, ask: Ask, adds: bool, value: Loaded | Similar | Tiles | Found) -> None:
        if isinstance(value, Loaded):
            self._to.on_loaded(value)
            return
        if self._awaited is not ask or not self._to.focus.reads_with(ask.read):
            # Not wanted any more, the image went away, or other channels are looked at now.
            return
        if isinstance(value, Tiles):
            self._on_tiles(ask, value)
            return
        if isinstance(value, Similar):
            self._to.focus.show_similarity(value.key, value.similarity)
            return
        if value.closer:
            self._on_closer(ask, adds, value)
            return
        answer, prompts, key = value.prediction, ask.prompts, ask.key
        draft, origin = self._to.keeper.state.draft, self._to.origin
        note = _note(ask, answer)
        if adds:
            draft, note = drafts.with_one_more(draft, origin, key, prompts, answer)
            what = "add an object"
        elif ask.target == "object":
            draft = drafts.with_object(draft, origin, key, prompts, answer)
            what = "click"
        elif ask.target == "instances":
            draft, what = drafts.with_instances(draft, origin, key, prompts, answer), "find"
        else:
            draft, what = drafts.with_concept(draft, origin, key, prompts, answer), "find"
        missing = ask.target != "object" and not answer.match
        if missing:
            # The map stays: it shows where the word would be, and the hint says the rest.
            note = ""
        else:
            self._to.focus.hide_similarity()
        self._to.update(
            answer=self._line(ask, value, note),
            hint=wording.no_match(prompts.text or "", answer) if missing else None,
            busy=self._to.progress,
        )
        self._to.do(f"{what} {prompts.text or ''}".strip(), draft)
        self._answered = _Answered(ask, answer, self._to.keeper.state, self._to.setup)
        self._to.stacks.seen(key, sum(answer.seconds.values()) or value.seconds)
        self._prepare_more(key, answer.objects[0] if ask.target == "object" else None)

    def _on_tiles(self, ask: Ask, value: Tiles) -> None:
        """Say how far the model is, unless nobody needs its closer look any more."""
        text = f"Looking for {ask.prompts.text or 'the object'}"
        if self._answered is not None and self._answered.ask is ask:
            if self._went_on(self._answered):
                self.drop()
                return
            text = "Looking closer"
        self._to.update(busy=Progress(text, value.done, value.total))

    def _went_on(self, answered: _Answered) -> bool:
        """Whether the user did something with a first answer, or chose another model."""
        return self._to.keeper.state is not answered.state or self._to.setup != answered.setup

    def _on_closer(self, ask: Ask, adds: bool, value: Found) -> None:
        """Let what a closer look found take the place of the first answer, in the same step."""
        answered = self._answered
        if answered is None or self._went_on(answered):
            return
        first, state = answered.first, answered.state
        keeper, key, answer = self._to.keeper, value.key, value.prediction
        step, note = keeper.undo_text, _note(ask, answer)
        keeper.undo()
        before = keeper.state.draft
        if adds:
            # A mask of another size may take the place of other objects.
            draft, note = drafts.with_one_more(before, self._to.origin, key, ask.prompts, answer)
            draft = drafts.with_keys_of(draft, state.draft, before)
        elif ask.target == "instances":
            draft = drafts.with_instances(before, self._to.origin, key, ask.prompts, answer)
        else:
            draft = drafts.with_closer(state.draft, key, first, answer)
        self._to.update(answer=self._line(ask, value, note))
        self._to.do(step, draft)
        if ask.target != "object":
            # In a stack each slice is looked at from closer, too.
            self._to.stacks.seen(key, sum(first.seconds.values()) + sum(answer.seconds.values()))
        self._prepare_more(key, answer.objects[0] if ask.target == "object" else None)

    def _on_done(self, ask: Ask) -> None:
        self._looks_closer = False
        if self._awaited is ask:
            self._to.update(busy=self._to.progress)

    def _line(self, ask: Ask, value: Found, note: str) -> str:
        where = self._to.focus.where(value.key)
        return wording.answer_line(ask.prompts.text, value.prediction, value.seconds, where, note)

    def _prepare_more(self, key: PlaneKey, like: ObjectMask | None) -> None:
        """Prepare what will be asked after an answer, unless another slice is shown by now."""
        if key == self._to.focus.shown_key():
            self.prepare(key, like)

    def prepare(self, key: PlaneKey, like: ObjectMask | None = None) -> None:
        """While nobody waits: load the model, encode this plane, and once asked those beside it.

        Before those come the parts in which objects like one will be looked for.
        """
        setup, focus = self._to.setup, self._to.focus
        keys = focus.neighbours(key) if self._to.models.is_loaded else (key,)
        word = self._to.state.word or None
        work = partial(self._to.engine.prepare, setup, focus.reader(), keys, word, like)

        def ready(value: Loaded | None) -> None:
            if value is not None and value.setup == self._to.setup:
                self._to.on_loaded(value)

        self._to.runner.submit(
            Job(
                "prefetch",
                work,
                Urgency.PREFETCH,
                on_value=ready,
                doing=lambda: self._to.engine.encoding,
            )
        )


def _note(ask: Ask, answer: Prediction) -> str:
    """What there is to say; that a click had no word of its own is what the user meant."""
    return answer.note if ask.prompts.text is not None else ""
