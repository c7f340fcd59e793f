"""The first part of a run: teaching CLIP, which then stays as it is, what the words look like.

The similarity map passes no gradient through its threshold, and running CLIP costs more than the
head it informs. So its attention and the words' vectors are fitted by the map alone first; its
features are then computed once and kept, as the trunk's are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from napari_clipsam.training.learning import Learner
from napari_clipsam.training.vectors import fit_vector, map_loss, patch_targets
from napari_clipsam.training.views import gather

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from napari_clipsam.training.material import Material
    from napari_clipsam.training.views import View

__all__ = ["WordLearner"]

# Rates of LoRA and of the attention weights themselves, as shares of the adapters' rate.
_SHARES = {"lora": 0.3, "attention": 0.05}
_VECTOR_SHARE = 1.0


class WordLearner(Learner["View"]):
    """Fits words' vectors, and CLIP's vision attention where the adapter brings its own.

    Parameters
    ----------
    material : Material
    rate : float
        Learning rate of the adapters.
    """

    def __init__(self, material: Material, rate: float) -> None:
        adapter, tuning = material.adapter, material.adapter.clip_tuning
        own = [] if tuning is None else list(tuning.parameters())
        vectors = [adapter.teach(word) for word in material.taught]
        share = _SHARES.get(adapter.config.clip_tuning, 0.0)
        self.material = material
        groups = [(own, share * rate, 0.0), (vectors, _VECTOR_SHARE * rate, 0.0)]
        super().__init__(material, groups, adapter, (material.model.sam, material.model.clip))

    def fit_vectors(self) -> None:
        """Fit the vector of every word to the labels (method 7.6)."""
        material = self.material
        for word in material.taught:
            views = [v for v in material.views if word in material.words[v.example] and v.shows]
            if not views:
                continue
            targets, weights = patch_targets(
                torch.stack([view.concept for view in views]).float(),
                torch.stack([view.known for view in views]).float(),
                material.model.clip.grid,
            )
            fit_vector(
                material.adapter.teach(word),
                material.features[word],
                material.redundant,
                torch.stack([material.dense_of(view) for view in views]),
                targets,
                weights,
            )

    def terms(self, views: Sequence[View], progress: float) -> dict[str, Tensor]:
        """The loss on the map."""
        material = self.material
        groups = [material.words[view.example] for view in views]
        words = [group[material.pick(range(len(group)))] for group in groups]
        batch = gather(views)
        signals = material.signals(batch, words)
        targets, weights = patch_targets(batch.concept, batch.known, material.model.clip.grid)
        loss = map_loss(signals.cosine, targets, weights)
        return {"map": loss, "loss": loss}
