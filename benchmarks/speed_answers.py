"""What clicks, many objects and fine-tuning cost, and how masks agree in the fast precision."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.epochs import Epoch
from benchmarks.measuring import NO_GPU, Row, compared, seconds
from benchmarks.networks import WORD, clicks, grid_boxes, plane
from benchmarks.speed_bench import Bench, median
from napari_clipsam import Prompts, Segmenter
from napari_clipsam.inference.encoding import PlaneEncoder, View
from napari_clipsam.inference.frames import concept_frames
from napari_clipsam.models.clip import Clip
from napari_clipsam.models.registry import load_model, starter_file
from napari_clipsam.training.samples import Example, Split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from napari_clipsam.adapters.inject import Adapter
    from napari_clipsam.inference.devices import Precision

__all__ = [
    "agreement_rows",
    "click_rows",
    "epoch_rows",
    "object_rows",
    "starter_rows",
    "together_rows",
]

# A click takes a small part of the time of an encoding, so there are more turns of it.
CLICKS = 8
OBJECTS = 100
WORDS, BOXES = 3, 16
# Clicks whose masks are compared.
COMPARED = 20


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
    rows = [Row(f"{of} on an encoded plane, fp32", median(times["stock"]))]
    rows += [compared(f"a click, {name}", times, name, "stock", of, 1.0) for name in sides]
    quick = median(times[f"{bench.fast}, word and adapter"]) if bench.on_gpu else NO_GPU
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
    rows = [Row(f"{of}, {OBJECTS} boxes, 20 at a time, fp32", median(times["stock"]))]
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


def together_rows(bench: Bench) -> list[Row]:
    """Words and boxes in one batch against one after another, and a word's text from disk."""
    device, nets, single = bench.setting.device, bench.nets, torch.float32
    turns, one, word_count = bench.setting.turns, plane(bench.side, 0), itertools.count()
    encoder = PlaneEncoder(nets.sam, nets.clip, device, single, cache_bytes=0)
    encoder.use_adapter(nets.adapter)
    view = View(one, concept_frames(one.shape, bench.side)[0])
    segmenter = bench.segmenter(None, "fp32")
    prompts = [Prompts(boxes=[box]) for box in grid_boxes(bench.side, BOXES)]

    def words() -> list[str]:
        made = [f"{WORD} {next(word_count)}" for _ in range(WORDS)]
        for word in made:
            encoder.text(word)
        return made

    def say(some: Iterable[Sequence[str]]) -> None:
        for batch in some:
            encoder.encode_words([view], batch)

    def text(folder: Path | None) -> None:
        clip = Clip(nets.clip.model, nets.clip.config)
        PlaneEncoder(nets.sam, clip, device, single, 0, texts=folder).text(WORD)

    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        queue = iter([words() for _ in range(2 * (turns + 1))])
        times = bench.race(
            {
                "words": lambda: say([next(queue)]),
                "word": lambda: say([word] for word in next(queue)),
                "boxes": lambda: segmenter.answer_objects(one, prompts),
                "box": lambda: [segmenter.answer_objects(one, [box]) for box in prompts],
                "asked": lambda: text(None),
                "kept": lambda: text(Path(folder)),
            },
            turns,
        )
    after = "one after another"
    return [
        compared(f"{WORDS} words at once: the head", times, "words", "word", after),
        compared(f"{BOXES} boxes at once", times, "boxes", "box", after),
        compared("a word's text in a later session", times, "kept", "asked", "in the first"),
    ]


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
        Row(f"an epoch of {many} views, trunks computed again", median(times["recomputed"])),
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
        Row("starter: a plane and a word, to the mask", median(whole), most=0.5),
        Row("starter: a click", median(times), most=0.06),
        Row(f"starter: {OBJECTS} clicks", seconds(sum(times))),
    ]


def _agreement(name: str, fast: Precision, make: Callable[..., Segmenter], bench: Bench) -> Row:
    side = min(512, bench.side)
    one, prompts = plane(side, 0), [*clicks(side, COMPARED), Prompts(text=WORD)]
    found: dict[Precision, list[np.ndarray]] = {}
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
