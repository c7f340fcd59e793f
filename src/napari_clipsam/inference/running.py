"""What every answer shares: its clock, its memory, its device, and what is said about them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import torch

from napari_clipsam.errors import OutOfMemory
from napari_clipsam.inference.devices import lacks_operation, memory_guard

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_clipsam.inference.ahead import Ahead
    from napari_clipsam.inference.encoding import PlaneEncoder
    from napari_clipsam.inference.requests import Prediction
    from napari_clipsam.inference.shelf import Shelf

__all__ = ["GuardedRunner"]

T = TypeVar("T")


class GuardedRunner:
    """Runs what finds masks, and tells of its troubles.

    Parameters
    ----------
    encoder : PlaneEncoder
    ahead : Ahead
        What it took counts for the answer that gains by it.
    shelf : Shelf, optional
    """

    def __init__(self, encoder: PlaneEncoder, ahead: Ahead, shelf: Shelf | None) -> None:
        self.encoder, self.ahead, self.shelf = encoder, ahead, shelf

    def run(self, find: Callable[[], T]) -> tuple[T, str]:
        """What is found, on the CPU where the device lacks an operation, and then a note on that.

        Raises
        ------
        OutOfMemory
            Nothing is kept any more, so that there may be enough next time.
        """
        try:
            return self._timed(find), ""
        except OutOfMemory:
            self.encoder.clear()
            raise
        except (RuntimeError, TypeError) as error:
            if not lacks_operation(error, self.encoder.device):
                raise
            self.encoder.move(torch.device("cpu"))
            reason = str(error).partition("\n")[0]
            note = f"This device lacks an operation ({reason}); the CPU is used from now on."
            return self._timed(find), note

    def tell(self, answer: Prediction, *notes: str, moved: str) -> Prediction:
        """The answer with all that is to be said, the troubles of the shelf among it."""
        trouble = _joined(moved, *self.take_troubles())
        return replace(answer, note=_joined(*notes, trouble), trouble=trouble)

    def take_troubles(self) -> list[str]:
        """What went wrong with the shelf since it was asked or an answer said so."""
        return [] if self.shelf is None else self.shelf.take_problems()

    def flush(self) -> None:
        """Wait until the shelf holds what it was given."""
        if self.shelf is not None:
            self.shelf.flush()

    def _timed(self, find: Callable[[], T]) -> T:
        self.encoder.reset_clock(self.ahead.take_seconds())
        with memory_guard(self.encoder.device, self.encoder.dtype):
            return find()


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)
