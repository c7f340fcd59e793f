"""``napari-clipsam finetune``."""

from __future__ import annotations

import os
import signal
import sys
import threading
import uuid
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from types import FrameType
from typing import TYPE_CHECKING

from napari_clipsam._machine import size_text
from napari_clipsam.cli._common import Progress, duration, make_segmenter, plural
from napari_clipsam.cli._pairs import chosen_pairs, spare_inputs
from napari_clipsam.errors import ConfigError, OutputError, Stopped
from napari_clipsam.outputs import check_output
from napari_clipsam.planes import parse_axes, parse_channels

if TYPE_CHECKING:
    from napari_clipsam.adapters.inject import Adapter
    from napari_clipsam.inference.segmenter import Segmenter
    from napari_clipsam.training.events import TrainEvent, TrainResult
    from napari_clipsam.training.samples import Split
    from napari_clipsam.training.settings import ConceptPrompting, FitSettings, Goal

__all__ = ["FineTuning", "run"]

_MINUTES = 3.0
_GOALS = {"concept": "all of it", "object": "single objects", "both": "all of it and each one"}


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """Arguments and options as typed."""

    images: Path
    labels: Path | None
    texts: tuple[str, ...]
    output: Path
    shots: int | None = None
    seed: int = 0
    hold_out: float = 0.2
    minutes: float | None = None
    steps: int | None = None
    target: Goal = "concept"
    start: str | None = None
    prompts: ConceptPrompting = "text"
    semantics: bool = True
    model: str = "starter"
    clip: str | None = None
    index: Path | None = None
    split: str | None = None
    where: tuple[str, ...] = ()
    concept: str | None = None
    axes: str | None = None
    channels: str | None = None
    device: str = "auto"
    overwrite: bool = False
    resume: bool = False
    curve: Path | None = None
    no_curve: bool = False


@dataclass(frozen=True)
class _Files:
    """Where results go."""

    adapter: Path
    state: Path
    curve: Path | None


def run(options: FineTuning) -> None:
    """Check everything, then teach, measure what was saved, and print."""
    from napari_clipsam.training.samples import check_words, examples_from_pairs, make_split

    words = check_words(options.texts)
    settings = _settings(options)
    axes = None if options.axes is None else parse_axes(options.axes)
    channels = None if options.channels is None else parse_channels(options.channels)
    files = _check_files(options)
    pairs = chosen_pairs(options, words[0])
    outputs = files.adapter, files.curve
    spare_inputs(outputs, options, pairs, "; --curve names the learning curve's")
    reading = Progress("reading labels")
    try:
        examples = examples_from_pairs(
            pairs, words, axes, channels, options.shots, options.seed, reading
        )
    finally:
        reading.clear()
    split = make_split(examples, options.hold_out, options.seed, options.target)
    segmenter = make_segmenter(
        options.model, options.clip, options.start, options.device, options.seed
    )
    print(_plan(options, words, split, segmenter))
    if options.shots is not None and len(examples) < options.shots:
        print(f"{options.shots} labelled slices were asked for; there are no more than these.")
    for note in split.notes:
        print(note)
    _print_estimate(segmenter, split, settings)
    result = _fit(segmenter, split, settings, files.state, options.resume)
    scores = _save(result, words, segmenter, split, options, files.adapter)
    stopped = result.reason == "stopped"
    if not stopped:
        files.state.unlink(missing_ok=True)
    print(_outcome(result, scores, files, options.resume))
    if files.curve is not None:
        from napari_clipsam.training.curve import draw_curve

        draw_curve(result, files.curve, options.overwrite)
        print(f"Learning curve: {files.curve}")


def _settings(options: FineTuning) -> FitSettings:
    from napari_clipsam.training.settings import FitSettings

    if options.minutes is not None and options.steps is not None:
        raise ConfigError("--minutes and --steps are both given. Give one of them.")
    minutes = options.minutes
    if minutes is None and options.steps is None:
        minutes = _MINUTES
    return FitSettings(
        goal=options.target,
        minutes=minutes,
        steps=options.steps,
        seed=options.seed,
        concept_prompts=options.prompts,
        semantics=options.semantics,
    )


def _check_files(options: FineTuning) -> _Files:
    """Refuse outputs that could not be written, and states that would be lost or are not there."""
    from napari_clipsam.training.checkpoint import state_path

    output = options.output
    if output.suffix != ".safetensors":
        raise OutputError(f"{output} is not the name of an adapter. Let it end in .safetensors.")
    check_output(output, options.overwrite)
    state = state_path(output)
    if options.resume and not state.is_file():
        raise ConfigError(f"There is no {state} to go on from. Leave out --resume.")
    if state.exists() and not (options.resume or options.overwrite):
        raise OutputError(
            f"{state} keeps a training that was not finished. Go on with --resume, or give "
            "--overwrite to start anew."
        )
    return _Files(output, state, _curve(options))


def _curve(options: FineTuning) -> Path | None:
    if options.no_curve:
        if options.curve is not None:
            raise ConfigError("--curve and --no-curve are both given. Give one of them.")
        return None
    curve = options.curve or options.output.with_suffix(".png")
    if curve.suffix.lower() != ".png":
        raise OutputError(f"{curve} is not the name of a PNG. Let it end in .png.")
    if options.curve is None and curve.exists() and not options.overwrite:
        raise OutputError(
            f"{curve}, where the learning curve goes, exists already. Choose another place with "
            "--curve, or give --no-curve or --overwrite."
        )
    check_output(curve, options.overwrite)
    return curve


