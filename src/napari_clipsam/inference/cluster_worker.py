"""What a worker of a cluster does: make its Segmenter once, find and link blocks of planes."""

from __future__ import annotations

import hashlib
import pickle
import sys
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_clipsam._machine import peak_memory
from napari_clipsam.errors import ClipSamError, PlaneError, Stopped
from napari_clipsam.inference.batching import PlaneBatches
from napari_clipsam.inference.devices import Precision
from napari_clipsam.inference.instances import InstanceSettings
from napari_clipsam.inference.segmenter import Segmenter
from napari_clipsam.inference.texts import texts_folder
from napari_clipsam.inference.volume import VolumeTask, find_planes
from napari_clipsam.inference.volume_links import LabelLinker
from napari_clipsam.models.compiling import Compilation
from napari_clipsam.outputs import label_dtype

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["About", "Block", "Recipe", "Trouble", "find_block", "introduce", "let_go"]


@dataclass(frozen=True)
class Recipe:
    """How a process makes its Segmenter.

    Attributes
    ----------
    model : str
        A name, or a file that all machines see.
    clip : str or None
    adapter : str or None
        ``default``, a file that all machines see, or None.
    device : str
    precision : {"auto", "fp32", "bf16", "fp16"}
    seed : int
    cache_bytes : int
        Memory for cached trunks.
    shelf : (str, int) or None
        Folder of a cache on disk that all processes share, and its size in bytes.
    threads : int or None
        Of the processor; None leaves it to the worker.
    compilation : {"none", "blocks", "graphs"}
    instances : InstanceSettings
    """

    model: str = "starter"
    clip: str | None = None
    adapter: str | None = "default"
    device: str = "auto"
    precision: Precision = "auto"
    seed: int = 0
    cache_bytes: int = 1 << 28
    shelf: tuple[str, int] | None = None
    threads: int | None = None
    compilation: Compilation = "none"
    instances: InstanceSettings = field(default_factory=InstanceSettings)

    def make(self, number: int = 0) -> Segmenter:
        """Make a Segmenter; of several GPUs the one that falls to process `number`."""
        from napari_clipsam.inference.shelf import Shelf

        return Segmenter(
            self.model,
            self.adapter,
            _device(self.device, number),
            self.precision,
            self.clip,
            self.cache_bytes,
            self.seed,
            self.instances,
            None if self.shelf is None else Shelf(*self.shelf),
            texts_folder(),
            compilation=self.compilation,
        )


@dataclass(frozen=True)
class About:
    """A worker that is ready.

    Attributes
    ----------
    address : str
    model, adapter, clip, device : str
        For people.
    made_of : dict of str to dict
        For each word all that its labels depend on.
    """

    address: str
    model: str
    adapter: str
    clip: str
    device: str
    made_of: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Trouble:
    """Why a worker could not go on; the error is raised where the run was started."""

    address: str
    error: ClipSamError


@dataclass(frozen=True)
class Block:
    """What was found in neighbouring planes, linked among themselves.

    Attributes
    ----------
    planes : tuple of tuple of bytes
        For each plane and word the labels, compressed; fewer than asked for after a trouble.
    notes : tuple of tuple of str
        For each plane.
    seconds : float
        For all of them.
    memory : int or None
        Most bytes that the worker has held so far.
    trouble : Trouble or None
    """

    planes: tuple[tuple[bytes, ...], ...]
    notes: tuple[tuple[str, ...], ...]
    seconds: float
    memory: int | None = None
    trouble: Trouble | None = None

    def labels(self, number: int, shape: tuple[int, int]) -> tuple[NDArray, ...]:
        """Labels of each word in a plane of the block."""
        return tuple(_unpack(packed, shape) for packed in self.planes[number])


@dataclass(eq=False)
class _Bench:
    """What a process keeps between two blocks of one run."""

    order: str
    segmenter: Segmenter
    task: VolumeTask
    batches: PlaneBatches
    made_of: Mapping[str, Mapping[str, Any]]


# A Segmenter answers one thread at a time, and of one run there is one in a process.
_lock = threading.Lock()
_LET_GO = 2.0  # seconds
_bench: _Bench | None = None


def introduce(order: bytes) -> About | Trouble:
    """Get ready for a run, and say what with."""
    with _lock:
        try:
            bench = _set_up(order)
        except ClipSamError as error:
            return Trouble(_address(), error)
        one = bench.segmenter
        names = (one.model.name, one.adapter_name, one.model.clip_name, str(one.device))
        return About(_address(), *names, bench.made_of)


