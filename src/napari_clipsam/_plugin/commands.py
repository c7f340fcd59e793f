"""What the command palette, the layer menu and the shortcuts do."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    from napari_clipsam._plugin.controller import SegmentController
    from napari_clipsam._plugin.library import LibraryController
    from napari_clipsam._plugin.state import Target
    from napari_clipsam._plugin.teaching import TeachController

    Controller: TypeAlias = SegmentController | TeachController | LibraryController

__all__ = [
    "clear",
    "controller_in",
    "find_word",
    "forget",
    "keep",
    "next_weak",
    "open_library_dock",
    "open_segment_dock",
    "open_teach_dock",
    "redo",
    "register",
    "segment_stack",
    "teach_word",
    "teacher_in",
    "undo",
    "unwrapped",
]

_SEGMENT: WeakKeyDictionary[Any, SegmentController] = WeakKeyDictionary()
_TEACH: WeakKeyDictionary[Any, TeachController] = WeakKeyDictionary()
_LIBRARY: WeakKeyDictionary[Any, LibraryController] = WeakKeyDictionary()


def register(viewer: Any, controller: Controller) -> None:
    """Let a controller work in a viewer; a former one of its kind ends."""
    docks = _docks(controller)
    former = docks.get(viewer)
    if former is not None:
        former.close()
    docks[viewer] = controller


def forget(viewer: Any, controller: Controller) -> bool:
    """Say that a controller has ended; returns whether it was the one that works."""
    docks = _docks(controller)
    if docks.get(viewer) is not controller:
        return False
    del docks[viewer]
    return True


def controller_in(viewer: Any) -> SegmentController | None:
    """The controller of the viewer's Segment dock, if one is open."""
    return _SEGMENT.get(unwrapped(viewer))


def teacher_in(viewer: Any) -> TeachController | None:
    """The controller of the viewer's Teach dock, if one is open."""
    return _TEACH.get(unwrapped(viewer))


def _docks(controller: Controller) -> WeakKeyDictionary[Any, Any]:
    if hasattr(controller, "teach"):
        return _TEACH
    return _LIBRARY if hasattr(controller, "shelf") else _SEGMENT


def unwrapped(viewer: Any) -> Any:
    """The viewer itself: napari hands a stand-in to plugins that has other layers each time."""
    return getattr(viewer, "__wrapped__", viewer)


def open_segment_dock(viewer: "napari.viewer.Viewer") -> None:  # type: ignore[name-defined] # noqa: F821, UP037
    """Open the Segment dock, or bring it to the front."""
    _bring_to_front(viewer, "Segment")


def open_teach_dock(viewer: "napari.viewer.Viewer") -> None:  # type: ignore[name-defined] # noqa: F821, UP037
    """Open the Teach dock, or bring it to the front."""
    _bring_to_front(viewer, "Teach")


def open_library_dock(viewer: "napari.viewer.Viewer") -> None:  # type: ignore[name-defined] # noqa: F821, UP037
    """Open the Library dock, or bring it to the front."""
    _bring_to_front(viewer, "Library")


def teach_word(viewer: Any, word: str) -> None:
    """Open the Teach dock with a word filled in."""
    viewer = unwrapped(viewer)
    open_teach_dock(viewer)
    teacher = teacher_in(viewer)
    if teacher is not None:
        teacher.take_word(word)


def find_word(viewer: Any, word: str) -> None:
    """Look for a word in the Segment dock; without an image it stands there, ready to be."""
    viewer = unwrapped(viewer)
    open_segment_dock(viewer)
    controller = controller_in(viewer)
    if controller is not None and controller.state.image:
        controller.find(word)
    elif controller is not None:
        controller.update(word=word)


def segment_stack(viewer: Any, image: str, word: str, target: Target) -> None:
    """Look for a word in all slices of an image, in the Segment dock."""
    viewer = unwrapped(viewer)
    open_segment_dock(viewer)
    controller = controller_in(viewer)
    if controller is None:
        return
    controller.set_image(image)
    # Where it stays with another image, it has said why.
    if controller.focus.name == image:
        controller.update(target=target)
        controller.find(word)
        controller.segment_stack()


def keep(viewer: "napari.viewer.Viewer") -> None:  # type: ignore[name-defined] # noqa: F821, UP037
    """Move the preview into the labels layer."""
    _do(viewer, lambda controller: controller.keep())


def undo(viewer: "napari.viewer.Viewer") -> None:  # type: ignore[name-defined] # noqa: F821, UP037
    """Take back the last step."""
    _do(viewer, lambda controller: controller.undo())


def redo(viewer: "napari.viewer.Viewer") -> None:  # type: ignore[name-defined] # noqa: F821, UP037
    """Do again what was taken back."""
    _do(viewer, lambda controller: controller.redo())


def clear(viewer: "napari.viewer.Viewer") -> None:  # type: ignore[name-defined] # noqa: F821, UP037
    """Drop the preview and its prompts."""
    _do(viewer, lambda controller: controller.clear())


def next_weak(viewer: "napari.viewer.Viewer") -> None:  # type: ignore[name-defined] # noqa: F821, UP037
    """Go to the weakest slice or object, then to the next."""
    _do(viewer, lambda controller: controller.next_weak())


def _bring_to_front(viewer: Any, name: str) -> None:
    """Show a dock, as a tab beside others, and let it be seen."""
    dock, _ = viewer.window.add_plugin_dock_widget("napari-clipsam", name, tabify=True)
    dock.show()
    dock.raise_()


def _do(viewer: Any, act: Callable[[SegmentController], None]) -> None:
    """Act in the open dock; open one where there is none."""
    controller = controller_in(viewer)
    if controller is None:
        open_segment_dock(viewer)
    else:
        act(controller)
