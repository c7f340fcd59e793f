"""Where this package keeps what belongs to a user."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["user_folder"]


def user_folder() -> Path:
    """Folder for models, adapters and sessions; NAPARI_CLIPSAM_HOME names another place."""
    home = os.environ.get("NAPARI_CLIPSAM_HOME")
    if home:
        return Path(home).expanduser()
    import pooch

    return Path(pooch.os_cache("napari-clipsam"))
