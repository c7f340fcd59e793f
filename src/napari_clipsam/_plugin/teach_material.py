"""What a Teach dock learns from: image, labels and slices; and what that would take."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_clipsam._plugin import choices, commands, teach_wording
from napari_clipsam._plugin.engine import Loaded
from napari_clipsam._plugin.importing import avoid_llvm_clash
from napari_clipsam._plugin.layers import open_layer
from napari_clipsam._plugin.preview import empty_labels
from napari_clipsam._plugin.runner import Job, Urgency
from napari_clipsam._plugin.teach_pair import (
    Pair,
    full_data,
    image_choices,
    label_choices,
    open_pair,
)
from napari_clipsam._plugin.teach_slices import Looked, Picked, look, parse, written
from napari_clipsam.errors import PlaneError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari.layers import Labels

    from napari_clipsam._plugin.layers import ChannelChoice, LayerImage
    from napari_clipsam._plugin.state import Hint
    from napari_clipsam._plugin.taught import Record
    from napari_clipsam._plugin.teaching import TeachController
    from napari_clipsam.training.events import Estimate

__all__ = ["Material"]


class Material:
    """Layers and slices of a controller.

    Attributes
    ----------
    pair : Pair or None
    looked : Looked or None
        What is labelled in it, once somebody has looked.
    """

    def __init__(self, controller: TeachController) -> None:
        self._to = controller
        self.pair: Pair | None = None
        self.looked: Looked | None = None
        self._picked: Picked | None = None
        self._tested: tuple[int, ...] | None = None
        self._watched: Labels | None = None
        self._estimates: dict[tuple[Any, ...], Estimate] = {}
        self._asked: tuple[Any, ...] = ()
        self._missing: Hint | None = None
        self._splits: dict[tuple[Any, ...], tuple[tuple[int, ...], str]] = {}

    # -- layers ------------------------------------------------------------------------------------

    def set_image(self, name: str) -> None:
        """Learn from another image."""
        self._to.update(image=name, labels="")
        self.on_layers()

    def set_labels(self, name: str) -> None:
        """Learn from other labels."""
        self._to.update(labels=name)
        self.on_layers()

    def on_layers(self) -> None:
        """Layers came, went, were renamed or chosen."""
        viewer = self._to.viewer
        images = image_choices(viewer)
        names = [c.value for c in images]
        image = self._still("image", names) or self._usual_image()
        opened = self._open(image) if image else None
        labels = label_choices(viewer, None if opened is None else opened.shape)
        fitting = [c.value for c in labels if c.enabled]
        chosen = self._still("labels", fitting) or self._usual_labels(fitting)
        self._to.update(images=images, image=image, label_layers=labels, labels=chosen)
        self._take_up(opened, chosen)

    def on_view(self) -> None:
        """Slices are seen from another side, or of another time."""
        if self.pair is not None and self._to.state.labels:
            self._take_up(self._open(self._to.state.image), self._to.state.labels)

    def new_labels(self) -> None:
        """Add a labels layer for the image, to paint in."""
        state, viewer = self._to.state, self._to.viewer
        opened = self._open(state.image)
        words = state.words.partition(",")[0].strip()
        layer = viewer.add_labels(
            empty_labels(opened.shape), name=words or "structure", **opened.transform()
        )
        self.set_labels(layer.name)
        viewer.layers.selection.active = layer
        layer.mode = "paint"

    def pair_of(self, record: Record) -> Pair | None:
        """The layers that a record is about, if they are open."""
        viewer = self._to.viewer
        fitting = {c.value for c in label_choices(viewer, record.shape) if c.enabled}
        if record.labels not in fitting:
            return None
        if record.image not in {c.value for c in image_choices(viewer)}:
            return None
        opened = self._open(record.image)
        if opened.shape != record.shape:
            return None
        labels = viewer.layers[record.labels]
        return Pair(opened, labels, record.axis, record.first, full_data(labels))

    def fresh_pair(self) -> Pair | None:
        """The pair with the image as it is now, its channels too."""
        if self.pair is None:
            return None
        opened = self._open(self.pair.image.layer.name)
        return replace(self.pair, image=opened) if opened.shape == self.pair.image.shape else None

    def close(self) -> None:
        """Let go of the layers."""
        self._watch(None)
        self.pair = self.looked = None

    def _still(self, what: Literal["image", "labels"], names: list[str]) -> str:
        """The layer that is chosen, by its new name if it was renamed; "" if it is gone."""
        name: str = getattr(self._to.state, what)
        if name and name not in names and self.pair is not None:
            name = self.pair.labels.name if what == "labels" else self.pair.image.layer.name
        return name if name in names else ""

    def _usual_image(self) -> str:
        segment = commands.controller_in(self._to.viewer)
        if segment is not None and segment.focus.is_there:
            return segment.focus.name
        return choices.best_image(self._to.viewer, None)

    def _usual_labels(self, fitting: list[str]) -> str:
        active = self._to.viewer.layers.selection.active
        if active is not None and active.name in fitting:
            return str(active.name)
        return fitting[-1] if fitting else ""

    def _open(self, image: str) -> LayerImage:
        """The image as the Segment dock sees it, if that is open, read by nobody else."""
        layer = self._to.viewer.layers[image]
        channel: ChannelChoice | None = None
        segment = commands.controller_in(self._to.viewer)
        if segment is not None and segment.focus.image is not None:
            focus = segment.focus.image
            channel = focus.channel if focus.layer is layer else None
        return open_layer(layer, channel, self._to.settings().normalisation)

    def _take_up(self, opened: LayerImage | None, labels: str) -> None:
        pair = fault = None
        try:
            if opened is not None and labels:
                pair = open_pair(self._to.viewer, opened, labels)
        except PlaneError as error:
            fault = error
        if pair is not None and pair.is_like(self.pair):
            return
        self.pair, self.looked, self._picked, self._tested = pair, None, None, None
        self._splits = {}
        self._watch(None if pair is None else pair.labels)
        self._to.forgive()
        if fault is not None:
            self._to.on_error(fault)
        self._show()
        self._to.begin.on_other_layers()
        self.look()

    def _watch(self, layer: Labels | None) -> None:
        """Notice what is painted."""
        for watched, join in ((self._watched, "disconnect"), (layer, "connect")):
            if watched is not None:
                getattr(watched.events.paint, join)(self._on_paint)
                getattr(watched.events.data, join)(self._on_data)
        self._watched = layer

    def _on_paint(self, _: object = None) -> None:
        if self._is_paintable:
            self.look()

    @property
    def _is_paintable(self) -> bool:
        """Whether labels may change: lazy ones do not, and reading them takes long."""
        return self.pair is not None and isinstance(self.pair.array, np.ndarray)

    def _on_data(self, _: object = None) -> None:
        self.on_layers()

    # -- slices ------------------------------------------------------------------------------------

    def set_slices(self, text: str) -> None:
        """Learn from these slices, "" for those that are labelled.

        Raises
        ------
        ConfigError
            They cannot be read.
        """
        if self.pair is not None:
            picked = parse(text, self.pair.count)
            self._picked = picked if picked.numbers else None
            self.look()

    def set_tested_on(self, text: str) -> None:
        """Test on these slices, "" for the tool's own choice.

        Raises
        ------
        ConfigError
            They cannot be read.
        """
        if self.pair is not None:
            self._tested = parse(text, self.pair.count).numbers or None
            self.look()

    def choose(self) -> None:
        """Let the tool choose the slices again."""
        self._picked = self._tested = None
        self.look()

    @property
    def tested(self) -> tuple[int, ...] | None:
        """Slices to test on, None where the tool chooses."""
        return self._tested

    def look(self) -> None:
        """Look at the labels, off the main thread."""
        to, pair = self._to, self.pair
        if pair is None:
            return

        def work() -> Iterator[Looked]:
            avoid_llvm_clash()
            yield from look(
                pair.source(), self._picked, self._tested, to.state.goal, to.runner.check
            )

        urgency = Urgency.WORD if to.begin.is_asked else Urgency.PREFETCH
        job = Job("teach-look", work, urgency, on_value=self._saw, on_error=to.begin.on_error)
        to.runner.submit(job)

    def look_again(self) -> None:
        """Look at labels that may have changed with nobody noticing."""
        if self.looked is None or self._is_paintable:
            self.look()
        else:
            self._to.begin.on_looked(self.looked)

    def on_split(self, record: Record, tested: tuple[int, ...], tested_on: str) -> None:
        """A lesson says what it tests on."""
        if self.pair is None or self.pair.names != (record.image, record.labels):
            return
        picked = Picked(record.slices, record.partial)
        self._splits[picked, record.tested, record.goal] = tested, tested_on
        if self.looked is not None:
            self.looked = self._settled(self.looked)
            self._show()

    def _settled(self, looked: Looked) -> Looked:
        """What was seen, tested on what the lesson about it was tested on."""
        split = self._splits.get((looked.picked, self._tested, self._to.state.goal))
        if split is None:
            return looked
        return replace(looked, tested=split[0], tested_on=split[1], is_guess=False)

    def _saw(self, looked: Looked) -> None:
        self.looked = self._settled(looked) if looked.is_guess else looked
        self._to.next.leave_out(self.pair, looked.labels.used)
        self._show()
        self._to.begin.on_looked(self.looked)
        if not self._to.run.is_running:
            self.estimate()

    def _show(self) -> None:
        """Show pair and slices as they are."""
        to, pair, looked = self._to, self.pair, self.looked
        is_stack = pair is not None and pair.axis is not None
        note = tested_on = tested_edit = slices = ""
        if looked is not None:
            slices = str(looked.picked)
            tested_edit = written(looked.tested or self._tested or ())
            tested_on = tested_edit if looked.tested else looked.tested_on
            tested_on = f"probably {tested_on}" if looked.is_guess else tested_on
            note = teach_wording.slices_note(looked, is_stack)
        to.update(
            slices=slices if is_stack else "",
            tested_on=tested_on,
            tested_edit=tested_edit,
            is_stack=is_stack,
            slices_note=note,
            is_chosen=self._picked is not None or self._tested is not None,
            can_teach=pair is not None,
        )
        former, self._missing = self._missing, None
        if pair is None:
            has_labels = bool(to.state.label_layers)
            self._missing = teach_wording.no_labels(to.state.image, has_labels)
        if to.state.hint in (None, former):
            to.update(hint=self._missing)

    # -- what it would take ------------------------------------------------------------------------

    def estimate(self) -> None:
        """Try out what teaching would take, unless that is known; off the main thread."""
        to, looked = self._to, self.looked
        if looked is None or looked.fault is not None or to.run.is_running:
            to.update(estimate="")
            return
        setup, state = to.setup, to.state
        minutes, steps = to.budget
        counts = max(1, len(looked.picked.numbers) - len(looked.tested)), max(1, len(looked.tested))
        self._asked = asked = (setup, counts, state.goal, minutes, steps)
        if asked in self._estimates:
            self._show_estimate(asked)
            return
        to.update(estimate="")

        def work() -> Iterator[Loaded | Estimate]:
            avoid_llvm_clash()
            from napari_clipsam.training.settings import FitSettings

            settings = FitSettings(goal=state.goal, minutes=minutes, steps=steps)
            yield from to.engine.estimate(setup, *counts, settings)

        def take(value: Loaded | Estimate) -> None:
            if isinstance(value, Loaded):
                to.on_loaded(value)
                return
            self._estimates[asked] = value
            self._show_estimate(asked)

        job = Job("teach-estimate", work, Urgency.IDLE, on_value=take, on_error=to.on_error)
        to.runner.submit(job)

    def _show_estimate(self, asked: tuple[Any, ...]) -> None:
        if asked == self._asked:
            device = self._to.device
            self._to.update(estimate=teach_wording.estimate(self._estimates[asked], device))
