"""Images and their labels on disk: two files, two folders of equal stems, or a table."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_clipsam._image_files import images_in, is_folder_of_images
from napari_clipsam.errors import ConfigError, PlaneError
from napari_clipsam.planes import LabelStack, Plane, Stack, open_image, read_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "LabelledImage",
    "LabelledPlane",
    "labelled_planes",
    "open_pair",
    "pair_paths",
    "read_index",
]

_NEEDED = ("file", "label")
#: Kinds of labels as `label_type` has them, and whether their numbers tell objects apart.
_KINDS = {"": True, "instance": True, "instance_2d": True, "semantic": False}


@dataclass(frozen=True)
class LabelledImage:
    """An image or stack and its labels.

    Attributes
    ----------
    image, labels : Path
    kind : str
        ``instance``, ``instance_2d`` or ``semantic``; empty where nothing says.
    modality, style : str
        As the table has them; empty where nothing says.
    """

    image: Path
    labels: Path
    kind: str = ""
    modality: str = ""
    style: str = ""

    @property
    def name(self) -> str:
        """Name of the image's file."""
        return self.image.name


@dataclass(frozen=True, eq=False)
class LabelledPlane:
    """One plane of a `LabelledImage`.

    Attributes
    ----------
    source : LabelledImage
    plane : Plane
    labels : ndarray of int, shape (H, W)
        0 is background.
    """

    source: LabelledImage
    plane: Plane
    labels: NDArray


def pair_paths(images: Path, labels: Path) -> list[LabelledImage]:
    """Pair two files, or the files of two folders by their stems.

    Parameters
    ----------
    images, labels : Path
        Both files, or both folders.

    Returns
    -------
    list of LabelledImage
        In the order of the images' names. Files without a partner are left out.

    Raises
    ------
    PlaneError
        One is missing, one is a file and the other a folder, or no stems are equal.
    """
    for path in (images, labels):
        if not path.exists():
            raise PlaneError(f"{path} does not exist. Check the path.")
    folders = [is_folder_of_images(path) for path in (images, labels)]
    if not any(folders):
        return [LabelledImage(images, labels)]
    if not all(folders):
        raise PlaneError(
            f"{images} and {labels} are a file and a folder. Give two files, or two folders."
        )
    found, partners = images_in(images), images_in(labels)
    pairs = [LabelledImage(found[stem], partners[stem]) for stem in found if stem in partners]
    if not pairs:
        raise PlaneError(
            f"No image in {images} has labels of the same name in {labels}. Name them alike, for "
            "example a.tif and a.png, or give a table with --index."
        )
    return pairs


def read_index(
    folder: Path,
    index: Path,
    labels: Path | None = None,
    split: str | None = None,
    where: Sequence[str] = (),
    concept: str | None = None,
    word: str | None = None,
) -> list[LabelledImage]:
    """Read the pairs that a table names.

    Parameters
    ----------
    folder : Path
        What the table's paths are relative to.
    index : Path
        CSV with the columns ``file`` and ``label``; ``split``, ``modality``, ``style``,
        ``concepts`` (separated by ``;``) and ``label_type`` where they are needed. Looked for in
        the folder first.
    labels : Path, optional
        What the labels' paths are relative to, where it is another folder.
    split : str, optional
        Only rows of this split.
    where : sequence of str
        ``COLUMN=VALUE``; of one column any of the values, of several columns all.
    concept : str, optional
        Only rows labelled with this word.
    word : str, optional
        Stands in for the concept where rows are labelled with it.

    Returns
    -------
    list of LabelledImage

    Raises
    ------
    PlaneError
        The table or a file it names is missing, or its rows have no masks.
    ConfigError
        A column is missing, nothing is selected, or the concept is ambiguous.
    """
    path, rows = _read_rows(folder, index)
    conditions = [_condition(text, rows, path) for text in where]
    if split is not None:
        conditions.append(_condition(f"split={split}", rows, path))
    for column in dict(conditions):
        values = [value for name, value in conditions if name == column]
        chosen = [row for row in rows if row[column] in values]
        if not chosen:
            there = sorted({row[column] for row in rows})
            raise ConfigError(
                f"No row of {path} has {column}={' or '.join(values)} beside what else was asked "
                f"for. There are: {', '.join(there[:12])}."
            )
        rows = chosen
    rows = [row for row in rows if row.get("label_type", "") != "none" and row["label"]]
    rows = _of_concept(rows, path, concept, word)
    return [_labelled(row, path, (folder, path.parent), labels) for row in rows]


