"""The shortcuts: each does its one thing, and none is napari's own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from app_model.types import KeyBinding
from napari import layers
from napari.components import ViewerModel
from napari.settings import get_settings
from napari.utils.key_bindings import coerce_keybinding

from napari_clipsam._plugin.keymap import KEYS, SHORTCUTS, bind, unbind


class Recorder:
    """Stands in for the dock's controller."""

    def __init__(self, tool: str = "") -> None:
        self.state = SimpleNamespace(tool=tool)
        self.asked: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.asked.append((name, *arguments))


def press(viewer: ViewerModel, key: str) -> None:
    viewer.keymap[coerce_keybinding(key)](viewer)


def napari_keys() -> dict[str, str]:
    """All keys that napari has given away, with what they are for."""
    taken = {}
    for name, keys in get_settings().shortcuts.shortcuts.items():
        taken |= {str(KeyBinding.validate(key)): name for key in keys}
    kinds = ("Image", "Labels", "Points", "Shapes", "Surface", "Tracks", "Vectors")
    for owner in (ViewerModel, *(getattr(layers, kind) for kind in kinds)):
        taken |= {str(coerce_keybinding(key)): owner.__name__ for key in owner.class_keymap}
    return taken


def test_no_shortcut_is_one_of_naparis() -> None:
    taken = napari_keys()
    assert "R" in taken and "M" in taken, "the list is real"
    ours = {str(coerce_keybinding(shortcut.key)): shortcut.action for shortcut in SHORTCUTS}
    assert not {key: (taken[key], action) for key, action in ours.items() if key in taken}


def test_keys_and_actions_are_told_apart() -> None:
    assert len({shortcut.key for shortcut in SHORTCUTS}) == len(SHORTCUTS) == len(KEYS)
    assert KEYS["redo"] == "Shift+U"
    assert all(shortcut.words for shortcut in SHORTCUTS)


@pytest.mark.parametrize(
    ("action", "asked"),
    [
        ("point+", ("set_tool", "point+")),
        ("point-", ("set_tool", "point-")),
        ("box", ("set_tool", "box")),
        ("lasso", ("set_tool", "lasso")),
        ("scribble", ("set_tool", "scribble")),
        ("from-labels", ("prompt_from_labels",)),
        ("move", ("set_tool", "")),
        ("find", ("want_word",)),
        ("keep", ("keep",)),
        ("clear", ("clear",)),
        ("undo", ("undo",)),
        ("redo", ("redo",)),
        ("next-weak", ("next_weak",)),
        ("stack", ("segment_stack",)),
        ("follow", ("propagate",)),
        ("stop", ("stop",)),
    ],
)
def test_a_key_asks_the_dock(action: str, asked: tuple[str, ...]) -> None:
    viewer, controls = ViewerModel(), Recorder()
    bind(viewer, controls)  # type: ignore[arg-type]
    press(viewer, KEYS[action])
    assert controls.asked == [asked]


def test_the_key_of_the_tool_in_use_puts_it_down() -> None:
    viewer, controls = ViewerModel(), Recorder(tool="box")
    bind(viewer, controls)  # type: ignore[arg-type]
    press(viewer, KEYS["box"])
    assert controls.asked == [("set_tool", "")]


def test_keys_are_given_back() -> None:
    viewer = ViewerModel()
    before = dict(viewer.keymap)
    for _ in range(2):
        bind(viewer, Recorder())  # type: ignore[arg-type]
        bind(viewer, Recorder())  # type: ignore[arg-type]
        assert len(viewer.keymap) == len(before) + len(SHORTCUTS)
        unbind(viewer)
        unbind(viewer)
        assert viewer.keymap == before
