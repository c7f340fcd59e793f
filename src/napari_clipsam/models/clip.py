"""CLIP through open_clip: text features, and dense image features by CLIP surgery."""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from napari_clipsam.errors import ConfigError, WeightsError, WordError
from napari_clipsam.models.identity import tensor_identity
from napari_clipsam.models.towers import (
    AttentionTuning,
    AttentionWeights,
    attention_weights,
    fit_input_size,
    is_open_clip_vit,
    patch_size,
    plain_dense,
    surgery,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

__all__ = [
    "AttentionTuning",
    "AttentionWeights",
    "Clip",
    "ClipConfig",
    "ClipFacts",
    "build_clip",
    "build_model",
    "check_complete",
    "redundant_feature",
    "split_words",
    "templates",
]

# Texts of one batch, where a run of many can be ended.
_TEXTS = 8
_SCENE_TEMPLATES = (
    "there is a {} in the scene.",
    "there is the {} in the scene.",
    "this is a {} in the scene.",
    "this is the {} in the scene.",
    "this is one {} in the scene.",
)


@dataclass(frozen=True)
class ClipConfig:
    """How a CLIP is built and used.

    Attributes
    ----------
    architecture : mapping
        ``embed_dim``, ``vision_cfg``, ``text_cfg``, ``quick_gelu``, ... as in open_clip's files.
    input_size : int
        Side of the square the vision tower sees, pixels; any multiple of its patch size.
    surgery_blocks : int
        Number of last vision blocks that get the second path.
    bpe_ids : tuple of int
        Token ids of the full byte-pair table that the text tower kept; empty for all.
    words : frozenset of str
        Lower-case words the text tower was trained on; empty for an open vocabulary.
    synonyms : mapping of str to tuple of str
        Phrases that are averaged for a word.
    """

    architecture: Mapping[str, Any]
    input_size: int = 512
    surgery_blocks: int = 6
    bpe_ids: tuple[int, ...] = ()
    words: frozenset[str] = frozenset()
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class ClipFacts(Protocol):
    """What an adapter has to know of a CLIP, which need not be loaded for that."""

    @property
    def identity(self) -> str:
        """Hash of all tensors."""
        ...

    @property
    def dim(self) -> int:
        """Joint width of images and texts."""
        ...

    def vision_attention(self) -> list[AttentionWeights]:
        """Frozen attention weights of every vision block, first to last; empty for timm's."""
        ...


class Clip(nn.Module):
    """A CLIP with the two outputs the method needs.

    Parameters
    ----------
    model : nn.Module
        An open_clip model.
    config : ClipConfig
    tokenizer : callable, optional
        Texts to token ids (n, context); open_clip's own when not given.

    Attributes
    ----------
    own_tokenizer : bool
        Whether one was given.

    Raises
    ------
    WeightsError
        The vision tower gives no dense features.
    ConfigError
        The input size does not fit the tower.
    """

    def __init__(self, model: nn.Module, config: ClipConfig, tokenizer: Any | None = None) -> None:
        super().__init__()
        self.model: Any = model.eval()
        self.config = config
        self._tokenizer = tokenizer
        self.own_tokenizer = tokenizer is not None
        self._redundant: Tensor | None = None
        self._identity: str | None = None
        patch = patch_size(self.model.visual)
        if config.input_size < patch or config.input_size % patch:
            raise ConfigError(
                f"CLIP's input size {config.input_size} is not a multiple of its patch size "
                f"{patch}. Choose {max(1, config.input_size // patch) * patch}."
            )
        fit_input_size(self.model.visual, config.input_size)
        self.grid = config.input_size // patch
        self.dim = int(config.architecture["embed_dim"])

    @property
    def identity(self) -> str:
        """Hash of all tensors."""
        if self._identity is None:
            self._identity = tensor_identity(self.model.state_dict())
        return self._identity

    def dense(
        self,
        pixels: Tensor,
        tuning: AttentionTuning | None = None,
        check: Callable[[], None] | None = None,
    ) -> Tensor:
        """Dense image features V by CLIP surgery; plain ones of a tower that is not open_clip's.

        Parameters
        ----------
        pixels : Tensor, shape (B, 3, S, S)
            Normalised pixels; resized here to the configured input size if they differ.
        tuning : AttentionTuning, optional
            An adapter's own attention weights.
        check : callable, optional
            Called before each block; what it raises ends the run.

        Returns
        -------
        Tensor, shape (B, 1 + grid * grid, dim)
            CLS token first, not normalised.
        """
        size = self.config.input_size
        if pixels.shape[-1] != size:
            pixels = F.interpolate(
                pixels, size=(size, size), mode="bilinear", align_corners=False, antialias=True
            )
        if not is_open_clip_vit(self.model.visual):
            return plain_dense(self.model.visual, pixels, check)
        return surgery(self.model.visual, pixels, self.config.surgery_blocks, tuning, check)

    def encode_ids(self, ids: Tensor) -> Tensor:
        """Text features (n, dim) of token ids (n, context), not normalised."""
        return self.model.encode_text(ids)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Text features (n, dim) of phrases, not normalised."""
        return self.encode_ids(self.tokenize(texts).to(self._device))

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids (n, context) of phrases."""
        if self._tokenizer is None:
            self._tokenizer = _make_tokenizer(self.config)
        return self._tokenizer(list(texts))

    def concept(self, word: str) -> Tensor:
        """Mean text feature c (dim,) over the synonyms of a word, not normalised.

        Raises
        ------
        WordError
            The word is blank.
        """
        if not word.strip():
            raise WordError("The word is empty. Type what to look for, e.g. nuclei.")
        key = " ".join(word.lower().split())
        phrases = self.config.synonyms.get(key, (key,))
        return self.encode_texts(phrases).mean(dim=0)

    def redundant(self, check: Callable[[], None] | None = None) -> Tensor:
        """The feature r (dim,) that all words share, unit length; computed once.

        `check` is called before every few of the texts it is made from; what it raises ends the
        run.
        """
        if self._redundant is None:
            # It outlives this call, so it must not belong to the graph or the mode of the caller.
            with torch.inference_mode(False), torch.no_grad():
                features = []
                for ids in self.tokenize([t.format("") for t in templates()]).split(_TEXTS):
                    if check is not None:
                        check()
                    features.append(self.encode_ids(ids.to(self._device)))
                self._redundant = redundant_feature(torch.cat(features))
        return self._redundant.to(self._device)

    def unknown_words(self, text: str) -> list[str]:
        """Words of a text that a closed vocabulary has never seen; empty for an open one."""
        if not self.config.words:
            return []
        return [w for w in split_words(text) if w not in self.config.words]

    def vision_attention(self) -> list[AttentionWeights]:
        """Frozen attention weights of every vision block, first to last; empty for timm's."""
        return attention_weights(self.model.visual)

    @property
    def _device(self) -> torch.device:
        device: torch.device = next(self.model.parameters()).device
        return device


def templates() -> list[str]:
    """The 85 templates of CLIP surgery: open_clip's 80 for ImageNet and five scenes."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return [template("{}") for template in OPENAI_IMAGENET_TEMPLATES] + list(_SCENE_TEMPLATES)


def redundant_feature(features: Tensor) -> Tensor:
    """r = l2norm(mean_i l2norm(feature_i)) for template features (n, dim)."""
    return F.normalize(F.normalize(features, dim=-1).mean(dim=0), dim=-1)


def split_words(text: str) -> list[str]:
    """Lower-case words of a text; what a closed vocabulary counts."""
    return re.findall(r"[a-z0-9]+", text.lower())


def build_clip(config: ClipConfig, tokenizer: Any | None = None) -> Clip:
    """An untrained CLIP of the configured architecture."""
    return Clip(build_model(config.architecture), config, tokenizer)


def check_complete(architecture: Mapping[str, Any]) -> None:
    """Refuse an architecture of which a library would fetch parts, which nobody could check.

    Raises
    ------
    WeightsError
    """
    text, vision = architecture["text_cfg"], architecture["vision_cfg"]
    if "hf_model_name" in text or ":" in str(vision.get("timm_model_name", "")):
        raise WeightsError(
            "This CLIP has a tower that its library would describe from the network, unchecked. "
            "Choose another, e.g. ViT-B-16."
        )


def build_model(architecture: Mapping[str, Any]) -> Any:
    """An open_clip model with initial weights, without a tokenizer; nothing is fetched.

    Raises
    ------
    WeightsError
        As for `check_complete`.
    """
    from open_clip import CLIP, CustomTextCLIP

    check_complete(architecture)
    description = deepcopy(dict(architecture))
    vision = description["vision_cfg"]
    custom = description.pop("custom_text", False)
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False
    return (CustomTextCLIP if custom else CLIP)(**description)


class _CutTokenizer:
    """open_clip's byte-pair tokenizer with ids renumbered to a kept part of the table."""

    def __init__(self, bpe_ids: Sequence[int], context_length: int) -> None:
        from open_clip import SimpleTokenizer

        self._full = SimpleTokenizer(context_length=context_length)
        table = torch.zeros(self._full.vocab_size, dtype=torch.long)
        # Id 0 stays the padding and serves unseen pieces; the end of text is the highest id.
        table[torch.tensor(sorted(bpe_ids))] = torch.arange(1, len(bpe_ids) + 1)
        self._table = table

    def __call__(self, texts: Sequence[str]) -> Tensor:
        full = self._full(list(texts))
        ids = self._table[full]
        return ids.masked_fill(full == 0, 0)


def _make_tokenizer(config: ClipConfig) -> Any:
    from open_clip import SimpleTokenizer

    context = int(config.architecture["text_cfg"].get("context_length", 77))
    if config.bpe_ids:
        return _CutTokenizer(config.bpe_ids, context)
    return SimpleTokenizer(context_length=context)
