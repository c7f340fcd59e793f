"""The processes that share out a stack: started here, or reached where they run."""

from __future__ import annotations

import asyncio
import atexit
import importlib.util
import logging
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from napari_clipsam.errors import ConfigError

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["TRIES", "join_cluster", "local_cluster", "threads_each"]

#: How often a block is tried again, after a worker died or failed in a way nobody foresaw.
TRIES = 3
# Seconds to reach a scheduler: one that runs, and one that is being started on a busy machine.
_REACH, _PATIENCE = 5.0, 60.0
# Imported before workers are forked.
_IMPORTED = (
    "napari_clipsam.inference.cluster_fork",
    "distributed",
    "open_clip",
    "napari_clipsam.inference.cluster_worker",
)


@contextmanager
def local_cluster(workers: int) -> Iterator[Client]:
    """Start worker processes on this machine; they end with the block.

    Where CUDA and dask-cuda are there, dask-cuda starts them, each with a GPU of its own.

    Parameters
    ----------
    workers : int

    Yields
    ------
    distributed.Client

    Raises
    ------
    ConfigError
        distributed is not installed, or no process could be started.
    """
    _require_distributed()
    import dask
    from distributed import Client

    settings: dict[str, Any] = {
        # The limit that the scheduler takes for a worker's fault; ours are restarted.
        "distributed.scheduler.allowed-failures": TRIES,
        # dask has each process give memory back at once, and networks, which ask for the same
        # again and again, take twice the time.
        "distributed.nanny.pre-spawn-environ": {},
    }
    if sys.platform == "linux" and not _dask_cuda_serves(workers):
        # Forked from one process that has imported everything, the first start and the one after
        # a death are quick. Elsewhere a process with threads may not be forked.
        settings["distributed.worker.multiprocessing-method"] = "forkserver"
    with _hushed(), dask.config.set(settings):
        try:
            cluster = _start(workers)
            client = Client(cluster, timeout=_PATIENCE, set_as_default=False)
        except (OSError, RuntimeError, TimeoutError) as error:
            raise ConfigError(
                f"{workers} worker processes could not be started ({error}). Use fewer workers, or "
                "none."
            ) from error
        try:
            yield client
        finally:
            _end(client, cluster)


@contextmanager
def join_cluster(address: str) -> Iterator[Client]:
    """Reach a scheduler that runs already.

    Parameters
    ----------
    address : str
        For example ``tcp://node1:8786``.

    Yields
    ------
    distributed.Client

    Raises
    ------
    ConfigError
        distributed is not installed, or the scheduler cannot be reached.
    """
    _require_distributed()
    from distributed import Client

    with _hushed():
        try:
            # A client that meets something else would say so in many lines.
            with ThreadPoolExecutor(1) as apart:  # a notebook runs a loop in this thread
                apart.submit(asyncio.run, _greet(address)).result()
            client = Client(address, timeout=_REACH, name="napari-clipsam", set_as_default=False)
        except Exception as error:
            raise ConfigError(
                f"No scheduler answers at {address}. Check the address and that `dask scheduler` "
                "runs there."
            ) from error
        try:
            yield client
        finally:
            client.close(timeout=1)


async def _greet(address: str) -> None:
    """Ask what is at an address whether it is a scheduler; raises where it is not."""
    from distributed import Security, rpc

    options = Security().get_connection_args("client")
    async with rpc(address, connection_args=options, timeout=_REACH) as there:
        about = await asyncio.wait_for(there.identity(), _REACH)
    if about["type"] != "Scheduler":
        raise ValueError(f"it is a {about['type']}")


def _require_distributed() -> None:
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "Workers need dask's distributed. Install it with `pip install napari-clipsam[cluster]`"
            ", or leave --workers and --scheduler out."
        ) from error


def _start(workers: int) -> Any:
    """A cluster on this machine, without limits of memory that would pause or kill workers."""
    common: dict[str, Any] = {
        "n_workers": workers,
        "threads_per_worker": 1,
        "dashboard_address": None,
        # Its default port may be taken, of which dask would warn.
        "scheduler_kwargs": {"dashboard_address": ":0"},
        "memory_limit": 0,
        "silence_logs": logging.CRITICAL,
    }
    if _dask_cuda_serves(workers):
        from dask_cuda import LocalCUDACluster

        return LocalCUDACluster(**common)
    from distributed import LocalCluster
    from distributed.deploy.spec import close_clusters
    from distributed.utils import get_mp_context

    context = get_mp_context()
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload(list(_IMPORTED))
    quiet = ["napari_clipsam.inference.cluster_signals"]
    try:
        return LocalCluster(**common, worker_dashboard_address=None, preload=quiet)
    except BaseException:
        # At exit dask would close what was interrupted before it began, and fail in many lines.
        atexit.unregister(close_clusters)
        raise


def _dask_cuda_serves(workers: int) -> bool:
    """Whether dask-cuda is there, and a GPU for each worker."""
    import torch

    if not torch.cuda.is_available() or workers > torch.cuda.device_count():
        return False
    return importlib.util.find_spec("dask_cuda") is not None


def _end(client: Client, cluster: Any) -> None:
    """End client and processes; what they still do is wanted by nobody, and not waited for."""
    for nanny in cluster.workers.values():
        nanny.auto_restart = False
        if nanny.pid:
            with suppress(ProcessLookupError):
                os.kill(nanny.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    for close in (client.close, cluster.close):
        with suppress(Exception):
            close(timeout=1)


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep dask's log off the terminal: what matters is raised.

    After Ctrl-C it stays off, for dask's threads report what they could not finish.
    """
    before = {name: logging.getLogger(name).level for name in ("distributed", "asyncio")}
    for name in before:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    interrupted = False
    try:
        yield
    except KeyboardInterrupt:
        interrupted = True
        raise
    finally:
        if not interrupted:
            for name, level in before.items():
                logging.getLogger(name).setLevel(level)


def threads_each(workers: int) -> int:
    """Threads for each of several processes of this machine."""
    return max(1, (os.cpu_count() or 1) // workers)
