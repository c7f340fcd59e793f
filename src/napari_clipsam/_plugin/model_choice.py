"""Which model answers: chosen here or in another dock, loaded off the main thread."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from napari_clipsam._plugin import choices
from napari_clipsam._plugin.engine import Loaded, Setup
from napari_clipsam._plugin.file_jobs import KIND
from napari_clipsam._plugin.importing import avoid_llvm_clash
from napari_clipsam._plugin.runner import Job, Urgency

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_clipsam._plugin.chosen import Chosen
    from napari_clipsam._plugin.controller import SegmentController
    from napari_clipsam.errors import ClipSamError

__all__ = ["ModelChoice"]


class ModelChoice:
    """Model, adapter and CLIP of a controller, whose state names the first two.

    Attributes
    ----------
    clip : str
    is_loaded : bool
        Whether a model was ready once.
    """

    def __init__(self, controller: SegmentController, chosen: Chosen) -> None:
        self._to, self._chosen = controller, chosen
        self.clip = chosen.clip
        self.is_loaded = False
        chosen.changed.connect(self._on_chosen)
        chosen.renewed.connect(self._on_renewed)

    def close(self) -> None:
        """Let go of what other docks choose."""
        self._chosen.changed.disconnect(self._on_chosen, missing_ok=True)
        self._chosen.renewed.disconnect(self._on_renewed, missing_ok=True)

    @property
    def setup(self) -> Setup:
        """The model that is to answer."""
        state = self._to.state
        return self._to.settings().setup(state.model, state.adapter, self.clip)

    def switch(self, former_clip: str = "", **setup: str) -> None:
        """Change model or adapter: what runs with the former one ends first."""
        for kind in ("stack", "prefetch", KIND):
            self._to.runner.stop(kind)
        state = self._to.state
        former = {name: getattr(state, name) for name in ("model", "adapter", "device")}
        former["known_words"] = state.known_words
        self._to.update(**setup, device="", known_words=(), hint=None)
        self._chosen.choose(self._to.state.model, self._to.state.adapter)
        self.prepare(former, former_clip)

    def prepare(self, former: dict[str, Any] | None = None, former_clip: str = "") -> None:
        """Off the main thread: what models there are; after a switch, load the one chosen.

        Where it cannot be loaded, the `former` one stays.
        """

        def work() -> Iterator[Any]:
            avoid_llvm_clash()
            yield choices.model_choices(self.setup)
            if former is not None:
                yield from self._to.engine.load(self.setup)

        def ready(value: Any) -> None:
            if isinstance(value, Loaded):
                self.on_loaded(value)
                self._to.images.show_slice()
            else:
                self._offer(value)

        def failed(error: ClipSamError) -> None:
            self._to.update(**(former or {}))
            self.clip = former_clip or self.clip
            self._chosen.choose(self._to.state.model, self._to.state.adapter, self.clip)
            self._to.on_error(error)

        self._to.runner.submit(Job("imports", _import_for_layers, Urgency.WORD))
        self._to.runner.submit(Job("prepare", work, Urgency.WORD, on_value=ready, on_error=failed))

    def on_loaded(self, value: Loaded) -> None:
        """Show the model that is ready now."""
        self.is_loaded = True
        self._to.update(device=value.device, known_words=value.words)
        self._to.asking.make_room()

    def _on_chosen(self, model: str, adapter: str) -> None:
        """Another dock chose."""
        clip, self.clip = self.clip, self._chosen.clip
        state = self._to.state
        if (model, adapter, self.clip) != (state.model, state.adapter, clip):
            self.switch(clip, model=model, adapter=adapter)

    def _on_renewed(self) -> None:
        """Models or adapters came or went."""

        def work() -> Iterator[Any]:
            yield choices.model_choices(self.setup)

        self._to.runner.submit(
            Job("choices", work, Urgency.WORD, on_value=self._offer, on_error=self._to.on_error)
        )

    def _offer(self, found: dict[str, Any]) -> None:
        """Offer the models and adapters that were found."""
        self._to.update(**{**found, "adapters": (*found["adapters"], *self._chosen.unsaved)})


def _import_for_layers() -> Iterator[Any]:
    """What napari imports when it makes its first layer of points or labels.

    While torch is imported here, that takes napari's own thread seconds, and it stands still.
    """
    importlib.import_module("pandas")
    yield from ()
