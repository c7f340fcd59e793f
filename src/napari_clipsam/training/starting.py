"""What a fine-tuning run starts from: the adapter, and the words that are not taught."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from napari_clipsam.adapters.base import AdapterConfig
from napari_clipsam.adapters.inject import Adapter, build_adapter
from napari_clipsam.errors import ConfigError
from napari_clipsam.models.clip import split_words
from napari_clipsam.models.sam import default_split

if TYPE_CHECKING:
    from napari_clipsam.models.registry import LoadedModel
    from napari_clipsam.training.settings import FitSettings

__all__ = ["absent_words", "prepare_adapter"]

#: Below so many labelled planes CLIP is tuned by LoRA (method 7.8).
FEW_PLANES = 20
#: Words no microscope image shows, for CLIPs of an open vocabulary.
_EVERYDAY = ("car", "tree", "text", "house", "human face", "street", "dog", "guitar")


def prepare_adapter(
    model: LoadedModel, start: Adapter | None, settings: FitSettings, n_planes: int
) -> Adapter:
    """Make the adapter that is trained: anew, or a copy of the one to go on from.

    Raises
    ------
    ConfigError
        The start was made by the paper's code, whose adapters know no objects and no absent words.
    AdapterError
        What is asked for does not fit the base.
    """
    tuning = settings.clip_tuning
    if tuning == "auto":
        tuning = "lora" if n_planes < FEW_PLANES else "attention"
        if not model.clip.vision_attention():
            tuning = "none"
    own = settings.goal != "concept"
    if start is None:
        depth = model.sam.config.depth
        config = AdapterConfig(
            n_conditioned=settings.n_conditioned or depth - default_split(depth),
            kind=settings.kind,
            init=settings.init,
            semantics=settings.semantics,
            clip_tuning=tuning,
            own_objects=own,
            conditioned_objects=own,
        )
        return build_adapter(config, model.sam, model.clip, settings.seed)
    if not start.config.object_mode:
        raise ConfigError(
            "An adapter of the paper's code cannot be taught further. Start from the base instead."
        )
    config = replace(
        start.config,
        semantics=settings.semantics and start.config.semantics,
        clip_tuning=tuning if start.clip_tuning is None else start.config.clip_tuning,
        own_objects=own or start.config.own_objects,
        # A decoder that never saw the new embedding gets the base's.
        conditioned_objects=own or start.config.own_objects,
        # One that knows what is taught is made in the end.
        redrawn_concepts=False,
        refiner_widths=(),
    )
    adapter = build_adapter(config, model.sam, model.clip, settings.seed)
    for word in start.taught:
        adapter.teach(word)
    state = adapter.state_dict()
    state.update({k: v for k, v in start.state_dict().items() if k in state})
    adapter.load_state_dict(state)
    adapter.info = start.info
    return adapter


def absent_words(model: LoadedModel, words: Sequence[str]) -> list[str]:
    """Words to learn what is not there with: those that have nothing in common with `words`.

    Parameters
    ----------
    model : LoadedModel
    words : sequence of str
        What is taught now, and was before. "bright nuclei" may not be told from nuclei by the
        latter's absence, so a word they share counts, too.
    """
    taught = {" ".join(word.lower().split()) for word in words}
    parts = {part for word in words for part in split_words(word)}
    known = model.clip.config.synonyms
    if not model.clip.config.words or not known:
        return [word for word in _EVERYDAY if not parts & set(split_words(word))]
    return [
        word
        for word, phrases in known.items()
        if not taught & {phrase.lower() for phrase in phrases}
        and not parts & {part for phrase in (word, *phrases) for part in split_words(phrase)}
    ]
