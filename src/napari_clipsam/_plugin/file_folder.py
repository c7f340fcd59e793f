"""A word in all images of a folder, their labels written to another one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_clipsam._image_files import images_in, is_folder_of_images, stem_of
from napari_clipsam._plugin import wording
from napari_clipsam._plugin.file_jobs import FileJob
from napari_clipsam._plugin.file_layers import show_image, show_labels
from napari_clipsam._plugin.file_recipes import FolderRecipe, Recipe
from napari_clipsam._plugin.state import Hint, Progress
from napari_clipsam.errors import PlaneError
from napari_clipsam.inference.volume_files import forget_unfinished

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from napari_clipsam._plugin.controller import SegmentController
    from napari_clipsam.inference.folder import FolderProgress, FolderTask

__all__ = ["FolderJob"]

# Images whose labels are opened at once.
_MOST_IMAGES = 20


class FolderJob(FileJob[FolderRecipe, "FolderProgress"]):
    """A word in all images of a folder."""

    def __init__(self, controller: SegmentController) -> None:
        super().__init__(controller)
        # Labels and the image that they belong to.
        self._outputs: dict[Path, Path] = {}
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
        """Open the labels of the last run over their images, the first ones of many.

        The first are seen, the others wait hidden beneath.

        Raises
        ------
        PlaneError
            A file is gone; all others are opened.
        """
        viewer, seen = self._to.viewer, None
        gone: list[PlaneError] = []
        for path, file in list(self._outputs.items())[:_MOST_IMAGES]:
            image = None
            try:
                image = show_image(viewer, file, visible=seen is None)
            except PlaneError as error:
                gone.append(error)
            try:
                labels = show_labels(viewer, path, image, visible=seen is None)
                seen = seen or labels
            except PlaneError as error:
                gone.append(error)
        if seen is not None:
            viewer.layers.selection.active = seen
        if gone:
            raise gone[0]

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
            self._outputs[step.output] = step.image
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
        if many > _MOST_IMAGES:
            text += f" The first {_MOST_IMAGES} can be opened here."
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
