"""What is measured by `speed.py`, part by part; everything through the public Segmenter."""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.epochs import Epoch
from benchmarks.floor import matrix_rates, operations
from benchmarks.measuring import NO_GPU, Row, Setting, compared, seconds
from benchmarks.networks import WORD, Networks, another_adapter, clicks, grid_boxes, plane
from benchmarks.peers import NO_MICRO_SAM, MicroSam
from napari_clipsam import Prompts, Segmenter
from napari_clipsam.models.registry import load_model, starter_file
from napari_clipsam.training.samples import Example, Split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from segment_anything import SamPredictor

    from napari_clipsam.adapters.inject import Adapter
    from napari_clipsam.inference.devices import Precision
    from napari_clipsam.planes import Plane

__all__ = ["PARTS", "Bench"]

# A click takes a small part of the time of an encoding, so there are more turns of it.
CLICKS = 8
OBJECTS = 100
TERA = 1e12
STOCK = "SamPredictor.set_image"


@dataclass(frozen=True, eq=False)
class Bench:
    """Networks, and who else runs the same weights.

    Attributes
    ----------
    nets : Networks
    predictor : SamPredictor
        `segment_anything`'s own.
    micro_sam : MicroSam or None
    setting : Setting
    fast : str
        The precision that is compared with fp32.
    """

    nets: Networks
    predictor: SamPredictor
    micro_sam: MicroSam | None
    setting: Setting
    fast: Precision = "bf16"

    @property
    def side(self) -> int:
        """Of the planes, so that nobody has to resize."""
        return self.nets.sam.config.input_size

    @property
    def on_gpu(self) -> bool:
        """Whether the aims for GPUs apply."""
        return self.setting.device.type == "cuda"

    @cached_property
    def rates(self) -> dict[torch.dtype, float]:
        """Multiply-adds a second of a large matrix product, by dtype."""
        return matrix_rates(self.setting, (torch.float32, torch.bfloat16))

    def segmenter(self, adapter: Adapter | None, precision: Precision) -> Segmenter:
        """A fresh one, without anything cached."""
        return self.nets.segmenter(self.setting.device, adapter, precision)

    def race(
        self, variants: dict[str, Callable[[], object]], turns: int | None = None
    ) -> dict[str, list[float]]:
        """Let variants take turns."""
        return self.setting.race(variants, turns or self.setting.turns)

    def planes(self, start: int = 0) -> Iterator[Plane]:
        """Planes that nobody has seen."""
        return (plane(self.side, seed) for seed in itertools.count(start))

    def set_image(self, one: Plane) -> None:
        """Encode with the stock predictor."""
        with torch.inference_mode():
            self.predictor.set_image(one.rgb)

    def click(self, prompts: Prompts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Answer a click with the stock predictor."""
        xy, labels = prompts.points[:, ::-1].copy(), np.ones(1, int)
        with torch.inference_mode():
            return self.predictor.predict(xy, labels, multimask_output=True)

    def absent(self, name: str) -> list[Row]:
        """A line for micro-sam where it is not installed."""
        return [] if self.micro_sam else [Row(f"micro-sam: {name}", NO_MICRO_SAM)]


class _Encoder:
    """Our own side of a race of encoders: CLIP first, then the rest with its signals given."""

    def __init__(self, bench: Bench, precision: Precision) -> None:
        self._segmenter = bench.segmenter(bench.nets.adapter, precision)
        self._planes = bench.planes()
        self._plane = next(self._planes)
        self._segmenter.similarity(self._plane, WORD)

    def clip(self) -> None:
        """CLIP's features of the next plane."""
        self._plane = next(self._planes)
        self._segmenter.similarity(self._plane, WORD)

    def encode(self) -> None:
        """Trunk and conditioned head of that plane."""
        self._segmenter.prepare(self._plane, WORD)


def rate_rows(bench: Bench) -> list[Row]:
    """The matrix products that rates are compared with."""
    return [
        Row(f"matrix product, {str(dtype).removeprefix('torch.')}", _rate(rate))
        for dtype, rate in bench.rates.items()
    ]


def encode_rows(bench: Bench) -> list[Row]:
    """One plane at a time: the stock predictor, micro-sam, and this project."""
    check_equal(bench)
    ours, fast = (_Encoder(bench, precision) for precision in ("fp32", bench.fast))
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
    rows = [Row(f"{STOCK}, fp32", _median(times["stock"]))]
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
        compared(f"CLIP, {bench.fast}", times, "fast clip", "stock", STOCK),
    ]
    single = torch.float32
    return [
        *rows,
        _share(bench, f"{STOCK}, fp32", statistics.median(times["stock"]), single),
        _share(bench, f"{given}, fp32", statistics.median(times["ours"]), single),
        _share(bench, f"{given}, {bench.fast}", statistics.median(times["fast"]), torch.bfloat16),
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
        segmenter.encode_planes(batch)
        for one in batch:
            segmenter.prepare(one, WORD)

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
    rows.append(_share(bench, f"{name}: {most}", statistics.median(faster["b"]), torch.bfloat16))
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
        Row(f"everything: a new plane, a new word, {fast}", _median(times["all"])),
        compared("a new word on a plane that was seen", times, "1", "all", of, 0.42),
        compared("... each of four", times, "each", "all", of, 0.42),
        compared("another adapter, and its first word", times, "swap", "all", of),
    ]


