"""What is computed of planes before anything is asked of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from napari_clipsam.inference.devices import memory_guard
from napari_clipsam.inference.encoding import View
from napari_clipsam.inference.frames import frames_like
from napari_clipsam.prompts import Prompts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_clipsam.geometry import Frame
    from napari_clipsam.inference.encoding import PlaneEncoder
    from napari_clipsam.inference.objects import ObjectFinder
    from napari_clipsam.inference.requests import ObjectMask
    from napari_clipsam.inference.words import WordChooser
    from napari_clipsam.planes import Plane

__all__ = ["Ahead"]

# Parts of a plane around an object at most.
_PARTS = 12


class Ahead:
    """Encodes planes for answers to come; one thread at a time, that of the Segmenter.

    Parameters
    ----------
    encoder : PlaneEncoder
    objects : ObjectFinder
    words : WordChooser
    """

    def __init__(self, encoder: PlaneEncoder, objects: ObjectFinder, words: WordChooser) -> None:
        self._encoder, self._objects, self._words = encoder, objects, words
        self._seconds: dict[str, float] = {}

    @torch.inference_mode()
    def prepare(self, plane: Plane, word: str | None = None, frame: Frame | None = None) -> None:
        """Encode a plane so that a click in it only has to be decoded.

        Parameters
        ----------
        plane : Plane
            One that needs tiles is left alone: which of them are wanted, the first click says.
        word : str, optional
            That the clicks will come with.
        frame : Frame, optional
            A part to encode in place of the whole; see `parts_like`.
        """
        word, _ = self._words.choose(Prompts(word, [(0, 0)]), "object")
        if frame is None:
            frame = self._objects.usual_frame(plane.shape)
            if frame.shape != plane.shape:
                return
        if word is None and self._words.is_needed:
            return
        with memory_guard(self._encoder.device, self._encoder.dtype):
            self._encoder.object_embedding(View(plane, frame), word)

    def parts_like(self, shape: tuple[int, int], one: ObjectMask) -> list[Frame]:
        """Where objects like one will be looked for in its plane, the nearest parts first."""
        if one.frame is None or not self._objects.is_closer(one.frame, shape):
            return []
        return frames_like(one.frame, shape, min(_PARTS, self._encoder.most_views(0) // 2))

    def most_planes(self, words: int) -> int:
        """How many planes, with so many words in each, the caches hold for answers to come."""
        return self._encoder.most_views(words)

    @torch.inference_mode()
    def encode_planes(self, planes: Sequence[Plane], words: Sequence[str] = ()) -> None:
        """Run trunk and CLIP for several planes at once, so that a word needs the head only.

        Parameters
        ----------
        planes : sequence of Plane
            Those that need tiles, or show nothing, are left alone.
        words : sequence of str
            What will be looked for in each. On a GPU the head runs once for all of them; on a CPU,
            whose caches a single one fills, that takes longer than one after another.

        Notes
        -----
        The next answer says the time of this as well.
        """
        encoder = self._encoder
        views = []
        for plane in planes:
            frames = encoder.concept_frames(plane.shape)
            if len(frames) == 1 and not plane.is_blank:
                views.append(View(plane, frames[0]))
        if not views:
            return
        encoder.reset_clock(self._seconds)
        with memory_guard(encoder.device, encoder.dtype):
            encoder.encode(views, with_words=True)
            known = [word for word in words if not encoder.unknown_words(word)]
            if known and self.heads_together:
                encoder.encode_words(views, known)
        self._seconds = encoder.seconds

    @property
    def heads_together(self) -> bool:
        """Whether all words of planes are computed at once."""
        return self._encoder.device.type != "cpu"

    def take_seconds(self) -> dict[str, float]:
        """Seconds spent here since an answer was told of them."""
        taken, self._seconds = self._seconds, {}
        return taken
