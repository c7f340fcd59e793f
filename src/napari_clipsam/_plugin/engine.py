"""The model of a viewer: loaded and used on the worker alone, so that napari never waits for it.

Nothing here is imported with torch before the first job runs.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from napari_clipsam._machine import memory
from napari_clipsam._plugin.importing import avoid_llvm_clash
from napari_clipsam._plugin.windows import (
    answer_on_plane,
    inside,
    is_large,
    mask_inside,
    window_for,
)
from napari_clipsam.inference.requests import PredictRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from napari_clipsam._plugin.plane_reader import PlaneReader
    from napari_clipsam.adapters.inject import Adapter
    from napari_clipsam.inference.folder import FolderProgress, FolderTask
    from napari_clipsam.inference.propagation import PropagationStep
    from napari_clipsam.inference.requests import ObjectMask, Prediction, Target
    from napari_clipsam.inference.segmenter import Segmenter
    from napari_clipsam.inference.stacks import StackStep
    from napari_clipsam.inference.volume import VolumeTask
    from napari_clipsam.inference.volume_results import VolumeProgress
    from napari_clipsam.models.registry import LoadedModel
    from napari_clipsam.planes import Plane
    from napari_clipsam.prompts import Prompts
    from napari_clipsam.session.objects import PlaneKey, SessionObject
    from napari_clipsam.session.restoring import Recipe
    from napari_clipsam.training.budget import Probe
    from napari_clipsam.training.events import Estimate
    from napari_clipsam.training.ranking import Uncertain
    from napari_clipsam.training.settings import FitSettings

__all__ = ["Ask", "Engine", "Found", "Lent", "Loaded", "Setup", "Similar", "Tiles"]


@dataclass(frozen=True)
class Setup:
    """Which model answers, and how it runs."""

    model: str = "starter"
    adapter: str = "default"
    device: str = "auto"
    precision: str = "auto"
    cache_bytes: int = 1 << 30
    clip: str = "starter"


@dataclass(frozen=True)
class Loaded:
    """A model is ready.

    `device` is for people; `words` are those the adapter has learnt.
    """

    setup: Setup
    device: str
    words: tuple[str, ...]

    def knows(self, word: str) -> bool:
        """Whether the adapter has learnt a word, whatever its case and spacing."""
        return _plain(word) in map(_plain, self.words)


def _spare(setup: Setup) -> float:
    """Free memory in which a model and a plane leave room for others."""
    return 2e9 if setup.model == "starter" else 8e9


@dataclass(frozen=True, eq=False)
class Ask:
    """One question about one plane; `read` gives the plane without any layer."""

    read: PlaneReader
    key: PlaneKey
    prompts: Prompts
    target: Target
    previous: ObjectMask | None = None


@dataclass(frozen=True, eq=False)
class Similar:
    """How alike a word and the patches of a plane are, 0..1; arrives before the masks."""

    key: PlaneKey
    similarity: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Found:
    """An answer to an `Ask`, and the seconds the user waited for it.

    The first one; or, `closer`, one that takes its place.
    """

    key: PlaneKey
    prediction: Prediction
    seconds: float
    closer: bool = False


@dataclass(frozen=True)
class Tiles:
    """How many parts of a plane were looked at: of a large one, or from closer after `Found`."""

    done: int
    total: int


@dataclass(frozen=True, eq=False)
class Lent:
    """A model, and the adapter it answers with, for somebody who changes neither."""

    model: LoadedModel
    adapter: Adapter | None


@dataclass
class Engine:
    """Answers questions with the model of a `Setup`.

    Parameters
    ----------
    check : callable
        Called by the model between two blocks; what it raises ends the answer.
    tell : callable
        Called with `Tiles` while a plane is looked at in parts.

    Attributes
    ----------
    in_memory : dict of str to Adapter
        Adapters that are in no file, by the name a `Setup` has for them.
    ready : Loaded or None
        What was loaded last.
    encoding : PlaneKey or None
        Which plane is encoded ahead right now.
    """

    check: Callable[[], None]
    tell: Callable[[Any], None] = lambda value: None
    in_memory: dict[str, Adapter] = field(default_factory=dict, repr=False)
    ready: Loaded | None = None
    encoding: PlaneKey | None = None
    _segmenter: Segmenter | None = field(default=None, repr=False)
    _setup: Setup | None = None
    # What was tried out last, and what for.
    _tried: tuple[tuple[Setup, int, FitSettings], Probe] | None = field(default=None, repr=False)

    def load(self, setup: Setup) -> Iterator[Loaded]:
        """Load what the setup names; yields only if something was loaded.

        Raises
        ------
        ClipSamError
            The model cannot be loaded; the former one stays.
        """
        if setup == self._setup:
            return
        avoid_llvm_clash()
        from napari_clipsam.inference.segmenter import Segmenter
        from napari_clipsam.inference.texts import texts_folder

        former = self._setup
        named = None if setup.adapter == "none" else setup.adapter
        adapter = self.in_memory.get(setup.adapter, named)
        if self._segmenter is not None and former is not None and _same_model(former, setup):
            self._segmenter.set_adapter(adapter)
        else:
            segmenter = Segmenter(
                setup.model,
                adapter,
                setup.device,
                setup.precision,  # type: ignore[arg-type]  # checked by the Segmenter
                setup.clip,
                cache_bytes=setup.cache_bytes,
                texts=texts_folder(),
            )
            segmenter.check = self.check
            self._segmenter = segmenter
        self._setup = setup
        words = tuple(self._segmenter.known_words)
        self.ready = Loaded(setup, _device_name(self._segmenter), words)
        yield self.ready

    def answer(self, setup: Setup, ask: Ask) -> Iterator[Loaded | Similar | Found]:
        """Answer one question.

        A word's similarity comes first; what looks small is looked at again.
        """
        start = time.perf_counter()
        yield from self.load(setup)
        if ask.target == "object":
            yield from self._object(ask, start)
            return
        segmenter, plane = self._ready, ask.read(ask.key)
        begun = time.perf_counter()
        if ask.prompts.text is not None:
            similarity = segmenter.similarity(plane, ask.prompts.text)
            if similarity is not None:
                yield Similar(ask.key, similarity)
        before = time.perf_counter() - begun
        request = PredictRequest(plane, ask.prompts, ask.target)
        answer = segmenter.answer(request, ask.previous, self._tell_tiles, closely=False)
        answer.seconds["signals"] = answer.seconds.get("signals", 0.0) + before
        yield Found(ask.key, answer, _since(start))
        closer = segmenter.closer(request, answer, self._tell_tiles)
        if closer is not None:
            yield Found(ask.key, closer, _since(start), closer=True)

    def prepare(
        self,
        setup: Setup,
        read: PlaneReader,
        keys: tuple[PlaneKey, ...],
        word: str | None,
        like: ObjectMask | None = None,
    ) -> Iterator[Loaded | None]:
        """Encode planes ahead, so that the first click in each is quick.

        With an object of the first plane also the parts around it in which its like will be looked
        for. Where memory is short, no model is loaded before somebody asks.
        """
        free = memory().free
        if setup != self._setup and free is not None and free < _spare(setup):
            return
        yield from self.load(setup)
        for key in keys:
            if not is_large(read.plane_shape(key)):
                self.encoding = key
                try:
                    self._ready.ahead.prepare(read(key), word)
                finally:
                    self.encoding = None
            yield None
            if like is not None and key == keys[0] and not is_large(read.plane_shape(key)):
                plane = read(key)
                for part in self._ready.ahead.parts_like(plane.shape, like):
                    self._ready.ahead.prepare(plane, word, part)
                    yield None

    def stack(
        self,
        setup: Setup,
        planes: Callable[[int], Plane],
        zs: tuple[int, ...],
        word: str,
        target: Target,
        spacing: float,
    ) -> Iterator[Loaded | StackStep]:
        """Find a word in many planes."""
        from napari_clipsam.inference.stacks import segment_stack

        yield from self.load(setup)
        yield from segment_stack(self._ready, planes, zs, word, target, spacing)

    def volume(
        self, setup: Setup, make: Callable[[], VolumeTask], output: Path
    ) -> Iterator[Loaded | VolumeProgress]:
        """Write a word's labels in a stack into a file, or go on with that.

        Parameters
        ----------
        setup : Setup
        make : callable
            Makes the task here, since it reads pixels.
        output : Path

        Raises
        ------
        OutputError
            What an earlier run left there is of another image, word, model or adapter.
        """
        from napari_clipsam.inference.volume import segment_volume
        from napari_clipsam.inference.volume_files import check_same_make

        yield from self.load(setup)
        task = make()
        check_same_make(output, task.made_of(self._ready, task.words[0]))
        with closing(segment_volume(self._ready, task, {task.words[0]: output})) as steps:
            yield from steps

    def folder(self, setup: Setup, task: FolderTask) -> Iterator[Loaded | FolderProgress]:
        """Find a word in all images of a folder."""
        from napari_clipsam.inference.folder import segment_folder

        yield from self.load(setup)
        with closing(segment_folder(self._ready, task)) as steps:
            yield from steps

    def propagate(
        self,
        setup: Setup,
        planes: Callable[[int], Plane],
        seeds: Mapping[str, Mapping[int, ObjectMask]],
        prompts: Mapping[str, Mapping[int, Prompts]],
        z_range: tuple[int, int],
        spacing: float,
        words: Mapping[str, str | None],
    ) -> Iterator[Loaded | PropagationStep]:
        """Follow objects from slice to slice."""
        from napari_clipsam.inference.propagation import propagate

        yield from self.load(setup)
        yield from propagate(
            self._ready, planes, seeds, prompts, z_range, spacing=spacing, words=words
        )

    def replay(
        self,
        setup: Setup,
        read: Callable[[PlaneKey], Plane],
        recipes: tuple[Recipe, ...],
        spacing: Callable[[int], float],
    ) -> Iterator[Loaded | SessionObject]:
        """Make objects again, from their prompts."""
        from napari_clipsam.session.replay import replay

        yield from self.load(setup)
        yield from replay(
            recipes, self._ready, read, setup.model, setup.adapter, spacing, setup.clip
        )

    def lend(self, setup: Setup) -> Iterator[Loaded | Lent]:
        """Load a model, and hand it out to be taught."""
        yield from self.load(setup)
        yield Lent(self._ready.model, self._ready.adapter)

    def estimate(
        self, setup: Setup, n_planes: int, n_held_out: int, settings: FitSettings
    ) -> Iterator[Loaded | Estimate]:
        """Say what teaching will need; tried out once for all budgets."""
        labelled = n_planes + n_held_out
        about = (setup, labelled, replace(settings, minutes=None, steps=1))
        if self._tried is None or self._tried[0] != about:
            yield from self.load(setup)
            from napari_clipsam.training.budget import probe

            segmenter = self._ready
            found = probe(segmenter.model, labelled, settings, segmenter.adapter, self.check)
            self._tried = about, found
        yield self._tried[1].estimate(n_planes, n_held_out, settings)

    def rank(
        self, setup: Setup, planes: Iterable[tuple[Hashable, Plane]], word: str
    ) -> Iterator[Loaded | Uncertain]:
        """Say of each plane how unsure the model is there."""
        yield from self.load(setup)
        from napari_clipsam.training.ranking import rank_planes

        yield from rank_planes(self._ready, planes, word)

    def _object(self, ask: Ask, start: float) -> Iterator[Found]:
        """Answer about an object; of a large plane only what surrounds it is read."""
        shape, previous, prompts = ask.read.plane_shape(ask.key), ask.previous, ask.prompts
        window = window_for(shape, prompts, previous)
        if window is None:
            plane = ask.read(ask.key)
        else:
            plane, prompts = ask.read.window(ask.key, window), inside(prompts, window)
            if previous is not None:
                previous = mask_inside(previous, window)
        request = PredictRequest(plane, prompts, "object")

        def found(answer: Prediction, closer: bool) -> Found:
            placed = answer if window is None else answer_on_plane(answer, window, shape)
            return Found(ask.key, placed, _since(start), closer)

        answer = self._ready.answer(request, previous, closely=previous is not None)
        yield found(answer, closer=False)
        # An earlier mask may stand for more than the prompts say.
        if previous is None:
            again = self._ready.closer(request, answer)
            if again is not None:
                yield found(again, closer=True)

    def _tell_tiles(self, done: int, total: int) -> None:
        self.tell(Tiles(done, total))

    @property
    def _ready(self) -> Segmenter:
        assert self._segmenter is not None
        return self._segmenter


def _same_model(one: Setup, other: Setup) -> bool:
    return replace(one, adapter=other.adapter) == other


def _plain(word: str) -> str:
    return " ".join(word.lower().split())


def _since(start: float) -> float:
    return time.perf_counter() - start


def _device_name(segmenter: Segmenter) -> str:
    import torch

    if segmenter.device.type == "cuda":
        return torch.cuda.get_device_name(segmenter.device)
    return {"cpu": "CPU", "mps": "Apple GPU"}.get(segmenter.device.type, segmenter.device.type)
