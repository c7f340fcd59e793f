"""How fast this project is beside `segment_anything` and micro-sam on the same weights, in one run.

``python benchmarks/speed.py [--arch vit_b] [--device auto] [--out FILE.md]``

Nothing is downloaded: SAM and CLIP have random weights, which cost the same as trained ones. What
is compared runs in turns (A B A B ...), so that other work on the machine hits both alike; a ratio
is the median of the ratios of each turn. Where the answers have to be equal, that is checked first.
micro-sam takes part where it is installed in the same environment.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import (
    CLOCKS,
    NO_GPU,
    Row,
    Setting,
    environment,
    load,
    peak_memory,
    run_apart,
    table,
)
from benchmarks.networks import CLIP, WORD, Networks, open_clip_vit, plane
from benchmarks.peers import NO_MICRO_SAM, MicroSam
from benchmarks.speed_answers import (
    agreement_rows,
    click_rows,
    epoch_rows,
    object_rows,
    starter_rows,
    together_rows,
)
from benchmarks.speed_bench import STOCK, Bench
from benchmarks.speed_compiling import compiled_rows
from benchmarks.speed_encoding import batch_rows, encode_rows, rate_rows, word_rows
from napari_clipsam.inference.devices import choose_device, resolve_precision
from napari_clipsam.models.sam import SAM_CONFIGS

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PARTS", "PEAKS", "main", "memory_rows", "peak"]

#: Options that measure what a CPU cannot tell.
ON_GPU = "--device cuda --turns 5"
#: Ways to encode a plane, each measured in a process of its own.
PEAKS = ("nothing", "stock", "micro-sam", "fp32", "fast")
PARTS: dict[str, Callable[[Bench], list[Row]]] = {
    "rates": rate_rows,
    "encode": encode_rows,
    "batch": batch_rows,
    "compiled": compiled_rows,
    "words": word_rows,
    "clicks": click_rows,
    "objects": object_rows,
    "together": together_rows,
    "epoch": epoch_rows,
    "agreement": agreement_rows,
    "starter": starter_rows,
}


def memory_rows(words: list[str]) -> list[Row]:
    """Peak memory of each way to encode; `words` are the options that the others need."""
    peaks = {}
    for way in PEAKS:
        if way != "micro-sam" or MicroSam.is_there():
            peaks[way] = float(run_apart(__file__, [*words, "--peak", way]))
    names = {
        "stock": f"peak memory, {STOCK}",
        "micro-sam": "peak memory, micro-sam: precompute_image_embeddings",
        "fp32": "peak memory, a plane encoded with word and adapter, fp32",
        "fast": "peak memory, ... in the fast precision",
    }
    rows = []
    for way, name in names.items():
        if way not in peaks:
            rows.append(Row(name, NO_MICRO_SAM))
            continue
        value = f"{peaks[way]:.0f} MB ({peaks[way] - peaks['nothing']:.0f} above the weights)"
        ratio = None if way == "stock" else peaks[way] / peaks["stock"]
        rows.append(Row(name, value, ratio, "" if ratio is None else STOCK))
    return rows


def peak(nets: Networks, arch: str, way: str, device: torch.device, fast: str) -> float:
    """Peak memory of this process in MB after a plane was encoded one way."""
    one = plane(nets.sam.config.input_size, 0)
    if way == "stock":
        with torch.inference_mode():
            nets.predictor().set_image(one.rgb)
    elif way == "micro-sam":
        with tempfile.TemporaryDirectory() as folder:
            nets.write(Path(folder))
            MicroSam(Path(folder) / "sam.pth", arch, device).embed(one.rgb[..., 0])
    elif way != "nothing":
        precision = "fp32" if way == "fp32" else fast
        segmenter = nets.segmenter(device, nets.adapter, precision)  # type: ignore[arg-type]
        segmenter.ahead.prepare(one, WORD)
    return peak_memory(device)


def main(argv: list[str] | None = None) -> None:
    """Measure all and print the table."""
    options = _parser().parse_args(argv)
    device = choose_device(options.device)
    setting = Setting(device, options.turns, CLOCKS[options.clock])
    nets = None
    if options.peak:
        nets = Networks.random(SAM_CONFIGS[options.arch], open_clip_vit(), device)
        print(json.dumps(peak(nets, options.arch, options.peak, device, options.fast)))
        return
    before = load()
    rows: list[Row] = []
    if "memory" in options.only:
        # First, while this process is small: the others measure theirs.
        words = ["--arch", options.arch, "--device", str(device), "--fast", options.fast]
        rows += memory_rows(words)
    nets = Networks.random(SAM_CONFIGS[options.arch], open_clip_vit(), device)
    with tempfile.TemporaryDirectory() as folder:
        micro = None
        if MicroSam.is_there():
            nets.write(Path(folder))
            micro = MicroSam(Path(folder) / "sam.pth", options.arch, device)
        bench = Bench(nets, nets.predictor(), micro, setting, options.fast)
        for name, part in PARTS.items():
            if name in options.only:
                print(f"{name} ...", file=sys.stderr, flush=True)
                rows += part(bench)
    auto = str(resolve_precision("auto", device)).removeprefix("torch.")
    about = (
        f"{environment(device, options.clock)}; {options.turns} turns; SAM {options.arch} and "
        f"open_clip {CLIP}, random weights; fast is {options.fast}, auto is {auto}; "
        f"{MicroSam.version() if micro else 'without micro-sam'}; load {before} before and "
        f"{load()} after."
    )
    text = f"{about}\n\n{table(rows)}"
    if any(row.value == NO_GPU for row in rows):
        text += f"\n\nWhere there is a GPU: `python benchmarks/speed.py {ON_GPU}`."
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--arch", default="vit_b", choices=("vit_b", "vit_l", "vit_h"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--fast", default="bf16", choices=("bf16", "fp16", "auto"))
    parser.add_argument(
        "--clock",
        default="wall",
        choices=CLOCKS,
        help="cpu: processor time, for a machine that has other work; give OMP_NUM_THREADS=1 then",
    )
    parser.add_argument("--turns", type=int, default=2, help="of an encoding; more for a click")
    parts = ("memory", *PARTS)
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, help="some parts")
    parser.add_argument("--out", type=Path, help="write the table here as well")
    parser.add_argument("--peak", choices=PEAKS, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
