"""A word in a whole stack, its planes shared out among the workers of a dask cluster.

Workers find and link blocks of planes; here the blocks come together in their order, are joined
and written. Only a few blocks are under way, so memory stays flat, and what a worker has finished
is fetched at once: one that dies costs the planes it was at.
"""

from __future__ import annotations

import importlib.metadata
import pickle
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any

from napari_clipsam.errors import ClipSamError, ConfigError, OutOfMemory, PlaneError
from napari_clipsam.inference.cluster_processes import (
    TRIES,
    join_cluster,
    local_cluster,
    threads_each,
)
from napari_clipsam.inference.cluster_worker import (
    About,
    Block,
    Recipe,
    Trouble,
    find_block,
    introduce,
    let_go,
)
from napari_clipsam.inference.volume import VolumeTask
from napari_clipsam.inference.volume_results import PlaneLabels, VolumeProgress, VolumeResults

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = [
    "About",
    "Recipe",
    "join_cluster",
    "local_cluster",
    "prepare",
    "segment_volume_on",
    "threads_each",
]

_PACKAGE = "napari-clipsam"
# Planes of a block: few, since they are lost with their worker.
_BLOCK = 8
# Blocks a worker gets at least, so that none waits long for the last one.
_SHARES = 4
# Blocks under way for each worker: one to work on, one to begin with at once.
_UNDER_WAY = 2
# Seconds to wait for the first worker, or for the last one to come back.
_PATIENCE = 60.0
# A pickled stack that is larger holds pixels.
_LARGEST_ORDER = 10 << 20


def prepare(client: Client, recipe: Recipe, task: VolumeTask) -> list[About]:
    """Let every worker load the model and open the stack, before any work.

    Returns
    -------
    list of About
        At least one; all with the same model, adapter and stack.

    Raises
    ------
    ConfigError
        There are no workers, or one lacks this package or has another version of it.
    PlaneError, WeightsError, AdapterError
        A worker cannot read the stack, or load the model or the adapter.
    """
    _await_workers(client)
    _check_versions(client)
    order = _order(recipe, task)
    asked = {
        address: client.submit(
            introduce, order, workers=[address], allow_other_workers=True, pure=False
        )
        for address in client.scheduler_info(n_workers=-1)["workers"]
    }
    ready = []
    for address, future in asked.items():
        answer = _result(future, f"The worker at {address} could not get ready")
        if isinstance(answer, Trouble):
            _raise(answer)
        ready.append(answer)
    for other in ready[1:]:
        if other.made_of != ready[0].made_of:
            raise ConfigError(
                f"The workers at {ready[0].address} and {other.address} have different models or "
                "stacks under the same names, or another precision. Give all workers the same "
                "files, and --precision fp32 where their devices differ."
            )
    return ready


def segment_volume_on(
    client: Client,
    recipe: Recipe,
    task: VolumeTask,
    outputs: Mapping[Any, Path],
    overwrite: bool = False,
    ready: Sequence[About] = (),
) -> Generator[VolumeProgress, None, None]:
    """Find words in every plane of a stack with the workers of a cluster; see `segment_volume`.

    The labels are those of a run in one process, and each goes on with what the other left.

    Parameters
    ----------
    client : distributed.Client
        Of `local_cluster` or `join_cluster`, or one of your own.
    recipe : Recipe
    task : VolumeTask
        With a stack that was opened by a path which all workers see.
    outputs : mapping of str to Path
    overwrite : bool
    ready : sequence of About
        What `prepare` returned; prepared here when empty.

    Yields
    ------
    VolumeProgress
        After each plane that is written.

    Raises
    ------
    OutputError, PlaneError
        As for `segment_volume`.
    ConfigError, WeightsError, AdapterError
        As for `prepare`.
    ClipSamError
        The cluster is lost, or its workers die; the planes that are finished are kept.
    """
    made_of = (ready or prepare(client, recipe, task))[0].made_of
    order = _order(recipe, task)
    with VolumeResults(task, made_of, outputs, overwrite) as results:
        workers = len(client.scheduler_info(n_workers=-1)["workers"])
        borders = _blocks(results.first, len(task.indices), workers)
        try:
            with closing(_shared_out(client, order, made_of, borders)) as blocks:
                yield from results.take(_planes(blocks, task, workers))
        except (GeneratorExit, KeyboardInterrupt):
            _give_memory_back(client)
            raise
    _give_memory_back(client)


def _give_memory_back(client: Client) -> None:
    with suppress(Exception):  # a worker that is gone has none
        client.run(let_go)


