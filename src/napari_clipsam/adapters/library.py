"""Adapters by name: the starter's, and those in the user's folder."""

from __future__ import annotations

from pathlib import Path

from napari_clipsam._folders import user_folder
from napari_clipsam.errors import AdapterError
from napari_clipsam.models.registry import starter_file

__all__ = ["adapters_folder", "find_adapter", "user_adapters"]


def adapters_folder() -> Path:
    """Folder of the user's adapters; it may not exist yet."""
    return user_folder() / "adapters"


def user_adapters() -> dict[str, Path]:
    """The user's adapters by name."""
    return {path.stem: path for path in sorted(adapters_folder().glob("*.safetensors"))}


def find_adapter(name_or_file: str) -> Path:
    """The file of an adapter: the starter's, one of the user's, or a path.

    Raises
    ------
    AdapterError
        There is none of this name.
    """
    if name_or_file == "starter":
        return starter_file("adapter")
    path = Path(name_or_file)
    if path.is_file():
        return path
    own = user_adapters()
    if name_or_file in own:
        return own[name_or_file]
    known = ", ".join(["none", "starter", *own])
    raise AdapterError(
        f"There is no adapter '{name_or_file}'. Known are: {known}; the path of a .safetensors "
        "file works too."
    )