def find_block(
    order: bytes, first: int, last: int, made_of: Mapping[str, Mapping[str, Any]]
) -> Block:
    """Find and link planes `first` to `last` - 1, as far as they can be read.

    Parameters
    ----------
    order : bytes
        A pickled `Recipe` and `VolumeTask`.
    first, last : int
    made_of : mapping of str to mapping
        What the other workers' labels are made of.
    """
    planes: list[tuple[bytes, ...]] = []
    notes: list[tuple[str, ...]] = []
    trouble = None
    with _lock:
        begun = time.perf_counter()
        try:
            bench = _set_up(order)
            if bench.made_of != made_of:
                raise PlaneError(
                    "It has another model, adapter or stack under the same name. Give all workers "
                    "the same files."
                )
            bench.segmenter.check = _stopper()
            linkers = [LabelLinker(bench.task) for _ in bench.task.words]
            indices = bench.task.indices[first:last]
            found = find_planes(bench.segmenter, bench.task, indices, bench.batches)
            for index, plane in zip(indices, found, strict=True):
                linked = zip(linkers, plane.labels, strict=True)
                planes.append(
                    tuple(_pack(one.link(index, labels), one.count) for one, labels in linked)
                )
                notes.append(plane.notes)
        except ClipSamError as error:
            trouble = Trouble(_address(), error)
        seconds = time.perf_counter() - begun
    return Block(tuple(planes), tuple(notes), seconds, peak_memory(), trouble)


def let_go() -> None:
    """Free what is kept for a run that is over, once its cache is written."""
    global _bench
    # What is stopped ends soon; until then the worker hears nothing, so it cannot wait for long.
    if not _lock.acquire(timeout=_LET_GO):
        return
    try:
        if _bench is not None:
            _bench.segmenter.flush()
        _bench = None
    finally:
        _lock.release()


def _set_up(order: bytes) -> _Bench:
    global _bench
    name = hashlib.sha256(order).hexdigest()
    if _bench is None or _bench.order != name:
        _bench = None
        recipe, task = _read(order)
        _set_threads(recipe.threads)
        segmenter = recipe.make(_number())
        made_of = {word: task.made_of(segmenter, word) for word in task.words}
        _bench = _Bench(name, segmenter, task, PlaneBatches(segmenter, task.words), made_of)
    return _bench


def _read(order: bytes) -> tuple[Recipe, VolumeTask]:
    """What is asked for; the stack is opened here, by its path.

    Raises
    ------
    PlaneError
        It is not there, or another one is.
    """
    recipe, task = pickle.loads(order)
    source = task.stack.source
    if (source.shape, source.dtype) != (task.stack.shape, task.stack.dtype):
        raise PlaneError(
            f"{source.name} is another image there, of shape {source.shape}. Put the stack in a "
            "folder that all machines see."
        )
    return recipe, task


def _set_threads(threads: int | None) -> None:
    """Let one plane use all the threads that this worker was given."""
    import torch
    from distributed import get_worker

    given = threads or get_worker().state.nthreads
    if threads or given > 1:
        torch.set_num_threads(given)


def _stopper() -> Callable[[], None]:
    """A function that raises once nobody waits for this block any more."""
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()

    def check() -> None:
        task = worker.state.tasks.get(key)
        if task is None or task.state in ("cancelled", "released", "forgotten"):
            raise Stopped("The run was stopped.")

    return check


def _address() -> str:
    from distributed import get_worker

    return str(get_worker().address)


def _number() -> int:
    """Of this worker among those of its machine, where its cluster counts them.

    dask-cuda shows each worker its own GPU first.
    """
    from distributed import get_worker

    if "dask_cuda" in sys.modules:
        return 0
    name = str(get_worker().name)
    return int(name) if name.isdecimal() else 0


def _device(name: str, number: int) -> str:
    """A GPU of its own for each process, where the machine has several."""
    import torch

    if name in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{number % torch.cuda.device_count()}"
    return name


def _pack(labels: NDArray[np.integer], largest: int) -> bytes:
    """Labels in the smallest type, compressed; its first byte says which type."""
    dtype = np.dtype(np.uint8) if labels.dtype == np.uint8 else label_dtype(largest)
    return bytes([dtype.itemsize]) + zlib.compress(labels.astype(dtype).tobytes(), 1)


def _unpack(packed: bytes, shape: tuple[int, int]) -> NDArray[np.unsignedinteger]:
    values = np.frombuffer(zlib.decompress(packed[1:]), np.dtype(f"u{packed[0]}"))
    return values.reshape(shape)
