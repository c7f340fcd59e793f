"""Which files of a folder are images, and what they are called."""

from __future__ import annotations

from pathlib import Path

from .errors import PlaneError

__all__ = ["images_in", "is_folder_of_images", "stem_of"]

_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".zarr")
_ZARR = (".zarray", ".zgroup", "zarr.json")


def is_folder_of_images(path: Path) -> bool:
    """Whether a path is a folder, and not one that is itself a Zarr image."""
    return path.is_dir() and not any((path / marker).exists() for marker in _ZARR)


def stem_of(path: Path) -> str:
    """Name of an image without its endings, ``.ome.tif`` and ``.ome.zarr`` included."""
    return path.stem.removesuffix(".ome")


def images_in(folder: Path) -> dict[str, Path]:
    """The images of a folder by their stems, in the order of their names.

    Raises
    ------
    PlaneError
        There is none, or two have one stem.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in _SUFFIXES or path.name.startswith("."):
            continue
        other = found.setdefault(stem_of(path), path)
        if other is not path:
            raise PlaneError(f"{other} and {path.name} have the same stem. Rename one of them.")
    if not found:
        raise PlaneError(f"The folder {folder} has no images. Put TIFF, PNG, JPEG or Zarr into it.")
    return found
