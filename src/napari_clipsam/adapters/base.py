"""Adapter configuration, and the contract and registry of block layers.

A *block layer* holds the trained weights beside one block of SAM's encoder. Bound to the signals of
a call it becomes the `BlockAdapter` that the head runs. To add a kind of adapter, subclass
`BlockLayer`, decorate it with `register`, and import its module in `adapters/inject.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from napari_clipsam.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from napari_clipsam.models.sam import BlockAdapter
    from napari_clipsam.semantics import Normalisation, Signals

__all__ = ["AdapterConfig", "BlockLayer", "layer_class", "layer_kinds", "register"]

# Annotations of `AdapterConfig` to what JSON may hold for them; all others are strings.
_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "bool": (bool,),
    "float": (int, float),
    "tuple[int, ...]": (tuple, list),
}
_WIDEST = 1024


@dataclass(frozen=True)
class AdapterConfig:
    """What an adapter is made of.

    Attributes
    ----------
    n_conditioned : int
        Number of last encoder blocks that carry layers.
    kind : str
        A registered block layer: ``clip-guided`` or ``lora``.
    init : {"zero", "paper"}
        ``zero``: equal to the base at the start, no inner skip. ``paper``: torch's default
        initialisation and the released code's inner skip.
    semantics : bool
        False removes the injection and nothing else, the ablation of the paper.
    normalisation : {"token", "channel"}
        Axis of ||V||, see `semantics.make_signals`.
    reduction : int
        The bottleneck is the encoder's width divided by this.
    scale : float
        Factor of each adapter's output.
    rank : int
        Of the ``lora`` kind.
    pad_before_norm, squash : bool
        The released code's window padding and square squashing of planes.
    object_mode : bool
        The target token and presence exist (False in released checkpoints).
    clip_tuning : {"none", "lora", "attention"}
        How CLIP's vision attention is adapted.
    clip_rank : int
        Rank for ``clip_tuning="lora"``.
    n_points : int
        Points drawn from the similarity map for a concept.
    map_threshold : float
        Above it the similarity map counts as the concept.
    own_objects : bool
        Whether objects are decoded by the adapter's own decoder, or by the base's, which an adapter
        that learnt little from clicks should leave them to. Concepts are always its own.
    conditioned_objects : bool
        Whether the image embedding that objects are decoded from is conditioned. False, with
        `own_objects` False, leaves objects to the base as if there were no adapter.
    redrawn_concepts : bool
        Whether a concept refiner redraws what the adapter finds of a concept: its own, or else the
        base's, if it brings one. It knows the looks of what it was trained on, and spoils others.
    refiner_widths : tuple of int
        Of the adapter's own concept refiner; empty where it has none.
    """

    n_conditioned: int
    kind: str = "clip-guided"
    init: Literal["zero", "paper"] = "zero"
    semantics: bool = True
    normalisation: Normalisation = "channel"
    reduction: int = 4
    scale: float = 0.5
    rank: int = 8
    pad_before_norm: bool = False
    squash: bool = False
    object_mode: bool = True
    clip_tuning: Literal["none", "lora", "attention"] = "none"
    clip_rank: int = 4
    n_points: int = 5
    map_threshold: float = 0.8
    own_objects: bool = True
    conditioned_objects: bool = True
    redrawn_concepts: bool = False
    refiner_widths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        checks = (
            (self.n_conditioned >= 1, "n_conditioned", "1 or more"),
            (self.init in ("zero", "paper"), "init", "zero or paper"),
            (self.normalisation in ("token", "channel"), "normalisation", "token or channel"),
            (
                self.clip_tuning in ("none", "lora", "attention"),
                "clip_tuning",
                "none, lora, attention",
            ),
            (self.reduction >= 1, "reduction", "1 or more"),
            (self.rank >= 1, "rank", "1 or more"),
            (self.clip_rank >= 1, "clip_rank", "1 or more"),
            (self.n_points >= 1, "n_points", "1 or more"),
            (0 < self.map_threshold < 1, "map_threshold", "between 0 and 1"),
            (
                self.conditioned_objects or not self.own_objects,
                "conditioned_objects",
                "true where own_objects is",
            ),
            (
                all(w in range(8, _WIDEST + 1, 8) for w in self.refiner_widths),
                "refiner_widths",
                f"multiples of 8 up to {_WIDEST}",
            ),
        )
        for good, name, wanted in checks:
            if not good:
                raise ConfigError(
                    f"Adapter setting {name} is {getattr(self, name)!r}; it must be {wanted}."
                )

    def to_json(self) -> dict[str, Any]:
        """Plain values for the header of an adapter file."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> tuple[AdapterConfig, list[str]]:
        """Read a header; returns the configuration and the names a newer version added.

        Raises
        ------
        ConfigError
            A setting is missing, of the wrong type or out of its range.
        """
        known = {f.name: str(f.type) for f in fields(cls)}
        for name, value in values.items():
            wanted = _JSON_TYPES.get(known.get(name, ""), (str,))
            if name in known and type(value) not in wanted:
                raise ConfigError(
                    f"Adapter setting {name} is {value!r}; it must be a {wanted[-1].__name__}."
                )
        try:
            # JSON has no tuples.
            plain: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known
            }
            config = cls(**plain)
        except TypeError as error:
            raise ConfigError(
                f"The adapter's configuration is incomplete ({error}). Use a whole file."
            ) from error
        return config, sorted(set(values) - set(known))


class BlockLayer(nn.Module, ABC):
    """Trained weights beside one encoder block.

    Parameters
    ----------
    dim : int
        Width of the block.
    clip_dim : int
        Joint width of CLIP.
    config : AdapterConfig
    """

    @abstractmethod
    def __init__(self, dim: int, clip_dim: int, config: AdapterConfig) -> None:
        super().__init__()

    @abstractmethod
    def bind(self, signals: Signals | None, grid: int) -> BlockAdapter:
        """What the head runs for these signals on a grid x grid of tokens."""


_LAYERS: dict[str, type[BlockLayer]] = {}


def register(kind: str) -> Callable[[type[BlockLayer]], type[BlockLayer]]:
    """Class decorator that makes a block layer available as ``AdapterConfig.kind``."""

    def add(layer: type[BlockLayer]) -> type[BlockLayer]:
        if kind in _LAYERS:
            raise ConfigError(
                f"The adapter kind '{kind}' is registered twice. Choose another name."
            )
        _LAYERS[kind] = layer
        return layer

    return add


def layer_kinds() -> list[str]:
    """Registered kinds in alphabetical order."""
    return sorted(_LAYERS)


def layer_class(kind: str) -> type[BlockLayer]:
    """The layer registered under a kind."""
    if kind not in _LAYERS:
        raise ConfigError(f"There is no adapter kind '{kind}'. Known: {', '.join(layer_kinds())}.")
    return _LAYERS[kind]
