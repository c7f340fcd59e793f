"""CLIP through open_clip: text features, and dense image features by CLIP surgery.

Sections 1 and 2 of the method. Surgery runs a second path beside the last blocks of the vision
tower: it attends from v to v, adds to its own residual stream, skips the MLP, and always starts
from the original path's normalised stream. Nothing of the tower is replaced; its weights are read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from napari_clipsam.errors import ConfigError, WeightsError, WordError
from napari_clipsam.models.identity import tensor_identity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

__all__ = ["AttentionTuning", "AttentionWeights", "Clip", "ClipConfig", "load_open_clip", "templates"]

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
    architecture : dict
        ``embed_dim``, ``vision_cfg``, ``text_cfg`` and ``quick_gelu`` as in open_clip's files.
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


class AttentionWeights(NamedTuple):
    """Weights of one vision attention layer, packed as torch packs them."""

    in_weight: Tensor
    in_bias: Tensor
    out_weight: Tensor
    out_bias: Tensor


class AttentionTuning(Protocol):
    """Replaces the attention weights of vision blocks, e.g. by a low-rank update."""

    def weights(self, block: int, frozen: AttentionWeights) -> AttentionWeights:
        """Weights to use in vision block `block`."""
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
    """

    def __init__(self, model: nn.Module, config: ClipConfig, tokenizer: Any | None = None) -> None:
        super().__init__()
        self.model = model.eval()
        self.config = config
        self._tokenizer = tokenizer
        self._redundant: Tensor | None = None
        self._identity: str | None = None
        patch = _patch_size(model.visual)
        if config.input_size % patch:
            raise ConfigError(
                f"CLIP's input size {config.input_size} is not a multiple of its patch size {patch}."
                f" Choose {config.input_size // patch * patch}."
            )
        self.grid = config.input_size // patch
        self.dim = int(model.visual.output_dim)

    @property
    def identity(self) -> str:
        """Hash of all tensors."""
        if self._identity is None:
            self._identity = tensor_identity(self.model.state_dict())
        return self._identity

    def dense(self, pixels: Tensor, tuning: AttentionTuning | None = None) -> Tensor:
        """Dense image features V by CLIP surgery.

        Parameters
        ----------
        pixels : Tensor, shape (B, 3, S, S)
            Normalised pixels; resized here to the configured input size if they differ.
        tuning : AttentionTuning, optional
            An adapter's own attention weights.

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
        if not _has_open_clip_tower(self.model.visual):
            return self._plain_dense(pixels)
        return _surgery(self.model.visual, pixels, self.config.surgery_blocks, tuning)

    def _plain_dense(self, pixels: Tensor) -> Tensor:
        """Tokens of a timm tower, projected; no second path exists for it."""
        tokens = self.model.visual.trunk.forward_features(pixels)
        tokens = self.model.visual.head(self.model.visual.trunk.norm(tokens))
        return tokens[:, : 1 + self.grid**2]

    def encode_ids(self, ids: Tensor) -> Tensor:
        """Text features (n, dim) of token ids (n, context), not normalised."""
        return self.model.encode_text(ids)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Text features (n, dim) of phrases, not normalised."""
        device = next(self.model.parameters()).device
        return self.encode_ids(self.tokenize(texts).to(device))

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

    def redundant(self) -> Tensor:
        """The feature r (dim,) that all words share, unit length; computed once."""
        if self._redundant is None:
            features = self.encode_texts([t.format("") for t in templates()])
            self._redundant = redundant_feature(features)
        return self._redundant

    def unknown_words(self, text: str) -> list[str]:
        """Words of a text that a closed vocabulary has never seen; empty for an open one."""
        if not self.config.words:
            return []
        return [w for w in split_words(text) if w not in self.config.words]

    def vision_attention(self) -> list[AttentionWeights]:
        """Frozen attention weights of every vision block, first to last."""
        if not _has_open_clip_tower(self.model.visual):
            return []
        return [_weights_of(block.attn) for block in self.model.visual.transformer.resblocks]


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
    from open_clip import CLIP

    architecture = dict(config.architecture)
    model = CLIP(
        embed_dim=architecture["embed_dim"],
        vision_cfg=dict(architecture["vision_cfg"]),
        text_cfg=dict(architecture["text_cfg"]),
        quick_gelu=bool(architecture.get("quick_gelu", False)),
    )
    return Clip(model, config, tokenizer)


