"""What the conditioned encoder, CLIP, a new word and a click cost, as ratios of one run.

``python benchmarks/core.py [--arch vit_b] [--device auto] [--out FILE.md]``

Nothing is downloaded: SAM and CLIP have random weights, which cost the same as trained ones. What
is compared runs in turns (A B A B ...), so that other work on the machine hits both alike; a ratio
is the median of the ratios of each turn. Where the answers have to be equal, that is checked first.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import Sam as StockSam

from napari_clipsam import Plane, Prompts, Segmenter, open_image
from napari_clipsam.adapters.base import AdapterConfig
from napari_clipsam.adapters.inject import Adapter, build_adapter
from napari_clipsam.inference.devices import Precision, autocast, choose_device, resolve_precision
from napari_clipsam.models.clip import Clip, ClipConfig, build_clip
from napari_clipsam.models.registry import LoadedModel, load_model, starter_file
from napari_clipsam.models.sam import SAM_CONFIGS, Sam, SamConfig, default_split
from napari_clipsam.semantics import Signals, make_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

__all__ = ["Networks", "Row", "Setting", "main", "table"]

PARTS = ("encoder", "memory", "words", "clicks", "starter")
# A click takes a small part of the time of an encoding, so there are more turns of it.
CLICKS = 8
PEAKS = ("nothing", "stock", "plain", "conditioned")
MB = 1e6


@dataclass(frozen=True)
class Row:
    """One line of the table: `value` in seconds or MB, `ratio` to what `of` names."""

    name: str
    value: str
    ratio: float | None = None
    of: str = ""
    most: float | None = None
    spread: tuple[float, float] | None = None


@dataclass(frozen=True)
class Setting:
    """Where and how everything is measured."""

    device: torch.device
    precision: Precision = "fp32"
    turns: int = 5
    clock: Callable[[], float] = time.perf_counter

    @contextlib.contextmanager
    def inference(self) -> Iterator[None]:
        """No gradients, in the precision asked for."""
        dtype = resolve_precision(self.precision, self.device)
        with torch.inference_mode(), autocast(self.device, dtype):
            yield

    def race(self, variants: dict[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
        """Seconds of every variant in every turn, after a turn that does not count."""
        times: dict[str, list[float]] = {name: [] for name in variants}
        for turn in range(turns + 1):
            for name, run in variants.items():
                self._wait()
                start = self.clock()
                run()
                self._wait()
                if turn:
                    times[name].append(self.clock() - start)
        return times

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True, eq=False)
class Networks:
    """A SAM, a CLIP and an adapter that belong together, on one device."""

    sam: Sam
    clip: Clip
    adapter: Adapter

    @classmethod
    def random(cls, config: SamConfig, clip: ClipConfig, device: torch.device) -> Networks:
        """Networks of these shapes; the adapter conditions the last third of the blocks."""
        torch.manual_seed(0)
        sam = Sam(config).to(device).requires_grad_(False)
        for name, value in sam.named_parameters():
            if "rel_pos" in name or "pos_embed" in name:
                value.normal_(std=0.1)
        text = build_clip(clip).to(device).requires_grad_(False)
        settings = AdapterConfig(n_conditioned=config.depth - default_split(config.depth))
        adapter = build_adapter(settings, sam, text, seed=0).to(device).requires_grad_(False)
        # With a threshold the presence is computed, too; this one says yes to everything.
        return cls(sam, text, adapter.with_info(words=("nuclei",), threshold=0.0))

    def segmenter(self, setting: Setting, adapter: Adapter | None) -> Segmenter:
        """A Segmenter over these networks."""
        model = LoadedModel("random", self.sam, self.clip, None)
        return Segmenter(model, adapter, str(setting.device), setting.precision)


def open_clip_vit(architecture: str = "ViT-B-16") -> ClipConfig:
    """Configuration of one of open_clip's networks."""
    import open_clip

    return ClipConfig(open_clip.get_model_config(architecture))


# ---------------------------------------------------------------- measuring


