"""What the Teach dock shows and what it can ask for: frozen values and one contract, no Qt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

from napari_clipsam._plugin.state import Choice, Hint, Progress

if TYPE_CHECKING:
    from psygnal import SignalInstance

    from napari_clipsam.training.settings import Goal

__all__ = ["BUDGETS", "BY_STEPS", "Curve", "TeachControls", "TeachState", "View"]

View = Literal["", "before", "after"]
#: The budget that is counted in steps.
BY_STEPS = "steps"
#: Minutes to learn for, or a number of steps.
BUDGETS = (
    Choice("1", "1 min"),
    Choice("3", "3 min"),
    Choice("10", "10 min"),
    Choice("30", "30 min"),
    Choice(BY_STEPS, "steps"),
)
# Points of a line beyond which neighbours become one: a plot shows no more.
_MOST_POINTS = 400


@dataclass(frozen=True)
class Curve:
    """How learning went: points (seconds, value).

    Attributes
    ----------
    scores : tuple of (float, float)
        Held-out scores, the one before learning first.
    losses : tuple of (float, float)
        How far what is learnt is from the labels; lower is better.
    """

    scores: tuple[tuple[float, float], ...] = ()
    losses: tuple[tuple[float, float], ...] = ()

    def with_score(self, seconds: float, score: float) -> Curve:
        """The same with one more score."""
        return replace(self, scores=(*self.scores, (seconds, score)))

    def with_loss(self, seconds: float, loss: float) -> Curve:
        """The same with one more loss; neighbours are joined where there are very many."""
        losses = self.losses
        if len(losses) >= _MOST_POINTS:
            pairs = zip(losses[::2], losses[1::2], strict=False)
            losses = tuple(((a + c) / 2, (b + d) / 2) for (a, b), (c, d) in pairs)
        return replace(self, losses=(*losses, (seconds, loss)))


@dataclass(frozen=True)
class TeachState:
    """Everything the dock shows.

    Attributes
    ----------
    images, image : choices of image layers, and the chosen one's name ("" without any)
    label_layers, labels : choices of labels layers, and the chosen one's name
    words : str
        What the user typed, several words for one structure apart by commas.
    words_given : int
        Grows when the words came from elsewhere; the dock shows them then even in a field that
        has the focus.
    history, known_words
        Former words (latest first), and what the adapter has learnt.
    goal : {"concept", "object", "both"}
        All of it, each one, or both.
    slices : str
        Labelled slices to learn from, those tested on among them: "3, 7, 9~".
    tested_on : str
        In words: "12", or "a quarter of this image".
    tested_edit : str
        The same as the user may edit it.
    is_stack : bool
        Whether there are slices to choose from.
    slices_note : str
        What is to be known about the slices; "" for nothing.
    is_chosen : bool
        Whether the slices are the user's choice, not what was found.
    budgets, budget, steps
        Choices of time, the chosen one, and the number of steps for the one in steps.
    estimate : str
        Time and memory in words; "" while they are not known.
    can_teach : bool
    busy : Progress or None
        What goes on before learning itself: reading, loading.
    learning : Progress or None
    curve : Curve
    score : str
        Held-out score in words, "Dice 0.41 → 0.78"; "" before there is one.
    score_tip : str
        What that means.
    view : {"", "before", "after"}
        Which answer on the held-out slice is shown in the viewer.
    views : tuple of str
        Those there are.
    view_on : str
        Which slice that is: "slice 12".
    saved : str
        How the result is kept: "Saved as ..."; "" before there is one.
    saved_tip : str
        Where, and how it was made.
    can_use, can_roll_back, can_save, can_go_on : bool
    can_segment : bool
        Whether what was learnt is in use and there is a stack to find it in.
    next_slice : str
        What to label next, in words.
    can_go, has_next : bool
        Whether that is a slice to go to, and whether there is one after it.
    hint : Hint or None
    """

    images: tuple[Choice, ...] = ()
    image: str = ""
    label_layers: tuple[Choice, ...] = ()
    labels: str = ""
    words: str = ""
    words_given: int = 0
    history: tuple[str, ...] = ()
    known_words: tuple[str, ...] = ()
    goal: Goal = "concept"
    slices: str = ""
    tested_on: str = ""
    tested_edit: str = ""
    is_stack: bool = False
    slices_note: str = ""
    is_chosen: bool = False
    budgets: tuple[Choice, ...] = BUDGETS
    budget: str = "3"
    steps: int = 300
    estimate: str = ""
    can_teach: bool = False
    busy: Progress | None = None
    learning: Progress | None = None
    curve: Curve = Curve()
    score: str = ""
    score_tip: str = ""
    view: View = ""
    views: tuple[View, ...] = ()
    view_on: str = ""
    saved: str = ""
    saved_tip: str = ""
    can_use: bool = False
    can_roll_back: bool = False
    can_save: bool = False
    can_go_on: bool = False
    can_segment: bool = False
    next_slice: str = ""
    can_go: bool = False
    has_next: bool = False
    hint: Hint | None = None


class TeachControls(Protocol):
    """What the dock may ask for; every call returns at once, the answer is a new state."""

    state: TeachState

    @property
    def changed(self) -> SignalInstance:
        """Emitted on the main thread with each new `TeachState`."""
        ...

    def set_image(self, name: str) -> None: ...
    def set_labels(self, name: str) -> None: ...
    def set_words(self, text: str) -> None: ...
    def set_goal(self, goal: Goal) -> None: ...
    def set_slices(self, text: str) -> None: ...
    def set_tested_on(self, text: str) -> None: ...
    def choose_slices(self) -> None:
        """Let the tool choose the slices again."""
        ...

    def set_budget(self, value: str) -> None: ...
    def set_steps(self, steps: int) -> None: ...
    def teach(self) -> None: ...
    def stop(self) -> None: ...
    def go_on(self) -> None: ...
    def show_view(self, view: View) -> None: ...
    def use(self) -> None: ...
    def roll_back(self) -> None: ...
    def save_again(self) -> None: ...
    def segment_stack(self) -> None:
        """Find what was learnt in all slices, in the Segment dock."""
        ...

    def go(self) -> None: ...
    def skip(self) -> None: ...
    def act(self, action: str) -> None:
        """Do what a button of the hint says."""
        ...

    def close(self) -> None:
        """Let go of everything; may be called twice."""
        ...
