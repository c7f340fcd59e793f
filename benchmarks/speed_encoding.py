"""What an encoded plane, a batch of them, a new word and another adapter cost."""

from __future__ import annotations

import itertools
import statistics
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.measuring import NO_GPU, Row, compared
from benchmarks.networks import WORD, another_adapter
from benchmarks.speed_bench import STOCK, Bench, median, rate_text, share
from napari_clipsam import Prompts

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_clipsam.inference.devices import Precision
    from napari_clipsam.models.compiling import Compilation

__all__ = ["Encoder", "batch_rows", "encode_rows", "rate_rows", "word_rows"]


class Encoder:
    """Our own side of a race of encoders: CLIP first, then the rest with its signals given."""

    def __init__(
        self, bench: Bench, precision: Precision, compilation: Compilation = "none"
    ) -> None:
        self._segmenter = bench.segmenter(bench.nets.adapter, precision, compilation)
        self._planes = bench.planes()
        self.clip()

    def clip(self) -> None:
        """CLIP's features of the next plane."""
        self._plane = next(self._planes)
        self._segmenter.similarity(self._plane, WORD)

    def encode(self) -> None:
        """Trunk and conditioned head of that plane."""
        self._segmenter.ahead.prepare(self._plane, WORD)


def rate_rows(bench: Bench) -> list[Row]:
    """The matrix products that rates are compared with."""
    return [
        Row(f"matrix product, {str(dtype).removeprefix('torch.')}", rate_text(rate))
        for dtype, rate in bench.rates.items()
    ]


def encode_rows(bench: Bench) -> list[Row]:
    """One plane at a time: the stock predictor, micro-sam, and this project."""
    bench.check_equal()
    ours, fast = (Encoder(bench, precision) for precision in ("fp32", bench.fast))
    stock_planes, micro_planes = bench.planes(), bench.planes()
    micro = bench.micro_sam
    variants: dict[str, Callable[[], object]] = {
        "stock": lambda: bench.set_image(next(stock_planes)),
        "clip": ours.clip,
        "ours": ours.encode,
        "fast clip": fast.clip,
        "fast": fast.encode,
    }
    if micro is not None:
        variants["micro"] = lambda: micro.embed(next(micro_planes).rgb[..., 0])
    times = bench.race(variants)
    for name in ("", "fast "):
        pairs = zip(times[f"{name}clip"], times[name.strip() or "ours"], strict=True)
        times[f"{name}all"] = [a + b for a, b in pairs]
    rows = [Row(f"{STOCK}, fp32", median(times["stock"]))]
    if micro is not None:
        rows.append(
            compared("micro-sam: precompute_image_embeddings", times, "micro", "stock", STOCK)
        )
    rows += bench.absent("precompute_image_embeddings")
    cpu = not bench.on_gpu
    whole, given = "a plane encoded with word and adapter", "... of it with CLIP's signals given"
    rows += [
        compared(f"{whole}, fp32", times, "all", "stock", STOCK, 1.05 if cpu else None),
        compared(f"{given}, fp32", times, "ours", "stock", STOCK),
        compared(
            f"{whole}, {bench.fast}", times, "fast all", "stock", STOCK, 0.75 if cpu else None
        ),
        compared(f"{given}, {bench.fast}", times, "fast", "stock", STOCK),
        compared("CLIP's features, fp32 in either", times, "fast clip", "stock", STOCK),
    ]
    single = torch.float32
    return [
        *rows,
        share(bench, f"{STOCK}, fp32", statistics.median(times["stock"]), single),
        share(bench, f"{given}, fp32", statistics.median(times["ours"]), single),
        share(bench, f"{given}, {bench.fast}", statistics.median(times["fast"]), bench.fast_dtype),
    ]