def load_open_clip(architecture: str, pretrained: str, input_size: int = 512) -> Clip:
    """Any model open_clip knows, by architecture and tag or local file.

    Parameters
    ----------
    architecture : str
        open_clip's name, e.g. ``ViT-B-16``.
    pretrained : str
        A tag such as ``openai``, or the path of a file with a state dict.

    Raises
    ------
    WeightsError
        The architecture or tag is not known, or the weights cannot be had.
    """
    import open_clip

    from napari_clipsam.models.weights import is_file, read_state

    if architecture not in open_clip.list_models():
        raise WeightsError(
            f"open_clip has no architecture '{architecture}'. "
            "Choose one of `python -c 'import open_clip; print(open_clip.list_models())'`."
        )
    local = is_file(pretrained)
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if not local and pretrained not in tags:
        raise WeightsError(
            f"open_clip has no weights '{pretrained}' for {architecture}. "
            f"Give the path of a file or one of: {', '.join(tags) or 'none'}."
        )
    # OpenAI's own weights were trained with QuickGELU; open_clip only warns about it.
    quick = pretrained == "openai" or "quickgelu" in architecture
    try:
        model = open_clip.create_model(
            architecture, pretrained=None if local else pretrained, force_quick_gelu=quick
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsError(
            f"The weights '{pretrained}' for {architecture} could not be fetched ({error}). "
            "Check the connection, or download the file elsewhere and give its path."
        ) from error
    if local:
        _load_strictly(model, read_state(pretrained), pretrained)
    description = open_clip.get_model_config(architecture)
    config = ClipConfig({**description, "quick_gelu": quick}, input_size)
    return Clip(model, config, open_clip.get_tokenizer(architecture))


def _load_strictly(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise WeightsError(
            f"{source} does not hold weights of this CLIP architecture ({reason}). "
            "Choose the architecture the file was made for."
        ) from error


def _surgery(
    visual: Any, pixels: Tensor, surgery_blocks: int, tuning: AttentionTuning | None
) -> Tensor:
    """Dense tokens of open_clip's VisionTransformer with the v-v path."""
    x = visual.conv1(pixels)
    grid = x.shape[-2:]
    x = x.flatten(2).transpose(1, 2)
    cls = visual.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
    x = torch.cat([cls, x], dim=1) + _positions(visual.positional_embedding, grid).to(x.dtype)
    x = visual.ln_pre(x)
    blocks = visual.transformer.resblocks
    first = len(blocks) - surgery_blocks
    surgical = x
    for i, block in enumerate(blocks):
        weights = _weights_of(block.attn)
        if tuning is not None:
            weights = tuning.weights(i, weights)
        if i == first:
            surgical = x
        q, k, v = _project(block.ln_1(x), weights, block.attn.num_heads)
        if i >= first:
            surgical = surgical + block.ls_1(_attend(v, v, v, weights))
        x = x + block.ls_1(_attend(q, k, v, weights))
        if i + 1 < len(blocks) or surgery_blocks == 0:
            x = x + block.ls_2(block.mlp(block.ln_2(x)))
        else:
            # Of the last block's original path only the CLS token is used.
            x = x[:, :1]
            x = x + block.ls_2(block.mlp(block.ln_2(x)))
    tokens = x if surgery_blocks == 0 else torch.cat([x[:, :1], surgical[:, 1:]], dim=1)
    return visual.ln_post(tokens) @ visual.proj


def _positions(table: Tensor, grid: torch.Size) -> Tensor:
    """Positions (1 + h * w, width): the patch part resized bilinearly to the grid."""
    side = round((table.shape[0] - 1) ** 0.5)
    if (side, side) == tuple(grid):
        return table
    patches = table[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=tuple(grid), mode="bilinear", align_corners=False)
    return torch.cat([table[:1], patches[0].flatten(1).T])


def _weights_of(attn: nn.MultiheadAttention) -> AttentionWeights:
    return AttentionWeights(
        attn.in_proj_weight, attn.in_proj_bias, attn.out_proj.weight, attn.out_proj.bias
    )


def _project(x: Tensor, weights: AttentionWeights, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    b, n, c = x.shape
    packed = F.linear(x, weights.in_weight, weights.in_bias)
    q, k, v = packed.reshape(b, n, 3, heads, c // heads).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def _attend(q: Tensor, k: Tensor, v: Tensor, weights: AttentionWeights) -> Tensor:
    out = F.scaled_dot_product_attention(q, k, v)
    return F.linear(out.transpose(1, 2).flatten(2), weights.out_weight, weights.out_bias)


def _has_open_clip_tower(visual: nn.Module) -> bool:
    return hasattr(visual, "transformer") and hasattr(visual, "class_embedding")


def _patch_size(visual: nn.Module) -> int:
    """Patch size of a tower, or a refusal where it has no patches."""
    if _has_open_clip_tower(visual):
        return int(visual.conv1.kernel_size[0])
    trunk = getattr(visual, "trunk", None)
    patch = getattr(getattr(trunk, "patch_embed", None), "patch_size", None)
    if patch is None or not hasattr(trunk, "forward_features"):
        raise WeightsError(
            "This CLIP's vision tower has no patch tokens (a convolutional network?), so it gives "
            "no dense features. Choose a ViT, e.g. ViT-B-16."
        )
    return int(patch[0])


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
