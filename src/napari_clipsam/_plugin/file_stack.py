"""A stack's labels written to a file, and shown while they come."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from napari_clipsam._plugin import wording
from napari_clipsam._plugin.file_jobs import FileJob
from napari_clipsam._plugin.file_labels import FileLabels
from napari_clipsam._plugin.file_recipes import Recipe, StackRecipe
from napari_clipsam._plugin.state import Hint, Progress
from napari_clipsam.errors import OutputError, PlaneError
from napari_clipsam.inference.volume_files import (
    check_volume_output,
    forget_unfinished,
    unfinished_labels,
    unfinished_state,
)
from napari_clipsam.session.objects import plane_axes

if TYPE_CHECKING:
    from pathlib import Path

    from napari_clipsam._plugin.controller import SegmentController
    from napari_clipsam.inference.volume import VolumeTask
    from napari_clipsam.inference.volume_results import VolumeProgress

__all__ = ["StackFileJob"]

# How often a layer shows what was written meanwhile. Seconds.
_GLANCE = 1.0


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