def compared(
    name: str, times: dict[str, list[float]], a: str, b: str, of: str, most: float | None = None
) -> Row:
    """The row of variant `a` against variant `b`."""
    ratios = sorted(x / y for x, y in zip(times[a], times[b], strict=True))
    spread = (ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4])
    value = seconds(statistics.median(times[a]))
    return Row(name, value, statistics.median(ratios), of, most, spread)


def seconds(value: float) -> str:
    """A time as text."""
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.0f} ms"


def _pixels(config: SamConfig, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, 3, config.input_size, config.input_size, generator=generator).to(device)


def _signals(width: int, grid: int, device: torch.device) -> Signals:
    generator = torch.Generator().manual_seed(2)
    dense = torch.randn(1, 1 + grid * grid, width, generator=generator)
    text = torch.nn.functional.normalize(torch.randn(1, width, generator=generator), dim=-1)
    return make_signals(dense.to(device), text.to(device))


def _plane(side: int, seed: int) -> Plane:
    rng = np.random.default_rng(seed)
    return open_image(rng.integers(0, 255, (side, side), dtype=np.uint8)).plane()


def _clicks(side: int, count: int) -> list[Prompts]:
    points = np.random.default_rng(3).uniform(0, side - 1, (count, 2))
    return [Prompts(points=point[None]) for point in points]


# ---------------------------------------------------------------- what is measured


def encoder_rows(nets: Networks, setting: Setting) -> list[Row]:
    """Trunk and head, with and without conditioning, and CLIP, against the stock encoder."""
    sam, adapter = nets.sam, nets.adapter
    pixels = _pixels(sam.config, setting.device)
    signals = _signals(nets.clip.dim, nets.clip.grid, setting.device)

    def encode(conditioned: bool) -> Tensor:
        tokens = sam.trunk(pixels, adapter.split)
        return sam.head(tokens, adapter.split, adapter.condition(signals) if conditioned else None)

    with setting.inference():
        stock = sam.image_encoder(pixels).float()
        tolerance = 1e-4 if setting.precision == "fp32" else 0.1
        for conditioned in (False, True):
            # An adapter that was not trained leaves the embedding as it is.
            torch.testing.assert_close(
                encode(conditioned).float(), stock, atol=tolerance, rtol=tolerance
            )
        times = setting.race(
            {
                "stock": lambda: sam.image_encoder(pixels),
                "plain": lambda: encode(False),
                "conditioned": lambda: encode(True),
                "clip": lambda: nets.clip.dense(pixels),
            },
            setting.turns,
        )
    stock_name = "stock encoder"
    return [
        Row("stock ImageEncoderViT.forward", seconds(statistics.median(times["stock"]))),
        compared("trunk + head, no adapter", times, "plain", "stock", stock_name),
        compared(
            "trunk + conditioned head, signals given",
            times,
            "conditioned",
            "stock",
            stock_name,
            most=1.12,
        ),
        compared(
            "... the same against our own encoder",
            times,
            "conditioned",
            "plain",
            "trunk + head, no adapter",
        ),
        compared("CLIP's dense features", times, "clip", "stock", stock_name),
    ]


def word_rows(nets: Networks, setting: Setting) -> list[Row]:
    """A new word on a plane that was seen before, against plane and word both new."""
    side, turns = nets.sam.config.input_size, setting.turns
    segmenter = nets.segmenter(setting, nets.adapter)
    # Each turn asks twice, and the turn that does not count is one more.
    planes = iter([_plane(side, seed) for seed in range(turns + 1)])
    words = iter([f"nuclei {number}" for number in range(2 * turns + 2)])
    segmenter.set_plane(_plane(side, turns + 1))
    segmenter.predict(Prompts(text="nuclei"))
    stages: list[dict[str, float]] = []

    def everything() -> None:
        segmenter.set_plane(next(planes))
        stages.append(segmenter.predict(Prompts(text=next(words))).seconds)

    def word() -> None:
        before = segmenter.calls["trunk"], segmenter.calls["clip"]
        segmenter.predict(Prompts(text=next(words)))
        assert before == (segmenter.calls["trunk"], segmenter.calls["clip"])

    times = setting.race({"everything": everything, "word": word}, turns)
    parts = {
        name: statistics.median(stage[name] for stage in stages[1:])
        for name in ("trunk", "signals", "head", "decode")
    }
    share = ", ".join(f"{name} {seconds(value)}" for name, value in parts.items())
    whole = seconds(statistics.median(times["everything"]))
    return [
        Row(f"everything from scratch ({share})", whole),
        compared("a new word", times, "word", "everything", "everything", most=0.45),
    ]


