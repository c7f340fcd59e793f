"""The shortcuts of the Segment dock: one table, none of napari's own keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_clipsam._plugin.state import Controls, Tool

__all__ = ["KEYS", "SHORTCUTS", "Shortcut", "bind", "unbind"]


@dataclass(frozen=True)
class Shortcut:
    """A key and what it does.

    Attributes
    ----------
    key : str
        As napari writes it, ``"Shift-U"``.
    action : str
        Its name, by which a button finds its key.
    words : str
        For people.
    act : callable
        Takes the `Controls` of the dock.
    """

    key: str
    action: str
    words: str
    act: Callable[[Controls], None]

    @property
    def shown(self) -> str:
        """The key for people, ``"Shift+U"``."""
        return self.key.replace("-", "+")


def _tool(name: Tool) -> Callable[[Controls], None]:
    """Take up a tool, or put it down if it is in use."""

    def act(controls: Controls) -> None:
        controls.set_tool("" if controls.state.tool == name else name)

    return act


def _from_labels(controls: Controls) -> None:
    controls.prompt_from_labels()


#: Every shortcut there is.
SHORTCUTS = (
    Shortcut("G", "point+", "Click on the object", _tool("point+")),
    Shortcut("H", "point-", "Click on what does not belong to it", _tool("point-")),
    Shortcut("J", "box", "Draw a box around the object", _tool("box")),
    Shortcut("Q", "lasso", "Draw around the object", _tool("lasso")),
    Shortcut("W", "scribble", "Scribble along the object", _tool("scribble")),
    Shortcut(
        "Shift-W", "from-labels", "Start from the selected label", lambda c: c.prompt_from_labels()
    ),
    Shortcut("Shift-G", "move", "Let the mouse move the view again", lambda c: c.set_tool("")),
    Shortcut("Shift-H", "find", "Go to the field for the word", lambda c: c.want_word()),
    Shortcut("K", "keep", "Keep the preview as labels", lambda c: c.keep()),
    Shortcut("Shift-K", "clear", "Drop the preview", lambda c: c.clear()),
    Shortcut("U", "undo", "Undo", lambda c: c.undo()),
    Shortcut("Shift-U", "redo", "Redo", lambda c: c.redo()),
    Shortcut("N", "next-weak", "Go to the least certain slice or object", lambda c: c.next_weak()),
    Shortcut("Shift-J", "stack", "Look for the word in the slices", lambda c: c.segment_stack()),
    Shortcut("Shift-N", "follow", "Follow the preview through the slices", lambda c: c.propagate()),
    Shortcut("Shift-Q", "stop", "Stop, and keep what is finished", lambda c: c.stop()),
)

#: Keys for people by the name of what they do.
KEYS = {shortcut.action: shortcut.shown for shortcut in SHORTCUTS}


def bind(viewer: ViewerModel, controls: Controls) -> None:
    """Let the keys of a viewer act on a dock.

    Parameters
    ----------
    viewer : ViewerModel
    controls : Controls
    """
    for shortcut in SHORTCUTS:
        viewer.bind_key(shortcut.key, _press(shortcut, controls), overwrite=True)


def unbind(viewer: ViewerModel) -> None:
    """Give the keys back; may be called twice.

    Parameters
    ----------
    viewer : ViewerModel
    """
    for shortcut in SHORTCUTS:
        viewer.bind_key(shortcut.key, None, overwrite=True)


def _press(shortcut: Shortcut, controls: Controls) -> Callable[[Any], None]:
    """What napari calls; it asks for a name, and shows the words."""

    def press(_: Any) -> None:
        shortcut.act(controls)

    press.__name__ = f"clipsam_{shortcut.action}"
    press.__doc__ = shortcut.words
    return press
