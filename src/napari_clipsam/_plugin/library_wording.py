"""What the Library dock says, in everyday words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_clipsam._machine import size_text
from napari_clipsam._plugin.library_state import Entry, Kind, Offer, Row
from napari_clipsam._plugin.state import Hint, Progress
from napari_clipsam._plugin.teach_wording import time_needed

if TYPE_CHECKING:
    from napari_clipsam._plugin.library_state import LibraryState

__all__ = [
    "KIND_WORDS",
    "arrived",
    "arriving",
    "ask_delete",
    "delete_offer",
    "deleted",
    "details",
    "empty",
    "get_offer",
    "matches",
    "row",
    "show_offer",
    "taken_in",
    "use_offer",
    "used",
]

#: A kind in one word, as the list has it.
KIND_WORDS: dict[Kind, str] = {
    "sam": "model",
    "clip": "CLIP",
    "adapter": "adapter",
    "word": "word",
}
_IN_USE, _HERE, _NOT_HERE, _UNUSABLE = "in use", "yes", "no", "unusable"
_COMING, _BEGUN = "coming", "begun"
_PICK = "Select a line of the list first."
_ASKED = (("delete", "Delete it"), ("keep", "Keep it"))
_STEPS = 1000  # of a progress bar, which cannot count the bytes of a large file


def row(entry: Entry, is_arriving: bool, is_in_use: bool) -> Row:
    """An entry as a line of the list."""
    status = _HERE if entry.is_here else _NOT_HERE
    if is_arriving:
        status = _COMING
    elif entry.begun:
        status = _BEGUN
    elif is_in_use:
        status = _IN_USE
    elif entry.is_here and entry.missing:
        status = _UNUSABLE
    return Row(
        entry.key,
        entry.name,
        KIND_WORDS[entry.kind],
        status,
        "" if entry.size is None else size_text(entry.size),
        entry.licence,
        entry.made_for,
        entry.score,
        entry.score_tip,
        entry.size or 0,
    )


def matches(entry: Entry, kind: str, wanted: str) -> bool:
    """Whether an entry is of a kind and holds all words that somebody typed."""
    if (kind == "here" and not entry.is_here) or kind not in ("", "here", entry.kind):
        return False
    text = " ".join((entry.name, KIND_WORDS[entry.kind], entry.made_for, entry.licence)).lower()
    return all(word in text for word in wanted.lower().split())


def details(entry: Entry | None, is_in_use: bool) -> str:
    """All that is known of an entry, a fact in each line."""
    if entry is None:
        return ""
    where = "not on this computer" if entry.file is None else str(entry.file)
    used = " (in use)" if is_in_use else ""
    lines = [
        ("", f"{entry.name}, {_long_kind(entry.kind)}{used}"),
        ("cannot be used", entry.missing),
        ("made for", entry.made_for),
        ("score", ": ".join(part for part in (entry.score, entry.score_tip) if part)),
        ("size", "" if entry.size is None else size_text(entry.size)),
        ("licence", entry.licence),
        *entry.facts,
        ("begun", f"{size_text(entry.begun)} are here, Get goes on" if entry.begun else ""),
        ("file", where),
    ]
    return "\n".join(f"{name}: {value}" if name else value for name, value in lines if value)


def get_offer(entry: Entry | None, is_arriving: bool) -> Offer:
    """Whether something can be downloaded."""
    if entry is None:
        return Offer(tip=_PICK)
    if is_arriving:
        return Offer(tip=f"{entry.name} is on its way.")
    if entry.is_here:
        return Offer(tip=f"{entry.name} is on this computer already.")
    if not entry.can_get:
        return Offer(tip=f"Nobody knows where to get {entry.name}. Import its file.")
    size = "" if entry.size is None else f" ({size_text(entry.size)})"
    if entry.begun:
        return Offer(True, f"Go on with {entry.name}{size}; {size_text(entry.begun)} are here")
    return Offer(True, f"Download {entry.name}{size}")


def use_offer(entry: Entry | None, is_in_use: bool) -> Offer:
    """Whether something can answer in the Segment dock."""
    if entry is None:
        return Offer(tip=_PICK)
    if not entry.is_here:
        way = "Get it" if entry.can_get else "Import its file"
        return Offer(tip=f"{entry.name} is not on this computer. {way} first.")
    if entry.missing:
        return Offer(tip=entry.missing)
    if entry.kind == "word":
        return Offer(True, f"Look for {entry.name} in the Segment dock, with {entry.made_for}")
    if is_in_use:
        return Offer(tip=f"{entry.name} answers in the Segment dock already.")
    return Offer(True, f"Let {entry.name} answer in the Segment dock")


def show_offer(entry: Entry | None) -> Offer:
    """Whether there is a file to show."""
    if entry is None:
        return Offer(tip=_PICK)
    if entry.file is None:
        return Offer(tip=f"{entry.name} has no file on this computer.")
    return Offer(True, f"Open the folder that holds {entry.file.name}")


def delete_offer(entry: Entry | None, is_in_use: bool, is_arriving: bool) -> Offer:
    """Whether something can be deleted."""
    if entry is None:
        return Offer(tip=_PICK)
    if is_arriving:
        return Offer(tip=f"{entry.name} is on its way. Stop that first.")
    if entry.kept:
        return Offer(tip=entry.kept)
    if entry.begun:
        return Offer(True, f"Delete what has come of {entry.name}; asks first")
    if not entry.is_here:
        return Offer(tip=f"{entry.name} is not on this computer.")
    if is_in_use:
        return Offer(tip=f"{entry.name} is in use. Use another one first.")
    return Offer(True, f"Delete {entry.name} from this computer; asks first")


def arriving(
    name: str, done: int, total: int | None, seconds_left: float | None, former: Progress
) -> Progress:
    """How far a download is; one that knew its size and does not any more is all here."""
    here = size_text(done)
    if not total and not former.total:
        return Progress(f"{name}: {here}" if done else former.text)
    if not total or done >= total:
        return Progress(f"{name}: checking it", _STEPS, _STEPS)
    left = "" if seconds_left is None else f", {time_needed(seconds_left)} left"
    text = f"{name}: {here} of {size_text(total)}{left}"
    return Progress(text, done * _STEPS // total, _STEPS)


def arrived(name: str) -> Hint:
    """What to say once something was downloaded."""
    return Hint(f"{name} is on this computer now, whole and checked.")


def taken_in(name: str) -> Hint:
    """What to say once a file was imported."""
    return Hint(f"{name} was imported: a copy is kept, the file itself stays as it is.")


def used(entry: Entry, former_adapter: str) -> Hint:
    """What to say once something answers."""
    if entry.kind in ("sam", "clip") and former_adapter.endswith(".safetensors"):
        return Hint(
            f"{entry.name} answers in the Segment dock from now on. The adapter that was in use "
            "belongs to another one, so it was put aside."
        )
    return Hint(f"{entry.name} answers in the Segment dock from now on.")


def ask_delete(entry: Entry) -> Hint:
    """The one question before something is deleted."""
    if entry.begun:
        part = f"the {size_text(entry.begun)} that have come of {entry.name}"
        return Hint(f"Delete {part}? You can get it again.", _ASKED)
    size = "" if entry.size is None else f" ({size_text(entry.size)})"
    after = "You can get it again." if entry.can_get else "It cannot be brought back."
    return Hint(
        f"Delete {KIND_WORDS[entry.kind]} {entry.name}{size} from this computer? {after}", _ASKED
    )


def deleted(name: str) -> Hint:
    """What to say once something was deleted."""
    return Hint(f"{name} was deleted.")


def empty(state: LibraryState) -> str:
    """What to say instead of an empty list; "" where it is not empty, or not read yet."""
    if state.rows or not state.n_rows:
        return ""
    if state.wanted.strip():
        return f"Nothing here holds '{state.wanted.strip()}'."
    return "There is nothing of this kind yet."


def _long_kind(kind: Kind) -> str:
    return {
        "sam": "model (SAM)",
        "clip": "CLIP, which reads words",
        "adapter": "adapter",
        "word": "word",
    }[kind]
