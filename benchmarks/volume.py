"""Stacks: this project's engine beside a plain loop and micro-sam, and how its cost grows.

``python benchmarks/volume.py [--part engines] [--planes 3] [--device auto] [--out FILE.md]``

SAM is a ViT-B with random weights, the same for all; each way runs in a process of its own, and
several turns of all ways follow one another. What grows, and what two workers bring, is measured
with the starter model. micro-sam takes part where it is installed in the same environment.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import CLOCKS, Row, compared, environment, load, run_apart, seconds, table
from benchmarks.networks import CLIP, WORD, Networks, open_clip_vit
from benchmarks.peers import NO_MICRO_SAM, MicroSam
from benchmarks.volume_runs import Job, from_json, run, write_stack
from napari_clipsam.inference.devices import choose_device
from napari_clipsam.models.sam import SAM_CONFIGS

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PARTS", "Plan", "main"]

ENGINES = {
    "loop": "SamPredictor, plane by plane, a click each",
    "clicks": "ours, a click a plane",
    "word": "ours, a word with adapter",
    "follow": "ours, one object followed",
    "micro-sam": "micro-sam: embeddings, one object followed",
}
LOOP = "the plain loop"
# Planes in a stack, and their sides, that show how the cost grows.
DEPTHS, SIDES = (4, 8, 16), (256, 512, 1024, 2048)
WORKERS = (1, 2)
MOST_MEMORY = 2000.0
_CLI = "from napari_clipsam.cli import main; raise SystemExit(main())"


@dataclass(frozen=True)
class Plan:
    """How much is measured, where.

    Attributes
    ----------
    job : Job
        What all ways have in common; `Job.way` is filled in.
    turns : int
    measure : callable
        A job to what `volume_runs.run` returns of it.
    depths, sides : tuple of int
    """

    job: Job
    turns: int
    measure: Callable[[Job], dict[str, Any]]
    depths: tuple[int, ...] = DEPTHS
    sides: tuple[int, ...] = SIDES

    def starter(self, way: str, planes: int, side: int) -> dict[str, Any]:
        """Measure the starter on a stack of a size."""
        folder = self.job.path / "starter"
        folder.mkdir(exist_ok=True)
        job = replace(self.job, way=way, folder=str(folder), planes=planes, side=side)
        if way != "on the fly":
            write_stack(job)
        return self.measure(job)


def engine_rows(plan: Plan) -> list[Row]:
    """Planes a second and peak memory of each engine against the plain loop."""
    write_stack(plan.job)
    ways = [way for way in ENGINES if way != "micro-sam" or MicroSam.is_there()]
    times: dict[str, list[float]] = {way: [] for way in ways}
    found: dict[str, dict[str, Any]] = {}
    for _ in range(plan.turns):
        for way in ways:
            found[way] = plan.measure(replace(plan.job, way=way))
            times[way].append(found[way]["seconds"] / plan.job.planes)
    rows, base = [], found["loop"]
    for way, name in ENGINES.items():
        if way not in found:
            rows.append(Row(name, NO_MICRO_SAM))
            continue
        pace = f"{1 / statistics.median(times[way]):.3g} planes/s"
        row = compared(f"{name}, {pace}: a plane", times, way, "loop", LOOP)
        rows.append(row if way != "loop" else Row(row.name, row.value))
        most = found[way]["peak"]
        ratio = None if way == "loop" else most / base["peak"]
        value = f"{most:.0f} MB ({most - found[way]['loaded']:.0f} above what was loaded)"
        rows.append(Row("... peak memory", value, ratio, "" if ratio is None else LOOP))
    return rows


def growth_rows(plan: Plan) -> list[Row]:
    """Cost against depth, a line fitted through it, and against the area of a plane."""
    depths, side = plan.depths, min(512, plan.sides[-1])
    spent = [plan.starter("word", depth, side)["seconds"] for depth in depths]
    each, start = np.polyfit(depths, spent, 1)
    left = np.array(spent) - np.polyval((each, start), depths)
    whole = max(float(np.var(spent)), 1e-12)
    rows = [
        Row(f"starter, {depth} planes of {side} x {side}", seconds(value))
        for depth, value in zip(depths, spent, strict=True)
    ]
    fit = f"{start:.2f} s + {each:.3f} s a plane, R² {1 - float(np.var(left)) / whole:.4f}"
    rows.append(Row("... a line through them", fit))
    areas = {one: plan.starter("word", 2, one)["seconds"] / 2 for one in plan.sides}
    rows += [
        Row(f"starter, a plane of {one} x {one}", seconds(value), value / areas[side], f"{side}²")
        for one, value in areas.items()
    ]
    return rows


def worker_rows(plan: Plan) -> list[Row]:
    """The command line with one and two workers, start included, and whether labels are equal."""
    folder = plan.job.path / "starter"
    folder.mkdir(exist_ok=True)
    job = replace(plan.job, folder=str(folder), planes=2 * max(plan.depths), side=plan.sides[0])
    write_stack(job)
    times: dict[str, list[float]] = {}
    labels = []
    for workers in (0, *WORKERS):
        out = folder / f"workers_{workers}.tif"
        words = ["volume", job.stack, "--text", WORD, "--target", "instances", "-o", out]
        words += ["--overwrite", "--device", job.device]
        words += ["--workers", workers] if workers else []
        begun = time.perf_counter()
        _command(words)
        times[str(workers)] = [time.perf_counter() - begun]
        # The files differ: each names itself.
        labels.append(tifffile.imread(out).tobytes())
    planes = f"starter, {job.planes} planes of {job.side} x {job.side}, start included, wall clock"
    rows = [Row(f"{planes}: one process", seconds(times["0"][0]))]
    rows += [
        compared(f"... {workers} workers", times, str(workers), "0", "one process")
        for workers in WORKERS
    ]
    rows.append(compared("... 2 workers against 1", times, "2", "1", "1 worker"))
    same = "yes" if len(set(labels)) == 1 else "no"
    return [*rows, Row("... the same labels in every pixel", same)]


def depth_rows(plan: Plan) -> list[Row]:
    """Memory along a deep stack whose planes are made on the fly."""
    planes, side = plan.job.planes, plan.job.side
    found = plan.starter("on the fly", planes, side)
    name = f"starter, {planes} planes of {side} x {side} made on the fly"
    pace = f"{seconds(found['seconds'])}, {planes / found['seconds']:.3g} planes/s"
    rows = [
        Row(name, pace),
        Row("... peak memory with the model loaded", f"{found['loaded']:.0f} MB"),
    ]
    for done, most in found["memory"]:
        above = most - found["loaded"]
        rows.append(Row(f"... up to plane {done}", f"{most:.0f} MB ({above:.0f} above)"))
    beyond = found["peak"] - found["loaded"]
    value = f"{beyond:.0f} MB"
    rows.append(Row("... beyond the model, of 2 GB", value, beyond / MOST_MEMORY, "2 GB", 1.0))
    return rows


PARTS: dict[str, Callable[[Plan], list[Row]]] = {
    "engines": engine_rows,
    "growth": growth_rows,
    "workers": worker_rows,
    "depth": depth_rows,
}


def main(argv: list[str] | None = None) -> None:
    """Measure what is asked for and print the table."""
    options = _parser().parse_args(argv)
    if options.job:
        print(json.dumps(run(from_json(options.job))))
        return
    device = choose_device(options.device)
    gpu, deep = device.type == "cuda", options.part == "depth"
    planes = options.planes or (2000 if deep else 64 if gpu else 2)
    side = options.side or (512 if deep else 1024)
    before, rows = load(), []
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            *("", folder, planes, side, str(device), options.precision, options.clock, "vit_b"),
            reports=10,
        )
        plan = Plan(job, options.turns, _apart, *(((16, 32, 64), SIDES) if gpu else ()))
        parts = [options.part] if options.part else [name for name in PARTS if name != "depth"]
        if "engines" in parts:
            Networks.random(SAM_CONFIGS["vit_b"], open_clip_vit(), device).write(Path(folder))
        for name in parts:
            print(f"{name} ...", file=sys.stderr, flush=True)
            rows += PARTS[name](plan)
    micro = MicroSam.version() if MicroSam.is_there() else "without micro-sam"
    asked = ""
    if "engines" in parts:
        asked = f"{planes} planes of {side} x {side}, random ViT-B and open_clip {CLIP}, {micro}; "
    text = (
        f"{environment(device, options.clock)}; {options.turns} turns; {asked}precision "
        f"{options.precision}; load {before} before and {load()} after.\n\n{table(rows)}"
    )
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


def _apart(job: Job) -> dict[str, Any]:
    return run_apart(__file__, ["--job", json.dumps(asdict(job))])


def _command(words: list[object]) -> None:
    command = [sys.executable, "-c", _CLI, *map(str, words)]
    subprocess.run(command, check=True, capture_output=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--part", choices=PARTS, help="left out: all but depth")
    parser.add_argument("--planes", type=int, help="2, on a GPU 64, for depth 2000")
    parser.add_argument("--side", type=int, help="of a plane: 1024, for depth 512")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"))
    parser.add_argument(
        "--clock",
        default="wall",
        choices=CLOCKS,
        help="cpu: processor time, for a machine that has other work; give OMP_NUM_THREADS=1 then",
    )
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the table here as well")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
