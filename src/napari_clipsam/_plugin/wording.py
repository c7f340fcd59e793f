"""What the dock says, in everyday words."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from napari_clipsam._plugin.state import Choice, Hint, ObjectRow
from napari_clipsam.session.objects import number_runs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from napari_clipsam.errors import ClipSamError
    from napari_clipsam.inference.requests import Prediction
    from napari_clipsam.session.objects import PlaneKey, SessionObject

__all__ = [
    "answer_line",
    "count",
    "duration",
    "error_hint",
    "named",
    "no_image",
    "no_match",
    "object_row",
    "only",
    "restore_hint",
    "size_title",
    "slices_of_object",
    "weak_score",
    "which_slice",
]

# A share of the median score of all objects, and the least score of all.
_WEAK, _UNSURE = 0.8, 0.3


def named(value: str) -> str:
    """A model or an adapter for people; files go by their names."""
    path = Path(value)
    shown = path.stem if path.is_absolute() else value
    return {"starter": "Starter", "default": "the model's own"}.get(shown, shown)


def only(value: str) -> tuple[Choice, ...]:
    """What is chosen, until it is known what else there is."""
    return (Choice(value, named(value)),)


def answer_line(
    word: str | None, prediction: Prediction, seconds: float, where: str, note: str = ""
) -> str:
    """One line about an answer: word, score, number of objects, time, slice."""
    parts = [word or "object"]
    if prediction.match and prediction.objects:
        scores = prediction.scores
        parts.append(f"score {sum(scores) / len(scores):.2f}")
        if prediction.target == "instances":
            parts.append(count(len(scores), "object"))
    else:
        parts.append("nothing found")
    if prediction.presence is not None:
        parts.append(f"presence {prediction.presence:.2f}")
    parts.append(_by_stage(prediction.seconds, seconds))
    parts += [part for part in (where, note) if part]
    return "   ".join(parts)


def _by_stage(stages: dict[str, float], seconds: float) -> str:
    """Seconds in all, and where they went."""
    names = {"trunk": "image", "signals": "word", "head": "both in one", "decode": "mask"}
    spent = [f"{names[k]} {v:.2f}" for k, v in stages.items() if v >= 0.005]
    return f"{seconds:.2f} s" + (f" ({', '.join(spent)})" if spent else "")


def no_match(word: str, prediction: Prediction) -> Hint:
    """What to do where a word was not found."""
    best = "" if prediction.presence is None else f" (best {prediction.presence:.2f})"
    text = f"No '{word}' found here{best}."
    if prediction.note.startswith("The model has not learnt"):
        text = f"This model has not learnt '{word}'."
    ways = (("click-one", "Click one"), ("teach", "Teach the word"))
    return Hint(f"{text} Click one to show me, or teach the word.", ways)


def no_image() -> Hint:
    """What to do without an image."""
    return Hint("Open an image, or try a sample.")


def restore_hint(lost: str) -> Hint:
    """What to do about a session that was cut off."""
    return Hint(
        f"The last session was cut off ({lost}). Restore what it held?",
        (("restore", "Restore"), ("discard", "Discard")),
    )


def error_hint(error: ClipSamError) -> Hint:
    """An error in one line, the cause behind "Details"."""
    cause = error.__cause__
    details = "" if cause is None else f"{type(cause).__name__}: {cause}"
    return Hint(str(error), is_error=True, details=details)


def weak_score(objects: Iterable[SessionObject]) -> float:
    """Below it an object counts as weak: clearly less sure than most, or than chance."""
    scores = [one.score for one in objects]
    return max(_UNSURE, _WEAK * median(scores)) if scores else _UNSURE


def object_row(one: SessionObject, pixel: float | None, weak_below: float) -> ObjectRow:
    """A row of the list; `pixel` is the area or volume of one, None where nobody knows."""
    size = one.pixels * (pixel or 1)
    size_words = f"{size:.0f}" if pixel in (None, 1.0) or size >= 1000 else f"{size:.4g}"
    weak = one.score < weak_below
    return ObjectRow(
        one.key, one.label, one.word or "", one.score, slices_of_object(one), size_words, weak
    )


def size_title(unit: str | None, in_depth: bool) -> str:
    """Head of the size column."""
    short = {"micrometer": "µm", "nanometer": "nm", "millimeter": "mm"}.get(unit or "", unit)
    if short is None or short == "pixel":
        return "voxels" if in_depth else "pixels"
    return f"volume/{short}³" if in_depth else f"area/{short}²"


def slices_of_object(one: SessionObject) -> str:
    """The slices an object lies in: "7", "10-14", "3, 7-9"; with more axes, how many."""
    keys = sorted(one.masks, key=_held)
    held = [_held(key) for key in keys]
    if not held or not held[0]:
        return ""
    if len({h[:-1] for h in held}) > 1:
        return count(len(held), "slice")
    return ", ".join(number_runs(h[-1] for h in held))


def which_slice(key: PlaneKey, shape: Sequence[int]) -> str:
    """Where a plane lies: "slice 12/60" (counted from 0, as napari's sliders do)."""
    held = [(k, n) for k, n in zip(key, shape, strict=True) if k is not None and n > 1]
    return "slice " + ", ".join(f"{k}/{n - 1}" for k, n in held) if held else ""


def duration(seconds: float) -> str:
    """A time in words: "8 s", "3 min", "2 h"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def count(number: int, noun: str) -> str:
    """A number and its noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _held(key: PlaneKey) -> tuple[int, ...]:
    return tuple(k for k in key if k is not None)
