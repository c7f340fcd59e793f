"""How well a model answers on labelled planes, by the definitions of the `evaluate` command."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_clipsam.errors import ConfigError
from napari_clipsam.prompts import Prompts
from napari_clipsam.training.evaluated import Evaluation, PlaneScore, Question
from napari_clipsam.training.labelled import LabelledImage, LabelledPlane, open_pair
from napari_clipsam.training.metrics import average_precision, dice, innermost_pixel, iou, tight_box

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_clipsam.inference.requests import ObjectMask
    from napari_clipsam.inference.segmenter import Segmenter

__all__ = [
    "MIN_PIXELS",
    "PlaneAnswer",
    "Survey",
    "ask",
    "evaluate",
    "survey",
]

#: Smaller objects are not clicked on.
MIN_PIXELS = 20
# Objects whose masks are held at once.
_TOGETHER = 64


@dataclass(frozen=True)
class Survey:
    """What the labels hold, known before any model is loaded."""

    n_planes: int
    n_objects: int


@dataclass(frozen=True, eq=False)
class PlaneAnswer:
    """What the model said of one plane.

    Attributes
    ----------
    labels : ndarray of int, shape (H, W)
        Predicted: 0 / 1 for a concept, ids for instances, for objects the id of the true one.
    ious : tuple of float
        Of every object that was clicked or boxed.
    match : bool
    presence : float or None
    """

    labels: NDArray
    ious: tuple[float, ...] = ()
    match: bool = True
    presence: float | None = None


def survey(
    pairs: Sequence[LabelledImage],
    question: Question,
    axes: str | None = None,
    channels: Sequence[int] | None = None,
) -> Survey:
    """Read all labels and see that the question can be asked on them.

    Raises
    ------
    PlaneError
        A file cannot be read, or an image and its labels do not fit.
    ConfigError
        The labels are semantic but objects are asked for, or there is no object to prompt.
    """
    n_planes = n_objects = 0
    for pair in pairs:
        _, labels = open_pair(pair, axes, channels)
        values: set[int] = set()
        parts = 0
        for index in labels.planes():
            plane = labels.plane(index)
            ids, counts = np.unique(plane[plane > 0], return_counts=True)
            values.update(ids.tolist())
            by_click = question.target == "object"
            n_objects += int(np.count_nonzero(counts >= MIN_PIXELS)) if by_click else len(ids)
            if not pair.kind and question.target != "concept" and len(ids) == 1:
                parts = max(parts, _count_parts(plane))
            n_planes += 1
        unknown = not pair.kind and len(values) == 1 and parts > 1
        if question.target != "concept" and (pair.kind == "semantic" or unknown):
            raise ConfigError(
                f"The labels {pair.labels} are semantic: one number for all objects, so there are "
                f"none to tell apart. Use --prompts text --target concept, or label each object "
                "with a number of its own."
            )
    if question.target == "object" and not n_objects:
        raise ConfigError(
            f"The labels have no object of {MIN_PIXELS} pixels or more. Choose other planes."
        )
    return Survey(n_planes, n_objects)


def evaluate(
    segmenter: Segmenter,
    planes: Iterable[LabelledPlane],
    question: Question,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Ask one question on many planes and score the answers.

    Parameters
    ----------
    segmenter : Segmenter
    planes : iterable of LabelledPlane
        One is held at a time.
    question : Question
    progress : callable, optional
        Called with the number of planes done.

    Returns
    -------
    Evaluation
    """
    scores: list[PlaneScore] = []
    for labelled in planes:
        start = time.perf_counter()
        answer = ask(segmenter, labelled, question)
        scores.append(_score(labelled, question, answer, time.perf_counter() - start))
        if progress is not None:
            progress(len(scores))
    return Evaluation(question, tuple(scores))


def ask(segmenter: Segmenter, labelled: LabelledPlane, question: Question) -> PlaneAnswer:
    """Answer the question on one plane, every object of it by its own click or box."""
    if question.prompts == "text":
        segmenter.set_plane(labelled.plane)
        found = segmenter.predict(Prompts(text=question.text), question.target)
        labels = found.labels() if question.target == "instances" else found.mask()
        return PlaneAnswer(labels, (), found.match, found.presence)
    drawn = np.zeros_like(labelled.labels)
    ious = []
    there = list(_objects(labelled.labels))
    for first in range(0, len(there), _TOGETHER):
        some = there[first : first + _TOGETHER]
        prompts = [_prompt(question, window, mask) for _, window, mask in some]
        answers = segmenter.answer_objects(labelled.plane, prompts)
        for (number, window, mask), answer in zip(some, answers, strict=True):
            best = answer.objects[0]
            ious.append(_object_iou(best, window, mask))
            drawn[best.slices][best.mask] = number
    return PlaneAnswer(drawn, tuple(ious))


def _score(
    labelled: LabelledPlane, question: Question, answer: PlaneAnswer, seconds: float
) -> PlaneScore:
    true = labelled.labels
    overlap = agreement = precision = None
    n_objects: int | None = len(answer.ious)
    if question.target != "object":
        semantic = labelled.source.kind == "semantic"
        n_objects = None if semantic else int(np.count_nonzero(np.unique(true)))
    if question.target == "concept":
        overlap = iou(answer.labels > 0, true > 0)
        agreement = dice(answer.labels > 0, true > 0)
    elif question.target == "instances":
        precision = average_precision(answer.labels, true)
    return PlaneScore(
        labelled.source,
        dict(labelled.plane.index),
        answer.ious if overlap is None else (overlap,),
        agreement,
        precision,
        n_objects,
        answer.match,
        answer.presence,
        seconds,
    )


def _objects(
    labels: NDArray[np.integer],
) -> Iterator[tuple[int, tuple[slice, slice], NDArray[np.bool_]]]:
    """Number, window and mask inside it of every object that is large enough."""
    from scipy.ndimage import find_objects

    ids, numbered = np.unique(labels, return_inverse=True)
    ranked = numbered.reshape(labels.shape)
    if ids[0] != 0:
        ranked, ids = ranked + 1, np.concatenate([[0], ids])
    for rank, window in enumerate(find_objects(ranked), start=1):
        mask = ranked[window] == rank
        if np.count_nonzero(mask) >= MIN_PIXELS:
            yield int(ids[rank]), window, mask


def _prompt(question: Question, window: tuple[slice, slice], mask: NDArray[np.bool_]) -> Prompts:
    origin = np.array([window[0].start, window[1].start])
    if question.prompts == "point":
        return Prompts(question.text, points=[origin + innermost_pixel(mask)])
    box = np.array(tight_box(mask)) + np.tile(origin, 2)
    return Prompts(question.text, boxes=[box])


def _object_iou(found: ObjectMask, window: tuple[slice, slice], mask: NDArray[np.bool_]) -> float:
    """IoU of a found object with a true one, without masks of the whole plane."""
    (rows, cols), (y0, x0, y1, x1) = window, found.box
    top, left = max(y0, rows.start), max(x0, cols.start)
    bottom, right = min(y1, rows.stop), min(x1, cols.stop)
    shared = 0
    if bottom > top and right > left:
        a = found.mask[top - y0 : bottom - y0, left - x0 : right - x0]
        b = mask[top - rows.start : bottom - rows.start, left - cols.start : right - cols.start]
        shared = int(np.count_nonzero(a & b))
    return shared / (found.area + int(np.count_nonzero(mask)) - shared)


def _count_parts(labels: NDArray[np.integer]) -> int:
    from scipy.ndimage import label

    _, count = label(labels > 0, structure=np.ones((3, 3)))
    return int(count)
