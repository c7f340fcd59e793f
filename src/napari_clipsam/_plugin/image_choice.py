"""Which image is worked on, and which slice of it: what the user chooses, what the viewer shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_clipsam._plugin import choices, wording
from napari_clipsam._plugin.kept import UNKEPT

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_clipsam._plugin.controller import SegmentController

__all__ = ["ImageChoice"]


class ImageChoice:
    """Image, channels and slice of a controller; follows the viewer until it is closed."""

    def __init__(self, controller: SegmentController) -> None:
        self._to = controller
        for event, reaction in self._events():
            event.connect(reaction)

    def close(self) -> None:
        """Follow the viewer no longer."""
        for event, reaction in self._events():
            event.disconnect(reaction)

    def switch(self, name: str) -> None:
        """Work on another image layer, unless there is something in this one that is not kept."""
        if self._to.focus.name == name:
            return
        self._to.stacks.settle()
        if self._to.keeper.state.draft:
            self._to.update(hint=UNKEPT)
            return
        self._to.guarded(lambda: self.take_up(name))

    def switch_channel(self, value: str) -> None:
        """Look at other channels of the image; clicks and masks stay."""
        self._to.guarded(lambda: self._to.focus.choose_channel(value))
        self.show_layers()

    def take_up(self, name: str) -> None:
        """Work on an image that nothing speaks against."""
        focus = self._to.focus
        focus.take_up(name, self._to.asking.on_prompts)
        if focus.image is not None:
            self._to.keeper.take_up(focus.image)
        self._to.update(hint=None)
        self._to.sync()
        self.show_layers()
        self.show_slice()
        self._to.kept.offer_lost()

    def show_slice(self, _: object = None) -> None:
        """Take up the slice or view that is seen now, and encode it while nobody waits."""
        focus = self._to.focus
        self._to.keeper.look()
        part = choices.stack_choices(focus, self._to.state)
        self._to.update(**part)
        self._to.stacks.estimate()
        key = focus.shown_key()
        if key is not None:
            if self._to.state.hint == focus.wrong_view:
                self._to.update(hint=None)
            self._to.asking.prepare(key)
        elif focus.image is not None:
            self._to.update(hint=focus.wrong_view)

    def show_layers(self, _: object = None) -> None:
        """Offer the layers there are, after some came, went or were renamed."""
        viewer, focus, keeper = self._to.viewer, self._to.focus, self._to.keeper
        if focus.image is not None and not focus.is_there:
            self._leave()
        part = choices.layer_choices(viewer, focus, keeper, self._to.state)
        self._to.update(**part)
        if focus.image is None:
            first = choices.best_image(viewer, keeper.image)
            if first:
                self._to.guarded(lambda: self.take_up(first))
            elif self._to.state.hint is None:
                self._to.update(hint=wording.no_image())

    def _leave(self) -> None:
        """The image is gone: nobody can answer about it any more."""
        self._to.stop()
        self._to.focus.leave()
        if self._to.keeper.state.draft:
            self._to.do("the image was removed", ())
        self._to.update(answer="", hint=None, busy=None, tool="")

    def _events(self) -> list[tuple[Any, Callable[..., None]]]:
        layers, dims = self._to.viewer.layers.events, self._to.viewer.dims.events
        return [
            (layers.inserted, self.show_layers),
            (layers.removed, self.show_layers),
            (layers.reordered, self.show_layers),
            (layers.renamed, self.show_layers),
            (dims.current_step, self.show_slice),
            (dims.order, self.show_slice),
            (dims.ndisplay, self.show_slice),
        ]
