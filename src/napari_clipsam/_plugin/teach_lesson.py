"""One lesson from its slices to a file in the library; runs on the training thread alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from napari_clipsam._folders import make_folder
from napari_clipsam._plugin.importing import avoid_llvm_clash
from napari_clipsam._plugin.taught import Record, free_stem, save, take_lock, title
from napari_clipsam._plugin.teach_slices import Picked, examples_of, held_out_of, tested_of
from napari_clipsam.errors import ClipSamError, OutputError, Stopped

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path

    from napari_clipsam._locking import FileLock
    from napari_clipsam._plugin.engine import Lent
    from napari_clipsam._plugin.teach_pair import Slices
    from napari_clipsam._plugin.training_thread import Halt
    from napari_clipsam.training.events import TrainEvent, TrainResult
    from napari_clipsam.training.samples import Split
    from napari_clipsam.training.settings import FitSettings

    Fit = Callable[..., Iterator[TrainEvent]]

__all__ = ["Kept", "Plan", "Prepared", "lesson", "settings_of"]

# The record is written no more often than this, for the time it tells. Seconds.
_NOTE_SECONDS = 20.0


@dataclass(frozen=True, eq=False)
class Plan:
    """What a lesson is about.

    Attributes
    ----------
    source : Slices
    record : Record
        Without a stem while it has no files yet.
    day : date
        Today.
    resume : bool
        Whether to go on from the record's state.
    """

    source: Slices
    record: Record
    day: date
    resume: bool = False


@dataclass(frozen=True)
class Prepared:
    """The slices are read.

    Attributes
    ----------
    record : Record
        With its stem.
    tested : tuple of int
        Slices that are tested on; empty for a part of the only one.
    tested_on : str
        The same in words.
    notes : tuple of str
    trouble : OutputError or None
        Why a lesson that is cut off would be lost.
    """

    record: Record
    tested: tuple[int, ...]
    tested_on: str
    notes: tuple[str, ...]
    trouble: OutputError | None = None


@dataclass(frozen=True, eq=False)
class Kept:
    """What became of a result that is better: its file, or why there is none."""

    path: Path | None = None
    error: ClipSamError | None = None


def settings_of(record: Record) -> FitSettings:
    """What the trainer is asked for."""
    from napari_clipsam.training.settings import FitSettings

    return FitSettings(
        goal=record.goal,  # type: ignore[arg-type]  # checked by the settings
        minutes=record.minutes,
        steps=record.steps,
    )


def lesson(
    plan: Plan, lent: Lent, give_way: Callable[[], None], halt: Halt, fit: Fit | None = None
) -> Iterator[Prepared | TrainEvent | Kept]:
    """Read slices, teach, and put what is better into the library.

    Parameters
    ----------
    plan : Plan
    lent : Lent
        The model, and the adapter to go on from.
    give_way : callable
        Lets clicks go first.
    halt : Halt
    fit : callable, optional
        The trainer.

    Raises
    ------
    ClipSamError
        Nothing can be learnt, or the trainer gave up; what a record has stays for another try.
    """
    avoid_llvm_clash()
    from napari_clipsam.adapters.library import adapters_folder

    if fit is None:
        from napari_clipsam.training import trainer

        fit = trainer.fit
    split = _split(plan, halt)
    folder = adapters_folder()
    record, lock, trouble = _claimed(plan, folder)
    tested = tested_of(split, plan.source)
    yield Prepared(record, tested, split.tested_on, split.notes, trouble)
    events = fit(
        lent.model,
        split,
        settings_of(record),
        start=lent.adapter,
        checkpoint=None if trouble else record.state(folder),
        resume=plan.resume,
        stop=halt,
        give_way=give_way,
    )
    is_over = False
    try:
        result = yield from _followed(events, record, folder, None if trouble else lock)
        is_over = not halt.is_dropped
        if is_over and result is not None and result.improved:
            yield _kept(result, record, folder, plan.day)
    except Stopped:
        is_over = not halt.is_dropped
        raise
    finally:
        if not trouble:
            _leave(record, folder, is_over, is_stopped=halt())
        if lock is not None:
            lock.release()


def _split(plan: Plan, halt: Halt) -> Split:
    from napari_clipsam.training.samples import make_split

    def check() -> None:
        if halt():
            raise Stopped("Stopped.")

    record = plan.record
    picked = Picked(record.slices, record.partial)
    examples = examples_of(plan.source, picked, record.words, check)
    held_out = held_out_of(picked, record.tested)
    return make_split(examples, held_out, goal=record.goal)  # type: ignore[arg-type]


def _claimed(plan: Plan, folder: Path) -> tuple[Record, FileLock | None, OutputError | None]:
    """The record with files of its own, locked; and what speaks against that."""
    record = plan.record
    try:
        make_folder(folder)
        if not record.stem:
            name = title(record.words, record.image, plan.day)
            record = replace(record, stem=free_stem(folder, name))
        lock = take_lock(folder, record.stem)
        record.write(folder)
    except OutputError as error:
        return record, None, error
    return record, lock, None


def _followed(
    events: Iterator[TrainEvent], record: Record, folder: Path, lock: FileLock | None
) -> Generator[TrainEvent, None, TrainResult | None]:
    """The events; the record learns now and then how long it took. Returns the result."""
    result: TrainResult | None = None
    noted = time.monotonic()
    for event in events:
        if event.result is not None:
            result = event.result
        elif lock is not None and time.monotonic() - noted > _NOTE_SECONDS:
            noted = time.monotonic()
            with suppress(OutputError):
                replace(record, spent=event.seconds).write(folder)
        yield event
    return result


def _kept(result: TrainResult, record: Record, folder: Path, day: date) -> Kept:
    try:
        return Kept(save(result, record, folder, day))
    except ClipSamError as error:
        return Kept(error=error)


def _leave(record: Record, folder: Path, is_over: bool, is_stopped: bool) -> None:
    """What is left to go on from: all of a lesson that was cut off, for now that of a stopped one.

    A stopped one is cleared away when somebody looks for unfinished ones later.
    """
    with suppress(OutputError):
        if is_over and is_stopped:
            replace(record, is_stopped=True).write(folder)
        elif is_over:
            record.forget(folder)
