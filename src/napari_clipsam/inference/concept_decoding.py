"""A word in one frame of a plane: where it is, how surely, and whether it is there at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from napari_clipsam.inference.concept_windows import ConceptMaps, redraw_concept, resized
from napari_clipsam.inference.grids import on_grid
from napari_clipsam.inference.masks import full_logits
from napari_clipsam.semantics import concept_prompts, cosine_statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from napari_clipsam.geometry import Frame
    from napari_clipsam.inference.decoding import PromptDecoder
    from napari_clipsam.inference.encoding import PlaneEncoder, View
    from napari_clipsam.prompts import Prompts
    from napari_clipsam.semantics import Signals

__all__ = ["ConceptDecoder", "FoundConcept", "shown_map"]

# Without an adapter as the paper's code does: 5 points above 0.8.
_POINTS, _THRESHOLD = 5, 0.8


@dataclass(frozen=True, eq=False)
class FoundConcept:
    """The concept in one frame.

    Attributes
    ----------
    logits : Tensor, shape (M, M)
        As the decoder gives them.
    score : float
        Quality the decoder expects, 0..1.
    presence : float or None
        None where the adapter tells none.
    similarity : ndarray of float32, shape (h, w)
        See `shown_map`.
    """

    logits: Tensor
    score: float
    presence: float | None
    similarity: NDArray[np.float32]


class ConceptDecoder:
    """Decodes concepts in frames, and redraws them where there is a refiner that knows them."""

    def __init__(self, encoder: PlaneEncoder, decoder: PromptDecoder, seed: int) -> None:
        self.encoder, self.decoder, self.seed = encoder, decoder, seed

    @property
    def threshold(self) -> float | None:
        """Presence below it means "no match"; None where the adapter has no presence."""
        adapter = self.encoder.adapter
        if adapter is None or not adapter.config.object_mode:
            return None
        return adapter.info.threshold

    def decode(self, view: View, word: str, prompts: Prompts) -> FoundConcept:
        """Decode a word in a view; points of the prompts take the place of drawn ones."""
        encoder, adapter = self.encoder, self.encoder.adapter
        signals = encoder.signals(view, word)
        embedding = encoder.embedding(view, word)
        made = concept_prompts(
            signals,
            view.frame.input_size,
            self.decoder.mask_size,
            _THRESHOLD if adapter is None else adapter.config.map_threshold,
            _POINTS if adapter is None else adapter.config.n_points,
            torch.Generator().manual_seed(self.seed),
            encoder.resized(view),
            as_logits=adapter is None,
        )
        points, kinds = self._points(made.points, prompts, view.frame)
        decoded = self.decoder.run(embedding, points, kinds, made.mask, "concept", multimask=False)
        presence = None
        if adapter is not None and self.threshold is not None:
            statistics = cosine_statistics(signals)
            logit = adapter.presence_logits(decoded.iou_token.float(), statistics)
            presence = float(torch.sigmoid(logit)[0])
        score = float(decoded.iou[0, 0].clamp(0, 1))
        return FoundConcept(decoded.logits[0, 0].float(), score, presence, shown_map(signals))

    def _points(self, drawn: Tensor, prompts: Prompts, frame: Frame) -> tuple[Tensor, Tensor]:
        """Points (1, K, 2) in model pixels and their kinds (1, K), padded as SAM pads them.

        The user's positive points replace those drawn from the map (the paper's manual mode), the
        negative ones join them.
        """
        inside = _inside(prompts.points, frame)
        labels = torch.as_tensor(prompts.labels[inside], device=drawn.device)[None]
        xy = frame.to_model(prompts.points[inside])
        points = torch.as_tensor(xy, dtype=torch.float32, device=drawn.device)[None]
        if not labels.any():
            points = torch.cat([drawn, points], dim=1)
            labels = F.pad(labels, (drawn.shape[1], 0), value=1)
        return F.pad(points, (0, 0, 0, 1)), F.pad(labels, (0, 1), value=-1)

    def drawn(self, logits: Tensor, found: FoundConcept, view: View) -> Tensor:
        """Logits of a concept at the pixels (h, w) of a view, redrawn where that is possible."""
        if not self.decoder.refines_concepts:
            return logits
        drawn = redraw_concept(self.decoder.refine_concept, self.maps(logits, found, view))
        return resized(drawn, view.frame.shape).to(logits.device)

    def maps(self, logits: Tensor, found: FoundConcept, view: View) -> ConceptMaps:
        """What a refiner sees of a concept with logits (h, w) at the pixels of a view."""
        rgb = view.plane.rgb[view.frame.slices]
        return ConceptMaps.of(rgb, logits, found.similarity, view.frame.input_size)

    def cells(self, logits: Tensor, found: FoundConcept, view: View) -> Tensor:
        """Logits of a concept (M, M), redrawn where that is possible."""
        if not self.decoder.refines_concepts:
            return logits
        drawn = self.drawn(full_logits(logits[None], view.frame)[0], found, view)
        return on_grid(drawn, view.frame, self.decoder.mask_size)


def shown_map(signals: Signals) -> NDArray[np.float32]:
    """The similarity map (h, w) of the patches that show the plane, 0..1."""
    shown = signals.valid[0].view(signals.grid)
    height, width = int(shown.any(1).sum()), int(shown.any(0).sum())
    return signals.map()[0, 0, :height, :width].float().cpu().numpy()


def _inside(points: NDArray[np.float64], frame: Frame) -> NDArray[np.bool_]:
    low = np.array(frame.origin) - 0.5
    return ((points >= low) & (points <= low + np.array(frame.shape))).all(axis=1)
