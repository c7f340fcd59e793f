"""The words of the recipe: concepts with their synonyms, modalities, templates, absent terms."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

__all__ = [
    "ABSENT",
    "CONCEPTS",
    "MODALITIES",
    "MODALITY_TEMPLATES",
    "TEMPLATES",
    "absent_concepts",
    "absent_phrases",
    "absent_terms",
    "canonical",
    "phrase",
    "related",
    "vocabulary_phrases",
]

_WORDS = json.loads(Path(__file__).with_suffix(".json").read_text())


def _lists(name: str) -> dict[str, tuple[str, ...]]:
    return {key: tuple(words) for key, words in _WORDS[name].items()}


# Canonical concept -> what a biologist would type for it; the first is the usual word.
CONCEPTS = _lists("concepts")
MODALITIES = _lists("modalities")
TEMPLATES: tuple[str, ...] = tuple(_WORDS["templates"])
# With a concept and a modality.
MODALITY_TEMPLATES: tuple[str, ...] = tuple(_WORDS["modality_templates"])
# Words for things that are in none of the images. "train" may be used while learning, "eval" only
# for measuring; the two share no word.
ABSENT = _lists("absent")
# Labels that only evaluation has: never trained on, present or absent, but the tokens must exist.
_EVALUATION_ONLY: tuple[str, ...] = tuple(_WORDS["evaluation_only"])
# Not learnt either: words users bring when they fine-tune, for a cut vocabulary to hold.
_USERS_WORDS: tuple[str, ...] = tuple(_WORDS["users_words"])

# Seen beside the key, the values may not be called absent: they name the same thing, a part of it,
# the whole of it, or something that looks too much alike. Directed.
_RELATED: dict[str, frozenset[str]] = {
    "nuclei": frozenset({"cells"}),
    "cells": frozenset(
        {
            "nuclei",
            "red blood cells",
            "white blood cells",
            "platelets",
            "bacteria",
            "yeast",
            "membranes",
        }
    ),
    "red blood cells": frozenset({"cells"}),
    "white blood cells": frozenset({"cells", "nuclei"}),
    "platelets": frozenset({"cells", "spots"}),
    "filaments": frozenset({"membranes", "mitochondria"}),
    "membranes": frozenset({"cells", "filaments"}),
    "spots": frozenset({"vesicles", "platelets", "mitochondria", "bacteria"}),
    "mitochondria": frozenset({"vesicles", "spots", "filaments", "bacteria"}),
    "vesicles": frozenset({"spots", "mitochondria", "cells", "yeast"}),
    "bacteria": frozenset({"cells", "mitochondria"}),
    "yeast": frozenset({"cells", "vesicles"}),
}
# Absent terms that some concept can pass for.
_TERM_RELATED: dict[str, frozenset[str]] = {
    "muscle fibers": frozenset({"filaments"}),
    "collagen": frozenset({"filaments"}),
    "axons": frozenset({"filaments", "membranes"}),
    "hyphae": frozenset({"filaments", "yeast"}),
    "hair": frozenset({"filaments"}),
    "cilia": frozenset({"filaments"}),
    "cotton": frozenset({"filaments"}),
    "blood vessels": frozenset({"filaments", "membranes", "red blood cells"}),
    "spores": frozenset({"yeast", "spots", "bacteria"}),
    "oocytes": frozenset({"cells"}),
    "eggs": frozenset({"cells"}),
    "embryos": frozenset({"cells"}),
    "amoebae": frozenset({"cells"}),
    "ciliates": frozenset({"cells"}),
    "algae": frozenset({"cells", "yeast"}),
    "dendritic spines": frozenset({"spots", "filaments"}),
    "air bubbles": frozenset({"vesicles"}),
}
_TISSUE_TERMS = frozenset(
    {"collagen", "blood vessels", "cartilage", "villi", "glomeruli", "muscle fibers", "bone"}
    | {"kidney tubules"}
)

_CANONICAL = {word.lower(): name for name, words in CONCEPTS.items() for word in words}


def canonical(text: str) -> str:
    """Return the canonical concept that a word or synonym names.

    Raises
    ------
    KeyError
        For a word that is no synonym of a known concept.
    """
    key = text.strip().lower()
    if key not in _CANONICAL:
        raise KeyError(f"'{text}' names no concept of the recipe; add it to starter.phrases")
    return _CANONICAL[key]


def related(concept: str) -> frozenset[str]:
    """Return the concepts that may not be called absent where `concept` is visible."""
    return _RELATED[concept]


def phrase(concept: str, rng: np.random.Generator, modality: str | None = None) -> str:
    """Draw a text for a concept: half the time a bare synonym, else a template around one.

    Parameters
    ----------
    concept : str
        Canonical concept.
    rng : numpy Generator
    modality : str, optional
        A key of `MODALITIES`; some texts then name it too.
    """
    return _dress(str(rng.choice(CONCEPTS[concept])), rng, modality)


def _dress(word: str, rng: np.random.Generator, modality: str | None) -> str:
    draw = rng.random()
    if draw < 0.5:
        return word
    if modality is not None and draw > 0.85:
        named = str(rng.choice(MODALITIES[modality]))
        return str(rng.choice(MODALITY_TEMPLATES)).format(word, named)
    return str(rng.choice(TEMPLATES)).format(word)


def _excluded(visible: Collection[str], unlabelled: Collection[str]) -> set[str]:
    excluded = set(visible) | set(unlabelled)
    for concept in visible:
        excluded |= _RELATED[concept]
    return excluded


def absent_concepts(visible: Collection[str], unlabelled: Collection[str]) -> list[str]:
    """Return the canonical concepts that can safely be called absent, in the order of `CONCEPTS`.

    Parameters
    ----------
    visible : collection of str
        The labelled concepts of an image.
    unlabelled : collection of str
        Concepts that may be visible in it without a label.
    """
    excluded = _excluded(visible, unlabelled)
    return [concept for concept in CONCEPTS if concept not in excluded]


def absent_terms(
    visible: Collection[str], unlabelled: Collection[str], split: str, modality: str
) -> list[str]:
    """Return the terms of `ABSENT[split]` that nothing in the image can pass for."""
    seen = set(visible) | set(unlabelled)
    return [
        term
        for term in ABSENT[split]
        if not _TERM_RELATED.get(term, frozenset()) & seen
        and not (modality == "histology" and term in _TISSUE_TERMS)
    ]


def absent_phrases(
    visible: Collection[str],
    unlabelled: Collection[str],
    rng: np.random.Generator,
    *,
    n: int = 1,
    split: str = "train",
    modality: str = "",
) -> list[str]:
    """Draw texts for things that are not in an image.

    Two draws of three name another known concept, the third an unseen term.

    Parameters
    ----------
    visible, unlabelled : collections of str
        Canonical concepts, as in `absent_concepts`.
    rng : numpy Generator
    n : int
        How many.
    split : "train" or "eval"
        Whose terms.
    modality : str
        Of the image; tissue terms are not used on histology.

    Returns
    -------
    list of str
    """
    concepts = absent_concepts(visible, unlabelled)
    terms = absent_terms(visible, unlabelled, split, modality)
    texts = []
    for _ in range(n):
        if concepts and rng.random() < 2 / 3:
            texts.append(phrase(str(rng.choice(concepts)), rng))
        else:
            texts.append(_dress(str(rng.choice(terms)), rng, None))
    return texts


def _words() -> Iterator[str]:
    for words in (*CONCEPTS.values(), *ABSENT.values()):
        yield from words
    yield from _EVALUATION_ONLY


def vocabulary_phrases() -> list[str]:
    """Return every text the recipe can produce, sorted, and words kept for fine-tuning.

    A token table cut to these texts knows everything that was learnt or measured.
    """
    texts = set(_USERS_WORDS)
    modalities = [text for texts_of in MODALITIES.values() for text in texts_of]
    texts.update(modalities)
    for word in _words():
        texts.update(template.format(word) for template in TEMPLATES)
        texts.update(t.format(word, m) for t in MODALITY_TEMPLATES for m in modalities)
    return sorted(texts)
