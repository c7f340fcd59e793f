"""What the Segment dock shows and what it can ask for: frozen values and one contract, no Qt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from psygnal import SignalInstance

__all__ = [
    "Choice",
    "Controls",
    "DockState",
    "ExportKind",
    "Hint",
    "ObjectRow",
    "Progress",
    "Target",
    "Tool",
]

ExportKind = Literal["tiff", "ome-zarr", "csv", "coco"]
Target = Literal["concept", "instances", "object"]
Tool = Literal["", "point+", "point-", "box", "lasso", "scribble"]


@dataclass(frozen=True)
class Choice:
    """One entry of a drop-down: its value, and the words for it.

    `enabled` is False for what is known but cannot be used yet, such as a model that is not
    installed; `why` then says what to do.
    """

    value: str
    text: str
    enabled: bool = True
    why: str = ""


@dataclass(frozen=True)
class Hint:
    """One line that says what to do, with buttons that do it: (action, words) pairs."""

    text: str
    actions: tuple[tuple[str, str], ...] = ()
    is_error: bool = False
    details: str = ""


@dataclass(frozen=True)
class Progress:
    """A long job: its words, and how far it is; `total` 0 while nobody knows."""

    text: str
    done: int = 0
    total: int = 0
    can_stop: bool = True


@dataclass(frozen=True)
class ObjectRow:
    """One object in the list."""

    key: str
    label: int
    word: str
    score: float
    slices: str
    size: str
    is_weak: bool = False


@dataclass(frozen=True)
class DockState:
    """Everything the dock shows.

    Attributes
    ----------
    images, image : choices of image layers, and the chosen one's name ("" without any)
    channels, channel : how the layer's channels become grey or colours
    models, model, adapters, adapter
    device : str
        For people, "CPU" or "NVIDIA H100"; "" until the model is loaded.
    word, history, known_words
        The word in the field, former words (latest first), and what the adapter has learnt.
    target : {"concept", "instances", "object"}
        All of it, every one, just this one.
    tool : str
        The active prompt tool, "" when none is.
    answer : str
        The last answer in words.
    hint : Hint or None
        What to do next, shown above the answer.
    keep_into, label_layers
        Labels layer that "Keep" writes to; "" stands for a new one.
    overwrite : bool
        Whether "Keep" may replace pixels of other objects.
    undo_text, redo_text : str
        What the buttons would do; "" when they can do nothing.
    word_wanted : int
        Grows when the user asks for the word field by its key; the dock goes there then.
    file_wanted : int
        Grows when the user wants the stack's labels in a file; the dock asks where then.
    stack_axis : str
        Name of the axis that slices are numbered along.
    z_extent : int
        Slices along the axis of the stack; 0 without a stack.
    z_range : (int, int)
        First and last slice (inclusive) for stack and propagation.
    estimate : str
        How long the stack would take, in words; "" when unknown.
    busy : Progress or None
    objects, selected
        Kept objects, and the key of the one that is open ("" without one).
    size_title : str
        Head of the size column with its unit, "area/µm²".
    samples : choices of sample data, shown while there is no image
    """

    images: tuple[Choice, ...] = ()
    image: str = ""
    channels: tuple[Choice, ...] = ()
    channel: str = ""
    models: tuple[Choice, ...] = ()
    model: str = "starter"
    adapters: tuple[Choice, ...] = ()
    adapter: str = "default"
    device: str = ""
    word: str = ""
    history: tuple[str, ...] = ()
    known_words: tuple[str, ...] = ()
    target: Target = "concept"
    tool: Tool = ""
    answer: str = ""
    hint: Hint | None = None
    can_keep: bool = False
    can_clear: bool = False
    undo_text: str = ""
    redo_text: str = ""
    keep_into: str = ""
    label_layers: tuple[Choice, ...] = ()
    overwrite: bool = False
    word_wanted: int = 0
    file_wanted: int = 0
    stack_axis: str = "z"
    z_extent: int = 0
    z_range: tuple[int, int] = (0, 0)
    estimate: str = ""
    can_propagate: bool = False
    busy: Progress | None = None
    objects: tuple[ObjectRow, ...] = ()
    selected: str = ""
    size_title: str = "area/px"
    samples: tuple[Choice, ...] = ()


class Controls(Protocol):
    """What the dock may ask for; every call returns at once, the answer is a new state."""

    state: DockState

    @property
    def changed(self) -> SignalInstance:
        """Emitted on the main thread with each new `DockState`."""
        ...

    def set_image(self, name: str) -> None: ...
    def set_channel(self, value: str) -> None: ...
    def set_model(self, name: str) -> None: ...
    def set_adapter(self, name: str) -> None: ...
    def want_word(self) -> None: ...
    def find(self, word: str) -> None: ...
    def set_target(self, target: Target) -> None: ...
    def set_tool(self, tool: Tool) -> None: ...
    def prompt_from_labels(self) -> None: ...
    def keep(self) -> None: ...
    def clear(self) -> None: ...
    def undo(self) -> None: ...
    def redo(self) -> None: ...
    def set_keep_into(self, name: str) -> None: ...
    def set_overwrite(self, overwrite: bool) -> None: ...
    def set_z_range(self, first: int, last: int) -> None: ...
    def segment_stack(self) -> None: ...
    def segment_into(self, path: Path) -> None: ...
    def segment_folder(self, images: Sequence[Path], output: Path) -> None: ...
    def propagate(self) -> None: ...
    def stop(self) -> None: ...
    def open_object(self, key: str) -> None: ...
    def delete_object(self, key: str) -> None: ...
    def next_weak(self) -> None: ...
    def act(self, action: str) -> None:
        """Do what a button of the hint says."""
        ...

    def open_sample(self, value: str) -> None: ...
    def save_project(self, folder: Path) -> None: ...
    def open_project(self, folder: Path) -> None: ...
    def replay(self) -> None: ...
    def export(self, kind: ExportKind, path: Path) -> None: ...
    def close(self) -> None:
        """Let go of everything; may be called twice."""
        ...
