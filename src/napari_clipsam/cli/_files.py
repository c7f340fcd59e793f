"""Which images are read and where results go; everything is checked before any work is done."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from napari_clipsam.errors import InputError, OutputError, PlaneError, PromptError
from napari_clipsam.outputs import check_output
from napari_clipsam.training.labelled import images_in, is_folder_of_images, stem_of

__all__ = [
    "Job",
    "check_jobs",
    "find_images",
    "make_folders",
    "nothing_left_behind",
    "plan_jobs",
]


@dataclass(frozen=True)
class Job:
    """One output: an image, a word or none, and the files that are written."""

    image: Path
    word: str | None
    output: Path
    json: Path | None


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


def plan_jobs(
    images: Sequence[Path], words: Sequence[str], output: Path, json: Path | None, many: bool
) -> list[Job]:
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
    endings = {word: f"_{_in_name(word)}" for word in words} if len(words) > 1 else {}
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
    return jobs


def check_jobs(jobs: Sequence[Job], overwrite: bool) -> None:
    """Refuse outputs that could not be written, or that would replace what is read.

    Raises
    ------
    OutputError
    """
    taken: set[Path] = set()
    images = {job.image.resolve() for job in jobs}
    for job in jobs:
        for path in (job.output, job.json):
            if path is None:
                continue
            where = path.resolve()
            if where in images:
                raise OutputError(
                    f"{path} is an image to be segmented. Choose another name for the output."
                )
            if where in taken:
                raise OutputError(f"{path} would be written twice. Choose different names.")
            taken.add(where)
            _check_file(path, overwrite)


def _check_file(path: Path, overwrite: bool) -> None:
    """`check_output`, for a file whose folder may still have to be made."""
    folder = path.parent
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file, but a folder is needed. Choose another name.")
    if folder.is_dir():
        check_output(path, overwrite)
        return
    if not folder.parent.is_dir():
        raise OutputError(f"The folder {folder.parent} does not exist. Make it, or choose another.")
    if not os.access(folder.parent, os.W_OK):
        raise OutputError(f"The folder {folder.parent} may not be written to. Choose another.")


def make_folders(jobs: Sequence[Job]) -> list[Path]:
    """Make the folders of all outputs; return those that were not there.

    Raises
    ------
    OutputError
        One cannot be made.
    """
    wanted = {path.parent for job in jobs for path in (job.output, job.json) if path is not None}
    made = []
    for folder in sorted(wanted):
        if not folder.is_dir():
            try:
                folder.mkdir()
            except OSError as error:
                raise OutputError(
                    f"The folder {folder} cannot be made ({error.strerror}). Choose another."
                ) from error
            made.append(folder)
    return made


@contextmanager
def nothing_left_behind(jobs: Sequence[Job]) -> Iterator[None]:
    """Make folders; should the input prove unusable after all, take back what was written.

    Results replaced with leave are not restored. After any other failure finished results stay.
    """
    paths = [path for job in jobs for path in (job.output, job.json) if path is not None]
    new = [path for path in paths if not path.exists()]
    made = make_folders(jobs)
    try:
        yield
    except InputError:
        for path in new:
            path.unlink(missing_ok=True)
        raise
    finally:
        for folder in made:
            if not any(folder.iterdir()):
                folder.rmdir()


def _in_name(word: str) -> str:
    """A word as part of a file's name."""
    return re.sub(r"[^\w.-]+", "_", word)