def _blocks(first: int, last: int, workers: int) -> list[tuple[int, int]]:
    """Borders of blocks of equal size."""
    size = max(1, min(_BLOCK, (last - first) // max(1, _SHARES * workers)))
    return [(begin, min(begin + size, last)) for begin in range(first, last, size)]


def _planes(
    blocks: Iterator[Block], task: VolumeTask, workers: int
) -> Generator[PlaneLabels, None, None]:
    """Planes of the blocks, in their order.

    Raises
    ------
    ClipSamError
        What ended a block, after the planes before it.
    """
    shape = task.stack.plane_shape
    for block in blocks:
        for number, notes in enumerate(block.notes):
            share = block.seconds / len(block.notes) / max(1, workers)
            memory = None if block.memory is None else block.memory * workers
            yield PlaneLabels(block.labels(number, shape), notes, number > 0, share, memory)
        if block.trouble is not None:
            _raise(block.trouble)


def _shared_out(
    client: Client,
    order: bytes,
    made_of: Mapping[str, Mapping[str, Any]],
    borders: Sequence[tuple[int, int]],
) -> Generator[Block, None, None]:
    """Blocks in their order; no more than a few are under way or wait here for their turn."""
    arrived: Queue[tuple[int, Block | BaseException]] = Queue()
    waiting: dict[int, Block] = {}
    under_way: dict[int, Future] = {}
    begun = 0

    def fetch(number: int) -> Callable[[Future], None]:
        def take(future: Future) -> None:
            try:
                arrived.put((number, future.result()))
            except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
                arrived.put((number, error))

        return take

    try:
        for turn in range(len(borders)):
            most = _UNDER_WAY * max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
            while begun < min(turn + most, len(borders)):
                future = client.submit(
                    find_block, order, *borders[begun], made_of, pure=False, retries=TRIES
                )
                under_way[begun] = future
                future.add_done_callback(fetch(begun))
                begun += 1
            while turn not in waiting:
                number, answer = _next(client, arrived)
                if isinstance(answer, BaseException):
                    first, last = borders[number]
                    raise _explained(answer, f"Planes {first} to {last - 1} failed") from answer
                waiting[number] = answer
                del under_way[number]
            yield waiting.pop(turn)
    finally:
        if under_way:
            with suppress(Exception):
                client.cancel(list(under_way.values()), force=True)


def _next(client: Client, arrived: Queue[Any]) -> tuple[int, Block | BaseException]:
    """What arrives next.

    Raises
    ------
    ClipSamError
        No worker is there any more.
    """
    alone_since = None
    while True:
        try:
            return arrived.get(timeout=0.5)
        except Empty:
            if client.scheduler_info(n_workers=-1)["workers"]:
                alone_since = None
                continue
            alone_since = alone_since or time.monotonic()
            if time.monotonic() - alone_since > _PATIENCE:
                raise ClipSamError(
                    "No worker is left. Start some and run the same again: the planes that are "
                    "finished are kept."
                ) from None


def _result(future: Future, what: str) -> Any:
    try:
        return future.result()
    except Exception as error:
        raise _explained(error, what) from error


def _explained(error: BaseException, what: str) -> ClipSamError:
    """An error of a cluster in words of ours."""
    from distributed import CancelledError, KilledWorker

    if isinstance(error, KilledWorker):
        return OutOfMemory(
            f"{what}: {TRIES} workers died over it, most likely for lack of memory. Use fewer "
            "workers or a smaller model; the planes that are finished are kept."
        )
    if isinstance(error, CancelledError):
        return ClipSamError(
            "The scheduler is gone. Start it and run the same again: the planes that are finished "
            "are kept."
        )
    if isinstance(error, ImportError):
        return ConfigError(
            f"{what} ({error}). Install napari-clipsam of version {_version()} on all workers."
        )
    reason = " ".join(str(error).split()) or type(error).__name__
    return ClipSamError(f"{what} ({reason}). The planes that are finished are kept.")


def _raise(trouble: Trouble) -> None:
    """Raise what a worker met, and say which worker."""
    error = trouble.error
    raise type(error)(f"At the worker {trouble.address}: {error}") from error


def _await_workers(client: Client) -> None:
    try:
        client.wait_for_workers(1, timeout=_PATIENCE)
    except TimeoutError:
        raise ConfigError(
            f"The scheduler at {client.scheduler_info()['address']} has no workers. Start some "
            "with `dask worker` and try again."
        ) from None


def _check_versions(client: Client) -> None:
    """Refuse workers that would not understand what they are asked.

    Raises
    ------
    ConfigError
    """
    # A function of Python itself, which workers without this package have, too.
    there = client.run(importlib.metadata.version, _PACKAGE, on_error="return")
    for address, version in there.items():
        if version != _version():
            lacks = isinstance(version, Exception)
            raise ConfigError(
                f"The worker at {address} has "
                f"{'no napari-clipsam' if lacks else f'napari-clipsam {version}'}. Install version "
                f"{_version()} there, as here."
            )


def _version() -> str:
    return importlib.metadata.version(_PACKAGE)


def _order(recipe: Recipe, task: VolumeTask) -> bytes:
    """What workers are told; the stack by its path and with its limits of brightness.

    Raises
    ------
    PlaneError
        The stack is in memory.
    """
    _ = task.stack.normalisation
    order = pickle.dumps((recipe, task))
    if len(order) > _LARGEST_ORDER:
        raise PlaneError(
            f"{task.stack.name} is in memory, where workers cannot read it. Save it, and open it "
            "by its path."
        )
    return order
