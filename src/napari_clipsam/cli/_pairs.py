"""Images and labels as the options name them: files, folders, or rows of a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from napari_clipsam.cli._common import plural
from napari_clipsam.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from napari_clipsam.training.labelled import LabelledImage

__all__ = ["Chosen", "chosen_pairs", "spare_inputs"]


class Chosen(Protocol):
    """Options that choose labelled images."""

    @property
    def images(self) -> Path:
        """A file, a folder, or a data folder."""

    @property
    def labels(self) -> Path | None:
        """The same; not needed with a table."""

    @property
    def index(self) -> Path | None:
        """A table."""

    @property
    def split(self) -> str | None:
        """Rows of a table by their split."""

    @property
    def where(self) -> Sequence[str]:
        """Rows of a table by ``COLUMN=VALUE``."""

    @property
    def concept(self) -> str | None:
        """Rows of a table by what is labelled."""


def chosen_pairs(options: Chosen, word: str | None) -> list[LabelledImage]:
    """Pair images and labels; images without labels are told of.

    Parameters
    ----------
    options : Chosen
    word : str or None
        Chooses rows that are labelled with it where no concept is given.

    Raises
    ------
    ConfigError
        Options do not go together, or choose nothing.
    PlaneError
        A file or folder is missing, or nothing belongs together.
    """
    from napari_clipsam._image_files import images_in, is_folder_of_images
    from napari_clipsam.training.labelled import pair_paths, read_index

    if options.index is not None:
        return read_index(
            options.images,
            options.index,
            options.labels,
            options.split,
            options.where,
            options.concept,
            word,
        )
    if options.split or options.where or options.concept:
        raise ConfigError(
            "--split, --where and --concept choose rows of a table. Give --index too."
        )
    if options.labels is None:
        raise ConfigError("The labels are missing. Give LABELS behind IMAGES, or --index CSV.")
    pairs = pair_paths(options.images, options.labels)
    if is_folder_of_images(options.images):
        unpaired = len(images_in(options.images)) - len(pairs)
        if unpaired:
            print(f"{plural(unpaired, 'image')} without labels of the same name left out.")
    return pairs


def spare_inputs(
    outputs: Sequence[Path | None],
    options: Chosen,
    pairs: Sequence[LabelledImage],
    more: str = "",
) -> None:
    """Refuse to write over what is read, whatever may be replaced; `more` ends the message.

    Raises
    ------
    OutputError
    """
    read = [path for pair in pairs for path in (pair.image, pair.labels)]
    if options.index is not None:
        read += [options.images / options.index, options.index]
    for path in outputs:
        if path is not None and path.exists():
            for source in read:
                if source.exists() and path.samefile(source):
                    raise OutputError(
                        f"{path} is one of the images, labels or tables that are read. Choose "
                        f"another name for the output{more}."
                    )
