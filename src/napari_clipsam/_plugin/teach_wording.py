"""What the Teach dock says, in everyday words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_clipsam._machine import size_text
from napari_clipsam._plugin import wording
from napari_clipsam._plugin.state import Hint

if TYPE_CHECKING:
    from napari_clipsam._plugin.taught import Record, Unreadable
    from napari_clipsam._plugin.teach_slices import Looked
    from napari_clipsam.training.events import Estimate, TrainEvent, TrainResult
    from napari_clipsam.training.settings import Goal

__all__ = [
    "REASSURANCE",
    "can_go_on",
    "ending",
    "estimate",
    "measure_of",
    "no_labels",
    "no_words",
    "progress",
    "score",
    "score_tip",
    "slices_note",
    "stopped_early",
    "time_needed",
    "unfinished",
]

#: What people fear, answered before they ask.
REASSURANCE = (
    "You can go on working meanwhile. It cannot get worse: if nothing better is learnt, what you "
    "have now stays."
)
_MORE = "More labelled slices help most."
_MEASURES = {"concept": "Dice", "object": "IoU", "both": "Dice and IoU"}
_DOING = {"train": "learning", "refine": "learning to draw its outlines"}
_MEANINGS = {
    "Dice": "overlap with your labels on {where}, which it never learns from",
    "IoU": "overlap with your objects on {where}, after one click in each, which it never learns "
    "from",
    "Dice and IoU": "overlap with your labels on {where}, by the word and by one click in each "
    "object, which it never learns from",
}


def time_needed(seconds: float) -> str:
    """A time in words: "50 s", "2 min 40 s", "1 h 5 min"."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        minutes, rest = divmod(whole, 60)
        return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{round(whole / 60)} min"
    hours, rest = divmod(round(whole / 60), 60)
    return f"{hours} h {rest} min" if rest else f"{hours} h"


def estimate(needed: Estimate, device: str) -> str:
    """What teaching will need."""
    return (
        f"needs about {size_text(needed.memory)}, {time_needed(needed.seconds)} on "
        f"{device or 'this computer'}"
    )


def measure_of(goal: Goal) -> str:
    """What the held-out score of a goal is."""
    return _MEASURES[goal]


def score(measure: str, first: float | None, best: float | None) -> str:
    """The held-out score, before and so far."""
    if first is None:
        return ""
    now = first if best is None else best
    return f"held-out {measure}  {first:.2f} → {now:.2f}"


def score_tip(measure: str, best: float | None, where: str) -> str:
    """What the held-out score means."""
    if best is None:
        return ""
    return f"{measure} {best:.2f}: {_MEANINGS[measure].format(where=where)}; 1 is perfect"


def progress(event: TrainEvent) -> str:
    """How far learning is."""
    if event.progress >= 1:
        return "a last look at the held-out part"
    left = f"{time_needed(event.seconds_left)} left" if event.seconds_left > 0 else ""
    what = _DOING.get(event.stage, "looking at the slices")
    return ", ".join(part for part in (what, left) if part)


def slices_note(looked: Looked, is_stack: bool) -> str:
    """What is to be known about the slices."""
    if not looked.picked.numbers:
        where = "a few slices" if is_stack else "this image"
        return f"Nothing is labelled yet. Paint the structure in {where}."
    if looked.fault is not None:
        return str(looked.fault)
    return " ".join(looked.notes)


def no_words() -> Hint:
    """What to do without a word."""
    return Hint("Type what the labels show, for example mitochondria.")


def no_labels(image: str, has_labels: bool) -> Hint:
    """What to do without labels that fit."""
    if not image:
        return Hint("Open an image and labels for a few of its slices.")
    start = "No labels here have the shape of the image." if has_labels else "There are no labels."
    return Hint(
        f"{start} Make a layer, and paint the structure in a few slices.",
        (("new-labels", "New labels layer"),),
    )


def unfinished(found: Record | Unreadable, is_without_start: bool = False) -> Hint:
    """What to do about a lesson that was cut off; without its start it cannot be gone on with."""
    words = getattr(found, "words", None)
    if words is None:
        return Hint(
            f"What was kept of teaching '{found.stem}' cannot be read. Delete it?",
            (("discard", "Delete it"),),
        )
    spent = getattr(found, "spent", 0.0)
    after = f" after {time_needed(spent)}" if spent else ""
    lesson = f"Teaching '{words[0]}' ({getattr(found, 'image', '')}) was cut off{after}"
    if is_without_start:
        return Hint(
            f"{lesson}. It went on from something that was never saved, so it is lost. Teach anew.",
            (("discard", "Delete it"),),
        )
    return Hint(
        f"{lesson}. Go on with it?",
        (("go-on", "Go on"), ("discard", "Delete it")),
    )


def stopped_early(is_resumed: bool) -> Hint:
    """What to say of a lesson that was stopped before there was a result."""
    if is_resumed:
        return Hint("Stopped before more was learnt. What was learnt before is kept.")
    return Hint("Stopped before anything was learnt.")


def can_go_on(result: TrainResult) -> bool:
    """Whether a lesson was cut short, with its state kept."""
    return result.reason == "stopped" and result.resumable


def ending(result: TrainResult, seconds: float) -> Hint | None:
    """What to say about how a lesson ended; None where all went well."""
    spent, measure = wording.duration(seconds), result.measure
    if result.reason == "not finite":
        kept = "the best until then is kept" if result.improved else "what you had stays"
        return Hint(
            f"Learning broke down after {spent}, its numbers were not finite: {kept}. Teach again, "
            "or with other slices.",
            is_error=True,
        )
    if result.reason == "no memory":
        kept = "the best until then is kept" if result.improved else "what you had stays"
        return Hint(
            f"Memory ran out after {spent}: {kept}. Close other programs or images, and teach "
            "again.",
            is_error=True,
        )
    if result.reason == "budget" and not result.improved and result.facts.get("steps") == 0:
        slices = wording.count(result.facts["planes"], "slice")
        return Hint(
            f"The {spent} were used up looking at {slices}, before anything could be learnt, so "
            "what you had stays. Give it more time, or fewer slices."
        )
    if not result.improved:
        so_far = f"Nothing better than before was learnt in {spent}"
        stays = f"(held-out {measure} {result.baseline:.2f}), so what you had stays."
        more = "Go on, or label more slices." if can_go_on(result) else _MORE
        return Hint(f"{so_far} {stays} {more}")
    return None
