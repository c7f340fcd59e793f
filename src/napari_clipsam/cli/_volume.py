"""``napari-clipsam volume``."""

from __future__ import annotations

import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_clipsam._machine import check_room, size_text
from napari_clipsam.cli._common import Progress, make_segmenter, plural, write_json
from napari_clipsam.cli._files import in_name
from napari_clipsam.errors import OutputError, PlaneError, PromptError
from napari_clipsam.outputs import check_output
from napari_clipsam.planes import Stack, open_image, parse_axes, parse_channels
from napari_clipsam.prompts import BoxPrompt, PointPrompt, Prompts, parse_box, parse_point

if TYPE_CHECKING:
    from napari_clipsam.inference.segmenter import Segmenter
    from napari_clipsam.inference.volume import VolumeProgress, VolumeTask

__all__ = ["VolumeSegmentation", "run"]

# Of a stack only a few planes are in memory, and trunks are not looked at twice.
_CACHE = 1 << 28
# Labels take at least this share of their size on disk.
_LEAST_ON_DISK = 1 / 50


@dataclass(frozen=True, kw_only=True)
class VolumeSegmentation:
    """Arguments and options as typed."""

    stack: Path
    output: Path
    texts: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    boxes: tuple[str, ...] = ()
    target: Literal["concept", "instances", "object"] | None = None
    propagate: bool = False
    model: str = "starter"
    clip: str | None = None
    adapter: str | None = None
    axes: str | None = None
    channels: str | None = None
    json: Path | None = None
    overwrite: bool = False
    device: str = "auto"
    seed: int = 0
    cache: Path | None = None


def run(options: VolumeSegmentation) -> None:
    """Check everything, then segment and write."""
    from napari_clipsam.inference.volume import VolumeTask, segment_volume
    from napari_clipsam.inference.volume_files import check_volume_output
    from napari_clipsam.inference.volume_objects import ObjectTask, segment_objects

    words = tuple(str(Prompts(text=word).text) for word in options.texts)
    objects = _objects(options.points, options.boxes)
    target = _target(options, words, objects)
    stack = _open(options)
    outputs = _named(options.output, words)
    described = {} if options.json is None else _named(options.json, words)
    for output in outputs.values():
        check_volume_output(output, options.overwrite)
        if output.resolve() == options.stack.resolve():
            raise OutputError(f"{output} is the stack itself. Choose another name.")
    for path in described.values():
        check_output(path, options.overwrite)
    task = VolumeTask(
        stack, words or ("object",), "concept" if target == "concept" else "instances"
    )
    marked = [
        ObjectTask(stack, tuple(objects), word, options.propagate)
        for word in outputs
        if target == "object"
    ]
    _say_what_it_takes(task, options.output)
    segmenter = make_segmenter(
        options.model,
        options.clip,
        options.adapter,
        options.device,
        options.seed,
        cache_bytes=_CACHE,
        shelf=_shelf(options.cache),
    )
    counts: dict[str, int] = {}
    for one in marked:
        path = outputs[one.word]
        counts |= _watched(segment_objects(segmenter, one, path, options.overwrite))
    if not marked:
        counts |= _watched(segment_volume(segmenter, task, outputs, options.overwrite))
    for word, output in outputs.items():
        count = counts.get(word or "object", 0)
        found = _describe(segmenter, options.stack, len(stack), word, target, output, count)
        if word in described:
            write_json(described[word], found, options.overwrite)
        print(_line(found))


def _target(
    options: VolumeSegmentation, words: Sequence[str], objects: Sequence[Any]
) -> Literal["concept", "instances", "object"]:
    """What is looked for.

    Raises
    ------
    PromptError
        The options do not go together.
    """
    if not words and not objects:
        raise PromptError(
            "There is nothing to go by. Give --text WORD, --point Z,Y,X or --box Z,Y0,X0,Y1,X1."
        )
    target = options.target or ("object" if objects else "concept")
    if target == "object" and not objects:
        raise PromptError(
            "An object needs a --point or a --box; for all that a word names, use --target "
            "concept or instances."
        )
    if target != "object" and objects:
        raise PromptError(
            f"Points and boxes mark single objects and cannot guide --target {target} in a stack. "
            "Leave them out, or use --target object."
        )
    if target != "object" and options.propagate:
        raise PromptError(
            "--propagate follows objects that are marked. Give a --point or a --box, or leave it "
            "out: instances are linked through the slices anyway."
        )
    return target


def _open(options: VolumeSegmentation) -> Stack:
    axes = None if options.axes is None else parse_axes(options.axes)
    channels = None if options.channels is None else parse_channels(options.channels)
    stack = open_image(options.stack, axes, channels)
    if not stack.plane_axes:
        raise PlaneError(f"{options.stack} is one plane, not a stack. Use `segment` for it.")
    samples = stack.shape[stack.axes.index("S")] if "S" in stack.axes else 1
    check_room(stack.plane_shape, samples * stack.dtype.itemsize, str(options.stack))
    return stack


