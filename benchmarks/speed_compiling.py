"""What compiling the encoder's blocks brings, and what it takes the first time and the next."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from benchmarks.measuring import NO_GPU, Row, compared, seconds
from benchmarks.speed_bench import Bench, median
from benchmarks.speed_encoding import Encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from napari_clipsam.models.compiling import Compilation

__all__ = ["compiled_rows"]

_CACHE = "TORCHINDUCTOR_CACHE_DIR"


def compiled_rows(bench: Bench) -> list[Row]:
    """A plane with CLIP's signals given, as it is and compiled, in the fast precision."""
    kinds: list[Compilation] = ["blocks", "graphs"] if bench.on_gpu else ["blocks"]
    rows = []
    with _empty_cache():
        ways = {"plain": Encoder(bench, bench.fast)}
        for kind in kinds:
            ways[kind] = Encoder(bench, bench.fast, kind)
            rows.append(Row(f"{kind}: the first plane, nothing kept", _timed(ways[kind].encode)))
            torch.compiler.reset()
            ways[kind] = Encoder(bench, bench.fast, kind)
            rows.append(Row(f"{kind}: the first plane of the next time", _timed(ways[kind].encode)))
        variants: dict[str, Callable[[], object]] = {}
        for name, way in ways.items():
            variants |= {f"clip {name}": way.clip, name: way.encode}
        times = bench.race(variants)
    rows.append(Row(f"a plane, signals given, {bench.fast}", median(times["plain"])))
    rows += [compared(f"... compiled: {kind}", times, kind, "plain", "as it is") for kind in kinds]
    if not bench.on_gpu:
        rows.append(Row("GPU, compiled: blocks, graphs", NO_GPU))
    return rows


def _timed(act: Callable[[], object]) -> str:
    start = time.perf_counter()
    act()
    return f"{seconds(time.perf_counter() - start)} (wall clock)"


@contextmanager
def _empty_cache() -> Iterator[None]:
    """Keep what is compiled in a folder of its own."""
    before = os.environ.get(_CACHE)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[_CACHE] = folder
        try:
            yield
        finally:
            os.environ.pop(_CACHE)
            if before is not None:
                os.environ[_CACHE] = before
