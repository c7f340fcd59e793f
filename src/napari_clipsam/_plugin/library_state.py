"""What the Library dock shows and what it can ask for: frozen values and one contract, no Qt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from napari_clipsam._plugin.state import Choice, Hint, Progress

if TYPE_CHECKING:
    from pathlib import Path

    from psygnal import SignalInstance

__all__ = [
    "KINDS",
    "Answering",
    "Download",
    "Entry",
    "Kind",
    "LibraryControls",
    "LibraryState",
    "Naming",
    "Offer",
    "Row",
]

Kind = Literal["sam", "clip", "adapter", "word"]
#: What the list can be narrowed down to.
KINDS = (
    Choice("", "everything"),
    Choice("here", "on this computer"),
    Choice("sam", "models (SAM)"),
    Choice("clip", "CLIPs, which read words"),
    Choice("adapter", "adapters"),
    Choice("word", "words"),
)


@dataclass(frozen=True)
class Answering:
    """What answers in a viewer; an empty name stands for what answers already.

    Attributes
    ----------
    model, adapter, clip : str
        As a `Setup` has them.
    """

    model: str = ""
    adapter: str = ""
    clip: str = ""

    def over(self, former: Answering) -> Answering:
        """The same, with empty names filled in from a former one."""
        return Answering(
            self.model or former.model, self.adapter or former.adapter, self.clip or former.clip
        )


@dataclass(frozen=True)
class Entry:
    """A model, a CLIP, an adapter, or a word that an adapter knows.

    Attributes
    ----------
    key : str
        Tells it from all others.
    kind : {"sam", "clip", "adapter", "word"}
    name : str
    sets : Answering
        What answers once it is used.
    is_here : bool
        Whether its file is on this computer.
    can_get : bool
        Whether there is an address to get it from.
    begun : int
        Bytes that a download which was stopped has left.
    size : int or None
        Of its file, bytes.
    licence, made_for : str
    score, score_tip : str
        Held-out score in short, and what it means; "" without one.
    file : Path or None
    missing : str
        Why it cannot be used although it is here; "" if it can.
    kept : str
        Why it is not to be deleted; "" if it may be.
    facts : tuple of (str, str)
        All else that is known of it: names and values.
    """

    key: str
    kind: Kind
    name: str
    sets: Answering = Answering()
    is_here: bool = True
    can_get: bool = False
    begun: int = 0
    size: int | None = None
    licence: str = ""
    made_for: str = ""
    score: str = ""
    score_tip: str = ""
    file: Path | None = None
    missing: str = ""
    kept: str = ""
    facts: tuple[tuple[str, str], ...] = ()

    def answers_in(self, now: Answering) -> bool:
        """Whether it is what answers, or a part of that."""
        pairs = {"sam": ("model",), "clip": ("clip",)}.get(self.kind, ("model", "adapter", "clip"))
        return self.is_here and all(getattr(self.sets, n) == getattr(now, n) for n in pairs)


@dataclass(frozen=True)
class Row:
    """One line of the list; `status` says whether it is here, in use, or on its way."""

    key: str
    name: str
    kind: str
    status: str
    size: str
    licence: str
    made_for: str
    score: str
    score_tip: str = ""
    size_bytes: int = 0


@dataclass(frozen=True)
class Offer:
    """A button: whether it can be pressed, and what it does or why it cannot."""

    enabled: bool = False
    tip: str = ""


@dataclass(frozen=True)
class Download:
    """Something on its way here, by the key of its entry."""

    key: str
    progress: Progress


@dataclass(frozen=True)
class Naming:
    """A model's file that needs a name, and one that could be it."""

    path: Path
    proposed: str


@dataclass(frozen=True)
class LibraryState:
    """Everything the dock shows.

    Attributes
    ----------
    kind, wanted : str
        What the list is narrowed down to: a value of `KINDS`, and words that have to occur.
    rows : tuple of Row
    n_rows : int
        How many there are without narrowing down.
    selected : str
        Key of the row whose details are shown; "" without one.
    details : str
        All that is known of it, a fact in each line.
    get, use, show_file, delete : Offer
        What can be done with it.
    downloads : tuple of Download
    busy : Progress or None
        The list, or a file, is being read.
    naming : Naming or None
    hint : Hint or None
    """

    kind: str = ""
    wanted: str = ""
    rows: tuple[Row, ...] = ()
    n_rows: int = 0
    selected: str = ""
    details: str = ""
    get: Offer = Offer()
    use: Offer = Offer()
    show_file: Offer = Offer()
    delete: Offer = Offer()
    downloads: tuple[Download, ...] = ()
    busy: Progress | None = None
    naming: Naming | None = None
    hint: Hint | None = None


class LibraryControls(Protocol):
    """What the dock may ask for; every call returns at once, the answer is a new state."""

    state: LibraryState

    @property
    def changed(self) -> SignalInstance:
        """Emitted on the main thread with each new `LibraryState`."""
        ...

    def look(self) -> None:
        """See what there is now."""
        ...

    def set_kind(self, kind: str) -> None: ...
    def set_wanted(self, text: str) -> None: ...
    def select(self, key: str) -> None: ...
    def get(self) -> None: ...
    def stop(self, key: str) -> None:
        """End a download; what has arrived is kept."""
        ...

    def import_file(self, path: Path) -> None: ...
    def import_as(self, name: str) -> None: ...
    def drop_import(self) -> None: ...
    def use(self) -> None: ...
    def show_file(self) -> None: ...
    def delete(self) -> None: ...
    def act(self, action: str) -> None:
        """Do what a button of the hint says."""
        ...

    def close(self) -> None:
        """Let go of everything; may be called twice."""
        ...