def _objects(points: Sequence[str], boxes: Sequence[str]) -> list[dict[int, Prompts]]:
    """Prompts by slice of each object: one for each box with the points in it, one for the rest.

    Raises
    ------
    PromptError
        A point or box cannot be read or names no slice, or all points of an object are negative.
    """
    typed = [parse_point(text) for text in points]
    cornered = [parse_box(text) for text in boxes]
    slices = [one.z for one in typed] + [one.z for one in cornered]
    for z, text in zip(slices, [*points, *boxes], strict=True):
        if z is None:
            raise PromptError(f"'{text}' names no slice. Begin it with Z, e.g. 12,{text}.")
    objects = [_boxed(box, [p for p in typed if _inside(p, box)]) for box in cornered]
    rest = [p for p in typed if not any(_inside(p, box) for box in cornered)]
    if rest:
        by_slice: dict[int, list[PointPrompt]] = defaultdict(list)
        for point in rest:
            by_slice[int(point.z or 0)].append(point)
        if not any(point.label for point in rest):
            raise PromptError("All points are negative. Give one on the object as well, or a box.")
        objects.append({z: _points(some) for z, some in by_slice.items()})
    return objects


def _boxed(box: BoxPrompt, points: Sequence[PointPrompt]) -> dict[int, Prompts]:
    of_points = _points(points)
    corners = [(box.y0, box.x0, box.y1, box.x1)]
    return {int(box.z or 0): Prompts(None, of_points.points, of_points.labels, corners)}


def _points(points: Sequence[PointPrompt]) -> Prompts:
    return Prompts(points=[(p.y, p.x) for p in points], labels=[p.label for p in points])


def _inside(point: PointPrompt, box: BoxPrompt) -> bool:
    return point.z == box.z and box.y0 <= point.y < box.y1 and box.x0 <= point.x < box.x1


def _shelf(folder: Path | None) -> Any:
    if folder is None:
        return None
    from napari_clipsam.inference.shelf import Shelf

    free = shutil.disk_usage(folder.parent if folder.parent.is_dir() else Path.cwd()).free
    return Shelf(folder, free // 2)


def _say_what_it_takes(task: VolumeTask, output: Path) -> None:
    """Refuse what the disk cannot hold, and say what it may take at most."""
    layout, words = task.layout, len(task.words)
    size = words * int(np.prod(layout.shape)) * layout.dtype.itemsize
    folder = output if output.is_dir() else output.parent
    free = shutil.disk_usage(folder).free
    if free < _LEAST_ON_DISK * size:
        raise OutputError(
            f"{folder} has {size_text(free)} free; the labels take at least "
            f"{size_text(_LEAST_ON_DISK * size)}. Free some space, or choose another folder."
        )
    height, width = layout.shape[-2:]
    print(
        f"{plural(len(task.indices), 'plane')} of {height} x {width}; the labels take "
        f"{size_text(size)} at most, a fraction of it compressed.",
        file=sys.stderr,
    )


def _watched(steps: Iterator[VolumeProgress]) -> Mapping[str, int]:
    """Run to the end, show how far it is, print what a person should know; objects by word."""
    progress = Progress("plane")
    counts: Mapping[str, int] = {}
    try:
        for step in steps:
            for note in step.notes:
                progress.clear()
                print(note, file=sys.stderr)
            progress(step.done, step.total)
            counts = step.counts
    finally:
        progress.clear()
    return counts


def _named(path: Path, words: Sequence[str]) -> dict[str | None, Path]:
    """One file for each word, with the word behind the stem where there are several.

    Raises
    ------
    PromptError
        Two words that file names cannot tell apart.
    """
    if len(words) < 2:
        return {words[0] if words else None: path}
    stem, dot, suffix = path.name.partition(".")
    named = {word: path.with_name(f"{stem}_{in_name(word)}{dot}{suffix}") for word in words}
    if len(set(named.values())) < len(words):
        raise PromptError(f"The words {', '.join(words)} are not all different. Give each once.")
    return {word: named[word] for word in words}


def _describe(
    segmenter: Segmenter,
    stack: Path,
    n_planes: int,
    word: str | None,
    target: str,
    output: Path,
    count: int,
) -> dict[str, Any]:
    """What ``--json`` holds."""
    return {
        "image": str(stack),
        "output": str(output),
        "model": segmenter.model.name,
        "adapter": segmenter.adapter_name,
        "device": str(segmenter.device),
        "text": word,
        "target": target,
        "match": count > 0,
        "n_planes": n_planes,
        "n_objects": count,
    }


def _line(found: Mapping[str, Any]) -> str:
    result = "no match"
    if found["match"]:
        concept = found["target"] == "concept"
        result = "found" if concept else plural(found["n_objects"], "object")
    what = found["text"] or "object"
    planes = plural(found["n_planes"], "plane")
    return f"{Path(found['image']).name}: {what}: {result} in {planes} -> {found['output']}"