def _plan(options: FineTuning, words: Sequence[str], split: Split, segmenter: Segmenter) -> str:
    named = " = ".join(f"'{word}'" for word in words)
    start = "the base alone"
    if segmenter.adapter is not None:
        start = f"adapter {segmenter.adapter_name}"
    same_plane = len(split.train) == 1 and split.train[0].plane is split.held_out[0].plane
    count = "the rest of it" if same_plane else plural(len(split.train), "slice")
    return (
        f"{named}, {_GOALS[options.target]}: learnt from {count}, tested on {split.tested_on}\n"
        f"{segmenter.model.name}, {segmenter.device}, from {start}"
    )


def _print_estimate(segmenter: Segmenter, split: Split, settings: FitSettings) -> None:
    from napari_clipsam.training.budget import estimate

    counts = len(split.train), len(split.held_out)
    needs = estimate(segmenter.model, *counts, settings, segmenter.adapter)
    print(
        f"Needs about {duration(needs.seconds)} and {size_text(needs.memory)} of memory for "
        f"{plural(needs.steps, 'step')}. Ctrl-C stops and keeps the best.",
        flush=True,
    )


def _fit(
    segmenter: Segmenter, split: Split, settings: FitSettings, state: Path, resume: bool
) -> TrainResult:
    """Train, and tell of it; Ctrl-C once ends it early, twice at once."""
    from napari_clipsam.training.trainer import fit

    progress = _TrainingProgress("step")
    result = None
    with _Interrupt() as interrupt:
        events = fit(
            segmenter.model,
            split,
            settings,
            segmenter.adapter,
            checkpoint=state,
            resume=resume,
            stop=interrupt.asked,
        )
        try:
            with closing(events):
                for event in events:
                    progress.show(event)
                    # Those of the slices were told before.
                    if event.note and event.stage != "encode":
                        progress.clear()
                        print(event.note, file=sys.stderr, flush=True)
                    if event.score is not None:
                        progress.clear()
                        print(_score_line(event), flush=True)
                    result = event.result or result
        except Stopped as error:
            raise KeyboardInterrupt from error
        finally:
            progress.clear()
    assert result is not None
    if result.reason == "stopped" and not result.facts.get("steps", 0):
        raise KeyboardInterrupt
    return result


def _score_line(event: TrainEvent) -> str:
    line = f"  {duration(event.seconds):>7}  step {event.step:<5}  held out {event.score:.3f}"
    loss = event.losses.get("loss")
    return line if loss is None else f"{line}  loss {loss:.3f}"


def _save(
    result: TrainResult,
    words: Sequence[str],
    segmenter: Segmenter,
    split: Split,
    options: FineTuning,
    path: Path,
) -> dict[str, float]:
    """Save the adapter with the scores that its own file has; they are measured after loading it.

    Nothing is left at `path` unless all of it went well.
    """
    from napari_clipsam.adapters.files import load_adapter, save_adapter
    from napari_clipsam.training.scoring import held_out_scores

    model = segmenter.model
    part = path.with_name(f".{uuid.uuid4().hex[:12]}{path.suffix}")
    try:
        save_adapter(result.adapter, part)
        stored: Adapter = load_adapter(part, model.sam, model.clip)
    finally:
        part.unlink(missing_ok=True)
    scores = held_out_scores(model, stored, split.held_out, options.target)
    told = {"tested_on": split.tested_on, "after": scores}
    trained = result.improved or result.best < result.baseline
    if not trained:
        told["before"] = scores
    stored.with_info(
        words=stored.info.words or tuple(reversed(words)),
        scores={**(stored.info.scores if trained else {}), **told},
    )
    save_adapter(stored, path, options.overwrite)
    return scores


def _outcome(result: TrainResult, scores: dict[str, float], files: _Files, resumed: bool) -> str:
    after = fmean(scores.values()) if scores else result.best
    lines = []
    if result.reason == "not finite":
        lines.append(
            "Training met numbers that are not finite and was ended; the best before that is kept."
        )
    measured = f"{result.measure} on {result.tested_on}: {result.baseline:.3f}"
    if result.improved:
        lines.append(f"{measured} -> {after:.3f}")
    elif result.best < result.baseline:
        lines.append(
            f"{measured} without an adapter, and nothing learnt was better: the file holds the "
            f"best of it, {after:.3f}. Label more slices, or teach for longer."
        )
    else:
        lines.append(
            f"{measured}, and nothing learnt was better: the file holds what training began from."
        )
    lines.append(f"Saved: {files.adapter} ({size_text(files.adapter.stat().st_size)})")
    if result.reason == "stopped" and files.state.is_file():
        lines.append(
            f"Stopped. {files.state} is kept: the same command with --resume --overwrite goes on."
        )
    return "\n".join(lines)


class _TrainingProgress(Progress):
    """How far training is, and how much time is left."""

    def show(self, event: TrainEvent) -> None:
        """Show an event; nothing but on a terminal."""
        if not sys.stderr.isatty() or event.stage == "done":
            return
        what = "reading slices" if event.stage == "encode" else f"step {event.step}"
        text = f"{what}, {event.progress:.0%}"
        if event.seconds_left > 0:
            text += f", about {duration(event.seconds_left)} left"
        if event.best is not None:
            text += f", best {event.best:.3f}"
        self._write(text)


class _Interrupt:
    """Ctrl-C: the first asks for an end, the second ends at once."""

    def __init__(self) -> None:
        self._asked = False
        self._former: object = None

    def asked(self) -> bool:
        """Whether an end was asked for."""
        return self._asked

    def __enter__(self) -> _Interrupt:
        # Elsewhere nobody may listen to signals, and none come.
        if threading.current_thread() is threading.main_thread():
            self._former = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        if self._former is not None:
            signal.signal(signal.SIGINT, self._former)  # type: ignore[arg-type]

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        # `print` must not be called from here: it may be what was interrupted.
        os.write(2, b"\nStopping; the best is kept. Ctrl-C again ends at once.\n")
