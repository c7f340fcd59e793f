"""The first part of a run: teaching CLIP, which then stays as it is, what the words look like.

The similarity map passes no gradient through its threshold, and running CLIP costs more than the
head it informs. So its attention and the words' vectors are fitted by the map alone first; its
features are then computed once and kept, as the trunk's are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from napari_clipsam.training.rates import falling
from napari_clipsam.training.vectors import fit_vector, map_loss, patch_targets
from napari_clipsam.training.views import gather

if TYPE_CHECKING:
    from napari_clipsam.training.material import Material

__all__ = ["WordLearner"]

# Rates of LoRA and of the attention weights themselves, as shares of the adapters' rate.
_SHARES = {"lora": 1.0, "attention": 0.15}
_VECTOR_SHARE, _CLIP_NORM = 1.0, 1.0


class WordLearner:
    """Fits words' vectors, and CLIP's vision attention where the adapter brings its own.

    Parameters
    ----------
    material : Material
    rate : float
        Learning rate of the adapters.
    """

    def __init__(self, material: Material, rate: float) -> None:
        self.material = material
        self.updates = 0
        adapter = material.adapter
        tuning = adapter.clip_tuning
        own = [] if tuning is None else list(tuning.parameters())
        vectors = [adapter.teach(word) for word in material.taught]
        self.parameters = [p.requires_grad_() for p in (*own, *vectors)]
        share = _SHARES.get(adapter.config.clip_tuning, 0.0)
        groups = [(own, share * rate), (vectors, _VECTOR_SHARE * rate)]
        self._rates = [value for members, value in groups if members]
        self.optimizer = torch.optim.Adam([{"params": m, "lr": 0.0} for m, _ in groups if m])

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

    def step(self, progress: float) -> dict[str, float] | None:
        """Take one step; the loss ``map``, or None where it is not finite."""
        material = self.material
        views = material.draw()
        groups = [material.words[view.example] for view in views]
        words = [group[material.pick(range(len(group)))] for group in groups]
        batch = gather(views)
        signals = material.signals(batch, words)
        targets, weights = patch_targets(batch.concept, batch.known, material.model.clip.grid)
        loss = map_loss(signals.cosine, targets, weights)
        if not torch.isfinite(loss):
            return None
        falling(self.optimizer, self._rates, progress, self.updates)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, _CLIP_NORM)
        self.optimizer.step()
        self.updates += 1
        return {"map": float(loss.detach()), "loss": float(loss.detach())}

    def state(self) -> dict[str, Any]:
        """All that going on needs."""
        return {
            "adapter": self.material.adapter.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
            "generator": self.material.generator.get_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self.material.adapter.load_state_dict(state["adapter"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates = state["updates"]
        self.material.generator.set_state(state["generator"].cpu())
