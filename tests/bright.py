"""What tests of the command line share; above all a Segmenter that is right on bright squares.

What is written, measured and refused can then be checked by values, without any weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import ndimage

from napari_clipsam.inference.requests import ObjectMask, Prediction, PredictRequest
from napari_clipsam.planes import Plane
from napari_clipsam.prompts import Prompts

__all__ = ["BrightSegmenter", "Done", "Run", "squares"]

#: Words the stand-in finds nothing for.
ABSENT = {"mitochondria"}


class Done(NamedTuple):
    """What a command left."""

    status: int
    out: str
    err: str


Run = Callable[..., Done]


def squares(shape: tuple[int, int] = (60, 80)) -> tuple[np.ndarray, np.ndarray]:
    """Four bright squares on black and their labels 1..4."""
    labels = np.zeros(shape, np.uint16)
    for number, (y, x) in enumerate([(5, 5), (5, 40), (35, 8), (30, 60)], start=1):
        labels[y : y + 8 + number, x : x + 10] = number
    return np.where(labels > 0, 200, 0).astype(np.uint8), labels


class BrightSegmenter:
    """Everything above half brightness is the concept, its parts are the instances."""

    def __init__(self, name: str = "bright", adapter: str = "lamp", seed: int = 0) -> None:
        network = SimpleNamespace(identity="light")
        self.model = SimpleNamespace(name=name, clip_name="torch", sam=network, clip=network)
        info = SimpleNamespace(threshold=0.5, words=("nuclei",))
        self.adapter = SimpleNamespace(info=info, state_dict=dict)
        self.adapter_name, self.device, self.seed = adapter, torch.device("cpu"), seed
        self.asked: list[tuple[Prompts, Any]] = []
        self.planes: list[Plane] = []
        self.settings = {"seed": seed}
        # It needs no trunk.
        self.ahead = SimpleNamespace(encode_planes=lambda planes, words=(): None)

    def set_plane(self, plane: Plane | np.ndarray) -> None:
        assert isinstance(plane, Plane)
        self.planes.append(plane)

    def answer(
        self,
        request: PredictRequest,
        previous: Any = None,
        progress: Any = None,
        closely: bool = True,
    ) -> Prediction:
        self.set_plane(request.plane)
        return self.predict(request.prompts, request.target, previous, progress)

    def first_look(self, plane: Plane, word: str) -> Prediction:
        return self.answer(PredictRequest(plane, Prompts(text=word), "concept"), closely=False)

    def closer(self, request: PredictRequest, found: Prediction, progress: Any = None) -> None:
        """It sees all at once."""

    def answer_objects(
        self,
        plane: Plane,
        prompts: Sequence[Prompts],
        previous: Any = None,
        closely: bool = True,
        followed: bool = False,
    ) -> list[Prediction]:
        self.set_plane(plane)
        return [self.predict(one, "object") for one in prompts]

    def unknown_words(self, text: str) -> list[str]:
        """It takes any word."""
        return []

    def take_troubles(self) -> list[str]:
        """It keeps nothing on disk."""
        return []

    def flush(self) -> None:
        """It keeps nothing on disk."""

    def predict(
        self, prompts: Prompts, target: Any = None, previous: Any = None, progress: Any = None
    ) -> Prediction:
        self.asked.append((prompts, target))
        plane = self.planes[-1]
        prompts.check_inside(plane.shape)
        target = target or ("object" if prompts.has_object else "concept")
        parts, count = ndimage.label(plane.rgb.max(axis=2) > 127)
        absent = prompts.text in ABSENT and target != "object"
        if absent:
            masks = []
        elif target == "concept":
            masks = [parts > 0]
        elif target == "instances":
            masks = [parts == number for number in range(1, count + 1)]
        else:
            masks = _pointed_at(prompts, parts)
        return Prediction(
            plane.shape,
            target,
            tuple(_object(mask) for mask in masks),
            match=not absent,
            presence=0.1 if absent else 0.9,
            threshold=0.5,
            text=prompts.text or "nuclei",
            seconds={"trunk": 0.1, "signals": 0.2, "head": 0.3, "decode": 0.4},
        )


def _pointed_at(prompts: Prompts, parts: np.ndarray) -> list[np.ndarray]:
    """The part under the last positive click, or the brightest of each box."""
    if len(prompts.boxes):
        masks = []
        for y0, x0, y1, x1 in prompts.boxes.astype(int):
            inside = np.zeros(parts.shape, bool)
            inside[max(y0, 0) : y1, max(x0, 0) : x1] = True
            masks.append((parts > 0) & inside)
        return masks
    y, x = np.rint(prompts.points[prompts.labels == 1][-1]).astype(int)
    return [(parts == parts[y, x]) & (parts > 0)]


def _object(mask: np.ndarray) -> ObjectMask:
    if not mask.any():
        return ObjectMask((0, 0, 0, 0), np.zeros((0, 0), bool), 0.0)
    rows, cols = ndimage.find_objects(mask.astype(int))[0]
    return ObjectMask((rows.start, cols.start, rows.stop, cols.stop), mask[rows, cols], 0.75)