def click_rows(nets: Networks, setting: Setting) -> list[Row]:
    """A click through the Segmenter against SamPredictor with the same weights and image."""
    side, turns = nets.sam.config.input_size, CLICKS * setting.turns
    plane = _plane(side, 0)
    stock = StockSam(nets.sam.image_encoder, nets.sam.prompt_encoder, nets.sam.mask_decoder)
    predictor = SamPredictor(stock.to(setting.device))
    base = nets.segmenter(setting, None)
    guided = nets.segmenter(setting, nets.adapter)
    prompts = _clicks(side, turns + 1)

    def original(prompt: Prompts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        xy, labels = prompt.points[:, ::-1].copy(), np.ones(1, int)
        with setting.inference():
            return predictor.predict(xy, labels, multimask_output=True)

    with setting.inference():
        predictor.set_image(plane.rgb)
    for segmenter in (base, guided):
        segmenter.set_plane(plane)
        segmenter.predict(prompts[0])
    if setting.precision == "fp32":
        _, quality, logits = original(prompts[0])
        answer = base.predict(prompts[0]).objects[0].logits
        assert answer is not None
        np.testing.assert_allclose(answer, logits[quality.argmax()], atol=1e-4)
    queues = [iter(prompts) for _ in range(3)]
    times = setting.race(
        {
            "stock": lambda: original(next(queues[0])),
            "base": lambda: base.predict(next(queues[1])),
            "guided": lambda: guided.predict(next(queues[2])),
        },
        turns,
    )
    of = "SamPredictor.predict"
    return [
        Row("SamPredictor.predict on a set image", seconds(statistics.median(times["stock"]))),
        compared("a click, base SAM", times, "base", "stock", of, most=1.1),
        compared("a click, with word and adapter", times, "guided", "stock", of, most=1.1),
    ]


def starter_rows(setting: Setting) -> list[Row]:
    """Times of the shipped model, where it is there, on a plane of 512 x 512 pixels."""
    if not all(starter_file(part).is_file() for part in ("sam", "clip", "adapter")):
        return [Row("starter", "not in this copy of the package")]
    segmenter = Segmenter(load_model("starter"), device=str(setting.device))
    side, text, turns = 512, "nuclei", 2 * setting.turns
    planes = iter([_plane(side, seed) for seed in range(turns + 1)])
    clicks = [Prompts(text, prompt.points) for prompt in _clicks(side, 100)]
    segmenter.set_plane(_plane(side, turns + 1))
    segmenter.predict(clicks[0])

    def plane() -> None:
        segmenter.set_plane(next(planes))
        segmenter.predict(clicks[0])

    whole = setting.race({"plane": plane}, turns)["plane"]
    queue = iter([clicks[0], *clicks])
    times = setting.race({"click": lambda: segmenter.predict(next(queue))}, len(clicks))["click"]
    one = statistics.median(times)
    # The first click on a plane encodes it.
    encode = statistics.median(whole) - one
    return [
        Row("starter: a plane encoded (trunk, CLIP, word, head)", seconds(encode), most=0.5),
        Row("starter: a click", seconds(one), most=0.06),
        Row("starter: 100 clicks", seconds(sum(times))),
    ]


# ---------------------------------------------------------------- memory


def peak_rows(arch: str, setting: Setting) -> list[Row]:
    """Peak memory of each way to encode, every one in a process of its own."""
    peaks = {}
    for variant in PEAKS:
        command = [sys.executable, __file__, "--arch", arch, "--peak", variant]
        command += ["--device", str(setting.device), "--precision", setting.precision]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[variant] = float(done.stdout)
    own = {name: peaks[name] - peaks["nothing"] for name in PEAKS}

    def row(name: str, variant: str, most: float | None = None) -> Row:
        value = f"{peaks[variant]:.0f} MB ({own[variant]:.0f} above the weights)"
        if variant == "stock":
            return Row(name, value)
        return Row(name, value, peaks[variant] / peaks["stock"], "stock encoder", most)

    return [
        row("peak memory, stock encoder", "stock"),
        row("peak memory, trunk + head", "plain"),
        row("peak memory, trunk + conditioned head", "conditioned", most=1.15),
    ]


def peak(arch: str, setting: Setting, variant: str) -> float:
    """Peak memory of this process in MB after one encoding of a kind."""
    config, device = SAM_CONFIGS[arch], setting.device
    torch.manual_seed(0)
    sam = Sam(config).to(device).requires_grad_(False)
    # CLIP has done its part before: only the width of its signals is needed.
    narrow = {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1, "head_width": 64}
    text = {"context_length": 8, "vocab_size": 16, "width": 64, "heads": 1, "layers": 1}
    architecture = {"embed_dim": 512, "vision_cfg": narrow, "text_cfg": text}
    clip = build_clip(ClipConfig(architecture, input_size=32))
    split = default_split(config.depth)
    adapter = build_adapter(AdapterConfig(config.depth - split), sam, clip, seed=0)
    adapter = adapter.to(device).requires_grad_(False)
    signals = _signals(512, 32, device)
    pixels = _pixels(config, device)
    with setting.inference():
        if variant == "stock":
            sam.image_encoder(pixels)
        elif variant != "nothing":
            bound = adapter.condition(signals) if variant == "conditioned" else None
            sam.head(sam.trunk(pixels, split), split, bound)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MB
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / MB if sys.platform == "darwin" else most * 1024 / MB


# ---------------------------------------------------------------- the table


def table(rows: list[Row]) -> str:
    """Rows as a markdown table."""
    lines = ["| what | measured | ratio | quartiles | at most |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f} x {row.of}"
        spread = "" if row.spread is None else "{:.2f} to {:.2f}".format(*row.spread)
        most = ""
        if row.most is not None:
            most = seconds(row.most) if row.ratio is None else f"{row.most:.2f}"
        lines.append(f"| {row.name} | {row.value} | {ratio} | {spread} | {most} |")
    return "\n".join(lines)


def environment(options: argparse.Namespace, device: torch.device) -> str:
    """What the numbers were measured on."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    if device.type == "cuda":
        name = f"{torch.cuda.get_device_name(device)}; {name}"
    return (
        f"{name}; {os.cpu_count()} cores, {torch.get_num_threads()} threads; torch "
        f"{torch.__version__}; Python {platform.python_version()}; device {device.type}, "
        f"{options.precision}, {options.clock} clock; SAM {options.arch} and open_clip ViT-B-16 at "
        "512 pixels, random weights"
    )


def load() -> str:
    """Processes that wanted to run in the last minute."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def main(argv: list[str] | None = None) -> None:
    """Measure all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="vit_b", choices=SAM_CONFIGS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "fp16"))
    parser.add_argument(
        "--clock",
        default="wall",
        choices=("wall", "cpu"),
        help="cpu: processor time, for a machine that has other work; give OMP_NUM_THREADS=1 then",
    )
    parser.add_argument("--turns", type=int, default=5, help="of an encoding; more for a click")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="some parts")
    parser.add_argument("--out", type=Path, help="write the table here as well")
    parser.add_argument("--peak", choices=PEAKS, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    device = choose_device(options.device)
    setting = Setting(device, options.precision, options.turns, clock)
    if options.peak:
        print(peak(options.arch, setting, options.peak))
        return
    before, rows = load(), []
    # First, while this process is small: the others measure theirs.
    memory = peak_rows(options.arch, setting) if "memory" in options.only else []
    if {"encoder", "words", "clicks"} & set(options.only):
        nets = Networks.random(SAM_CONFIGS[options.arch], open_clip_vit(), device)
    if "encoder" in options.only:
        rows += encoder_rows(nets, setting)
    rows += memory
    if "words" in options.only:
        rows += word_rows(nets, setting)
    if "clicks" in options.only:
        rows += click_rows(nets, setting)
    if "starter" in options.only:
        rows += starter_rows(setting)
    text = f"{environment(options, device)}; load {before} before and {load()} after.\n\n"
    text += table(rows)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
