"""The adapter of one base model: block layers, its own decoder, target token, presence, words.

Nothing of the base is replaced. An adapter is built for the shapes of a base, checked first, and
passed to the head; passing none gives the base model.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import nn

# Importing a layer's module registers it.
from napari_clipsam.adapters import lora, semantic  # noqa: F401
from napari_clipsam.adapters.base import AdapterConfig, layer_class
from napari_clipsam.adapters.lora import ClipAttentionTuning, ClipLoraTuning
from napari_clipsam.errors import AdapterError, WordError
from napari_clipsam.models.refiner import ConceptRefiner

if TYPE_CHECKING:
    from torch import Tensor

    from napari_clipsam.adapters.base import BlockLayer
    from napari_clipsam.models.clip import AttentionTuning, ClipFacts
    from napari_clipsam.models.sam import BlockAdapter, Sam
    from napari_clipsam.semantics import Signals

__all__ = ["Adapter", "AdapterInfo", "Target", "build_adapter", "parameter_counts", "tuning_of"]

Target = Literal["concept", "object"]
_TARGETS: tuple[Target, ...] = ("concept", "object")


@dataclass(frozen=True)
class AdapterInfo:
    """What is known of an adapter besides its weights.

    Attributes
    ----------
    words : tuple of str
        Words it was trained for; the last one answers until another was used.
    threshold : float or None
        Presence below it means "no match"; None where presence was not trained.
    base_identity, clip_identity : str
        Of the weights it belongs to.
    provenance, scores : dict
        How it was made and what was measured on held-out planes; JSON values.
    """

    words: tuple[str, ...] = ()
    threshold: float | None = None
    base_identity: str = ""
    clip_identity: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)


class Adapter(nn.Module):
    """Trained conditioning for one or more concepts.

    Use `build_adapter` or `files.load_adapter` to make one.

    Attributes
    ----------
    config : AdapterConfig
    info : AdapterInfo
    split : int
        Number of the base's blocks that stay in the trunk.
    grid : int
        Tokens along one side of the base's input.
    clip_dim : int
        Joint width of the CLIP whose signals it takes.
    blocks : ModuleList
        One layer per conditioned block, first to last.
    prompt_encoder, mask_decoder : Module
        Its own, copied from the base.
    concept_refiner : ConceptRefiner or None
        Its own, which redraws what it finds of a concept.
    """

    def __init__(
        self, config: AdapterConfig, sam: Sam, clip: ClipFacts, clip_dim: int | None = None
    ) -> None:
        super().__init__()
        shape = sam.config
        self.config = config
        self.info = AdapterInfo(base_identity=sam.identity, clip_identity=clip.identity)
        self.split = shape.depth - config.n_conditioned
        self.grid = shape.grid
        self.clip_dim = clip.dim if clip_dim is None else clip_dim
        layer = layer_class(config.kind)
        self.blocks = nn.ModuleList(
            layer(shape.embed_dim, self.clip_dim, config) for _ in range(config.n_conditioned)
        )
        # A base that is frozen hands out frozen copies; these are to be trained.
        self.prompt_encoder = copy.deepcopy(sam.prompt_encoder).requires_grad_()
        self.mask_decoder = copy.deepcopy(sam.mask_decoder).requires_grad_()
        self.clip_tuning = _make_tuning(config, clip)
        widths = config.refiner_widths
        self.concept_refiner = ConceptRefiner(widths) if widths else None
        self._taught: list[str] = []
        self.deltas = nn.ParameterList()
        if config.object_mode:
            self.target_token = nn.Embedding(len(_TARGETS), shape.out_chans)
            self.presence = nn.Linear(shape.out_chans + 3, 1)
            nn.init.zeros_(self.target_token.weight)
        self.to(next(sam.parameters()).device)

    def condition(self, signals: Signals | None) -> list[BlockAdapter]:
        """Adapters for the head's blocks, bound to the signals of B (image, concept) pairs.

        Raises
        ------
        AdapterError
            The signals come from a CLIP of another width.
        """
        if signals is not None and signals.vision.shape[-1] != self.clip_dim:
            raise AdapterError(
                f"The signals have {signals.vision.shape[-1]} channels; this adapter was made for "
                f"a CLIP with {self.clip_dim}. Use the CLIP it was trained with."
            )
        return [cast("BlockLayer", block).bind(signals, self.grid) for block in self.blocks]

    def target_tokens(self, target: Target, count: int) -> Tensor:
        """The learned token that says concept or object, (count, 0 or 1, C)."""
        if not self.config.object_mode:
            channels = self.prompt_encoder.embed_dim
            return next(self.parameters()).new_zeros(count, 0, channels)
        return self.target_token.weight[_TARGETS.index(target)].expand(count, 1, -1)

    def presence_logits(self, iou_token: Tensor, statistics: Tensor) -> Tensor:
        """Log-odds (B,) that the concept is in the plane (method 7.4)."""
        return self.presence(torch.cat([iou_token, statistics], dim=1))[:, 0]

    @property
    def taught(self) -> tuple[str, ...]:
        """Words with a learned vector, in the order they were taught."""
        return tuple(self._taught)

    def teach(self, word: str) -> nn.Parameter:
        """Learned vector (D,) of a word, made of zeros when the word has none yet.

        Raises
        ------
        WordError
            The word is blank.
        """
        key = _word_key(word)
        if not key:
            raise WordError("The word is empty. Give the word that is to be taught, e.g. nuclei.")
        if key not in self._taught:
            device = next(self.parameters()).device
            self.deltas.append(nn.Parameter(torch.zeros(self.clip_dim, device=device)))
            self._taught.append(key)
        return self.deltas[self._taught.index(key)]

    def delta(self, word: str) -> Tensor | None:
        """Learned vector (D,) of a taught word, whatever its case and spacing, if it has one."""
        key = _word_key(word)
        return self.deltas[self._taught.index(key)] if key in self._taught else None

    def with_refiner(self, refiner: ConceptRefiner) -> Adapter:
        """The same adapter with a concept refiner of its own."""
        self.concept_refiner = refiner
        self.config = replace(self.config, redrawn_concepts=True, refiner_widths=refiner.widths)
        return self

    def with_info(self, **changes: Any) -> Adapter:
        """The same adapter with other facts in `info`."""
        self.info = replace(self.info, **changes)
        return self


def build_adapter(
    config: AdapterConfig,
    sam: Sam,
    clip: ClipFacts,
    seed: int | None = None,
    clip_dim: int | None = None,
) -> Adapter:
    """Check that an adapter fits a base, then build it with a copy of the base's decoder.

    Parameters
    ----------
    config : AdapterConfig
    sam, clip : Sam, ClipFacts
        What it conditions and what conditions it; neither is changed.
    seed : int, optional
        Same seed, same weights, and torch's global generator is left as it was.
    clip_dim : int, optional
        Joint width of the signals, where it is not that of `clip`.

    Raises
    ------
    AdapterError
        More blocks are asked for than the base has, its width is too small for the bottleneck, or
        CLIP has no attention to tune.
    ConfigError
        The kind is not registered.
    """
    depth = sam.config.depth
    if config.n_conditioned > depth:
        raise AdapterError(
            f"The adapter wants {config.n_conditioned} conditioned blocks; this SAM has {depth} "
            f"({config.n_conditioned - depth} too many). Use {depth} or fewer."
        )
    if config.clip_tuning != "none" and not clip.vision_attention():
        raise AdapterError(
            "This CLIP's vision tower is not open_clip's own ViT, so its attention cannot be "
            "tuned. Use clip_tuning='none' or another CLIP."
        )
    if config.reduction > sam.config.embed_dim:
        raise AdapterError(
            f"A bottleneck of width {sam.config.embed_dim} / {config.reduction} has no channel. "
            f"Use a reduction of {sam.config.embed_dim} or less."
        )
    layer_class(config.kind)
    if seed is None:
        return Adapter(config, sam, clip, clip_dim)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Adapter(config, sam, clip, clip_dim)


def parameter_counts(adapter: Adapter) -> dict[str, int]:
    """Trainable parameters by part; the target token and presence are not part of the paper's."""

    def count(module: nn.Module | None) -> int:
        return 0 if module is None else sum(p.numel() for p in module.parameters())

    return {
        "adapters": count(adapter.blocks),
        "mask_decoder": count(adapter.mask_decoder),
        "prompt_encoder": count(adapter.prompt_encoder),
        "clip_attention": count(adapter.clip_tuning),
        "concept_refiner": count(adapter.concept_refiner),
    }


def _make_tuning(config: AdapterConfig, clip: ClipFacts) -> Any | None:
    if config.clip_tuning == "none":
        return None
    frozen = clip.vision_attention()
    if config.clip_tuning == "lora":
        return ClipLoraTuning(frozen, config.clip_rank)
    return ClipAttentionTuning(frozen)


def _word_key(word: str) -> str:
    return " ".join(word.lower().split())


def tuning_of(adapter: Adapter | None) -> AttentionTuning | None:
    """The adapter's own CLIP attention, if it brings any."""
    return None if adapter is None else adapter.clip_tuning
