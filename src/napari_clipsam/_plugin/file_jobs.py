"""Long jobs that write labels to disk.

They run behind clicks, show how far they are, and can be gone on with after napari was closed.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from napari_clipsam._folders import user_folder
from napari_clipsam._plugin import wording
from napari_clipsam._plugin.engine import Loaded
from napari_clipsam._plugin.file_recipes import Recipe, RecipeShelf
from napari_clipsam._plugin.runner import Job, Urgency
from napari_clipsam._plugin.state import Hint, Progress
from napari_clipsam.errors import AdapterError, ClipSamError, OutputError, WeightsError

if TYPE_CHECKING:
    from napari_clipsam._plugin.controller import SegmentController

__all__ = ["FileJob", "shelf_of"]

KIND = "file"

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
