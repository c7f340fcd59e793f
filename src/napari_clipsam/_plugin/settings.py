"""The user's preferences, as napari's own Preferences window keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from napari.settings import get_plugin_settings

from napari_clipsam._plugin.engine import Setup

__all__ = ["PLUGIN", "Normalise", "Settings", "read_settings"]

PLUGIN = "napari-clipsam"
Normalise = Literal["stack", "shown"]


@dataclass(frozen=True)
class Settings:
    """What the user prefers.

    Attributes
    ----------
    model : str
        Name or file of the model to begin with.
    device, precision : str
        As the Segmenter takes them.
    cache_mb : int
        Memory for what was computed of planes, in MB.
    folder : Path or None
        Where sessions are journalled; None for the usual place.
    normalisation : {"stack", "shown"}
        Brightness as estimated over a whole image, or by the layer's contrast limits.
    """

    model: str = "starter"
    device: str = "auto"
    precision: str = "auto"
    cache_mb: int = 1024
    folder: Path | None = None
    normalisation: Normalise = "stack"

    def setup(self, model: str, adapter: str, clip: str = "starter") -> Setup:
        """How a model is to run.

        Parameters
        ----------
        model, adapter, clip : str
        """
        return Setup(model, adapter, self.device, self.precision, self.cache_mb << 20, clip)


def read_settings() -> Settings:
    """The preferences as they are now.

    Returns
    -------
    Settings
        The defaults, which are those of the manifest, where napari has not read that.
    """
    try:
        stored = get_plugin_settings(PLUGIN)
    except KeyError:
        return Settings()
    folder = stored.storage.folder.strip()
    return Settings(
        model=stored.inference.model.strip() or Settings.model,
        device=stored.inference.device,
        precision=stored.inference.precision,
        cache_mb=stored.storage.cache_mb,
        folder=Path(folder).expanduser() if folder else None,
        normalisation=cast("Normalise", stored.inference.normalisation),
    )