def batch_rows(bench: Bench) -> list[Row]:
    """Several planes at once, CLIP's signals given, and how the cost grows with their number."""
    sizes = (1, 4, 16) if bench.on_gpu else (1, 2)
    most = max(sizes)
    segmenter = bench.segmenter(bench.nets.adapter, bench.fast)
    ours, stock, others = bench.planes(), bench.planes(), bench.planes()
    turns = bench.setting.turns if bench.on_gpu else 1
    queues = {}
    for size in sizes:
        batches = [[next(ours) for _ in range(size)] for _ in range(turns + 1)]
        for one in itertools.chain(*batches):
            segmenter.similarity(one, WORD)
        queues[size] = iter(batches)

    def encode(size: int) -> None:
        batch = next(queues[size])
        segmenter.ahead.encode_planes(batch, [WORD])
        for one in batch:
            segmenter.ahead.prepare(one, WORD)

    variants: dict[str, Callable[[], object]] = {
        f"{size}": lambda size=size: encode(size) for size in sizes
    }
    variants["stock"] = lambda: bench.set_image(next(stock))
    micro = bench.micro_sam
    if micro is not None:
        variants["micro"] = lambda: micro.embed(
            np.stack([next(others).rgb[..., 0] for _ in range(most)]), most
        )
    times = bench.race(variants, turns)
    each = {f"{size}": [t / size for t in times[f"{size}"]] for size in sizes}
    each["stock"] = times["stock"]
    name = f"a plane in a batch, signals given, {bench.fast}"
    rows = [compared(f"{name}: {size}", each, f"{size}", "stock", STOCK) for size in sizes]
    if micro is not None:
        each["micro"] = [t / most for t in times["micro"]]
        rows.append(
            compared(f"micro-sam: a plane in a batch: {most}", each, "micro", "stock", STOCK)
        )
    rows += bench.absent("a plane in a batch")
    faster = {"a": each["stock"], "b": each[f"{most}"]}
    speed = compared("", faster, "a", "b", f"{STOCK}, planes a second")
    value = f"{1 / statistics.median(faster['b']):.3g} planes/s"
    least = 10.0 if bench.on_gpu else None
    rows.append(Row(f"{name}: {most}", value, speed.ratio, speed.of, None, speed.spread, least))
    rows.append(share(bench, f"{name}: {most}", statistics.median(faster["b"]), bench.fast_dtype))
    if not bench.on_gpu:
        rows += [
            Row("GPU, a batch of planes, bf16: planes a second", NO_GPU, of=STOCK, least=10),
            Row("GPU, ... its rate", NO_GPU, of="bf16 matrix product", least=0.4),
        ]
    return rows


def word_rows(bench: Bench) -> list[Row]:
    """A new word and another adapter on a plane that was seen, against everything anew."""
    turns, fast = bench.setting.turns, bench.fast
    segmenter = bench.segmenter(bench.nets.adapter, fast)
    swaps = itertools.cycle(
        [another_adapter(bench.nets.sam, bench.nets.clip, seed) for seed in range(1, turns + 3)]
    )
    planes = bench.planes()
    words = (f"{WORD} {number}" for number in itertools.count())
    segmenter.set_plane(next(planes))
    segmenter.predict(Prompts(text=WORD))

    def everything() -> None:
        segmenter.set_plane(next(planes))
        segmenter.predict(Prompts(text=next(words)))

    def ask(count: int) -> None:
        before = segmenter.calls["trunk"], segmenter.calls["clip"]
        for _ in range(count):
            segmenter.predict(Prompts(text=next(words)))
        assert before == (segmenter.calls["trunk"], segmenter.calls["clip"])

    def swap() -> None:
        segmenter.set_adapter(next(swaps))
        ask(1)

    times = bench.race(
        {"all": everything, "1": lambda: ask(1), "4": lambda: ask(4), "swap": swap}, turns
    )
    times["each"] = [t / 4 for t in times["4"]]
    of = "everything"
    return [
        Row(f"everything: a new plane, a new word, {fast}", median(times["all"])),
        compared("a new word on a plane that was seen", times, "1", "all", of, 0.42),
        compared("... each of four", times, "each", "all", of, 0.42),
        compared("another adapter, and its first word", times, "swap", "all", of),
    ]
