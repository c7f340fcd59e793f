"""What `training.prompting` asks the decoder, as a list."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from torch import Tensor

from napari_clipsam.models.decoder import Decoded
from napari_clipsam.training import prompting

__all__ = ["CELL", "CORNERS", "NEGATIVE", "POSITIVE", "Asked", "recorded"]

#: Pixels of a cell of a mask.
CELL = 2
#: Labels of points.
NEGATIVE, POSITIVE, CORNERS = 0, 1, (2, 3)


@dataclass
class Asked:
    """One question to the decoder.

    Points (N, T, 2) with their labels, padding among them; `view` (N,) is what each is about, read
    from embeddings that are filled with the numbers of their views.
    """

    points: Tensor
    labels: Tensor
    view: Tensor
    mask: Tensor | None
    multimask: bool
    shapes: set[tuple[int, ...]]
    places: Tensor

    def of(self, kind: int) -> Iterator[tuple[int, int, int, int]]:
        """Prompt, view, row and column of the cell of every point of a kind."""
        for prompt, place in (self.labels == kind).nonzero().tolist():
            x, y = ((self.points[prompt, place] + 0.5) / CELL).floor().int().tolist()
            yield prompt, int(self.view[prompt]), y, x


@contextmanager
def recorded(answer: Callable[[Asked], Tensor] | None = None) -> Iterator[list[Asked]]:
    """Record what the decoder is asked; `answer` gives logits (N, h, w) in its place."""
    asked: list[Asked] = []
    held: dict[str, Any] = {}
    points_of, masks_of, decode = prompting.embed_points, prompting.embed_masks, prompting.decode

    def embed_points(encoder: Any, points: Tensor, labels: Tensor) -> Tensor:
        held.update(points=points, labels=labels)
        return points_of(encoder, points, labels)

    def embed_masks(encoder: Any, mask: Tensor | None, count: int) -> Tensor:
        held["mask"] = mask
        return masks_of(encoder, mask, count)

    def decoded(
        decoder: Any, embedding: Tensor, places: Tensor, sparse: Tensor, dense: Tensor, multi: bool
    ) -> Decoded:
        shapes = {tuple(maps.shape[-2:]) for maps in (embedding, places, dense)}
        view = embedding[:, 0, 0, 0].detach().int()
        one = Asked(view=view, multimask=multi, shapes=shapes, places=places, **held)
        asked.append(one)
        found = decode(decoder, embedding, places, sparse, dense, multi)
        if answer is None:
            return found
        logits = answer(one)[:, None].expand_as(found.logits)
        return found._replace(logits=logits + 0 * found.logits)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompting, "embed_points", embed_points)
        patch.setattr(prompting, "embed_masks", embed_masks)
        patch.setattr(prompting, "decode", decoded)
        yield asked
