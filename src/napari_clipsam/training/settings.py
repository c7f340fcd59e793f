"""What a fine-tuning run is asked for: what is learnt, from which prompts, for how long."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from napari_clipsam.errors import ConfigError
from napari_clipsam.training.losses import LossWeights

__all__ = ["ClipTuning", "ConceptPrompting", "FitSettings", "Goal"]

Goal = Literal["concept", "object", "both"]
ConceptPrompting = Literal["text", "clicks", "both"]
ClipTuning = Literal["auto", "none", "lora", "attention"]

_CHOICES = {
    "goal": ("concept", "object", "both"),
    "concept_prompts": ("text", "clicks", "both"),
    "clip_tuning": ("auto", "none", "lora", "attention"),
    "init": ("zero", "paper"),
}


@dataclass(frozen=True)
class FitSettings:
    """Settings of `trainer.fit`.

    Attributes
    ----------
    goal : {"concept", "object", "both"}
        All of what a word names, single objects by click and box, or both.
    concept_prompts : {"text", "clicks", "both"}
        What a concept is asked by: the word alone, the word and 1 to 5 clicks, or each half of the
        time. A mode is learnt with the prompts it will see (method section 4).
    minutes : float or None
        Time budget, the trunk pass included.
    steps : int or None
        Step budget; with it alone the same seed gives the same file. Whichever ends first counts.
    seed : int
    rate : float
        Learning rate of the adapters; decoder, concept vectors and CLIP have shares of it.
    semantics : bool
        Whether CLIP's signals are injected (`AdapterConfig.semantics`).
    n_conditioned : int or None
        Conditioned blocks of an adapter made anew; None is a third of the encoder.
    kind : str
        Block layer of an adapter made anew.
    init : {"zero", "paper"}
        Of an adapter made anew.
    clip_tuning : {"auto", "none", "lora", "attention"}
        ``auto`` is LoRA below 20 labelled planes and attention above (method 7.8).
    blocks : bool
        False leaves the block layers as they are and trains the rest, the decoder-only baseline.
    refine : bool
        Whether a refiner learns in the end to redraw what a word marks, pixel by pixel.
    loss : LossWeights
    views : int or None
        Views a plane is seen in, the whole one among them; None lets time and memory decide.
    cache_trunk : bool
        False computes the trunk again for each step, to measure what the cache saves.
    patience : int
        Scores in a row without a better one that end the training.
    """

    goal: Goal = "concept"
    concept_prompts: ConceptPrompting = "text"
    minutes: float | None = 3.0
    steps: int | None = None
    seed: int = 0
    rate: float = 2e-3
    semantics: bool = True
    n_conditioned: int | None = None
    kind: str = "clip-guided"
    init: Literal["zero", "paper"] = "zero"
    clip_tuning: ClipTuning = "auto"
    blocks: bool = True
    refine: bool = True
    loss: LossWeights = field(default_factory=LossWeights)
    views: int | None = None
    cache_trunk: bool = True
    patience: int = 10

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(choices)}."
                )
        if self.minutes is None and self.steps is None:
            raise ConfigError("Training has no end. Give minutes or steps.")
        for name in ("minutes", "steps", "n_conditioned", "views", "patience", "rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} is {value}; it must be above 0, and finite.")

    @property
    def refines(self) -> bool:
        """Whether there is anything to refine: words, not objects alone."""
        return self.refine and self.goal != "object"

    def to_json(self) -> dict[str, Any]:
        """Plain values, for an adapter's provenance."""
        return asdict(self)
