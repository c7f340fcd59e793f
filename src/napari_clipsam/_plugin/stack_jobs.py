"""Long jobs over many slices: a word in the whole stack, and objects followed through it.

They run behind clicks. What they find is shown as it comes; it joins the preview as one undo step
when the job ends, is stopped or fails, so that nothing finished is lost.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING
from uuid import uuid4

from napari_clipsam._machine import memory, size_text
from napari_clipsam._plugin import drafts, wording
from napari_clipsam._plugin.engine import Loaded
from napari_clipsam._plugin.runner import Job, Urgency
from napari_clipsam._plugin.state import Hint, Progress
from napari_clipsam.prompts import Prompts
from napari_clipsam.session.objects import at_number
from napari_clipsam.session.restoring import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from napari_clipsam._plugin.controller import SegmentController
    from napari_clipsam._plugin.drafts import Draft
    from napari_clipsam.errors import ClipSamError
    from napari_clipsam.inference.propagation import PropagationStep
    from napari_clipsam.inference.requests import ObjectMask
    from napari_clipsam.inference.stacks import StackStep
    from napari_clipsam.planes import Plane
    from napari_clipsam.session.objects import PlaneKey, SessionObject

__all__ = ["WRITING", "StackJobs"]

# Of the layer, and of masks that are one byte a pixel in their boxes, where they fill the slice.
_BYTES_A_VOXEL = 2
WRITING = Hint("Labels are being written to disk. Wait for that, or stop it first.")
_STOPPED = "; stopped, what is finished is there"


class StackJobs:
    """The long jobs of a controller, one at a time."""

    def __init__(self, controller: SegmentController) -> None:
        self._to = controller
        self._steps: list[Callable[[Draft], Draft]] = []
        # The steps that were applied already, and to which preview.
        self._base: Draft | None = None
        self._done = 0
        self._so_far: Draft = ()
        self._seconds: dict[PlaneKey, float] = {}
        self._corrected: set[int] = set()
        # Linked objects are numbered anew in each run; here is who they are.
        self._names: defaultdict[int, str] = defaultdict(lambda: uuid4().hex)
        self.progress: Progress | None = None
        self._finish: Callable[[str], None] | None = None

    def settle(self) -> None:
        """End the job that runs, if one does, and take what is finished into the preview now."""
        if self._finish is not None:
            finish = self._finish
            self._to.runner.stop("stack")
            finish(_STOPPED)

    def seen(self, key: PlaneKey, seconds: float) -> None:
        """Learn from a plane how long one takes, and that it was corrected."""
        # A later answer of a plane comes from caches.
        self._seconds[key] = max(seconds, self._seconds.get(key, 0.0))
        axis = self._to.focus.stack_axis
        if axis is not None and key[axis] is not None:
            self._corrected.add(int(key[axis] or 0))
        self.estimate()

    def estimate(self) -> None:
        """Say how long the stack would take, once a plane was seen."""
        slowest = max(self._seconds.values(), default=0.0)
        first, last = self._to.state.z_range
        known = slowest > 0.05 and self._to.state.z_extent > 1
        text = f"~{wording.duration(slowest * (last - first + 1))}" if known else ""
        self._to.update(estimate=text)

    def is_asked(self) -> bool:
        """Whether there is a word to find in many slices or images; if not, says what to do."""
        to = self._to
        if not to.state.word:
            to.update(hint=Hint("Type what to look for in the stack, for example nuclei."))
            return False
        if to.state.target == "object":
            to.update(
                hint=Hint(
                    "To find a word in the stack, look for all of it or every one. To follow the "
                    "object you clicked, use Follow.",
                    (("target-instances", "Every one"),),
                )
            )
            return False
        return True

    def segment(self) -> None:
        """Look for the word in every slice of the range; too many are offered a file."""
        to = self._to
        if not self.is_asked():
            return
        too_large = self._too_large()
        if too_large is not None:
            to.update(hint=too_large)
            return
        read, at, axis = self._planes()
        first, last = to.state.z_range
        word, target = to.state.word, to.state.target
        work = partial(
            to.engine.stack,
            *(to.setup, read, tuple(range(first, last + 1)), word, target),
            to.focus.slice_distance(axis),
        )
        take = partial(self._take_slice, at, word)
        self._start(f"find {word} in the stack", last - first + 1, work, take, _slice)

    def propagate(self) -> None:
        """Follow every object of the preview from the slices that it was shown in."""
        to = self._to
        read, at, axis = self._planes()
        self.settle()
        seeds: dict[str, dict[int, ObjectMask]] = {}
        prompts: dict[str, dict[int, Prompts]] = {}
        for one in to.keeper.state.draft:
            shown = {k: m for k, m in one.masks.items() if m.area and at(int(k[axis] or 0)) == k}
            asked = {k for k in shown if k in one.prompts} or set(shown)
            if asked:
                seeds[one.key] = {int(k[axis] or 0): shown[k] for k in asked}
                prompts[one.key] = {
                    int(k[axis] or 0): one.prompts.get(k, Prompts(one.word)) for k in asked
                }
        if not seeds:
            to.update(hint=Hint("Click an object in one slice first, then follow it."))
            return
        z_range = self._open_range(seeds, to.state.z_range)
        words = {one.key: one.word for one in to.keeper.state.draft}
        work = partial(
            to.engine.propagate,
            *(to.setup, read, seeds, prompts, z_range),
            to.focus.slice_distance(axis),
            words,
        )
        self._corrected.clear()
        steps = (z_range[1] - z_range[0] + 1) * len(seeds)
        take_follower = partial(self._take_follower, at, seeds)
        self._start("follow objects", steps, work, take_follower, _slice)

    def replay(self) -> None:
        """Make the kept objects of the image again with the model that is chosen now.

        They come as a preview of their own, so that nothing that was kept changes.
        """
        to = self._to
        kept = to.keeper.of_image()
        if not kept:
            to.update(hint=Hint("Nothing of this image is kept yet. Keep an object first."))
            return
        axes = range(len(to.focus.key()))
        distances = tuple(to.focus.slice_distance(axis) for axis in axes)
        recipes = tuple(Recipe(replace(one, masks={}), tuple(one.masks)) for one in kept)
        read = to.focus.reader()
        work = partial(to.engine.replay, to.setup, read, recipes, distances.__getitem__)
        to.set_keep_into("")
        self._start("run again", len(kept), work, _take_again, _object)

    def _start(
        self,
        what: str,
        total: int,
        work: Callable[[], Iterator[Any]],
        take: Callable[[Any], Callable[[Draft], Draft]],
        name: Callable[[Any], str],
    ) -> None:
        self.settle()
        if self._to.progress is not None:
            self._to.update(hint=WRITING)
            return
        to, started, self._steps = self._to, time.perf_counter(), []
        self._names.clear()
        self._base = None

        def on_value(value: Any) -> None:
            if isinstance(value, Loaded):
                to.on_loaded(value)
                return
            if self._finish is not finish:
                return
            self._steps.append(take(value))
            done = len(self._steps)
            left = (time.perf_counter() - started) / done * max(0, total - done)
            text = f"{name(value)}, {wording.duration(left)} left"
            self.progress = Progress(text, min(done, total), total)
            to.focus.show(self._applied())
            to.update(busy=self.progress)

        def finish(note: str = "") -> None:
            if self._finish is not finish:
                return  # it was settled already
            self._finish = self.progress = None
            done = len(self._steps)
            if done:
                to.do(what, self._applied())
            self._steps, self._base = [], None
            spent = wording.duration(time.perf_counter() - started)
            told = f"{what}: {wording.count(done, 'step')}, {spent}{note}"
            to.update(busy=None, answer=told)

        def fail(error: ClipSamError) -> None:
            finish("; ended early")
            to.on_error(error)

        self._finish = finish
        self.progress = Progress(f"{what} ...", 0, total)
        to.update(busy=self.progress, hint=None)
        to.runner.submit(
            Job(
                "stack",
                work,
                Urgency.STACK,
                on_value=on_value,
                on_done=finish,
                on_error=fail,
                on_stop=partial(finish, _STOPPED),
            )
        )

    def _applied(self) -> Draft:
        """The preview with all steps so far; what the user prompts meanwhile stays."""
        base = self._to.keeper.state.draft
        if self._base is not base:
            self._base, self._done, self._so_far = base, 0, base
        for step in self._steps[self._done :]:
            self._so_far = step(self._so_far)
        self._done = len(self._steps)
        return self._so_far

    def _take_slice(
        self, at: Callable[[int], PlaneKey], word: str, value: StackStep
    ) -> Callable[[Draft], Draft]:
        to, key = self._to, at(value.z)
        if value.prediction.target == "instances":
            names = [self._names[i] for i in value.ids]
            found = dict(zip(names, value.prediction.objects, strict=True))
            return partial(drafts.with_linked, to.origin, key, word, found)
        return partial(_with_concept, to.origin, key, word, value)

    def _take_follower(
        self,
        at: Callable[[int], PlaneKey],
        seeds: Mapping[str, Mapping[int, ObjectMask]],
        value: PropagationStep,
    ) -> Callable[[Draft], Draft]:
        if value.z in seeds.get(value.key, {}):
            return lambda draft: draft
        return partial(drafts.with_follower, value.key, at(value.z), value.found)

    def _too_large(self) -> Hint | None:
        """What to do where memory cannot hold a preview of the range."""
        focus, (first, last) = self._to.focus, self._to.state.z_range
        height, width = focus.reader().plane_shape(focus.key())
        needed, free = height * width * (last - first + 1) * _BYTES_A_VOXEL, memory().free
        if free is None or needed <= free:
            return None
        return Hint(
            f"A preview of {last - first + 1} slices of {height} x {width} may take "
            f"{size_text(needed)} of memory; {size_text(free)} are free. Write the labels to a "
            "file, or choose fewer slices.",
            (("into-file", "Into a file..."),),
        )

    def _planes(self) -> tuple[Callable[[int], Plane], Callable[[int], PlaneKey], int]:
        """Reads slices by number on a worker, names them, and the axis they are numbered along."""
        focus = self._to.focus
        key, axis = focus.key(), focus.need_stack_axis()
        reader = focus.reader()

        def at(z: int) -> PlaneKey:
            return at_number(key, axis, z)

        return (lambda z: reader(at(z))), at, axis

    def _open_range(
        self, seeds: Mapping[str, Mapping[int, ObjectMask]], z_range: tuple[int, int]
    ) -> tuple[int, int]:
        """The slices to do again: after a correction only those up to the next prompted ones."""
        prompted = sorted({z for of_one in seeds.values() for z in of_one})
        corrected = [z for z in self._corrected if z in prompted]
        if len(corrected) == len(prompted) or not corrected:
            return z_range
        below = [z for z in prompted if z < min(corrected)]
        above = [z for z in prompted if z > max(corrected)]
        first = max([z_range[0], *below[-1:]])
        last = min([z_range[1], *above[:1]])
        return first, last


def _slice(step: StackStep | PropagationStep) -> str:
    return f"slice {step.z}"


def _object(one: SessionObject) -> str:
    return one.word or "object"


def _take_again(one: SessionObject) -> Callable[[Draft], Draft]:
    """An object made again joins the preview as a new one."""
    fresh = replace(one, key=uuid4().hex)
    return lambda draft: (*draft, fresh) if fresh.masks else draft


def _with_concept(
    origin: drafts.Origin, key: PlaneKey, word: str, value: StackStep, draft: Draft
) -> Draft:
    corrected = any(key in o.prompts and o.prompts[key].has_object for o in draft)
    if corrected:
        return draft
    return drafts.with_concept(draft, origin, key, Prompts(word), value.prediction)
