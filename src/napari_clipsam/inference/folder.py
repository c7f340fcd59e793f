"""A word in all images of a folder: each gets a file of labels, what is finished is not redone."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from napari_clipsam._folders import make_folder
from napari_clipsam._image_files import stem_of
from napari_clipsam._machine import check_room
from napari_clipsam.errors import OutputError, PlaneError
from napari_clipsam.inference.volume import VolumeTask, segment_volume
from napari_clipsam.models.identity import tensor_identity
from napari_clipsam.outputs import replacing
from napari_clipsam.planes import Stack, open_image

if TYPE_CHECKING:
    from napari_clipsam.inference.segmenter import Segmenter

__all__ = ["FolderProgress", "FolderTask", "finished", "segment_folder"]

_RECIPE = ".clipsam-folder.json"
_FLAT, _DEEP = ".tif", ".ome.zarr"


@dataclass(frozen=True)
class FolderTask:
    """What to find in many images.

    Attributes
    ----------
    images : tuple of Path
        Pictures and stacks; no two with the same stem.
    output : Path
        A folder, made if its parent is there. An image becomes ``STEM.tif``, a stack
        ``STEM.ome.zarr``.
    word : str
    target : {"concept", "instances"}
    channels : tuple of int or None
        As for `planes.open_image`.
    """

    images: tuple[Path, ...]
    output: Path
    word: str
    target: Literal["concept", "instances"] = "concept"
    channels: tuple[int, ...] | None = None

    def made_of(self, segmenter: Segmenter) -> dict[str, Any]:
        """What all results of a folder share, as JSON values."""
        model, adapter = segmenter.model, segmenter.adapter
        return {
            "word": self.word,
            "target": self.target,
            "channels": None if self.channels is None else list(self.channels),
            "model": [model.sam.identity, model.clip.identity],
            "adapter": None if adapter is None else tensor_identity(adapter.state_dict()),
        }


@dataclass(frozen=True)
class FolderProgress:
    """A plane that is done, an image that is finished, or one that cannot be read.

    Attributes
    ----------
    image : Path
    done, total : int
        Images, those of an earlier run and those that cannot be read among them.
    plane, planes : int
        Planes of the image that are done, and all of them.
    seconds_left : float
    output : Path or None
        The file of labels, once it is finished.
    error : str
        Why the image has none.
    """

    image: Path
    done: int
    total: int
    plane: int = 0
    planes: int = 0
    seconds_left: float = 0.0
    output: Path | None = None
    error: str = ""


def finished(task: FolderTask) -> dict[Path, Path]:
    """The images that have a file of labels, and that file."""
    found: dict[Path, Path] = {}
    for image in task.images:
        places = (task.output / (stem_of(image) + ending) for ending in (_FLAT, _DEEP))
        there = next((path for path in places if path.exists()), None)
        if there is not None:
            found[image] = there
    return found


def segment_folder(segmenter: Segmenter, task: FolderTask) -> Generator[FolderProgress, None, None]:
    """Find a word in every plane of many images, and write the labels.

    Parameters
    ----------
    segmenter : Segmenter
    task : FolderTask

    Yields
    ------
    FolderProgress
        After each plane and each image. Where the consumer closes the generator, or the process
        is killed, the planes so far are kept, and the same call goes on after them.

    Raises
    ------
    OutputError
        The folder cannot be written to, or holds results of another word, model or adapter.
    PromptError
        There is no word.
    PlaneError
        There are no images, or two would have one name.
    """
    _check(task)
    _make_folder(task.output)
    _take_recipe(task, task.made_of(segmenter))
    earlier, total = finished(task), len(task.images)
    begun, waiting = time.perf_counter(), total - len(earlier)
    worked = 0
    for done, image in enumerate(task.images):
        if image in earlier:
            yield FolderProgress(image, done + 1, total, output=earlier[image])
            continue
        try:
            for plane, planes, output in _image(segmenter, task, image):
                share = worked + plane / planes
                left = (time.perf_counter() - begun) / share * (waiting - share)
                now = done + (output is not None)
                yield FolderProgress(image, now, total, plane, planes, left, output)
        except PlaneError as error:
            yield FolderProgress(image, done + 1, total, error=str(error))
        worked += 1


def _make_folder(folder: Path) -> None:
    """Make a folder whose parent is there."""
    if not folder.parent.is_dir():
        raise OutputError(f"The folder {folder.parent} does not exist. Make it, or choose another.")
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file, but a folder is needed. Choose another name.")
    make_folder(folder)


def _check(task: FolderTask) -> None:
    if not task.images:
        raise PlaneError("There are no images. Choose a folder with TIFF, PNG, JPEG or Zarr files.")
    stems: dict[str, Path] = {}
    for image in task.images:
        other = stems.setdefault(stem_of(image), image)
        if other is not image:
            raise PlaneError(f"{other} and {image.name} have the same stem. Rename one of them.")
    if task.output.resolve() in {image.resolve().parent for image in task.images}:
        raise OutputError(f"{task.output} holds the images themselves. Choose another folder.")


def _take_recipe(task: FolderTask, made_of: dict[str, Any]) -> None:
    """Write down what the results depend on, or compare it with what an earlier run wrote."""
    path = task.output / _RECIPE
    there = finished(task)
    try:
        former = json.loads(path.read_text())
    except FileNotFoundError:
        former = None
    except (OSError, ValueError):
        former = {}
    if former is None and there:
        raise OutputError(
            f"{next(iter(there.values()))} exists already. Choose another folder, or an empty one."
        )
    if former is not None and there and former != json.loads(json.dumps(made_of)):
        raise OutputError(
            f"{task.output} holds results of another word, model or adapter. Choose another "
            "folder, or go on with the same ones."
        )
    with replacing(path, overwrite=True) as part:
        part.write_text(json.dumps(made_of))


def _image(
    segmenter: Segmenter, task: FolderTask, image: Path
) -> Iterator[tuple[int, int, Path | None]]:
    """Planes that are done, and all of them; at last the file."""
    stack = open_image(image, channels=task.channels)
    _check_stack(stack, image)
    output = task.output / (stem_of(image) + (_DEEP if stack.plane_axes else _FLAT))
    volume = VolumeTask(stack, (task.word,), task.target)
    # Finished files are never replaced, for they were left out; an unfinished one of an image that
    # is another by now is.
    steps = segment_volume(segmenter, volume, {task.word: output}, overwrite=True)
    with closing(steps):
        for step in steps:
            yield step.done, step.total, None
    yield len(stack), len(stack), output


def _check_stack(stack: Stack, image: Path) -> None:
    samples = stack.shape[stack.axes.index("S")] if "S" in stack.axes else 1
    check_room(stack.plane_shape, samples * stack.dtype.itemsize, str(image))
