"""The Segmenter: the one object a script needs.

>>> from napari_clipsam import Prompts, Segmenter, open_image     # doctest: +SKIP
>>> segmenter = Segmenter()
>>> segmenter.set_plane(open_image("cells.tif").plane())
>>> segmenter.predict(Prompts(text="nuclei")).labels()
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from napari_clipsam.adapters.inject import Adapter
from napari_clipsam.errors import PlaneError
from napari_clipsam.inference.adapting import chosen_adapter
from napari_clipsam.inference.ahead import Ahead
from napari_clipsam.inference.checks import check_prompts, split_boxes
from napari_clipsam.inference.concept_decoding import shown_map
from napari_clipsam.inference.concepts import ConceptFinder
from napari_clipsam.inference.decoding import PromptDecoder
from napari_clipsam.inference.devices import (
    Precision,
    choose_device,
    memory_guard,
    resolve_precision,
)
from napari_clipsam.inference.encoding import PlaneEncoder, View
from napari_clipsam.inference.instances import InstanceSettings
from napari_clipsam.inference.objects import ObjectFinder, Wanted
from napari_clipsam.inference.requests import ObjectMask, Prediction, PredictRequest, Target
from napari_clipsam.inference.running import GuardedRunner
from napari_clipsam.inference.words import WordChooser
from napari_clipsam.models.compiling import Compilation, compiled, require_compiler
from napari_clipsam.models.registry import LoadedModel, load_model
from napari_clipsam.models.sam import run_block
from napari_clipsam.planes import Plane, open_image
from napari_clipsam.prompts import Prompts

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from napari_clipsam.geometry import Frame
    from napari_clipsam.inference.concept_windows import ConceptMaps
    from napari_clipsam.inference.shelf import Shelf

__all__ = ["Segmenter"]

_INSTANCES = InstanceSettings()


class Segmenter:
    """Segments planes by word, points, boxes and masks.

    Parameters
    ----------
    model : str or LoadedModel
        A name of `models.registry`, a weights file, or a model already loaded.
    adapter : "default", None, path or Adapter
        ``default`` is the one that comes with the model, if any.
    device : {"auto", "cpu", "cuda", "mps"}
    precision : {"auto", "fp32", "bf16", "fp16"}
        Of the blocks of SAM's encoder; ``auto`` is half precision where the device is made for it.
    clip : str, optional
        The CLIP to use with a SAM that brings none, see `models.registry.load_model`.
    cache_bytes : int
        Memory for cached trunks, and as much again for what is made of them.
    seed : int
        Of the points drawn from similarity maps.
    instances : InstanceSettings
    shelf : Shelf, optional
        Keeps trunks and CLIP's features on disk as well, for later and for other processes. What
        went wrong with it is said in the `note` of the next answer.
    texts : Path, optional
        Folder, e.g. `inference.texts.texts_folder`, that keeps what words mean to the CLIP.
    compilation : {"none", "blocks", "graphs"}
        Whether SAM's encoder is compiled, see `models.compiling`: a minute once, for many planes.

    Attributes
    ----------
    model : LoadedModel
    adapter_name : str
        For people; ``none`` without an adapter.
    ahead : Ahead
        Encodes planes before anything is asked of them.

    Notes
    -----
    Which model answers (method 7.5): no word and no adapter is base SAM; an adapter without a word
    uses the word it was used with last; a word without an adapter is training-free. Points before
    any word are left to the base by an adapter that lets it decode objects, as the starter's does.

    One thread at a time may use a Segmenter. The networks of a `LoadedModel` are moved to the
    device, not copied.
    """

    def __init__(
        self,
        model: str | LoadedModel = "starter",
        adapter: str | Path | Adapter | None = "default",
        device: str = "auto",
        precision: Precision = "auto",
        clip: str | None = None,
        cache_bytes: int = 1 << 30,
        seed: int = 0,
        instances: InstanceSettings = _INSTANCES,
        shelf: Shelf | None = None,
        texts: Path | None = None,
        compilation: Compilation = "none",
    ) -> None:
        place = choose_device(device)
        require_compiler(compilation, place)
        dtype = resolve_precision(precision, place)
        self.model = model if isinstance(model, LoadedModel) else load_model(model, clip)
        with memory_guard(place, dtype):
            sam = self.model.sam.to(place).eval().requires_grad_(False)
            language = self.model.language
            if isinstance(language, torch.nn.Module):
                language.to(place).eval().requires_grad_(False)
        run = None if compilation == "none" else compiled(run_block, compilation == "graphs")
        self._encoder = PlaneEncoder(sam, language, place, dtype, cache_bytes, shelf, texts, run)
        self._decoder = PromptDecoder(self._encoder)
        self._concepts = ConceptFinder(self._encoder, self._decoder, instances, seed)
        self._objects = ObjectFinder(self._encoder, self._decoder)
        self._words = WordChooser(self._encoder)
        self.ahead = Ahead(self._encoder, self._objects, self._words)
        self._runner = GuardedRunner(self._encoder, self.ahead, shelf)
        self._plane: Plane | None = None
        self._text: str | None = None
        self.adapter_name = "none"
        self.set_adapter(adapter)

    @property
    def device(self) -> torch.device:
        """Where it runs now: an MPS device that lacks an operation is left for the CPU."""
        return self._encoder.device

    @property
    def adapter(self) -> Adapter | None:
        """The adapter in use."""
        return self._encoder.adapter

    @property
    def check(self) -> Callable[[], None] | None:
        """Called between parts of the networks and batches of the decoder; None at first.

        What it raises ends the answer and leaves the Segmenter usable. It may ask the same
        Segmenter for other answers; if it changes the adapter, the answer that was under way ends
        with `Stopped`.
        """
        return self._encoder.check

    @check.setter
    def check(self, check: Callable[[], None] | None) -> None:
        self._encoder.check = check

    @property
    def calls(self) -> Counter[str]:
        """How often trunk, clip, text, head and decode ran."""
        return self._encoder.calls

    @property
    def settings(self) -> dict[str, Any]:
        """What answers depend on besides the models, as JSON values."""
        return {
            "precision": str(self._encoder.dtype).removeprefix("torch."),
            "seed": self._concepts.seed,
            "instances": asdict(self._concepts.settings),
        }

    @property
    def known_words(self) -> list[str]:
        """Words the adapter was trained for, sorted."""
        return [] if self.adapter is None else sorted(self.adapter.info.words)

    def unknown_words(self, text: str) -> list[str]:
        """Words of a text that neither the adapter nor a closed vocabulary has learnt."""
        return self._encoder.unknown_words(text)

    def set_adapter(self, adapter: str | Path | Adapter | None = "default") -> None:
        """Swap the adapter; cached trunks stay.

        Parameters
        ----------
        adapter : "default", None, path or Adapter
            One in memory is moved to the device, not copied. After it was trained on, set it again.

        Raises
        ------
        AdapterError
            The file is damaged, or the adapter belongs to another model; the former one stays.
        """
        with memory_guard(self.device, self._encoder.dtype):
            adapter, name = chosen_adapter(adapter, self.model)
            if adapter is not None:
                adapter = adapter.to(self.device).eval()
        self._encoder.use_adapter(adapter)
        self.adapter_name = name

    def set_plane(self, plane: Plane | NDArray[np.generic]) -> None:
        """Choose the plane that prompts refer to; nothing is computed yet.

        Parameters
        ----------
        plane : Plane or ndarray, shape (H, W) or (H, W, 3)
            An array is normalised on its own; planes of a stack come from `open_image`.
        """
        self._plane = plane if isinstance(plane, Plane) else open_image(plane).plane()

    def set_text(self, text: str | None) -> None:
        """Choose the word for prompts that bring none."""
        self._text = None if text is None else Prompts(text=text).text

    def predict(
        self,
        prompts: Prompts | None = None,
        target: Target | None = None,
        previous: ObjectMask | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Prediction:
        """Answer prompts on the current plane.

        Parameters
        ----------
        prompts : Prompts, optional
            Without any, the word of `set_text`. For an object: points, boxes (each an object, with
            the points in it), a mask. For a concept or instances: positive points replace those
            drawn from the similarity map, negative ones join them.
        target : {"concept", "object", "instances"}, optional
            A word alone means concept, anything else object.
        previous : ObjectMask, optional
            A mask of an earlier answer on this plane; its logits join the prompts as they are, if
            its frame shows all prompts and fits the model, else its pixels do.
        progress : callable, optional
            Called with parts done and parts in all, where a plane is looked at in tiles or, for a
            word, again from closer; what it raises ends the search.

        Returns
        -------
        Prediction

        Raises
        ------
        PlaneError
            No plane was set.
        PromptError
            A prompt lies outside the plane, prompts do not go together, or there is nothing to go
            by.
        WordError
            The adapter needs a word.
        OutOfMemory
            The Segmenter stays usable.
        """
        if self._plane is None:
            raise PlaneError("No plane was chosen. Call set_plane(...) before predict(...).")
        prompts = prompts or Prompts()
        if prompts.text is None and self._text is not None:
            prompts = _with_text(prompts, self._text)
        return self.answer(PredictRequest(self._plane, prompts, target), previous, progress)

    @torch.inference_mode()
    def answer(
        self,
        request: PredictRequest,
        previous: ObjectMask | None = None,
        progress: Callable[[int, int], None] | None = None,
        closely: bool = True,
    ) -> Prediction:
        """Answer a frozen request; see `predict`.

        What looks small is looked at from closer: an object as `answer_objects` says, instances
        where most do. A concept is looked for at two scales. `closely` False is sooner, and
        `closer` can follow.
        """
        plane, prompts = request.plane, request.prompts
        by_object = prompts.has_object or previous is not None
        target = request.target or ("object" if by_object else "concept")
        if target == "object":
            return self.answer_objects(plane, [prompts], [previous], closely)[0]
        word, note = self._word(plane, prompts, target, previous)
        # Without a word it was refused.
        assert word is not None

        def find() -> Prediction:
            first = self._concepts.find(plane, prompts, word, target, progress)
            if not closely:
                return first
            return self._concepts.closer(plane, prompts, first, progress) or first

        found, moved = self._runner.run(find)
        answer = replace(found, seconds=dict(self._encoder.seconds))
        return self._runner.tell(answer, found.note, note, moved=moved)

    @torch.inference_mode()
    def answer_objects(
        self,
        plane: Plane,
        prompts: Sequence[Prompts],
        previous: Sequence[ObjectMask | None] | None = None,
        closely: bool = True,
        followed: bool = False,
    ) -> list[Prediction]:
        """Answer prompts for objects of one plane, several of them decoded at once.

        Parameters
        ----------
        plane : Plane
        prompts : sequence of Prompts
            Of each object, or of several by a box each.
        previous : sequence of ObjectMask or None, optional
            For each the earlier mask that takes part; see `predict`.
        closely : bool
            What looks small is looked at from closer, where the model gains by that
            (`SamConfig.least_object`). False is sooner, since all share what is encoded of the
            plane; `closer` can follow.
        followed : bool
            The earlier masks are those of the slice before, and boxes only say about where the
            objects are now: what a refiner draws need not fill them.

        Returns
        -------
        list of Prediction
            As `predict` would answer each, within rounding. Each says its share of the time.

        Raises
        ------
        PromptError, WordError, OutOfMemory
            As `predict`.
        """
        said: list[tuple[str | None, str]] = []
        wanted: list[Wanted] = []
        counts = []
        for one, before in zip(prompts, previous or [None] * len(prompts), strict=True):
            word, note = self._word(plane, one, "object", before)
            said.append((word, note))
            singles = split_boxes(one)
            wanted += [Wanted(single, word, before, followed) for single in singles]
            counts.append(len(singles))
        found, moved = self._runner.run(lambda: self._objects.find(plane, wanted, closely))
        seconds = self._encoder.seconds
        answers, rest = [], iter(found)
        for (word, note), count in zip(said, counts, strict=True):
            masks = [next(rest) for _ in range(count)]
            answer = Prediction(
                plane.shape,
                "object",
                tuple(best for best, *_ in masks),
                tuple(other for _, *others in masks for other in others),
                text=word,
                seconds={name: value / len(said) for name, value in seconds.items()},
            )
            answers.append(self._runner.tell(answer, note, moved=moved))
        return answers

    @torch.inference_mode()
    def closer(
        self,
        request: PredictRequest,
        answer: Prediction,
        progress: Callable[[int, int], None] | None = None,
    ) -> Prediction | None:
        """Look again, from closer, at what was found with `closely` False.

        All prompts of the request count, an earlier mask does not: as if they were given at once.

        Parameters
        ----------
        request : PredictRequest
        answer : Prediction
        progress : callable, optional
            For a word it counts the parts of the plane; see `predict`.

        Returns
        -------
        Prediction or None
            None where there is nothing to gain.
        """
        plane, prompts = request.plane, request.prompts

        def look() -> Prediction | None:
            if answer.target == "object":
                return self._objects.closer_answer(plane, prompts, answer)
            return self._concepts.closer(plane, prompts, answer, progress)

        found, moved = self._runner.run(look)
        if found is None:
            return None
        closer = replace(found, seconds=dict(self._encoder.seconds))
        return self._runner.tell(closer, found.note, moved=moved)

    def first_look(self, plane: Plane, word: str) -> Prediction:
        """Look once for the concept of a word, in the whole plane or its tiles.

        It tells presence, and leaves the logits of a whole plane; `closer` can follow.
        """
        return self.answer(PredictRequest(plane, Prompts(text=word), "concept"), closely=False)

    @torch.inference_mode()
    def concept_maps(
        self, plane: Plane, word: str, wanted: Callable[[Frame], bool]
    ) -> Iterator[tuple[Frame, ConceptMaps]]:
        """Tell what a concept refiner sees of a word in each wanted frame of a plane.

        The whole plane of a model that looks for words at two scales comes twice.
        """
        with memory_guard(self.device, self._encoder.dtype):
            yield from self._concepts.maps(plane, word, wanted)

    @torch.inference_mode()
    def similarity(self, plane: Plane, word: str) -> NDArray[np.float32] | None:
        """Show where a plane is like a word, before any mask is made.

        Parameters
        ----------
        plane : Plane
        word : str

        Returns
        -------
        ndarray of float32, shape (h, w), or None
            As in `Prediction.similarity`; None where the plane needs tiles or the word is unknown.
        """
        frames = self._encoder.concept_frames(plane.shape)
        if len(frames) > 1 or self._encoder.unknown_words(word):
            return None
        with memory_guard(self.device, self._encoder.dtype):
            return shown_map(self._encoder.signals(View(plane, frames[0]), word))

    def _word(
        self, plane: Plane, prompts: Prompts, target: Target, previous: ObjectMask | None
    ) -> tuple[str | None, str]:
        """Refuse what cannot be answered; the word of the rest, and what to say about it."""
        prompts.check_inside(plane.shape)
        check_prompts(prompts, target, previous, plane.shape)
        word, note = self._words.choose(prompts, target)
        self._words.check(word, target)
        return word, note

    def take_troubles(self) -> list[str]:
        """What went wrong with the cache on disk since it was asked or an answer said so."""
        return self._runner.take_troubles()

    def flush(self) -> None:
        """Wait until the cache on disk holds what it was given."""
        self._runner.flush()


def _with_text(prompts: Prompts, text: str) -> Prompts:
    """The same prompts with a word."""
    return Prompts(text, prompts.points, prompts.labels, prompts.boxes, prompts.mask)
