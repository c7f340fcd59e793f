"""What an exported model says of itself, gathered from adapter, model and user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from napari_clipsam._intensity import PERCENTILES
from napari_clipsam.models.registry import models, starter_file

if TYPE_CHECKING:
    from napari_clipsam.inference.segmenter import Segmenter

__all__ = ["Facts", "gather"]

_STARTER_LICENCE = "BSD-3-Clause"
_STARTER_AUTHORS = ("napari-clipsam contributors",)


@dataclass(frozen=True)
class Facts:
    """Of one word of one adapter.

    Attributes
    ----------
    word, title : str
    trained_for : bool
        Whether the adapter's words name it.
    input_size : int
        Longer side of what the network sees, pixels.
    percentiles : str
        Which become black and white.
    made_of, provenance, scores : mapping
        Networks with their identities; how the adapter was made; what it scored.
    redrawn : bool
        Whether it scored with its masks redrawn from the pixels, which the package does not do.
    authors : tuple of str
    licence : str or None
        SPDX identifier.
    licence_text : str
        As a sentence.
    notices : str or None
        Notices that the weights have to come with.
    """

    word: str
    title: str
    trained_for: bool
    input_size: int
    percentiles: str
    made_of: Mapping[str, Any]
    provenance: Mapping[str, Any]
    scores: Mapping[str, Any]
    redrawn: bool
    authors: tuple[str, ...]
    licence: str | None
    licence_text: str
    notices: str | None


def gather(
    segmenter: Segmenter, word: str, authors: tuple[str, ...] = (), licence: str | None = None
) -> Facts:
    """Collect what is known.

    Parameters
    ----------
    segmenter : Segmenter
        With an adapter.
    word : str
    authors : tuple of str
        Of the adapter. Left out, those of the starter's own; of another it says that they are not
        named.
    licence : str, optional
        SPDX identifier; left out, that of the starter's own, of another none is stated.
    """
    adapter, model = segmenter.adapter, segmenter.model
    assert adapter is not None
    info = adapter.info
    own = segmenter.adapter_name == "starter" and model.name == "starter"
    known = {" ".join(one.lower().split()) for one in info.words}
    if own:
        authors, licence = authors or _STARTER_AUTHORS, licence or _STARTER_LICENCE
    entry = next((entry for entry in models() if entry.name == model.name), None)
    base = model.name if entry is None else f"{model.name} ({entry.domain}; {entry.licence})"
    text = f"{licence}." if licence else "No licence was stated when this model was exported."
    if not own:
        text += f" It contains weights of the base model {base}, whose licence holds for them."
    notice = starter_file("sam").with_name("NOTICE.md")
    return Facts(
        word=word,
        title=f"CLIP-Guided SAM for {word}",
        trained_for=not info.words or word in known or adapter.delta(word) is not None,
        input_size=model.sam.config.input_size,
        percentiles=" and ".join(f"{value:g}" for value in PERCENTILES),
        made_of={
            "base model": f"{base}, identity {model.sam.identity}",
            "CLIP": f"identity {model.clip.identity}",
            "adapter": f"{segmenter.adapter_name}, {adapter.config.kind}, "
            f"{sum(p.numel() for p in adapter.parameters()):,} parameters",
            "words of the adapter": ", ".join(info.words) or "any",
            "exported by": f"napari-clipsam {version('napari-clipsam')}",
        },
        provenance=info.provenance,
        scores=info.scores,
        redrawn=adapter.config.redrawn_concepts,
        authors=authors or ("not named",),
        licence=licence,
        licence_text=text,
        notices=notice.read_text(encoding="utf-8") if model.name == "starter" else None,
    )
