"""``napari-clipsam volume``."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from napari_clipsam._machine import check_room, folder_size, memory, size_text
from napari_clipsam.cli._common import (
    Progress,
    chosen_adapter,
    duration,
    make_segmenter,
    plural,
    write_json,
)
from napari_clipsam.cli._files import in_name
from napari_clipsam.cli._marks import marked_objects
from napari_clipsam.errors import ConfigError, OutputError, PlaneError, PromptError
from napari_clipsam.outputs import check_output
from napari_clipsam.planes import Stack, open_image, parse_axes, parse_channels
from napari_clipsam.prompts import Prompts

if TYPE_CHECKING:
    from napari_clipsam.inference.devices import Precision
    from napari_clipsam.inference.volume import VolumeProgress, VolumeTask
    from napari_clipsam.inference.volume_objects import ObjectTask
    from napari_clipsam.models.compiling import Compilation

__all__ = ["VolumeSegmentation", "run"]

# Of a stack only a few planes are in memory, and trunks are not looked at twice.
_CACHE = 1 << 28
# Labels take at least this share of their size on disk.
_LEAST_ON_DISK = 1 / 50
# Planes after which the time is told.
_MEASURED = 2
# Memory that a worker takes at least: Python and PyTorch with the smallest model.
_WORKER_BYTES = 400 << 20


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
    precision: Precision = "auto"
    compilation: Compilation = "none"
    seed: int = 0
    cache: Path | None = None
    workers: int | None = None
    scheduler: str | None = None

    @property
    def shares_out(self) -> bool:
        """Whether workers do it."""
        return self.workers is not None or self.scheduler is not None


class _Maker(NamedTuple):
    """What finds objects, for people."""

    model: str
    adapter: str
    clip: str
    device: str


def run(options: VolumeSegmentation) -> None:
    """Check everything, then segment and write."""
    from napari_clipsam.inference.volume import VolumeTask
    from napari_clipsam.inference.volume_files import check_volume_output
    from napari_clipsam.inference.volume_objects import ObjectTask

    words = tuple(str(Prompts(text=word).text) for word in options.texts)
    objects = marked_objects(options.points, options.boxes)
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
    estimate = _Estimate(task, options.output)
    if options.shares_out:
        maker, counts = _on_workers(options, task, outputs, estimate)
    else:
        maker, counts = _here(options, task, marked, outputs, estimate)
    for word, output in outputs.items():
        count = counts.get(word or "object", 0)
        found = _describe(maker, options.stack, len(stack), word, target, output, count)
        if word in described:
            write_json(described[word], found, options.overwrite)
        print(_line(found))


def _here(
    options: VolumeSegmentation,
    task: VolumeTask,
    marked: Sequence[ObjectTask],
    outputs: Mapping[str | None, Path],
    estimate: _Estimate,
) -> tuple[_Maker, Mapping[str, int]]:
    """Segment in this process; objects by word."""
    from napari_clipsam.inference.shelf import Shelf
    from napari_clipsam.inference.volume import segment_volume
    from napari_clipsam.inference.volume_objects import segment_objects

    shelf = _shelf(options.cache)
    segmenter = make_segmenter(
        options.model,
        options.clip,
        options.adapter,
        options.device,
        options.seed,
        precision=options.precision,
        compilation=options.compilation,
        cache_bytes=_CACHE,
        shelf=None if shelf is None else Shelf(*shelf),
    )
    model = segmenter.model
    maker = _Maker(model.name, segmenter.adapter_name, model.clip_name, str(segmenter.device))
    print(f"{estimate.planes}.", file=sys.stderr)
    counts: dict[str, int] = {}
    for one in marked:
        path = outputs[one.word]
        counts |= _watched(segment_objects(segmenter, one, path, options.overwrite))
    if not marked:
        steps = segment_volume(segmenter, task, outputs, options.overwrite)
        counts |= _watched(steps, estimate)
    return maker, counts


def _on_workers(
    options: VolumeSegmentation,
    task: VolumeTask,
    outputs: Mapping[str | None, Path],
    estimate: _Estimate,
) -> tuple[_Maker, Mapping[str, int]]:
    """Segment on the workers of a cluster; objects by word."""
    from napari_clipsam.inference import cluster

    adapter = chosen_adapter(options.model, options.clip, options.adapter)
    recipe = cluster.Recipe(
        _seen_by_all(options.model),
        None if options.clip is None else _seen_by_all(options.clip),
        adapter if adapter in ("default", None) else str(Path(str(adapter)).resolve()),
        options.device,
        options.precision,
        seed=options.seed,
        cache_bytes=_CACHE,
        shelf=_shelf(options.cache),
        threads=None if options.workers is None else cluster.threads_each(options.workers),
        compilation=options.compilation,
    )
    if options.workers is None:
        reached = cluster.join_cluster(str(options.scheduler))
    else:
        _check_workers(options.workers, options.device)
        reached = cluster.local_cluster(options.workers)
    with reached as client:
        ready = cluster.prepare(client, recipe, task)
        workers = plural(len(ready), "worker")
        print(f"{estimate.planes}; {workers} ready.", file=sys.stderr)
        maker = _Maker(ready[0].model, ready[0].adapter, ready[0].clip, ready[0].device)
        steps = cluster.segment_volume_on(client, recipe, task, outputs, options.overwrite, ready)
        with closing(steps):
            return maker, _watched(steps, estimate)


def _seen_by_all(choice: str) -> str:
    """A file by its whole path, anything else as it is."""
    path = Path(choice)
    return str(path.resolve()) if path.is_file() else choice


def _check_workers(workers: int, device: str) -> None:
    """Refuse more processes than memory can hold, before they are started.

    Raises
    ------
    ConfigError
    """
    from napari_clipsam.inference.devices import choose_device

    choose_device(device)
    free = memory().free
    if free is not None and workers * _WORKER_BYTES > free:
        raise ConfigError(
            f"{workers} workers take {size_text(workers * _WORKER_BYTES)} of memory at least; "
            f"{size_text(free)} are free. Use at most {max(1, free // _WORKER_BYTES)}."
        )


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
    if options.workers is not None and options.scheduler is not None:
        raise PromptError(
            "--workers starts processes here, --scheduler joins those that run. Give one of them."
        )
    if target == "object" and options.shares_out:
        raise PromptError(
            "Marked objects are followed from slice to slice, which workers cannot share. Leave "
            "--workers and --scheduler out, or look for a word with --target concept or instances."
        )
    if target != "object" and options.propagate:
        raise PromptError(
            "--propagate follows objects that are marked. Give a --point or a --box, or leave it "
            "out: instances are linked through the slices anyway."
        )
    return target


def _open(options: VolumeSegmentation) -> Stack:
    from napari_clipsam.inference.volume import check_one_shape

    axes = None if options.axes is None else parse_axes(options.axes)
    channels = None if options.channels is None else parse_channels(options.channels)
    # Workers are in other folders.
    path = options.stack.resolve() if options.shares_out else options.stack
    stack = open_image(path, axes, channels)
    check_one_shape(stack)
    if not stack.plane_axes:
        raise PlaneError(f"{options.stack} is one plane, not a stack. Use `segment` for it.")
    samples = stack.shape[stack.axes.index("S")] if "S" in stack.axes else 1
    check_room(stack.plane_shape, samples * stack.dtype.itemsize, str(options.stack))
    return stack


def _shelf(folder: Path | None) -> tuple[str, int] | None:
    """Where the cache is, and how many bytes it may take."""
    if folder is None:
        return None
    place = folder.resolve()
    there = next(one for one in (place, *place.parents) if one.is_dir())
    # What it holds already is its own: bounded by half of the rest, it would throw that away.
    return str(place), (shutil.disk_usage(there).free + folder_size(place)) // 2


class _Estimate:
    """Refuses what the disk cannot hold, and says what the rest takes once a few planes are done.

    Attributes
    ----------
    planes : str
        How many there are and what they take on the disk, for people.

    Raises
    ------
    OutputError
    """

    def __init__(self, task: VolumeTask, output: Path) -> None:
        layout = task.layout
        size = len(task.words) * int(np.prod(layout.shape)) * layout.dtype.itemsize
        self._steps = 0
        folder = output if output.is_dir() else output.parent
        free = shutil.disk_usage(folder).free
        if free < _LEAST_ON_DISK * size:
            raise OutputError(
                f"{folder} has {size_text(free)} free; the labels take at least "
                f"{size_text(_LEAST_ON_DISK * size)}. Free some space, or choose another "
                "folder."
            )
        height, width = layout.shape[-2:]
        # With coarser levels; of a TIFF they lie beside its place until it is made.
        most = size * (4 / 3 if output.suffix == ".zarr" else 7 / 3)
        self.planes = (
            f"{plural(len(task.indices), 'plane')} of {height} x {width}, "
            f"at most {size_text(most)} on disk"
        )

    def __call__(self, step: VolumeProgress) -> str | None:
        """What to say after a step."""
        self._steps += 1
        # The first plane takes longer: it warms up what the others use.
        if self._steps != _MEASURED or step.done == step.total:
            return None
        takes = [f"about {duration(step.seconds_left)}"]
        if step.memory is not None:
            takes.append(f"{size_text(step.memory)} memory")
        return f"The rest takes {' and '.join(takes)}."


def _watched(
    steps: Iterator[VolumeProgress], estimate: Callable[[VolumeProgress], str | None] | None = None
) -> Mapping[str, int]:
    """Run to the end, show how far it is, print what a person should know; objects by word."""
    progress = Progress("plane")
    counts: Mapping[str, int] = {}
    try:
        for step in steps:
            told = None if estimate is None else estimate(step)
            for note in (*step.notes, *([told] if told else [])):
                progress.clear()
                print(note, file=sys.stderr)
            known = math.isfinite(step.seconds_left)
            progress(step.done, step.total, step.seconds_left if known else None)
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
    maker: _Maker,
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
        **maker._asdict(),
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
