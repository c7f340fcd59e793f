"""Which word conditions an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_clipsam.errors import PromptError, WordError

if TYPE_CHECKING:
    from collections.abc import Hashable

    from napari_clipsam.inference.encoding import PlaneEncoder
    from napari_clipsam.inference.requests import Target
    from napari_clipsam.prompts import Prompts

__all__ = ["WordChooser"]


class WordChooser:
    """Chooses words; of each adapter it remembers the last one that was asked for."""

    def __init__(self, encoder: PlaneEncoder) -> None:
        self.encoder = encoder
        self._last: dict[Hashable, str] = {}

    def choose(self, prompts: Prompts, target: Target) -> tuple[str | None, str]:
        """The word that conditions the answer, and what to say about it.

        Where the base decodes objects, points alone are answered as well without any word, and
        CLIP, which takes seconds to load, is not waited for. Boxes are answered better with one.
        """
        text, adapter, key = prompts.text, self.encoder.adapter, self.encoder.adapter_key
        if adapter is None:
            return text, ""
        words = adapter.info.words
        last = self._last.get(key, words[-1] if words else None)
        if text is None:
            by_points = len(prompts.boxes) == 0 and prompts.mask is None
            if by_points and key not in self._last and not self.is_needed:
                return None, ""
            said = f"No word was given; the adapter's last one, '{last}', was used."
            return last, said if last is not None else ""
        if not self.encoder.unknown_words(text):
            self._last[key] = text
        elif target == "object" and last is not None:
            return last, f"The model has not learnt '{text}'; '{last}' was used in its place."
        return text, ""

    def check(self, word: str | None, target: Target) -> None:
        """Refuse to go without a word where one is needed.

        Raises
        ------
        PromptError, WordError
        """
        if word is not None:
            return
        if target != "object":
            raise PromptError(f"To find {target} a word is needed. Give a text, e.g. nuclei.")
        if self.is_needed:
            raise WordError("The adapter was trained for no word. Give a text, e.g. nuclei.")

    @property
    def is_needed(self) -> bool:
        """Whether nothing is answered without a word: an adapter decodes objects itself."""
        adapter = self.encoder.adapter
        return adapter is not None and adapter.config.own_objects
