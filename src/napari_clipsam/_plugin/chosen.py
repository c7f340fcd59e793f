"""Which model, adapter and CLIP answer in a viewer, whichever dock chose them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from psygnal import Signal

from napari_clipsam._plugin.state import Choice

if TYPE_CHECKING:
    from psygnal import SignalInstance

__all__ = ["Chosen"]


@dataclass(eq=False)
class Chosen:
    """The choice of a viewer; docks come and go, it stays.

    Attributes
    ----------
    model, adapter : str
        As a `Setup` has them; "" for the model that the user prefers.
    clip : str
        As a `Setup` has it.
    unsaved : tuple of Choice
        Adapters that are in memory alone.
    changed : Signal(str, str)
        Model and adapter were chosen, or another CLIP.
    renewed : Signal()
        Models or adapters came to this computer, or went.
    """

    changed: ClassVar[SignalInstance] = Signal(str, str)  # type: ignore[assignment]
    renewed: ClassVar[SignalInstance] = Signal()  # type: ignore[assignment]

    model: str = ""
    adapter: str = "default"
    clip: str = "starter"
    unsaved: tuple[Choice, ...] = ()

    def choose(self, model: str, adapter: str, clip: str = "") -> None:
        """Let these answer from now on; the CLIP stays where none is named."""
        clip = clip or self.clip
        if (model, adapter, clip) != (self.model, self.adapter, self.clip):
            self.model, self.adapter, self.clip = model, adapter, clip
            self.changed.emit(model, adapter)

    def usable_adapter(self) -> str:
        """The adapter, or the model's own where its file is gone."""
        is_file = self.adapter.endswith(".safetensors")
        return "default" if is_file and not Path(self.adapter).is_file() else self.adapter