def click_rows(bench: Bench) -> list[Row]:
    """A click on an encoded plane against the stock predictor's."""
    turns = CLICKS * bench.setting.turns
    one = plane(bench.side, 0)
    prompts = clicks(bench.side, turns + 1)
    bench.set_image(one)
    sides = {
        "fp32, no word": bench.segmenter(None, "fp32"),
        "fp32, word and adapter": bench.segmenter(bench.nets.adapter, "fp32"),
        f"{bench.fast}, word and adapter": bench.segmenter(bench.nets.adapter, bench.fast),
    }
    for segmenter in sides.values():
        segmenter.set_plane(one)
        segmenter.predict(prompts[0])
    queues = {name: iter(prompts) for name in ("stock", *sides)}
    variants: dict[str, Callable[[], object]] = {
        "stock": lambda: bench.click(next(queues["stock"]))
    }
    for name, segmenter in sides.items():
        variants[name] = lambda n=name, s=segmenter: s.predict(next(queues[n]))
    times = bench.race(variants, turns)
    of = "SamPredictor.predict"
    rows = [Row(f"{of} on an encoded plane, fp32", _median(times["stock"]))]
    rows += [compared(f"a click, {name}", times, name, "stock", of, 1.0) for name in sides]
    quick = _median(times[f"{bench.fast}, word and adapter"]) if bench.on_gpu else NO_GPU
    return [*rows, Row("GPU, click to mask", quick, most=0.015)]


def object_rows(bench: Bench) -> list[Row]:
    """Boxes of many objects on an encoded plane, and how the cost grows with their number."""
    one = plane(bench.side, 0)
    boxes = grid_boxes(bench.side, OBJECTS)
    bench.set_image(one)
    micro = bench.micro_sam
    embedded = None if micro is None else micro.embed(one.rgb[..., 0])
    segmenter = bench.segmenter(None, "fp32")
    fast = bench.segmenter(bench.nets.adapter, bench.fast)
    for mine in (segmenter, fast):
        mine.set_plane(one)
        mine.predict(Prompts(boxes=boxes[:1]))

    def stock() -> None:
        xyxy = torch.as_tensor(boxes[:, [1, 0, 3, 2]].copy(), device=bench.setting.device).float()
        xyxy = bench.predictor.transform.apply_boxes_torch(xyxy, one.shape)
        with torch.inference_mode():
            for some in xyxy.split(20):
                bench.predictor.predict_torch(None, None, some, multimask_output=False)

    variants: dict[str, Callable[[], object]] = {"stock": stock}
    for count in (1, 10, OBJECTS):
        some = Prompts(boxes=boxes[:count])
        variants[f"{count}"] = lambda some=some: segmenter.predict(some)
    variants["fast"] = lambda: fast.predict(Prompts(boxes=boxes))
    if micro is not None and embedded is not None:
        variants["micro"] = lambda: micro.boxes(embedded, boxes)
    times = bench.race(variants)
    of = "SamPredictor.predict_torch"
    rows = [Row(f"{of}, {OBJECTS} boxes, 20 at a time, fp32", _median(times["stock"]))]
    if micro is not None:
        name = f"micro-sam: batched_inference, {OBJECTS} boxes"
        rows.append(compared(name, times, "micro", "stock", of))
    rows += bench.absent(f"batched_inference, {OBJECTS} boxes")
    rows += [
        compared(f"{OBJECTS} objects, fp32, no word", times, f"{OBJECTS}", "stock", of),
        compared(f"{OBJECTS} objects, {bench.fast}, word and adapter", times, "fast", "stock", of),
    ]
    for count in (1, 10):
        times["share"] = [t * count / OBJECTS for t in times[f"{OBJECTS}"]]
        share = f"its share of {OBJECTS}"
        rows.append(compared(f"... {count} of them", times, f"{count}", "share", share))
    return rows


def epoch_rows(bench: Bench) -> list[Row]:
    """A fine-tuning epoch of the head, with trunks kept and with trunks computed again."""
    train = tuple(_example(bench.side, seed) for seed in range(2))
    split = Split(train, (_example(bench.side, 2),), "a third plane")
    cached, recomputed = (
        Epoch(bench.nets.model, bench.nets.adapter, split, bench.setting.device, keep, views=1)
        for keep in (True, False)
    )
    turns = bench.setting.turns if bench.on_gpu else 1
    times = bench.race(
        {"cached": lambda: cached.run(True), "recomputed": lambda: recomputed.run(True)}, turns
    )
    many = len(cached.views)
    return [
        Row(f"an epoch of {many} views, trunks computed again", _median(times["recomputed"])),
        compared(
            f"an epoch of {many} views, trunks kept",
            *(times, "cached", "recomputed", "trunks computed again", 0.6),
        ),
    ]


