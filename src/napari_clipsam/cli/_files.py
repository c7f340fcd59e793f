"""Which images are read and where results go; everything is checked before any work is done."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from napari_clipsam._image_files import images_in, is_folder_of_images, stem_of
from napari_clipsam.errors import InputError, OutputError, PlaneError, PromptError
from napari_clipsam.outputs import check_output

__all__ = [
    "Job",
    "Plan",
    "check_outputs",
    "find_images",
    "in_name",
    "nothing_left_behind",
    "plan_outputs",
]


@dataclass(frozen=True)
class Job:
    """One output: an image, a word or none, and the files that are written."""

    image: Path
    word: str | None
    output: Path
    json: Path | None


@dataclass(frozen=True)
class Plan:
    """All outputs of a command, and the folders for them, which may have to be made."""

    jobs: tuple[Job, ...]
    folders: tuple[Path, ...] = ()

    @property
    def paths(self) -> list[Path]:
        """Every file that will be written."""
        return [p for job in self.jobs for p in (job.output, job.json) if p is not None]


def find_images(path: Path) -> list[Path]:
    """The image itself, or all images of a folder in the order of their names.

    Raises
    ------
    PlaneError
        There is nothing, no image in the folder, or two of one stem.
    """
    if not path.exists():
        raise PlaneError(f"{path} does not exist. Check the path.")
    if not is_folder_of_images(path):
        return [path]
    return list(images_in(path).values())


def plan_outputs(
    images: Sequence[Path], words: Sequence[str], output: Path, json: Path | None, many: bool
) -> Plan:
    """Name the outputs.

    Parameters
    ----------
    images : sequence of Path
    words : sequence of str
        Several give one output each, with the word behind the stem.
    output : Path
        A TIFF, or a folder.
    json : Path, optional
        A file, or a folder.
    many : bool
        Whether the images are those of a folder, so that outputs go into folders.

    Raises
    ------
    OutputError
        The names do not suit, or two results would have the same one.
    PromptError
        Two words that file names cannot tell apart.
    """
    endings = {word: f"_{in_name(word)}" for word in words} if len(words) > 1 else {}
    if len(set(endings.values())) < len(endings) or len(set(words)) < len(words):
        raise PromptError(f"The words {', '.join(words)} are not all different. Give each once.")
    in_folder = many or output.is_dir() or (len(words) > 1 and not output.suffix)
    if not in_folder and output.suffix.lower() not in (".tif", ".tiff"):
        raise OutputError(f"{output} is not the name of a TIFF. Let it end in .tif.")
    json_in_folder = json is not None and (in_folder or json.is_dir())
    jobs = []
    for image in images:
        stem = stem_of(image) if in_folder else output.stem
        folder = output if in_folder else output.parent
        for word in words or (None,):
            name = stem + endings.get(word or "", "")
            described = None
            if json is not None and json_in_folder:
                described = json / f"{name}.json"
            elif json is not None:
                described = json.with_name(json.stem + endings.get(word or "", "") + json.suffix)
            suffix = ".tif" if in_folder else output.suffix
            jobs.append(Job(image, word, folder / f"{name}{suffix}", described))
    folders = [output] if in_folder else []
    if json is not None and json_in_folder:
        folders.append(json)
    return Plan(tuple(jobs), tuple(dict.fromkeys(folders)))


def check_outputs(plan: Plan, overwrite: bool) -> None:
    """Refuse outputs that could not be written, or that would replace what is read.

    Raises
    ------
    OutputError
    """
    taken: set[Path] = set()
    images = {job.image.resolve() for job in plan.jobs}
    for folder in plan.folders:
        _check_folder(folder)
    for path in plan.paths:
        where = path.resolve()
        if where in images:
            raise OutputError(
                f"{path} is an image to be segmented. Choose another name for the output."
            )
        if where in taken:
            raise OutputError(f"{path} would be written twice. Choose different names.")
        taken.add(where)
        if path.parent.is_dir() or path.parent not in plan.folders:
            check_output(path, overwrite)


def _check_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    if folder.exists():
        raise OutputError(f"{folder} is a file, but a folder is needed. Choose another name.")
    if not folder.parent.is_dir():
        raise OutputError(f"The folder {folder.parent} does not exist. Make it, or choose another.")
    if not os.access(folder.parent, os.W_OK):
        raise OutputError(f"The folder {folder.parent} may not be written to. Choose another.")


@contextmanager
def nothing_left_behind(plan: Plan) -> Iterator[None]:
    """Make folders; should the input prove unusable after all, take back what was written.

    An old file that was replaced is not restored. After any other failure finished results stay.

    Raises
    ------
    OutputError
        A folder cannot be made.
    """
    new = [path for path in plan.paths if not path.exists()]
    made = []
    try:
        for folder in plan.folders:
            if not folder.is_dir():
                _make(folder)
                made.append(folder)
        yield
    except InputError:
        for path in new:
            path.unlink(missing_ok=True)
        raise
    finally:
        for folder in made:
            if not any(folder.iterdir()):
                folder.rmdir()


def _make(folder: Path) -> None:
    try:
        folder.mkdir()
    except OSError as error:
        raise OutputError(
            f"The folder {folder} cannot be made ({error.strerror}). Choose another."
        ) from error


def in_name(word: str) -> str:
    """A word as part of a file's name."""
    return re.sub(r"[^\w.-]+", "_", word)
