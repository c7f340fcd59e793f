"""``napari-clipsam segment``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_clipsam._image_files import is_folder_of_images
from napari_clipsam._machine import check_room
from napari_clipsam.cli._common import Progress, make_segmenter, plural, write_json
from napari_clipsam.cli._files import (
    Job,
    check_outputs,
    find_images,
    nothing_left_behind,
    plan_outputs,
)
from napari_clipsam.errors import PromptError
from napari_clipsam.outputs import write_labels
from napari_clipsam.planes import Stack, open_image, parse_axes, parse_channels, parse_plane
from napari_clipsam.prompts import Prompts, parse_box, parse_point

if TYPE_CHECKING:
    from napari_clipsam.inference.devices import Precision
    from napari_clipsam.inference.requests import Prediction
    from napari_clipsam.inference.segmenter import Segmenter
    from napari_clipsam.planes import Plane

__all__ = ["Segmentation", "run"]

Target = Literal["concept", "instances", "object"]


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """Arguments and options as typed."""

    image: Path
    output: Path
    texts: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    boxes: tuple[str, ...] = ()
    target: Target | None = None
    model: str = "starter"
    clip: str | None = None
    adapter: str | None = None
    plane: str | None = None
    axes: str | None = None
    channels: str | None = None
    json: Path | None = None
    overwrite: bool = False
    device: str = "auto"
    precision: Precision = "auto"
    seed: int = 0


@dataclass(frozen=True)
class _Asked:
    """The options, understood: words, where in the stack, and prompts without a word."""

    words: tuple[str, ...]
    prompts: Prompts
    target: Target
    plane: dict[str, int]
    axes: str | None
    channels: tuple[int, ...] | None

    def open(self, image: Path) -> Stack:
        return open_image(image, self.axes, self.channels)


def run(options: Segmentation) -> None:
    """Check everything, then segment and write."""
    asked = _understand(options)
    images = find_images(options.image)
    many = is_folder_of_images(options.image)
    plan = plan_outputs(images, asked.words, options.output, options.json, many)
    check_outputs(plan, options.overwrite)
    for image in images:
        # Of a folder none may turn out to be damaged when others are done.
        _check_image(asked, image, read=many)
    segmenter = make_segmenter(
        options.model,
        options.clip,
        options.adapter,
        options.device,
        options.seed,
        precision=options.precision,
    )
    progress = Progress("image" if many else "part")
    with nothing_left_behind(plan):
        for number, image in enumerate(images):
            if many:
                progress(number, len(images))
            of_image = [job for job in plan.jobs if job.image == image]
            lines = _segment_image(segmenter, asked, of_image, options.overwrite, progress, many)
            progress.clear()
            print("\n".join(lines))


def _understand(options: Segmentation) -> _Asked:
    """Parse all options; nothing is opened yet.

    Raises
    ------
    PromptError, PlaneError
        One of them cannot be understood, or they do not go together.
    """
    words = tuple(str(Prompts(text=word).text) for word in options.texts)
    points = [parse_point(text) for text in options.points]
    boxes = [parse_box(text) for text in options.boxes]
    prompts = Prompts(
        points=[(p.y, p.x) for p in points],
        labels=[p.label for p in points],
        boxes=[(b.y0, b.x0, b.y1, b.x1) for b in boxes],
    )
    if not (words or prompts.has_object or options.target in ("concept", "instances")):
        raise PromptError(
            "There is nothing to go by. Give --text WORD, --point Y,X or --box Y0,X0,Y1,X1."
        )
    target = options.target or ("object" if prompts.has_object else "concept")
    if target == "object" and not prompts.has_object:
        raise PromptError(
            "An object needs a --point or a --box; for all that a word names, use "
            "--target concept or instances."
        )
    if target != "object" and len(prompts.boxes):
        raise PromptError(
            f"A box points at one object and cannot guide --target {target}. Use --target object, "
            "or leave the box out."
        )
    if target == "object" and not len(prompts.boxes) and not prompts.labels.any():
        raise PromptError("All points are negative. Give one on the object as well, or a box.")
    return _Asked(
        words,
        prompts,
        target,
        _merge_plane(
            options.plane,
            {z for z in [p.z for p in points] + [b.z for b in boxes] if z is not None},
        ),
        None if options.axes is None else parse_axes(options.axes),
        None if options.channels is None else parse_channels(options.channels),
    )


def _merge_plane(plane: str | None, slices: set[int]) -> dict[str, int]:
    """The plane that --plane and the Z of points and boxes choose together."""
    index = {} if plane is None else parse_plane(plane)
    if "Z" in index:
        slices = slices | {index["Z"]}
    if len(slices) > 1:
        raise PromptError(
            f"The points, boxes and --plane name the slices {', '.join(map(str, sorted(slices)))}, "
            "but one plane is segmented at a time. Give the same Z everywhere, or only --plane."
        )
    return {**index, "Z": slices.pop()} if slices else index


def _check_image(asked: _Asked, image: Path, read: bool) -> None:
    """Refuse an image that cannot work; ``read`` decodes it as well, which finds damage."""
    stack = asked.open(image)
    index = stack.index(asked.plane)
    asked.prompts.check_inside(stack.plane_shape)
    samples = stack.shape[stack.axes.index("S")] if "S" in stack.axes else 1
    check_room(stack.plane_shape, samples * stack.dtype.itemsize, str(image))
    if read:
        stack.plane(index)


def _segment_image(
    segmenter: Segmenter,
    asked: _Asked,
    jobs: Sequence[Job],
    overwrite: bool,
    progress: Progress,
    many: bool,
) -> list[str]:
    """Answer all words on one plane, then write the results; returns what to say of them."""
    stack = asked.open(jobs[0].image)
    plane = stack.plane(asked.plane)
    spacing = {k: v for k, v in (stack.spacing_um or {}).items() if k in "YX"}
    segmenter.set_plane(plane)
    words = [job.word for job in jobs if job.word is not None]
    if len(words) > 1:
        segmenter.ahead.encode_planes([plane], words)
    found = [
        _predict(segmenter, plane, asked, job.word, None if many else progress) for job in jobs
    ]
    lines = []
    for job, prediction in zip(jobs, found, strict=True):
        labels = (
            prediction.labels()
            if prediction.target == "instances"
            else prediction.mask().astype(np.uint8)
        )
        write_labels(job.output, labels, overwrite, "YX", spacing)
        described = _describe(segmenter, plane, job, prediction)
        if job.json is not None:
            write_json(job.json, described, overwrite)
        lines.append(_line(job, described))
    return lines


def _predict(
    segmenter: Segmenter,
    plane: Plane,
    asked: _Asked,
    word: str | None,
    progress: Progress | None,
) -> Prediction:
    if plane.is_blank:
        return _nothing_there(segmenter, plane, asked.target, word)
    prompts = asked.prompts
    if word is not None:
        prompts = Prompts(word, prompts.points, prompts.labels, prompts.boxes)
    return segmenter.predict(prompts, asked.target, progress=progress)


def _nothing_there(
    segmenter: Segmenter, plane: Plane, target: Target, word: str | None
) -> Prediction:
    from napari_clipsam.inference.requests import Prediction

    threshold = None if segmenter.adapter is None else segmenter.adapter.info.threshold
    return Prediction(
        plane.shape,
        target,
        match=False,
        presence=None if threshold is None else 0.0,
        threshold=threshold,
        text=word,
        seconds=dict.fromkeys(("trunk", "signals", "head", "decode"), 0.0),
        note="The plane shows one single value everywhere, so there is nothing to find.",
    )


def _describe(
    segmenter: Segmenter, plane: Plane, job: Job, prediction: Prediction
) -> dict[str, Any]:
    """What ``--json`` holds."""
    there = [found for found in prediction.objects if found.area]
    return {
        "image": str(job.image),
        "plane": plane.index,
        "shape": list(plane.shape),
        "output": str(job.output),
        "model": segmenter.model.name,
        "adapter": segmenter.adapter_name,
        "clip": segmenter.model.clip_name,
        "device": str(segmenter.device),
        "text": prediction.text,
        "target": prediction.target,
        "match": prediction.match,
        "presence": prediction.presence,
        "threshold": prediction.threshold,
        "scores": prediction.scores,
        "n_objects": len(there),
        "n_pixels": int(np.count_nonzero(prediction.mask())),
        "seconds": prediction.seconds,
        "note": prediction.note,
    }


def _line(job: Job, described: dict[str, Any]) -> str:
    what = described["text"] or "object"
    if not described["match"]:
        result = "no match"
    elif described["target"] == "instances":
        result = plural(described["n_objects"], "object")
    else:
        result = plural(described["n_pixels"], "pixel")
    facts = [] if described["presence"] is None else [f"presence {described['presence']:.2f}"]
    if described["scores"] and described["target"] != "instances":
        facts.append("score " + ", ".join(f"{score:.2f}" for score in described["scores"]))
    facts.append(f"{sum(described['seconds'].values()):.2f} s")
    line = f"{job.image.name}: {what}: {result} ({', '.join(facts)}) -> {job.output}"
    return line + (f"\n  {described['note']}" if described["note"] else "")