def open_pair(
    pair: LabelledImage, axes: str | None = None, channels: Sequence[int] | None = None
) -> tuple[Stack, LabelStack]:
    """Open an image and its labels, and see that they belong together.

    Parameters
    ----------
    pair : LabelledImage
    axes, channels : optional
        Of the image, as for `planes.open_image`; the labels have the same axes but for colours.

    Raises
    ------
    PlaneError
        One cannot be read, or their planes differ in number or size.
    """
    image = open_image(pair.image, axes, channels)
    labels = _open_labels(pair.labels, image.axes)
    sizes = [
        {k: n for k, n in zip(stack.axes, stack.shape, strict=True) if k in "TZYX" and n > 1}
        for stack in (image, labels)
    ]
    if sizes[0] != sizes[1]:
        raise PlaneError(
            f"{pair.image} and its labels {pair.labels} have different sizes: {_sizes(sizes[0])} "
            f"and {_sizes(sizes[1])}. Give labels of the image's own size."
        )
    return image, labels


def labelled_planes(
    pairs: Sequence[LabelledImage],
    axes: str | None = None,
    channels: Sequence[int] | None = None,
) -> Iterator[LabelledPlane]:
    """Iterate over the planes of all pairs, one in memory at a time; a stack counts as its planes.

    Raises
    ------
    PlaneError
        As for `open_pair`.
    """
    for pair in pairs:
        image, labels = open_pair(pair, axes, channels)
        for index in image.planes():
            where = {letter: n for letter, n in index.items() if letter in labels.plane_axes}
            yield LabelledPlane(pair, image.plane(index), labels.plane(where))


def _read_rows(folder: Path, index: Path) -> tuple[Path, list[dict[str, str]]]:
    if not folder.is_dir():
        raise PlaneError(f"{folder} is not a folder. With a table, give the data's folder.")
    path = folder / index if (folder / index).is_file() else index
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, restval=""))
    except FileNotFoundError as error:
        raise PlaneError(f"There is no table {index} in {folder}. Check the path.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PlaneError(f"The table {path} cannot be read ({error}). Save it as CSV.") from error
    lacking = [name for name in _NEEDED if not rows or name not in rows[0]]
    if lacking:
        raise ConfigError(
            f"The table {path} has no column {' and no '.join(lacking)}, or no rows. Give one row "
            "for each image, with its path in 'file' and that of its labels in 'label'."
        )
    return path, rows


def _condition(text: str, rows: Sequence[dict[str, str]], path: Path) -> tuple[str, str]:
    column, equals, value = text.partition("=")
    column = column.strip()
    if not equals or column not in rows[0]:
        raise ConfigError(
            f"'{text}' does not select rows of {path}. Write COLUMN=VALUE with one of the columns "
            f"{', '.join(map(str, rows[0]))}."
        )
    return column, value.strip()


def _of_concept(
    rows: list[dict[str, str]], path: Path, concept: str | None, word: str | None
) -> list[dict[str, str]]:
    """Rows labelled with a concept, or with the word; all where there is one concept only."""
    labelled = {row.get("concepts", "") for row in rows}
    usual = sorted({names.split(";")[0].strip() or "(no name)" for names in labelled})
    for asked in (concept, word):
        if asked is None:
            continue
        name = asked.strip().casefold()
        chosen = [row for row in rows if name in _names(row)]
        if chosen:
            return chosen
        if asked is concept:
            break
    if not rows:
        raise ConfigError(f"The rows chosen from {path} have no labels. Choose others.")
    if concept is not None:
        raise ConfigError(
            f"Nothing chosen from {path} is labelled '{concept}'. There are: {', '.join(usual)}."
        )
    if len(labelled) > 1:
        raise ConfigError(
            f"The rows chosen from {path} are labelled with several concepts: {', '.join(usual)}. "
            "Choose one with --concept."
        )
    return rows


def _names(row: dict[str, str]) -> list[str]:
    return [name.strip().casefold() for name in row.get("concepts", "").split(";")]


def _labelled(
    row: dict[str, str], path: Path, bases: tuple[Path, Path], labels: Path | None
) -> LabelledImage:
    kind = row.get("label_type", "").strip()
    if kind == "boxes":
        raise PlaneError(
            f"The labels of {row['file']} in {path} are boxes, not masks, so nothing can be "
            "measured on them. Choose rows with masks, for example with --concept or --where."
        )
    if kind not in _KINDS:
        raise ConfigError(
            f"The label_type '{kind}' of {row['file']} in {path} is unknown. Use instance, "
            "instance_2d or semantic."
        )
    return LabelledImage(
        _there(row["file"], bases),
        _there(row["label"], bases if labels is None else (labels, *bases)),
        kind,
        row.get("modality", "").strip(),
        row.get("style", "").strip(),
    )


def _there(name: str, bases: Sequence[Path]) -> Path:
    for base in bases:
        if (base / name).exists():
            return base / name
    raise PlaneError(f"{bases[0] / name} does not exist, but the table names it. Check the table.")


def _open_labels(path: Path, image_axes: str) -> LabelStack:
    """Open labels with the image's axes, or with their own where those do not fit."""
    letters = "".join(letter for letter in image_axes if letter in "TZYX")
    try:
        return read_labels(path, letters)
    except PlaneError:
        return read_labels(path)


def _sizes(lengths: dict[str, int]) -> str:
    return " x ".join(f"{letter}={length}" for letter, length in lengths.items()) or "one pixel"
