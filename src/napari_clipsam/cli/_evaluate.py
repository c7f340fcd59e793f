"""``napari-clipsam evaluate``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from napari_clipsam.cli._common import Progress, make_segmenter, plural, table, write_json
from napari_clipsam.cli._pairs import chosen_pairs, spare_inputs
from napari_clipsam.errors import OutputError
from napari_clipsam.outputs import check_output, replacing
from napari_clipsam.planes import parse_axes, parse_channels

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_clipsam.inference.devices import Precision
    from napari_clipsam.inference.segmenter import Segmenter
    from napari_clipsam.training.evaluated import Evaluation, Question
    from napari_clipsam.training.labelled import LabelledPlane

__all__ = ["Measurement", "run"]

_SIDE = 400


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Arguments and options as typed."""

    images: Path
    labels: Path | None
    prompts: Literal["text", "point", "box"]
    text: str | None = None
    target: Literal["concept", "instances", "object"] | None = None
    model: str = "starter"
    clip: str | None = None
    adapter: str | None = None
    index: Path | None = None
    split: str | None = None
    where: tuple[str, ...] = ()
    concept: str | None = None
    axes: str | None = None
    channels: str | None = None
    json: Path | None = None
    sheet: Path | None = None
    overwrite: bool = False
    device: str = "auto"
    precision: Precision = "auto"
    seed: int = 0


def run(options: Measurement) -> None:
    """Check everything, then measure, print and write."""
    from napari_clipsam.training.evaluated import Question
    from napari_clipsam.training.evaluation import evaluate, survey

    question = Question(options.prompts, options.text, options.target)
    axes = None if options.axes is None else parse_axes(options.axes)
    channels = None if options.channels is None else parse_channels(options.channels)
    _check_outputs(options)
    pairs = chosen_pairs(options, options.text)
    spare_inputs((options.json, options.sheet), options, pairs)
    known = survey(pairs, question, axes, channels)
    segmenter = make_segmenter(
        options.model,
        options.clip,
        options.adapter,
        options.device,
        options.seed,
        precision=options.precision,
    )
    progress = Progress("plane")

    def planes() -> Iterator[LabelledPlane]:
        from napari_clipsam.training.labelled import labelled_planes

        return labelled_planes(pairs, axes, channels)

    result = evaluate(segmenter, planes(), question, lambda done: progress(done, known.n_planes))
    progress.clear()
    print(_report(segmenter, result))
    if options.sheet is not None:
        with replacing(options.sheet, options.overwrite) as part:
            _draw_sheet(segmenter, planes(), result, part)
    if options.json is not None:
        described = {
            "model": segmenter.model.name,
            "adapter": segmenter.adapter_name,
            "clip": segmenter.model.clip_name,
            "device": str(segmenter.device),
            **result.to_json(),
        }
        write_json(options.json, described, options.overwrite)


def _check_outputs(options: Measurement) -> None:
    for path in (options.json, options.sheet):
        if path is not None:
            check_output(path, options.overwrite)
    if options.sheet is not None and options.sheet.suffix.lower() != ".png":
        raise OutputError(f"{options.sheet} is not the name of a PNG. Let it end in .png.")


def _report(segmenter: Segmenter, result: Evaluation) -> str:
    """What is printed: a line for everything, a table by kind of image."""
    question = result.question
    asked = f"by {question.prompts}" + ("" if question.text is None else f" '{question.text}'")
    counted = [plural(len(result.planes), "plane")]
    if result.n_objects is not None:
        counted.append(plural(result.n_objects, "object"))
    lines = [
        f"{segmenter.model.name}, adapter {segmenter.adapter_name}, {segmenter.device}: "
        f"{question.target} {asked}, {', '.join(counted)}, {result.seconds_per_plane:.2f} s a plane"
    ]
    names = [
        (name, title)
        for name, title in (("mean_iou", "mean IoU"), ("dice", "Dice"), ("ap50", "AP50"))
        if getattr(result, name) is not None
    ]
    rows = [
        [modality, style or "all", len(part.planes), _count(part.n_objects)]
        + [_score(getattr(part, name)) for name, _ in names]
        for (modality, style), part in result.groups().items()
    ]
    total = ["all", "", len(result.planes), _count(result.n_objects)]
    rows.append(total + [_score(getattr(result, name)) for name, _ in names])
    head = ["modality", "style", "planes", "objects", *(title for _, title in names)]
    lines.append(table(head, rows))
    return "\n".join(lines)


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _count(value: int | None) -> str:
    return "-" if value is None else str(value)


def _draw_sheet(
    segmenter: Segmenter, planes: Iterator[LabelledPlane], result: Evaluation, path: Path
) -> None:
    """Ask again on the best, median and worst planes, and draw them."""
    from napari_clipsam.training.sheet import Panel, contact_sheet, picked

    chosen = picked([plane.score for plane in result.planes])
    panels: dict[str, list[Panel]] = {name: [] for name in chosen}
    found: dict[int, Panel] = {}
    wanted = {number: name for name, numbers in chosen.items() for number in numbers}
    for number, labelled in enumerate(islice(planes, max(wanted) + 1)):
        if number in wanted:
            score = result.planes[number]
            caption = f"{wanted[number]}: {_score(score.score)}\n{score.name}"
            picture = _draw_plane(segmenter, labelled, result.question)
            found[number] = Panel(picture, caption)
    for name, numbers in chosen.items():
        panels[name] = [found[number] for number in numbers]
    measure = "AP50" if result.ap50 is not None else "mean IoU"
    total = result.ap50 if result.ap50 is not None else result.mean_iou
    title = f"{result.question.target} by {result.question.prompts}"
    title += "" if result.question.text is None else f" '{result.question.text}'"
    title += f": {measure} {_score(total)} over {plural(len(result.planes), 'plane')}"
    contact_sheet(list(panels.values()), title).save(path, format="PNG")


def _draw_plane(
    segmenter: Segmenter, labelled: LabelledPlane, question: Question
) -> NDArray[np.uint8]:
    from napari_clipsam.training.evaluation import ask
    from napari_clipsam.training.sheet import PREDICTED, TRUE, outlined, scaled

    answer = ask(segmenter, labelled, question)
    picture = scaled(labelled.plane.rgb, _SIDE)
    picture = outlined(picture, scaled(labelled.labels, _SIDE), TRUE)
    return outlined(picture, scaled(answer.labels, _SIDE), PREDICTED, dashed=True)
