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
from napari_clipsam._plugin.file_folder import FolderJob
from napari_clipsam._plugin.file_jobs import KIND
from napari_clipsam._plugin.file_stack import StackFileJob
from napari_clipsam._plugin.focus import Focus
from napari_clipsam._plugin.image_choice import ImageChoice
from napari_clipsam._plugin.kept import Kept
from napari_clipsam._plugin.model_choice import ModelChoice
from napari_clipsam._plugin.runner import Runner
from napari_clipsam._plugin.stack_jobs import WRITING, StackJobs
from napari_clipsam._plugin.state import DockState, ExportKind, Hint, Progress, Target, Tool
from napari_clipsam.errors import ClipSamError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from napari.components import ViewerModel

    from napari_clipsam._plugin.drafts import Draft
    from napari_clipsam._plugin.keeper import Keeper
    from napari_clipsam._plugin.settings import Settings

__all__ = ["SegmentController"]

_HISTORY = 20


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
        self.models = ModelChoice(self, self.chosen)
        self.focus = Focus(viewer, settings)
        self.asking = Asking(self)
        self.stacks = StackJobs(self)
        self.kept = Kept(self)
        self.stack_file, self.folder = StackFileJob(self), FolderJob(self)
        self._closed = False
        # Until the user says otherwise, each word goes to the layer it went to before.
        self._into_chosen = False
        commands.register(viewer, self)
        keymap.bind(viewer, self)
        self.images = ImageChoice(self)
        self.models.prepare()
        self.images.show_layers()
        self.keeper.recorder.trouble = self.on_error
        self.kept.offer_lost()

    # -- what the dock may ask for -----------------------------------------------------------------

    def set_image(self, name: str) -> None:
        """Work on another image layer."""
        self.images.switch(name)

    def set_channel(self, value: str) -> None:
        """Look at other channels of the image; clicks and masks stay."""
        self.images.switch_channel(value)

    def set_model(self, name: str) -> None:
        """Let another model answer from now on; it is loaded at once, off the main thread."""
        self.models.switch(model=name, adapter="default")

    def set_adapter(self, name: str) -> None:
        """Let another adapter condition the model."""
        self.models.switch(adapter=name)

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
        self.guarded(lambda: self.kept.open(key))

    def delete_object(self, key: str) -> None:
        """Take an object out of its labels layer; undo brings it back."""
        self.guarded(lambda: self.keeper.delete(key))
        self.sync()

    def next_weak(self) -> None:
        """Go to the weakest slice of the preview, or to the weakest object, then to the next."""
        self.guarded(self.kept.next_weak)

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
            "restore": self.kept.restore,
            "discard": self.kept.discard,
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
        self.kept.open_project(folder)

    def replay(self) -> None:
        """Make the kept objects again with the chosen model, as a preview."""
        self.guarded(self.stacks.replay)

    def export(self, kind: ExportKind, path: Path) -> None:
        """Write labels or the table of objects to a file, off the main thread."""
        self.guarded(lambda: self.kept.export(kind, path))

    def close(self) -> None:
        """Let go of everything; may be called twice. The session itself stays with the viewer."""
        if self._closed:
            return
        self._closed = True
        self.stop()
        for kind in ("prepare", "imports", "prefetch", "choices"):
            self.runner.stop(kind)
        self.images.close()
        self.models.close()
        if commands.forget(self.viewer, self):
            keymap.unbind(self.viewer)
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
        return self.models.setup

    @property
    def clip(self) -> str:
        """The CLIP that is to answer."""
        return self.models.clip

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
        self.models.on_loaded(value)

    def on_error(self, error: ClipSamError) -> None:
        """Show an error; the plugin goes on."""
        self.update(hint=wording.error_hint(error), busy=self.progress)

    def guarded(self, act: Callable[[], object]) -> None:
        """Do something; an error becomes a line that says what to do."""
        try:
            act()
        except ClipSamError as error:
            self.on_error(error)

    # -- reactions ---------------------------------------------------------------------------------

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

    def _kept(self, message: str) -> None:
        self.focus.forget_prompts()
        self.focus.hide_similarity()
        self.sync()
        into = self.state.keep_into or self.keeper.layer_for(self.state.word)
        self.update(answer=message, keep_into=into)
