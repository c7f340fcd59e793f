"""The image a viewer works on, with its prompt layers and its preview."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image

from napari_clipsam._plugin import drafts, wording
from napari_clipsam._plugin.layers import channel_choices, displayed_key, open_layer
from napari_clipsam._plugin.preview import PreviewLayer
from napari_clipsam._plugin.prompt_layers import PromptLayers
from napari_clipsam._plugin.state import Hint
from napari_clipsam.errors import PlaneError
from napari_clipsam.prompts import Prompts
from napari_clipsam.session.objects import at_number, plane_axes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from napari.components import ViewerModel
    from numpy.typing import NDArray

    from napari_clipsam._plugin.drafts import Draft
    from napari_clipsam._plugin.layers import ChannelChoice, LayerImage, PlaneReader
    from napari_clipsam._plugin.settings import Settings
    from napari_clipsam._plugin.state import Tool
    from napari_clipsam.session.objects import PlaneKey

__all__ = ["Focus", "stack_axis_of"]

_NO_IMAGE = "There is no image to look at. Open one, or try a sample."


class Focus:
    """Layers of one image in a viewer; empty until an image is taken up.

    Attributes
    ----------
    image : LayerImage or None
    """

    def __init__(self, viewer: ViewerModel, settings: Callable[[], Settings]) -> None:
        self.viewer, self.settings = viewer, settings
        self.image: LayerImage | None = None
        self._prompts: PromptLayers | None = None
        self._preview: PreviewLayer | None = None
        self._on_prompts: Callable[[PlaneKey], None] | None = None
        self._watched: list[Any] = []
        self.wrong_view: Hint | None = None

    # -- the image ---------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Name of the image layer, "" without one."""
        return "" if self.image is None else self.image.layer.name

    @property
    def is_there(self) -> bool:
        """Whether the image layer is still in the viewer."""
        return self.image is not None and self.image.layer in self.viewer.layers

    def take_up(self, name: str, on_prompts: Callable[[PlaneKey], None]) -> None:
        """Work on an image layer; `on_prompts` is called with the plane of each new prompt.

        Raises
        ------
        PlaneError
            It cannot be read as planes; the former image stays.
        """
        layer = self.viewer.layers[name]
        if not isinstance(layer, Image):
            raise PlaneError(f"{name} is not an image. Choose an image layer.")
        image = open_layer(layer, None, self.settings().normalisation)
        self.leave()
        self.image, self._on_prompts = image, on_prompts
        self._watched = self._contents()
        for event in self._watched:
            event.connect(self._reopen)

    def channels(self) -> tuple[ChannelChoice, ...]:
        """How the image's channels can be shown to the model."""
        return () if self.image is None else channel_choices(self.viewer, self.image.layer)

    def choose_channel(self, label: str) -> None:
        """Show other channels to the model."""
        self._reopen(channel=next((c for c in self.channels() if c.label == label), None))

    def _reopen(self, _: object = None, channel: ChannelChoice | None = None) -> None:
        """Read the layer anew: its pixels are others, or other channels are looked at."""
        if self.image is None:
            return
        former, how = self.image, self.settings().normalisation
        self.image = open_layer(former.layer, channel or former.channel, how)
        if former.shape != self.image.shape:
            # Another axis holds the channels now, so planes have other names.
            self._drop_layers()

    def reads_with(self, reader: object) -> bool:
        """Whether this is what the image is read with now."""
        return self.image is not None and self.image.reader() is reader

    def leave(self) -> None:
        """Let go of the image; its prompt layers and preview go with it."""
        self._drop_layers()
        for event in self._watched:
            event.disconnect(self._reopen)
        self._watched = []
        self.image = None

    def _contents(self) -> list[Any]:
        """Events of the image layer that say that it shows something else."""
        if self.image is None:
            return []
        events = self.image.layer.events
        shown = self.settings().normalisation == "shown"
        return [events.data, events.contrast_limits] if shown else [events.data]

    def close(self) -> None:
        """Remove the plugin's own layers and listeners."""
        self.leave()
        self._on_prompts = None

    # -- planes ------------------------------------------------------------------------------------

    def key(self) -> PlaneKey:
        """The plane that is shown.

        Raises
        ------
        PlaneError
            There is no image, or no plane of it is shown; says what to do.
        """
        # When napari tells that the last layer was removed, its sliders are already those of none.
        image = self._need_image()
        if not self.is_there:
            raise PlaneError(_NO_IMAGE)
        return displayed_key(self.viewer, image)

    def shown_key(self) -> PlaneKey | None:
        """The plane that is shown, or None; `wrong_view` then says what to do."""
        if self.image is None:
            return None
        try:
            return self.key()
        except PlaneError as error:
            ways = (("show-slices", "Show slices"),) if self.viewer.dims.ndisplay == 3 else ()
            self.wrong_view = Hint(str(error), ways)
            return None

    def reader(self) -> PlaneReader:
        """Reads planes on a worker, without any layer."""
        return self._need_image().reader()

    @property
    def stack_axis(self) -> int | None:
        """The axis that slices are numbered along; None for a single plane.

        Of several the one named z, else the last.
        """
        key = self.shown_key()
        if key is None or self.image is None:
            return None
        return stack_axis_of(key, self.image.shape, self.image.reader().labels)

    def need_stack_axis(self) -> int:
        """The axis of the slices.

        Raises
        ------
        PlaneError
            The image is a single plane.
        """
        axis = self.stack_axis
        if axis is None:
            raise PlaneError("This image has one slice only. Open a stack to work on many.")
        return axis

    def extent(self) -> int:
        """Slices along the stack's axis, 0 without one."""
        axis = self.stack_axis
        return 0 if axis is None or self.image is None else self.image.shape[axis]

    def neighbours(self, key: PlaneKey) -> tuple[PlaneKey, ...]:
        """A plane and those beside it in the stack."""
        axis = self.stack_axis
        if axis is None or key[axis] is None:
            return (key,)
        at, n = int(key[axis] or 0), self.extent()
        beside = [z for z in (at, at + 1, at - 1) if 0 <= z < n]
        return tuple(at_number(key, axis, z) for z in beside)

    def slice_distance(self, axis: int) -> float:
        """Distance of two slices in pixels of a plane."""
        if self.image is None:
            return 1.0
        spacing = self.image.spacing
        in_plane = [spacing[a] for a in plane_axes(self.key())]
        return float(spacing[axis] / np.mean(in_plane))

    def where(self, key: PlaneKey) -> str:
        """A plane in words."""
        return "" if self.image is None else wording.which_slice(key, self.image.shape)

    def go_to(self, key: PlaneKey) -> None:
        """Show a plane."""
        if self.image is None:
            return
        layer, offset = self.image.layer, self.viewer.dims.ndim - self.image.layer.ndim
        world = self.image.point_of(key)
        for axis in range(layer.ndim):
            if offset + axis not in self.viewer.dims.displayed:
                self.viewer.dims.set_point(offset + axis, world[axis])

    def show_slices(self) -> None:
        """Leave the 3D view."""
        self.viewer.dims.ndisplay = 2

    # -- prompts and preview -----------------------------------------------------------------------

    def use_tool(self, tool: Tool) -> None:
        """Make a prompt tool active; makes the prompt layers when they are first needed."""
        if tool and self._prompts is None:
            self.key()
            self._need_prompts()
        if self._prompts is not None:
            self._prompts.tool(tool)

    def prompts(self, key: PlaneKey, word: str | None) -> Prompts:
        """A word with the clicks, boxes and marks of a plane."""
        asked = None if self._prompts is None else self._prompts.prompts(key)
        if asked is None:
            return Prompts(word)
        return Prompts(word, asked.points, asked.labels, asked.boxes, asked.mask)

    def has_unanswered(self, draft: Draft) -> bool:
        """Whether the prompt layers hold what the preview does not come from."""
        if self._prompts is None:
            return False
        answered = drafts.prompts_of(draft)
        keys = {*answered, *self._prompts.keys()}
        return any(_marks(self._prompts.prompts(key)) != _marks(answered.get(key)) for key in keys)

    def show_prompts(self, draft: Draft) -> None:
        """Let the prompt layers hold what a preview comes from."""
        own = () if self.image is None else drafts.fitting(draft, self.image.shape)
        asked = drafts.prompts_of(own)
        if asked:
            self._need_prompts().set(asked)
        elif self._prompts is not None:
            self._prompts.clear()

    def set_prompts(self, key: PlaneKey, prompts: Prompts) -> None:
        """Let these be the prompts of one plane."""
        layers = self._need_prompts()
        former = {other: layers.prompts(other) for other in layers.keys()}  # noqa: SIM118
        others = {other: asked for other, asked in former.items() if asked is not None}
        layers.set({**others, key: prompts})

    def forget_prompts(self) -> None:
        """Take away all clicks, boxes and marks."""
        if self._prompts is not None:
            self._prompts.clear()

    def expect_answer(self) -> None:
        """Make the layers that an answer will be shown in, if there are none."""
        if self.image is not None:
            self._need_preview()

    def show(self, draft: Draft) -> None:
        """Show a preview."""
        if self.image is None or (self._preview is None and not draft):
            return
        shown: dict[PlaneKey, list] = {}
        for number, one in enumerate(drafts.fitting(draft, self.image.shape), start=1):
            for key, mask in one.masks.items():
                shown.setdefault(key, []).append((number, mask))
        self._need_preview().show(shown)

    def show_similarity(self, key: PlaneKey, similarity: NDArray[np.float32]) -> None:
        """Show faintly where a plane is like a word."""
        if self.image is not None:
            self._need_preview().similarity(key, similarity)

    def hide_similarity(self) -> None:
        """Take the similarity away."""
        if self._preview is not None:
            self._preview.hide_similarity()

    def _need_image(self) -> LayerImage:
        if self.image is None:
            raise PlaneError(_NO_IMAGE)
        return self.image

    def _need_preview(self) -> PreviewLayer:
        if self._preview is None:
            self._preview = PreviewLayer(self.viewer, self._need_image())
        return self._preview

    def _need_prompts(self) -> PromptLayers:
        if self._prompts is None:
            self._prompts = PromptLayers(self.viewer, self._need_image())
            if self._on_prompts is not None:
                self._prompts.changed.connect(self._on_prompts)
        return self._prompts

    def _drop_layers(self) -> None:
        for own in (self._prompts, self._preview):
            if own is not None:
                own.close()
        self._prompts = self._preview = None


def stack_axis_of(key: PlaneKey, shape: Sequence[int], names: Sequence[str]) -> int | None:
    """The axis that slices beside a plane are numbered along: the one named z, else the last."""
    held = [a for a, k in enumerate(key) if k is not None and shape[a] > 1]
    named = [a for a in held if names[a].lower() == "z"]
    chosen = named or held[-1:]
    return chosen[0] if chosen else None


def _marks(prompts: Prompts | None) -> tuple[object, ...]:
    """What tells prompts of a plane from others, the word apart."""
    if prompts is None or not prompts.has_object:
        return ()
    mask = None if prompts.mask is None else prompts.mask.tobytes()
    return prompts.points.tolist(), prompts.labels.tolist(), prompts.boxes.tolist(), mask
