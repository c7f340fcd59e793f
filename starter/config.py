"""Shapes and settings of the starter's networks."""

from __future__ import annotations

import re

from napari_clipsam.adapters.base import AdapterConfig
from napari_clipsam.models.clip import ClipConfig, split_words, templates
from napari_clipsam.models.sam import SamConfig
from starter import phrases

__all__ = ["ADAPTER", "REFINERS", "SAM", "clip_config"]

SAM = SamConfig(
    embed_dim=192,
    depth=4,
    num_heads=6,
    global_attn_indexes=(),
    input_size=512,
    patch_size=8,
    window_size=16,
    out_chans=128,
    decoder_mlp_dim=256,
    decoder_heads=4,
    iou_hidden_dim=128,
    stem_widths=(24, 48, 128, 192, 256),
    stem_blocks=(0, 1, 2, 2, 3),
)
ADAPTER = AdapterConfig(n_conditioned=2)
#: Widths of what joins the SAM in stages 6 and 7.
REFINERS = {"refiner": (16, 32, 64, 96), "concept_refiner": (16, 24, 32, 48)}

_VISION = {"image_size": 512, "patch_size": 16, "width": 192, "layers": 6, "head_width": 64}
_TEXT_WIDTH = 128
_CONTEXT = 24


def clip_config() -> ClipConfig:
    """The small CLIP: its vocabulary is cut to what the recipe can say."""
    from open_clip import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    texts = [*phrases.vocabulary_phrases(), *(t.format("") for t in templates())]
    ids = {tokenizer.sot_token_id, tokenizer.eot_token_id}
    for text in texts:
        ids.update(tokenizer.encode(text))
    text = {
        "context_length": _CONTEXT,
        "vocab_size": len(ids) + 1,
        "width": _TEXT_WIDTH,
        "heads": 2,
        "layers": 3,
    }
    architecture = {"embed_dim": 128, "vision_cfg": _VISION, "text_cfg": text, "quick_gelu": False}
    synonyms = {
        word.lower(): tuple(words) for words in phrases.CONCEPTS.values() for word in words[:2]
    }
    return ClipConfig(
        architecture=architecture,
        input_size=512,
        surgery_blocks=3,
        bpe_ids=tuple(sorted(ids)),
        words=frozenset(_learnt_words()),
        synonyms=synonyms,
    )


def _learnt_words() -> set[str]:
    """Words that training has said, so that their vectors mean something."""
    texts = [w for group in phrases.CONCEPTS.values() for w in group]
    texts += [w for group in phrases.MODALITIES.values() for w in group]
    texts += [*phrases.ABSENT["train"], *phrases.TEMPLATES]
    return {word for text in texts for word in split_words(re.sub(r"[{}]", " ", text))}
