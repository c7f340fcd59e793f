"""What registry and adapter files say, as entries of the library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from napari_clipsam._plugin.library_state import Answering, Entry

if TYPE_CHECKING:
    from pathlib import Path

    from napari_clipsam._plugin.library_owners import Owners
    from napari_clipsam.adapters.files import AdapterHeader
    from napari_clipsam.errors import ClipSamError
    from napari_clipsam.models.registry import ModelEntry

__all__ = [
    "adapter_entry",
    "broken_adapter",
    "key_of",
    "model_entry",
    "starter_adapter",
    "word_entries",
]

#: The model, the CLIP and the adapter that ship with the package.
STARTER = "starter"
_PACKAGED = "The starter belongs to the package and stays."
_LICENCE = "BSD-3-Clause"
_SHOWN_WORDS = 4
_MEASURES = {"dice": "Dice", "iou": "IoU"}
_MEANING = "overlap with labels that it never learnt from{where}, {was}; 1 is perfect"
_ORIGINS = {
    "publisher": "as its publisher states it",
    "first download": "as it was when it was first downloaded",
    "import": "as it was when it was imported",
}
#: Parts of how an adapter was made that say nothing to people.
_INNER = ("settings", "share")


def model_entry(found: ModelEntry, folder: Path, identity: str, begun: int = 0) -> Entry:
    """A SAM or a CLIP.

    Parameters
    ----------
    found : ModelEntry
    folder : Path
        Where the plugin's own copies of models are.
    identity : str
        Of its weights, "" while nobody knows it.
    begun : int
        Bytes that a download which was stopped has left.
    """
    is_clip = found.kind == "clip"
    file = found.file if found.installed else None
    known = found.checksum
    digest = found.sha256 if known is None or found.sha256 != known.value else ""
    return Entry(
        key=f"{found.kind}:{found.name}",
        kind=found.kind,
        name=found.name,
        sets=_setting(found.name, is_clip),
        is_here=found.installed,
        can_get=found.source is not None,
        begun=0 if found.installed else begun,
        size=None if found.size_mb is None else round(found.size_mb * 1e6),
        licence=found.licence,
        made_for=found.domain,
        file=file,
        kept=_kept(found.name, file, folder),
        facts=_named(
            ("architecture", found.architecture),
            ("checksum", "" if known is None else f"{known}, {_ORIGINS[known.origin]}"),
            ("sha256 of the file", digest or ""),
            ("address", " or ".join(found.sources)),
            ("identity", identity),
        ),
    )


def starter_adapter(path: Path, header: AdapterHeader) -> Entry:
    """The adapter that ships with the package."""
    score, score_tip = _score(header.info.scores)
    return Entry(
        key=f"adapter:{STARTER}",
        kind="adapter",
        name=STARTER,
        sets=Answering(STARTER, "default", STARTER),
        size=header.size,
        licence=_LICENCE,
        made_for=_made_for(header.info.words),
        score=score,
        score_tip=score_tip,
        file=path,
        kept=_PACKAGED,
        facts=_adapter_facts(header, STARTER, STARTER),
    )


def key_of(adapter: Path) -> str:
    """Key of a user's adapter, by its file."""
    return f"adapter:{adapter}"


def adapter_entry(path: Path, header: AdapterHeader, sams: Owners, clips: Owners) -> Entry:
    """An adapter of the user's, and what it belongs to."""
    info = header.info
    model, no_model = sams.find(info.base_identity, str(info.provenance.get("model", "")))
    clip, no_clip = clips.find(info.clip_identity)
    score, score_tip = _score(info.scores)
    return Entry(
        key=key_of(path),
        kind="adapter",
        name=path.stem,
        sets=Answering(model, str(path), clip),
        size=header.size,
        licence=str(info.provenance.get("licence", "")),
        made_for=_made_for(info.words),
        score=score,
        score_tip=score_tip,
        file=path,
        missing=no_model or no_clip,
        facts=_adapter_facts(header, model, clip),
    )


def broken_adapter(path: Path, error: ClipSamError) -> Entry:
    """A file in the folder of adapters that is none, or none any more."""
    return Entry(
        key=key_of(path),
        kind="adapter",
        name=path.stem,
        size=path.stat().st_size if path.is_file() else None,
        file=path,
        missing=str(error),
        kept="This plugin cannot tell whose file that is. Delete it in its folder.",
    )


def word_entries(adapter: Entry, words: tuple[str, ...]) -> list[Entry]:
    """The words that an adapter knows."""
    return [
        Entry(
            key=f"word:{word}@{adapter.key}",
            kind="word",
            name=word,
            sets=adapter.sets,
            licence=adapter.licence,
            made_for=adapter.name,
            score=adapter.score,
            score_tip=adapter.score_tip,
            file=adapter.file,
            missing=adapter.missing,
            kept="A word belongs to its adapter. Delete that instead.",
            facts=_named(("known by", f"adapter {adapter.name}"), *adapter.facts),
        )
        for word in sorted(words)
    ]


def _setting(name: str, is_clip: bool) -> Answering:
    """What answers with a model; the starter is of one piece."""
    if is_clip:
        return Answering("", "default", name)
    return Answering(name, "default", STARTER if name == STARTER else "")


def _kept(name: str, file: Path | None, folder: Path) -> str:
    if name == STARTER:
        return _PACKAGED
    if file is not None and not file.is_relative_to(folder):
        return f"The file {file} is not the plugin's own copy. Delete it where it is."
    return ""


def _made_for(words: tuple[str, ...]) -> str:
    shown, more = ", ".join(words[:_SHOWN_WORDS]), len(words) - _SHOWN_WORDS
    return f"{shown} and {more} more" if more > 0 else shown or "any word"


def _score(scores: Mapping[str, Any]) -> tuple[str, str]:
    """Held-out scores in short, and what they mean."""
    before, after = scores.get("before"), scores.get("after", scores.get("validation"))
    if not isinstance(after, Mapping):
        return "", ""
    before = before if isinstance(before, Mapping) else {}
    shown = [
        f"{title} {_from_to(before.get(name), after[name])}"
        for name, title in _MEASURES.items()
        if isinstance(after.get(name), int | float)
    ]
    where = f" ({scores['tested_on']})" if scores.get("tested_on") else ""
    was = "before and after it was taught" if before else "measured when it was made"
    return ", ".join(shown), _MEANING.format(where=where, was=was) if shown else ""


def _from_to(before: object, after: float) -> str:
    start = f"{before:.2f} → " if isinstance(before, int | float) else ""
    return f"{start}{after:.2f}"


def _adapter_facts(header: AdapterHeader, model: str, clip: str) -> tuple[tuple[str, str], ...]:
    info = header.info
    made = {name: value for name, value in info.provenance.items() if name not in _INNER}
    return _named(
        ("words", ", ".join(info.words)),
        ("no match below", "" if info.threshold is None else f"presence {info.threshold:.2f}"),
        ("belongs to model", f"{model or 'not on this computer'} ({info.base_identity})"),
        ("and CLIP", f"{clip or 'not on this computer'} ({info.clip_identity})"),
        *((name.replace("_", " "), _plain(value)) for name, value in made.items()),
    )


def _plain(value: Any) -> str:
    """A value of a JSON header in words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(inner) for inner in value)
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def _named(*facts: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    """Facts that say something."""
    return tuple((name, value) for name, value in facts if value)
