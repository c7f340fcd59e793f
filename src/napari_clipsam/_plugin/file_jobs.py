"""Long jobs that write labels to disk: a stack into a file, and all images of a folder.

They run behind clicks, show how far they are, and can be gone on with after napari was closed.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from napari_clipsam._folders import user_folder
from napari_clipsam._image_files import images_in, is_folder_of_images, stem_of
from napari_clipsam._plugin import wording
from napari_clipsam._plugin.engine import Loaded
from napari_clipsam._plugin.file_labels import FileLabels, open_labels
from napari_clipsam._plugin.file_recipes import FolderRecipe, Recipe, RecipeShelf, StackRecipe
from napari_clipsam._plugin.runner import Job, Urgency
from napari_clipsam._plugin.state import Hint, Progress
from napari_clipsam.errors import AdapterError, ClipSamError, OutputError, PlaneError, WeightsError
from napari_clipsam.inference.volume_files import (
    check_volume_output,
    forget_unfinished,
    unfinished_labels,
    unfinished_state,
)
from napari_clipsam.session.objects import plane_axes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from napari_clipsam._plugin.controller import SegmentController
    from napari_clipsam.inference.folder import FolderProgress, FolderTask
    from napari_clipsam.inference.volume import VolumeTask
    from napari_clipsam.inference.volume_results import VolumeProgress

__all__ = ["FileJob", "FolderJob", "StackFileJob", "shelf_of"]

KIND = "file"
# How often a layer shows what was written meanwhile. Seconds.
_GLANCE = 1.0
# Results of a folder that are opened as layers at once.
_MOST_LAYERS = 20

AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)
Step = TypeVar("Step")


def shelf_of(to: SegmentController) -> RecipeShelf:
    """Where the recipes of unfinished runs are kept."""
    return RecipeShelf((to.settings().folder or user_folder()) / "unfinished")


class FileJob(ABC, Generic[AnyRecipe, Step]):
    """A job that writes to disk.

    Parameters
    ----------
    controller : SegmentController

    Attributes
    ----------
    progress : Progress or None
        How far the job is that runs.
    """

    def __init__(self, controller: SegmentController) -> None:
        self._to = controller
        self._recipe: AnyRecipe | None = None
        self.progress: Progress | None = None

    def go_on(self) -> None:
        """Go on with the run that was offered, with the model it was begun with.

        Raises
        ------
        ClipSamError
            The model, the adapter or the place is gone.
        """
        recipe, to = self._recipe, self._to
        if recipe is None:
            return
        _check_answering(to, recipe)
        if not recipe.path.parent.is_dir():
            raise OutputError(f"The folder {recipe.path.parent} is gone. Put it back, or forget.")
        to.chosen.choose(recipe.model, recipe.adapter, recipe.clip)
        self._run(recipe)

    def forget(self) -> None:
        """Drop the run that was offered, and what it left unfinished.

        Raises
        ------
        OutputError
            Another process works on it.
        """
        if self._recipe is not None and self.progress is None:
            self._clean_up(self._recipe)
            shelf_of(self._to).drop(self._recipe)
            self._recipe = None

    def offer(self) -> bool:
        """Offer a run that was cut off; returns whether there is one."""
        if self.progress is not None:
            return False
        for recipe in shelf_of(self._to).all():
            mine = self._mine(recipe)
            if mine is not None:
                self._recipe = mine
                self._to.update(hint=self._hint(mine))
                return True
        return False

    def _run(self, recipe: AnyRecipe) -> None:
        to, begun = self._to, time.monotonic()
        former = next((r for r in shelf_of(to).all() if r.output == recipe.output), recipe)
        if former != recipe:
            # Another run left something there, which is gone on with or forgotten first.
            self._recipe = cast("AnyRecipe", former)
            to.update(hint=self._hint(self._recipe))
            return
        work = self._work(recipe)
        self._recipe = recipe
        shelf_of(to).put(recipe)
        self.progress = Progress(f"{recipe.word}: begins ...", 0, 0)
        to.update(busy=self.progress, hint=None)

        def on_value(value: Any) -> None:
            if isinstance(value, Loaded):
                to.on_loaded(value)
                return
            self.progress = self._take(recipe, value)
            to.update(busy=self.progress)

        def end() -> None:
            self.progress = None
            to.update(busy=to.progress)

        def done() -> None:
            end()
            shelf_of(to).drop(recipe)
            self._recipe = None
            self._finished(recipe, wording.duration(time.monotonic() - begun))

        def fail(error: ClipSamError) -> None:
            end()
            to.on_error(error)
            hint = wording.error_hint(error)
            if self._is_begun(recipe):
                hint = replace(hint, actions=self._ways)
            else:
                shelf_of(to).drop(recipe)
            to.update(hint=hint)

        def stopped() -> None:
            end()
            if self._is_begun(recipe):
                to.update(hint=self._hint(recipe))
            else:
                shelf_of(to).drop(recipe)

        to.runner.submit(
            Job(
                KIND,
                work,
                Urgency.STACK,
                on_value=on_value,
                on_done=done,
                on_error=fail,
                on_stop=stopped,
            )
        )

    @property
    @abstractmethod
    def _ways(self) -> tuple[tuple[str, str], ...]:
        """Buttons that go on and forget."""

    @abstractmethod
    def _mine(self, recipe: Recipe) -> AnyRecipe | None:
        """A recipe, if it can be offered now."""

    @abstractmethod
    def _hint(self, recipe: AnyRecipe) -> Hint:
        """Where it was stopped."""

    @abstractmethod
    def _work(self, recipe: AnyRecipe) -> Any:
        """What is to run on the worker."""

    @abstractmethod
    def _take(self, recipe: AnyRecipe, step: Step) -> Progress:
        """A step is done."""

    @abstractmethod
    def _finished(self, recipe: AnyRecipe, spent: str) -> None:
        """All is written."""

    @abstractmethod
    def _is_begun(self, recipe: AnyRecipe) -> bool:
        """Whether there is something to go on with."""

    @abstractmethod
    def _clean_up(self, recipe: AnyRecipe) -> None:
        """Delete what is unfinished."""


class StackFileJob(FileJob[StackRecipe, "VolumeProgress"]):
    """A word in the slices of the image, written to an OME-Zarr and shown as it comes."""

    def __init__(self, controller: SegmentController) -> None:
        super().__init__(controller)
        self._shown: FileLabels | None = None
        self._looked = 0.0
        self._count = 0

    def begin(self, path: Path) -> None:
        """Write the word's labels in the slices of the range.

        Raises
        ------
        ClipSamError
            The place cannot be written to, or there is no stack.
        """
        to, focus = self._to, self._to.focus
        if path.exists():
            raise OutputError(f"{path} exists already. Choose another name.")
        check_volume_output(path, overwrite=False)
        key, axis = focus.key(), focus.need_stack_axis()
        assert focus.image is not None and to.state.target != "object"
        first, last = to.state.z_range
        recipe = StackRecipe(
            output=str(path),
            word=to.state.word,
            target=to.state.target,
            model=to.state.model,
            adapter=to.state.adapter,
            clip=to.clip,
            image=focus.name,
            shape=focus.image.shape,
            channel=focus.image.channel.label,
            key=key,
            axis=axis,
            first=first,
            last=last,
        )
        self._run(recipe)

    def go_on(self) -> None:
        """Go on with the image and the channels it was begun with."""
        recipe, focus = self._recipe, self._to.focus
        if recipe is None:
            return
        if self._mine(recipe) is None:
            raise PlaneError(f"{recipe.image} is not the image any more. Open it again to go on.")
        if focus.image is not None and focus.image.channel.label != recipe.channel:
            self._to.set_channel(recipe.channel)
        super().go_on()

    @property
    def _ways(self) -> tuple[tuple[str, str], ...]:
        return (("go-on", "Go on"), ("forget", "Forget"))

    def _mine(self, recipe: Recipe) -> StackRecipe | None:
        image = self._to.focus.image
        if not isinstance(recipe, StackRecipe) or image is None:
            return None
        same = recipe.image == image.layer.name and recipe.shape == image.shape
        return recipe if same else None

    def _hint(self, recipe: StackRecipe) -> Hint:
        state = unfinished_state(recipe.path)
        what = f"'{recipe.word}' in {recipe.image} was stopped"
        if state is None:
            text = f"{what}, and {recipe.path.name} is not where it was ({recipe.path.parent})."
            return Hint(text, (("forget", "Forget"),))
        return Hint(f"{what} at slice {state.done} of {len(recipe.zs)}.", self._ways)

    def _work(self, recipe: StackRecipe) -> Any:
        to, image = self._to, self._to.focus.image
        assert image is not None
        reader, distance = to.focus.reader(), to.focus.slice_distance(recipe.axis)
        spacing = image.spacing_um((recipe.axis, *plane_axes(recipe.key)))
        setup, engine = to.setup, to.engine

        def make() -> VolumeTask:
            from napari_clipsam.inference.volume import VolumeTask

            stack = reader.slices(recipe.key, recipe.axis, recipe.zs, spacing)
            return VolumeTask(stack, (recipe.word,), recipe.target, spacing=distance)

        shown, self._count = self._shown, 0
        if shown is not None and not (shown.is_there and shown.path == recipe.path):
            self._shown = None
        return lambda: engine.volume(setup, make, recipe.path)

    def _take(self, recipe: StackRecipe, step: VolumeProgress) -> Progress:
        self._count = step.counts.get(recipe.word, 0)
        now = time.monotonic()
        if self._shown is None:
            self._show(recipe)
        elif now - self._looked > _GLANCE:
            self._shown.refresh()
            self._looked = now
        left = wording.duration(step.seconds_left)
        text = f"{recipe.word} into {recipe.path.name}: slice {step.done}/{step.total}, {left} left"
        return Progress(text, step.done, step.total)

    def _finished(self, recipe: StackRecipe, spent: str) -> None:
        if self._shown is not None and self._shown.is_there:
            self._shown.moved(recipe.path)
        found = "found" if self._count else "nothing found"
        if recipe.target == "instances":
            found = wording.count(self._count, "object")
        self._to.update(answer=f"{recipe.word}: {found}, {spent}; written: {recipe.path.name}")

    def _is_begun(self, recipe: StackRecipe) -> bool:
        if self._shown is not None and self._shown.is_there:
            self._shown.refresh()
        return unfinished_state(recipe.path) is not None

    def _clean_up(self, recipe: StackRecipe) -> None:
        forget_unfinished(recipe.path)
        if self._shown is not None and self._shown.path == recipe.path:
            self._shown.remove()
            self._shown = None

    def _show(self, recipe: StackRecipe) -> None:
        """Open the result as a layer; a run that had only its last step to do has moved it."""
        to = self._to
        if to.focus.image is None or self._mine(recipe) is None:
            return
        for root in (unfinished_labels(recipe.path), recipe.path):
            if root.is_dir():
                active = to.viewer.layers.selection.active
                self._shown = FileLabels(to.viewer, root, recipe, to.focus.image)
                to.viewer.layers.selection.active = active
                return


class FolderJob(FileJob[FolderRecipe, "FolderProgress"]):
    """A word in all images of a folder."""

    def __init__(self, controller: SegmentController) -> None:
        super().__init__(controller)
        self._outputs: dict[Path, None] = {}
        self._errors: dict[Path, str] = {}

    def begin(self, images: Sequence[Path], output: Path) -> None:
        """Find the word in images; a folder among them stands for all images in it.

        Raises
        ------
        ClipSamError
            There are no images, or the folder cannot be written to.
        """
        to, image = self._to, self._to.focus.image
        files = [
            file
            for path in images
            for file in (images_in(path).values() if is_folder_of_images(path) else (path,))
        ]
        assert to.state.target != "object"
        channels = None if image is None else image.channel.channels or None
        recipe = FolderRecipe(
            output=str(output),
            word=to.state.word,
            target=to.state.target,
            model=to.state.model,
            adapter=to.state.adapter,
            clip=to.clip,
            images=tuple(map(str, files)),
            channels=channels,
        )
        self._run(recipe)

    def open_results(self) -> None:
        """Open the files of the last run as layers, the first ones of many.

        Raises
        ------
        PlaneError
            One of them is gone.
        """
        for path in list(self._outputs)[:_MOST_LAYERS]:
            open_labels(self._to.viewer, path)

    @property
    def _ways(self) -> tuple[tuple[str, str], ...]:
        return (("go-on-folder", "Go on"), ("forget-folder", "Forget"))

    def _mine(self, recipe: Recipe) -> FolderRecipe | None:
        return recipe if isinstance(recipe, FolderRecipe) else None

    def _hint(self, recipe: FolderRecipe) -> Hint:
        from napari_clipsam.inference.folder import finished

        what = f"'{recipe.word}' in {wording.count(len(recipe.images), 'image')} was stopped"
        if not recipe.path.is_dir():
            text = f"{what}, and the folder {recipe.path} is not there any more."
            return Hint(text, (("forget-folder", "Forget"),))
        done = len(finished(_task(recipe)))
        return Hint(f"{what} after {done} ({recipe.path.name}).", self._ways)

    def _work(self, recipe: FolderRecipe) -> Any:
        setup, engine = self._to.setup, self._to.engine
        self._outputs, self._errors = {}, {}

        def work() -> Iterator[Any]:
            yield from engine.folder(setup, _task(recipe))

        return work

    def _take(self, recipe: FolderRecipe, step: FolderProgress) -> Progress:
        if step.output is not None:
            self._outputs[step.output] = None
        if step.error:
            self._errors[step.image] = step.error
        at = f", slice {step.plane}/{step.planes}" if step.planes > 1 else ""
        left = wording.duration(step.seconds_left)
        text = f"{recipe.word}: image {step.done}/{step.total}, {step.image.name}{at}, {left} left"
        return Progress(text, step.done, step.total)

    def _finished(self, recipe: FolderRecipe, spent: str) -> None:
        many = len(self._outputs)
        told = f"{recipe.word} in {wording.count(many, 'image')}, {spent}; in {recipe.path.name}"
        ways = (("open-results", "Open results"),) if many else ()
        text = f"The labels of {wording.count(many, 'image')} are in {recipe.path}."
        if many > _MOST_LAYERS:
            text += f" The first {_MOST_LAYERS} can be opened here."
        if self._errors:
            names = ", ".join(image.name for image in self._errors)
            text += f" {wording.count(len(self._errors), 'image')} could not be read: {names}."
        details = "\n".join(self._errors.values())
        hint = Hint(text, ways, is_error=bool(self._errors), details=details)
        self._to.update(answer=told, hint=hint)

    def _is_begun(self, recipe: FolderRecipe) -> bool:
        return recipe.path.is_dir()

    def _clean_up(self, recipe: FolderRecipe) -> None:
        """What is finished stays."""
        for image in recipe.images:
            for ending in (".tif", ".ome.zarr"):
                forget_unfinished(recipe.path / (stem_of(Path(image)) + ending))


def _task(recipe: FolderRecipe) -> FolderTask:
    from napari_clipsam.inference.folder import FolderTask

    images = tuple(map(Path, recipe.images))
    return FolderTask(images, recipe.path, recipe.word, recipe.target, recipe.channels)


def _check_answering(to: SegmentController, recipe: Recipe) -> None:
    """Refuse to go on without the model and adapter that a run was begun with.

    Raises
    ------
    WeightsError, AdapterError
    """
    if recipe.model not in {one.value for one in to.state.models if one.enabled}:
        raise WeightsError(f"The model {recipe.model} is gone. Get it again, or forget the result.")
    if recipe.adapter not in {one.value for one in to.state.adapters}:
        raise AdapterError(
            f"The adapter {Path(recipe.adapter).stem} is gone. Put it back, or forget the result."
        )
