"""The Segment dock's controller: what the user does becomes jobs, and answers become layers.

It knows napari's layers but no Qt, runs on the main thread alone, and never waits: the model works
in a `Runner`, to which only frozen values go.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from napari_clipsam._plugin import choices, commands, drafts, keymap, wording
from napari_clipsam._plugin.asking import Asking
from napari_clipsam._plugin.chosen import Chosen
from napari_clipsam._plugin.engine import Engine, Loaded, Setup
from napari_clipsam._plugin.exporting import export_work
from napari_clipsam._plugin.file_folder import FolderJob
from napari_clipsam._plugin.file_jobs import KIND
from napari_clipsam._plugin.file_stack import StackFileJob
from napari_clipsam._plugin.focus import Focus
from napari_clipsam._plugin.importing import avoid_llvm_clash
from napari_clipsam._plugin.runner import Job, Runner, Urgency
from napari_clipsam._plugin.stack_jobs import WRITING, StackJobs
from napari_clipsam._plugin.state import DockState, ExportKind, Hint, Progress, Target, Tool
from napari_clipsam.errors import ClipSamError, PlaneError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from napari.components import ViewerModel

    from napari_clipsam._plugin.drafts import Draft
    from napari_clipsam._plugin.keeper import Keeper
    from napari_clipsam._plugin.settings import Settings
    from napari_clipsam.session.objects import SessionObject

__all__ = ["SegmentController"]

_HISTORY = 20
_UNKEPT = Hint(
    "There is something that is not kept yet. Keep it or clear it first.",
    (("keep", "Keep"), ("clear", "Clear")),
)


class SegmentController:
    """One viewer's segmenting.

    Parameters
    ----------
    viewer : ViewerModel
    runner : Runner
        Where the model works.
    engine : Engine
        The model; bound to the runner.
    keeper : Keeper
        The session: kept objects, undo, journal, labels layers.
    settings : callable
        Gives the user's preferences as they are now.
    chosen : Chosen, optional
        Model and adapter of the viewer, which other docks may choose too.

    Attributes
    ----------
    state : DockState
        What a dock shows; `changed` is emitted with each new one.
    """

    changed = Signal(object)

    def __init__(
        self,
        viewer: ViewerModel,
        runner: Runner,
        engine: Engine,
        keeper: Keeper,
        settings: Callable[[], Settings],
        chosen: Chosen | None = None,
    ) -> None:
        self.viewer, self.runner, self.engine, self.keeper = viewer, runner, engine, keeper
        self.settings, self.chosen = settings, chosen or Chosen()
        model = self.chosen.model or settings().model
        self.state = DockState(model=model, adapter=self.chosen.usable_adapter())
        self.clip = self.chosen.clip
        self.focus = Focus(viewer, settings)
        self.asking = Asking(self)
        self.stacks = StackJobs(self)
        self.stack_file, self.folder = StackFileJob(self), FolderJob(self)
        self.is_loaded = False
        self._closed = False
        # Until the user says otherwise, each word goes to the layer it went to before.
        self._into_chosen = False
        self._connect()
        self._prepare()
        self._on_layers()
        self.keeper.recorder.trouble = self.on_error
        self._offer_lost()

    # -- what the dock may ask for -----------------------------------------------------------------

    def set_image(self, name: str) -> None:
        """Work on another image layer."""
        if self.focus.name == name:
            return
        self.stacks.settle()
        if self.keeper.state.draft:
            self.update(hint=_UNKEPT)
            return
        self.guarded(lambda: self._take_up(name))

    def set_channel(self, value: str) -> None:
        """Look at other channels of the image; clicks and masks stay."""
        self.guarded(lambda: self.focus.choose_channel(value))
        self._on_layers()

    def set_model(self, name: str) -> None:
        """Let another model answer from now on; it is loaded at once, off the main thread."""
        self._switch(model=name, adapter="default")

    def set_adapter(self, name: str) -> None:
        """Let another adapter condition the model."""
        self._switch(adapter=name)

    def want_word(self) -> None:
        """Go to the field for the word."""
        self.update(word_wanted=self.state.word_wanted + 1)

    def find(self, word: str) -> None:
        """Look for a word in the plane that is shown."""
        word = " ".join(word.split())
        if not word:
            self.update(hint=Hint("Type what to look for, for example nuclei."), word="")
            return
        history = (word, *(w for w in self.state.history if w != word))[:_HISTORY]
        self.update(word=word, history=history)
        if not self._into_chosen:
            self.update(keep_into=self.keeper.layer_for(word))
        self.guarded(self.asking.plane)

    def set_target(self, target: Target) -> None:
        """All of it, every one, or just this one; asks again where there is something to ask."""
        if target == self.state.target:
            return
        self.update(target=target, hint=None)
        if self.state.word and self.focus.image is not None and target != "object":
            self.guarded(self.asking.plane)

    def set_tool(self, tool: Tool) -> None:
        """Make a prompt tool the active one; "" gives the mouse back to napari."""
        self.guarded(lambda: self._use_tool(tool))

    def prompt_from_labels(self) -> None:
        """Take the selected label of the labels layer below as a mask to refine."""
        self.guarded(self.asking.from_labels)

    def keep(self) -> None:
        """Move the preview into the labels layer, in one undo step; what fills it ends."""
        self.stacks.settle()
        draft = tuple(
            one for one in self.keeper.state.draft if any(mask.area for mask in one.masks.values())
        )
        if not draft or self.focus.image is None:
            self.update(hint=Hint("There is nothing to keep yet. Type a word, or click an object."))
            return
        self.asking.drop()
        image, into = self.focus.image, self.state.keep_into
        self.update(hint=None)
        self.guarded(lambda: self._kept(self.keeper.keep(image, draft, into, self.state.overwrite)))

    def clear(self) -> None:
        """Drop the preview and its prompts; undo brings them back."""
        self.asking.drop()
        self.focus.forget_prompts()
        self.focus.hide_similarity()
        if self.keeper.state.draft:
            self.do("clear", ())
        self.update(answer="", hint=None, busy=self.progress)
        self.sync()

    def undo(self) -> None:
        """Take back the last step: prompts, what was kept, slices that were filled."""
        self.asking.drop()
        if self.focus.has_unanswered(self.keeper.state.draft):
            self.sync()
            return
        self.guarded(self.keeper.undo)
        self.sync()

    def redo(self) -> None:
        """Do again what was taken back."""
        self.asking.drop()
        self.guarded(self.keeper.redo)
        self.sync()

    def set_keep_into(self, name: str) -> None:
        """Choose the labels layer that "Keep" writes to; "" for a new one."""
        self._into_chosen = True
        self.update(keep_into=name)

    def set_overwrite(self, overwrite: bool) -> None:
        """Say whether "Keep" may replace pixels of other objects."""
        self.update(overwrite=overwrite)

    def set_z_range(self, first: int, last: int) -> None:
        """Choose the slices for the whole stack and for following an object."""
        top = max(0, self.state.z_extent - 1)
        first, last = (min(max(0, z), top) for z in (first, last))
        self.update(z_range=(min(first, last), max(first, last)))
        self.stacks.estimate()

    def segment_stack(self) -> None:
        """Look for the word in all slices of the range."""
        self.guarded(self.stacks.segment)

    def want_file(self) -> None:
        """Ask where the labels of the whole stack shall go."""
        self.update(file_wanted=self.state.file_wanted + 1)

    def segment_into(self, path: Path) -> None:
        """Write the word's labels in all slices of the range to a file, as they come."""
        self.guarded(lambda: self._into_disk(lambda: self.stack_file.begin(path)))

    def segment_folder(self, images: Sequence[Path], output: Path) -> None:
        """Find the word in all images of a folder, or in some images."""
        self.guarded(lambda: self._into_disk(lambda: self.folder.begin(images, output)))

    def propagate(self) -> None:
        """Follow the objects of the preview through the slices of the range."""
        self.guarded(self.stacks.propagate)

    def stop(self) -> None:
        """End what runs; what is finished is kept."""
        self.asking.drop()
        for kind in ("stack", "export", KIND):
            self.runner.stop(kind)

    def open_object(self, key: str) -> None:
        """Show a kept object, and reopen it for correction."""
        self.guarded(lambda: self._open(key))

    def delete_object(self, key: str) -> None:
        """Take an object out of its labels layer; undo brings it back."""
        self.guarded(lambda: self.keeper.delete(key))
        self.sync()

    def next_weak(self) -> None:
        """Go to the weakest slice of the preview, or to the weakest object, then to the next."""
        self.guarded(self._next_weak)

    def act(self, action: str) -> None:
        """Do what a button of the hint says."""
        self.update(hint=None)
        actions: dict[str, Callable[[], None]] = {
            "keep": self.keep,
            "clear": self.clear,
            "click-one": self._click_one,
            "show-slices": self.focus.show_slices,
            "target-instances": partial(self.set_target, "instances"),
            "target-object": partial(self.set_target, "object"),
            "restore": self._restore,
            "discard": self._discard,
            "into-file": self.want_file,
            "go-on": lambda: self._into_disk(self.stack_file.go_on, needs_word=False),
            "forget": self.stack_file.forget,
            "go-on-folder": lambda: self._into_disk(self.folder.go_on, needs_word=False),
            "forget-folder": self.folder.forget,
            "open-results": self.folder.open_results,
            "teach": partial(commands.teach_word, self.viewer, self.state.word),
        }
        self.guarded(actions[action])

    def open_sample(self, value: str) -> None:
        """Open one of the sample images and work on it."""
        self.viewer.open_sample("napari-clipsam", value)

    def save_project(self, folder: Path) -> None:
        """Keep the session in a folder of the user's from now on."""
        self.guarded(lambda: self.keeper.recorder.save_as(folder))

    def open_project(self, folder: Path) -> None:
        """Go on with a session that was saved."""
        if self.keeper.has_unkept():
            self.update(hint=_UNKEPT)
            return
        self.guarded(lambda: self.keeper.open_project(folder))
        self.sync()

    def replay(self) -> None:
        """Make the kept objects again with the chosen model, as a preview."""
        self.guarded(self.stacks.replay)

    def export(self, kind: ExportKind, path: Path) -> None:
        """Write labels or the table of objects to a file, off the main thread."""
        self.guarded(lambda: self._export(kind, path))

    def close(self) -> None:
        """Let go of everything; may be called twice. The session itself stays with the viewer."""
        if self._closed:
            return
        self._closed = True
        self.stop()
        for kind in ("prepare", "prefetch", "choices"):
            self.runner.stop(kind)
        self._disconnect()
        self.focus.close()

    # -- what its parts use ------------------------------------------------------------------------

    def update(self, **changes: Any) -> None:
        """Change the state and tell the dock, if anything is new."""
        new = replace(self.state, **changes)
        if new != self.state:
            self.state = new
            self.changed.emit(new)

    def do(self, what: str, draft: Draft) -> None:
        """Make a new preview one step that can be undone, and show it."""
        self.keeper.do(what, self.keeper.state.with_draft(draft))
        self.render()

    def render(self) -> None:
        """Show preview, list of objects and undo steps as they are."""
        self.focus.show(self.keeper.state.draft)
        self.update(**choices.object_rows(self.keeper, self.focus))

    def sync(self) -> None:
        """Let prompt layers show what the session holds, then render."""
        self.focus.show_prompts(self.keeper.state.draft)
        self.render()

    @property
    def setup(self) -> Setup:
        """The model that is to answer."""
        return self.settings().setup(self.state.model, self.state.adapter, self.clip)

    @property
    def progress(self) -> Progress | None:
        """How far the long job is that runs."""
        return self.stacks.progress or self.stack_file.progress or self.folder.progress

    @property
    def origin(self) -> drafts.Origin:
        """What new objects are made from."""
        return drafts.Origin(self.focus.name, self.state.model, self.state.adapter, self.clip)

    def on_loaded(self, value: Loaded) -> None:
        """Show the model that is ready now."""
        self.is_loaded = True
        self.update(device=value.device, known_words=value.words)

    def on_error(self, error: ClipSamError) -> None:
        """Show an error; the plugin goes on."""
        self.update(hint=wording.error_hint(error), busy=self.progress)

    # -- reactions ---------------------------------------------------------------------------------

    def _take_up(self, name: str) -> None:
        self.focus.take_up(name, self.asking.on_prompts)
        if self.focus.image is not None:
            self.keeper.take_up(self.focus.image)
        self.update(hint=None)
        self.sync()
        self._on_layers()
        self._on_slice()
        self._offer_lost()

    def _into_disk(self, begin: Callable[[], None], needs_word: bool = True) -> None:
        """Begin what writes to disk; what fills the preview ends."""
        if self.stack_file.progress or self.folder.progress:
            self.update(hint=WRITING)
        elif not needs_word or self.stacks.is_asked():
            self.stacks.settle()
            begin()

    def _use_tool(self, tool: Tool) -> None:
        self.focus.use_tool(tool)
        self.update(tool=tool, hint=None)

    def _click_one(self) -> None:
        self.update(target="object")
        self._use_tool("point+")

    def _switch(self, former_clip: str = "", **setup: str) -> None:
        """Change model or adapter: what runs with the former one ends first."""
        for kind in ("stack", "prefetch", KIND):
            self.runner.stop(kind)
        former = {name: getattr(self.state, name) for name in ("model", "adapter", "device")}
        former["known_words"] = self.state.known_words
        self.update(**setup, device="", known_words=(), hint=None)
        self.chosen.choose(self.state.model, self.state.adapter)
        self._prepare(former, former_clip)

    def _on_chosen(self, model: str, adapter: str) -> None:
        """Another dock chose."""
        clip, self.clip = self.clip, self.chosen.clip
        if (model, adapter, self.clip) != (self.state.model, self.state.adapter, clip):
            self._switch(clip, model=model, adapter=adapter)

    def _on_renewed(self) -> None:
        """Models or adapters came or went."""

        def work() -> Any:
            yield choices.model_choices(self.setup)

        self.runner.submit(
            Job("choices", work, Urgency.WORD, on_value=self._offer, on_error=self.on_error)
        )

    def _offer(self, found: dict[str, Any]) -> None:
        """Offer the models and adapters that were found."""
        self.update(**{**found, "adapters": (*found["adapters"], *self.chosen.unsaved)})

    def _prepare(self, former: dict[str, Any] | None = None, former_clip: str = "") -> None:
        """Off the main thread: what models there are; after a switch, load the one chosen.

        Where it cannot be loaded, the `former` one stays.
        """

        def work() -> Any:
            avoid_llvm_clash()
            yield choices.model_choices(self.setup)
            if former is not None:
                yield from self.engine.load(self.setup)

        def ready(value: Any) -> None:
            if isinstance(value, Loaded):
                self.on_loaded(value)
                self._on_slice()
            else:
                self._offer(value)

        def failed(error: ClipSamError) -> None:
            self.update(**(former or {}))
            self.clip = former_clip or self.clip
            self.chosen.choose(self.state.model, self.state.adapter, self.clip)
            self.on_error(error)

        self.runner.submit(Job("prepare", work, Urgency.WORD, on_value=ready, on_error=failed))

    def _on_slice(self, _: object = None) -> None:
        """Another slice or view is shown."""
        self.keeper.look()
        part = choices.stack_choices(self.focus, self.state)
        self.update(**part)
        self.stacks.estimate()
        key = self.focus.shown_key()
        if key is not None:
            if self.state.hint == self.focus.wrong_view:
                self.update(hint=None)
            self.asking.prepare(key)
        elif self.focus.image is not None:
            self.update(hint=self.focus.wrong_view)

    def _on_layers(self, _: object = None) -> None:
        """Layers came, went or were renamed."""
        if self.focus.image is not None and not self.focus.is_there:
            self._leave_image()
        part = choices.layer_choices(self.viewer, self.focus, self.keeper, self.state)
        self.update(**part)
        if self.focus.image is None:
            first = choices.best_image(self.viewer, self.keeper.image)
            if first:
                self.guarded(lambda: self._take_up(first))
            elif self.state.hint is None:
                self.update(hint=wording.no_image())

    def _leave_image(self) -> None:
        """The image is gone: nobody can answer about it any more."""
        self.stop()
        self.focus.leave()
        if self.keeper.state.draft:
            self.do("the image was removed", ())
        self.update(answer="", hint=None, busy=None, tool="")

    def _kept(self, message: str) -> None:
        self.focus.forget_prompts()
        self.focus.hide_similarity()
        self.sync()
        into = self.state.keep_into or self.keeper.layer_for(self.state.word)
        self.update(answer=message, keep_into=into)

    def _open(self, key: str) -> None:
        one = self.keeper.state.objects.get(key)
        if one is None:
            return
        if self.state.selected != key:
            if self.keeper.has_unkept():
                self.update(hint=_UNKEPT)
                return
            self._show_image_of(one)
            self.keeper.open(key)
            self.update(target="object", word=one.word or "")
            self.sync()
        self.focus.go_to(one.weakest)

    def _show_image_of(self, one: SessionObject) -> None:
        """Work on the image that an object lies in.

        Raises
        ------
        PlaneError
            It is not there.
        """
        if one.image != self.focus.name and one.image in {c.value for c in self.state.images}:
            self._take_up(one.image)
        if self.focus.image is None or not drafts.fitting((one,), self.focus.image.shape):
            raise PlaneError(f"This object lies in another image. Open {one.image} first.")

    def _next_weak(self) -> None:
        draft = self.keeper.state.draft
        if len(draft) == 1 and len(draft[0].masks) > 1:
            self.focus.go_to(choices.next_weak_slice(draft[0], self.focus.shown_key()))
            return
        row = choices.next_weak_object(self.state)
        if row:
            self._open(row)

    def _offer_lost(self) -> None:
        """Offer a session that was cut off, as long as nothing was done in this one."""
        lost = self.keeper.recorder.lost()
        if lost and not (self.keeper.undo_text or self.keeper.redo_text):
            self.update(hint=wording.restore_hint(lost))
        elif self.state.hint is None and self.progress is None:
            self.guarded(lambda: self.stack_file.offer() or self.folder.offer())

    def _discard(self) -> None:
        self.keeper.recorder.discard_lost()
        self._offer_lost()

    def _restore(self) -> None:
        path = self.keeper.recorder.take_lost()
        if path is not None:
            self.keeper.open_project(path)
        self._on_layers()
        self.sync()
        self._offer_lost()

    def _export(self, kind: ExportKind, path: Path) -> None:
        work = export_work(self.keeper, kind, path, self.state.keep_into)

        def done() -> None:
            self.update(busy=self.progress, answer=f"written: {path.name}")

        self.update(busy=Progress(f"Writing {path.name}", can_stop=False))
        self.runner.submit(Job("export", work, Urgency.STACK, on_done=done, on_error=self.on_error))

    def guarded(self, act: Callable[[], object]) -> None:
        """Do something; an error becomes a line that says what to do."""
        try:
            act()
        except ClipSamError as error:
            self.on_error(error)

    def _events(self) -> list[tuple[Any, Callable[..., None]]]:
        layers, dims = self.viewer.layers.events, self.viewer.dims.events
        return [
            (layers.inserted, self._on_layers),
            (layers.removed, self._on_layers),
            (layers.reordered, self._on_layers),
            (layers.renamed, self._on_layers),
            (dims.current_step, self._on_slice),
            (dims.order, self._on_slice),
            (dims.ndisplay, self._on_slice),
        ]

    def _connect(self) -> None:
        commands.register(self.viewer, self)
        keymap.bind(self.viewer, self)
        for event, reaction in self._events():
            event.connect(reaction)
        self.chosen.changed.connect(self._on_chosen)
        self.chosen.renewed.connect(self._on_renewed)

    def _disconnect(self) -> None:
        for event, reaction in self._events():
            event.disconnect(reaction)
        self.chosen.changed.disconnect(self._on_chosen, missing_ok=True)
        self.chosen.renewed.disconnect(self._on_renewed, missing_ok=True)
        if commands.forget(self.viewer, self):
            keymap.unbind(self.viewer)
