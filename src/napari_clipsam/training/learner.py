"""The second part of a run: adapters, decoder and words' vectors, with trunk and CLIP frozen."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from napari_clipsam.inference.devices import autocast
from napari_clipsam.inference.transfer import to_device
from napari_clipsam.training.learning import Learner
from napari_clipsam.training.prompting import (
    ABSENT_SHARE,
    Conditioned,
    concept_terms,
    object_terms,
)
from napari_clipsam.training.vectors import map_loss, patch_targets
from napari_clipsam.training.views import Batch, View, gather
from napari_clipsam.training.windows import Window, draw_window, may_be_cut

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from napari_clipsam.training.material import Material
    from napari_clipsam.training.settings import FitSettings

__all__ = ["WHOLE_FROM", "HeadLearner"]

_DECODER = ("mask_decoder.", "prompt_encoder.")
# Shares of the rate, and weight decay.
_GROUPS = {"blocks": (1.0, 1e-3), "decoder": (0.3, 1e-3), "vectors": (1.0, 0.0)}
_TERMS = {"mask": 1.0, "object": 1.0, "quality": 0.5, "object_quality": 0.5}
_TERMS |= {"presence": 0.2, "map": 0.3}
_DECAY = 0.98
# Objects of a step, shared by its views.
_OBJECTS = {"cpu": 4, "gpu": 32}
_MOST_ROUNDS = 3
#: Share of the steps that may look at a window only.
WHOLE_FROM = 0.7


class HeadLearner(Learner["View"]):
    """Trains what conditions and decodes.

    Parameters
    ----------
    material : Material
        Its adapter is trained in place.
    settings : FitSettings

    Attributes
    ----------
    average : Adapter
        Moving average of the weights: what is measured and kept.
    """

    def __init__(self, material: Material, settings: FitSettings) -> None:
        adapter = material.adapter.requires_grad_(False)
        taught = {id(adapter.teach(word)) for word in material.taught}
        groups: dict[str, list[nn.Parameter]] = {name: [] for name in _GROUPS}
        for name, parameter in adapter.named_parameters():
            if id(parameter) in taught:
                groups["vectors"].append(parameter)
            elif name.startswith(_DECODER):
                groups["decoder"].append(parameter)
            elif not name.startswith(("deltas.", "clip_tuning.")) and (
                settings.blocks or not name.startswith("blocks.")
            ):
                groups["blocks"].append(parameter)
        rates = {name: (settings.rate * share, decay) for name, (share, decay) in _GROUPS.items()}
        self.material = material
        super().__init__(
            material,
            [(groups[name], *rates[name]) for name in groups],
            adapter,
            (material.model.sam, material.model.clip),
        )
        self.settings = settings
        self.average = copy.deepcopy(adapter).eval()
        # A GPU computes the whole as fast.
        on_cpu = material.device.type == "cpu"
        self._may_cut = on_cpu and may_be_cut(material.model.sam.config, adapter.split)

    def step(self, progress: float) -> dict[str, Tensor]:
        """Take one step, and let the average follow."""
        values = super().step(progress)
        self._average()
        return values

    def terms(self, views: Sequence[View], progress: float) -> dict[str, Tensor]:
        """Loss terms of some views and their weighted sum ``loss``."""
        material, settings, goal = self.material, self.settings, self.settings.goal
        adapter, generator = material.adapter, material.generator
        batch = gather(views)
        words, named = self._draw_words(views)
        present = to_device(torch.tensor(named), material.device)
        terms: dict[str, Tensor] = {}
        window = self._window(batch, progress)
        seen = self._condition(batch, words, named, present, window)
        targets, weights = patch_targets(batch.concept, batch.known, material.model.clip.grid)
        terms["map"] = map_loss(seen.signals.cosine, targets, weights * present[:, None])
        if goal != "object":
            by_clicks = settings.concept_prompts == "clicks" or (
                settings.concept_prompts == "both" and material.chance(0.5)
            )
            terms |= concept_terms(adapter, seen, batch, by_clicks, settings.loss, generator)
        if goal != "concept":
            rounds = 1 + material.pick(range(_MOST_ROUNDS))
            most = _OBJECTS["cpu" if material.device.type == "cpu" else "gpu"]
            count = max(1, most // len(views))
            terms |= object_terms(adapter, seen, batch, count, rounds, settings.loss, generator)
        terms["loss"] = torch.stack([_TERMS[name] * value for name, value in terms.items()]).sum()
        return terms

    def state(self) -> dict[str, Any]:
        """All that going on needs."""
        return {**super().state(), "average": self.average.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        super().restore(state)
        self.average.load_state_dict(state["average"])

    def _draw_words(self, views: Sequence[View]) -> tuple[list[str], list[bool]]:
        """A word for each view, and whether it names what is labelled there."""
        material = self.material
        words, present = [], []
        for view in views:
            # Objects are asked under their own word.
            may_miss = self.settings.goal != "object" and bool(material.absent)
            missing = may_miss and material.chance(ABSENT_SHARE)
            pool = material.absent if missing else list(material.words[view.example])
            words.append(pool[material.pick(range(len(pool)))])
            present.append(not missing and view.shows)
        return words, present

    def _window(self, batch: Batch, progress: float) -> Window:
        """The part of the views that a step looks at."""
        material = self.material
        shape = material.model.sam.config
        cut = self._may_cut and progress < WHOLE_FROM
        if not cut:
            return Window.whole(shape)
        return draw_window(batch.concept * batch.known, shape, material.generator)

    def _condition(
        self,
        batch: Batch,
        words: Sequence[str],
        named: Sequence[bool],
        present: Tensor,
        window: Window,
    ) -> Conditioned:
        material = self.material
        adapter, sam = material.adapter, material.model.sam
        signals = material.signals(batch, words)
        tokens = batch.tokens
        with autocast(material.device, material.dtype):
            if tokens is None:
                assert batch.pixels is not None
                with torch.no_grad():
                    tokens = sam.trunk(batch.pixels, adapter.split, material.check)
            adapters = adapter.condition(signals)
            if window.side < window.grid:
                adapters = [block.part(window.cut_tokens) for block in adapters]
            tokens = window.cut_tokens(tokens)
            embedding = sam.head(tokens, adapter.split, adapters, material.check, self.recompute)
        return Conditioned(embedding, signals, tuple(named), present, window)

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(_DECAY, self.updates / (self.updates + 4))
        own = [p.data for p in self.average.parameters()]
        torch._foreach_lerp_(
            own, [p.detach() for p in self.material.adapter.parameters()], 1 - decay
        )
