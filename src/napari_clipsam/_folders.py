"""Where this package keeps what belongs to a user."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import OutputError

__all__ = ["make_folder", "unwritable", "user_folder"]


def user_folder() -> Path:
    """Folder for models, adapters and sessions; NAPARI_CLIPSAM_HOME names another place."""
    home = os.environ.get("NAPARI_CLIPSAM_HOME")
    if home:
        return Path(home).expanduser()
    import pooch

    return Path(pooch.os_cache("napari-clipsam"))


def make_folder(folder: Path) -> None:
    """Make a folder of the user's if it is not there.

    Raises
    ------
    OutputError
        It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error


def unwritable(folder: Path, error: OSError) -> OutputError:
    """What to say where a folder of the user's cannot be written to."""
    return OutputError(
        f"The folder {folder} cannot be written to ({error.strerror}). Free some space, see that "
        "you may write there, or set NAPARI_CLIPSAM_HOME to another one."
    )
