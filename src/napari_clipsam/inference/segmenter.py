"""The Segmenter: the one object a script needs.

>>> from napari_clipsam import Prompts, Segmenter, open_image     # doctest: +SKIP
>>> segmenter = Segmenter()
>>> segmenter.set_plane(open_image("cells.tif").plane())
>>> segmenter.predict(Prompts(text="nuclei")).labels()
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_clipsam.adapters.files import load_adapter
from napari_clipsam.adapters.inject import Adapter
from napari_clipsam.errors import PlaneError, PromptError, WordError
from napari_clipsam.geometry import whole_plane
from napari_clipsam.inference.concepts import ConceptFinder
from napari_clipsam.inference.decoding import ObjectPrompt, PromptDecoder
from napari_clipsam.inference.devices import (
    Precision,
    choose_device,
    memory_guard,
    resolve_precision,
)
from napari_clipsam.inference.encoding import PlaneEncoder, View
from napari_clipsam.inference.frames import concept_frames, is_large, object_frame
from napari_clipsam.inference.instances import InstanceSettings
from napari_clipsam.inference.masks import object_masks
from napari_clipsam.inference.requests import ObjectMask, Prediction, PredictRequest, Target
from napari_clipsam.models.registry import LoadedModel, load_model
from napari_clipsam.planes import Plane, open_image
from napari_clipsam.prompts import Prompts

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from numpy.typing import NDArray

    from napari_clipsam.geometry import Frame

__all__ = ["Segmenter"]

_ADVICE = "Close other programs, choose a smaller model, or run on the CPU (device='cpu')."


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
        ``auto`` is bf16 on CUDA, else fp32.
    clip : str, optional
        The CLIP to use with a SAM that brings none, see `models.registry.load_model`.
    cache_bytes : int
        Memory for cached trunks.
    seed : int
        Of the points drawn from similarity maps.
    instances : InstanceSettings

    Notes
    -----
    Which model answers (method 7.5): no word and no adapter is base SAM; an adapter without a word
    uses the word it was used with last; a word without an adapter is training-free.
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
        instances: InstanceSettings = InstanceSettings(),
    ) -> None:
        self.device = choose_device(device)
        dtype = resolve_precision(precision, self.device)
        self.model = model if isinstance(model, LoadedModel) else load_model(model, clip)
        with memory_guard(self.device, _ADVICE):
            sam = self.model.sam.to(self.device).eval().requires_grad_(False)
            text = self.model.clip.to(self.device).eval().requires_grad_(False)
        self._encoder = PlaneEncoder(sam, text, self.device, dtype, cache_bytes)
        self._decoder = PromptDecoder(self._encoder)
        self._concepts = ConceptFinder(self._encoder, self._decoder, instances, seed)
        self._plane: Plane | None = None
        self._text: str | None = None
        self.adapter_name = "none"
        self.set_adapter(adapter)

    @property
    def adapter(self) -> Adapter | None:
        """The adapter in use."""
        return self._encoder.adapter

    @property
    def calls(self) -> Counter[str]:
        """How often trunk, clip, text, head and decode ran."""
        return self._encoder.calls

    @property
    def known_words(self) -> list[str]:
        """Words the adapter was trained for, sorted."""
        return [] if self.adapter is None else sorted(self.adapter.info.words)

    def set_adapter(self, adapter: str | Path | Adapter | None = "default") -> None:
        """Swap the adapter; cached trunks stay.

        Raises
        ------
        AdapterError
            The file is damaged or belongs to another model; the former adapter stays.
        """
        name = "none"
        if adapter == "default":
            adapter = self.model.adapter_path
            name = self.model.name if adapter is not None else "none"
        elif isinstance(adapter, str | Path):
            name = Path(adapter).stem
        elif adapter is not None:
            name = "in memory"
        if isinstance(adapter, str | Path):
            adapter = load_adapter(adapter, self.model.sam, self.model.clip)
        if adapter is not None:
            adapter = adapter.to(self.device).eval().requires_grad_(False)
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
            Without any, the word of `set_text`.
        target : {"concept", "object", "instances"}, optional
            A word alone means concept, anything else object.
        previous : ObjectMask, optional
            A mask of an earlier answer on this plane; its logits join the prompts as they are.
        progress : callable, optional
            Called with tiles done and tiles in all, on planes that need tiles.

        Raises
        ------
        PlaneError
            No plane was set.
        PromptError
            A prompt lies outside the plane, or there is nothing to go by.
        OutOfMemory
            The Segmenter stays usable.
        """
        if self._plane is None:
            raise PlaneError("No plane was chosen. Call set_plane(...) before predict(...).")
        prompts = prompts or Prompts()
        if prompts.text is None and self._text is not None:
            prompts = replace_text(prompts, self._text)
        return self.answer(PredictRequest(self._plane, prompts, target), previous, progress)

    @torch.inference_mode()
    def answer(
        self,
        request: PredictRequest,
        previous: ObjectMask | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Prediction:
        """Answer a frozen request; see `predict`."""
        prompts, plane = request.prompts, request.plane
        prompts.check_inside(plane.shape)
        by_object = prompts.has_object or previous is not None
        target = request.target or ("object" if by_object else "concept")
        word, note = self._word(prompts.text)
        self._check(target, by_object, word)
        self._encoder.reset_clock()
        try:
            with memory_guard(self.device, _ADVICE):
                if target == "object":
                    found = self._object(plane, prompts, word, previous)
                else:
                    frames = self._concept_frames(plane)
                    found = self._concepts.find(plane, frames, prompts, word, target, progress)
        except Exception:
            # Whatever failed may have left memory full: a Segmenter must stay usable.
            self._encoder.clear()
            raise
        note = found.note or note
        return replace(found, seconds=dict(self._encoder.seconds), text=word, note=note)

    def _word(self, text: str | None) -> tuple[str | None, str]:
        """The word that conditions the answer, and what to say about it."""
        if text is not None or self.adapter is None or not self.adapter.info.words:
            return text, ""
        last = self.adapter.info.words[-1]
        return last, f"No word was given; the adapter's last one, '{last}', was used."

    def _check(self, target: Target, by_object: bool, word: str | None) -> None:
        if target == "object" and not by_object:
            raise PromptError("There is nothing to go by. Give a point, a box or a mask.")
        if word is None and target != "object":
            raise PromptError(f"To find {target} a word is needed. Give a text, e.g. nuclei.")
        if word is None and self.adapter is not None:
            raise WordError("The adapter was trained for no word. Give a text, e.g. nuclei.")

    def _concept_frames(self, plane: Plane) -> list[Frame]:
        return concept_frames(plane.shape, self.model.sam.config.input_size, self._squash)

    @property
    def _squash(self) -> bool:
        return self.adapter is not None and self.adapter.config.squash

    def _object(
        self, plane: Plane, prompts: Prompts, word: str | None, previous: ObjectMask | None
    ) -> Prediction:
        """One object, or one for each of several boxes."""
        size = self.model.sam.config.input_size
        objects: list[ObjectMask] = []
        others: list[ObjectMask] = []
        for single in _split_boxes(prompts):
            if previous is not None and previous.frame is not None:
                frame = previous.frame
            elif is_large(plane.shape, size):
                frame = object_frame(plane.shape, single, size, self._squash)
            else:
                frame = whole_plane(plane.shape, size, self._squash)
            embedding = self._encoder.embedding(View(plane, frame), word)
            mask = previous.logits if previous is not None else None
            if mask is None and single.mask is not None:
                mask = frame.mask_to_model(single.mask, self._decoder.mask_size)
            box = single.boxes[0] if len(single.boxes) else None
            prompt = ObjectPrompt(single.points, single.labels, box, mask)
            decoded = self._decoder.object(embedding, prompt, frame)
            order = decoded.iou[0].argsort(descending=True)
            found = object_masks(decoded.logits[0][order], decoded.iou[0][order], frame)
            objects.append(found[0])
            others += found[1:]
        return Prediction(plane.shape, "object", tuple(objects), tuple(others))


def replace_text(prompts: Prompts, text: str) -> Prompts:
    """The same prompts with a word."""
    return Prompts(text, prompts.points, prompts.labels, prompts.boxes, prompts.mask)


def _split_boxes(prompts: Prompts) -> list[Prompts]:
    """Several boxes are several objects; a point belongs to the boxes it lies in."""
    if len(prompts.boxes) < 2:
        return [prompts]
    parts = []
    for box in prompts.boxes:
        inside = ((prompts.points >= box[:2]) & (prompts.points < box[2:])).all(axis=1)
        points, labels = prompts.points[inside], prompts.labels[inside]
        parts.append(Prompts(prompts.text, points, labels, box[None], prompts.mask))
    return parts