def agreement_rows(bench: Bench) -> list[Row]:
    """Masks of the fast precision against those of fp32: mean IoU."""
    rows = [_agreement("random weights", bench.fast, bench.nets.segmenter, bench)]
    if all(starter_file(part).is_file() for part in ("sam", "clip", "adapter")):
        rows.append(_agreement("starter", bench.fast, _starter, bench))
    return rows


def starter_rows(bench: Bench) -> list[Row]:
    """Times of the shipped model, where it is there, on a plane of 512 x 512 pixels."""
    if not all(starter_file(part).is_file() for part in ("sam", "clip", "adapter")):
        return [Row("starter", "not in this copy of the package")]
    segmenter = _starter(bench.setting.device, None, "auto")
    side, turns = 512, 2 * bench.setting.turns
    planes = (plane(side, seed) for seed in itertools.count())
    prompts = [Prompts(WORD, prompt.points) for prompt in clicks(side, OBJECTS)]
    segmenter.set_plane(next(planes))
    segmenter.predict(prompts[0])

    def encode() -> None:
        segmenter.set_plane(next(planes))
        segmenter.predict(Prompts(text=WORD))

    whole = bench.race({"plane": encode}, turns)["plane"]
    queue = iter([prompts[0], *prompts])
    times = bench.race({"click": lambda: segmenter.predict(next(queue))}, len(prompts))["click"]
    return [
        Row("starter: a plane and a word, to the mask", _median(whole), most=0.5),
        Row("starter: a click", _median(times), most=0.06),
        Row(f"starter: {OBJECTS} clicks", seconds(sum(times))),
    ]


PARTS: dict[str, Callable[[Bench], list[Row]]] = {
    "rates": rate_rows,
    "encode": encode_rows,
    "batch": batch_rows,
    "words": word_rows,
    "clicks": click_rows,
    "objects": object_rows,
    "epoch": epoch_rows,
    "agreement": agreement_rows,
    "starter": starter_rows,
}


def check_equal(bench: Bench) -> None:
    """See that a click without word or adapter is answered as the stock predictor answers it."""
    one, prompt = plane(bench.side, 0), clicks(bench.side, 1)[0]
    bench.set_image(one)
    _, quality, logits = bench.click(prompt)
    segmenter = bench.segmenter(None, "fp32")
    segmenter.set_plane(one)
    answer = segmenter.predict(prompt).objects[0].logits
    np.testing.assert_allclose(answer, logits[quality.argmax()], atol=1e-4)


def _agreement(name: str, fast: Precision, make: Callable[..., Segmenter], bench: Bench) -> Row:
    side = min(512, bench.side)
    one, prompts = plane(side, 0), [*clicks(side, 20), Prompts(text=WORD)]
    found: dict[Any, list[np.ndarray]] = {}
    for precision in ("fp32", fast):
        segmenter = make(bench.setting.device, bench.nets.adapter, precision)
        segmenter.set_plane(one)
        found[precision] = [segmenter.predict(prompt).labels() > 0 for prompt in prompts]
    ious = [_iou(a, b) for a, b in zip(found["fp32"], found[fast], strict=True)]
    value = f"{np.mean(ious):.4f} (worst {min(ious):.4f})"
    return Row(f"masks of {fast} against fp32, {name}: mean IoU", value, of="IoU", least=0.99)


def _starter(device: torch.device, _: Adapter | None, precision: Precision) -> Segmenter:
    return Segmenter(load_model("starter"), device=str(device), precision=precision)


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    either = int((a | b).sum())
    return int((a & b).sum()) / either if either else 1.0


def _example(side: int, seed: int) -> Example:
    one = plane(side, seed)
    return Example(one, (one.rgb[..., 0] > 120).astype(np.uint16), (WORD,), objects=False)


def _share(bench: Bench, name: str, spent: float, dtype: torch.dtype) -> Row:
    """How near to the matrix product an encoding comes."""
    rate = operations(bench.nets.sam.config).total / spent
    of = f"{str(dtype).removeprefix('torch.')} matrix product"
    least = 0.4 if bench.on_gpu and dtype == torch.bfloat16 else None
    return Row(f"rate: {name}", _rate(rate), rate / bench.rates[dtype], of, least=least)


def _rate(multiply_adds: float) -> str:
    return f"{2 * multiply_adds / TERA:.3g} TFLOP/s"


def _median(times: list[float]) -> str:
    return seconds(statistics.median(times))
