"""What a few labelled planes teach, with and without what the paper proposes.

``python benchmarks/fewshot.py --data ../shared/data --out build/fewshot``

The starter model on the evaluation sets. Everything is a list of small runs (``--list``), seed by
seed, the most telling ones first. Each that is done is one line of ``OUT/results.jsonl``: start it
again to go on where it ended, and see ``--table`` at any time. Two processes share the work with
``--part 0/2`` and ``--part 1/2``. With ``--steps`` in place of ``--minutes`` the same seed gives
the same adapters. Timings (``--only epoch``) want the machine to themselves.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import fewshot_cost, fewshot_train
from benchmarks.fewshot_runs import (
    DEFAULT_EXPERIMENTS,
    EXPERIMENTS,
    SETS,
    SHOTS,
    Budget,
    Results,
    Run,
    list_runs,
    part_of,
)
from benchmarks.fewshot_tables import tables
from benchmarks.fewshot_train import Bench
from napari_clipsam.adapters.files import load_adapter
from napari_clipsam.errors import ClipSamError
from napari_clipsam.models.registry import load_model

__all__ = ["main", "measure", "work"]


def measure(bench: Bench, run: Run, results: Results) -> dict[str, Any]:
    """Do one run."""
    if run.task == "frozen":
        return fewshot_train.frozen(bench, run)
    if run.task == "train":
        return fewshot_train.train(bench, run)
    if run.task == "next":
        one = None
        if run.variant != "one":
            one = results.read().get(replace(run, variant="one", shots=1))
            if one is None:
                raise ClipSamError(f"'{run}' needs the run with one plane. Start it again.")
        return fewshot_train.next_plane(bench, run, one)
    if run.task == "size":
        return fewshot_cost.sizes(bench)
    return fewshot_cost.epoch(bench, run) if run.task == "epoch" else fewshot_cost.learn(bench, run)


def work(bench: Bench, runs: list[Run], results: Results) -> None:
    """Do the runs that are not done, and keep each at once."""
    left = [run for run in runs if run not in results.read()]
    for number, run in enumerate(left, start=1):
        begun = time.perf_counter()
        try:
            values = measure(bench, run, results)
        except ClipSamError as error:
            print(f"{number}/{len(left)} {run}: {error}", file=sys.stderr, flush=True)
            continue
        results.add(run, values)
        score = f"Dice {values['dice']:.3f}, " if "dice" in values else ""
        seconds = time.perf_counter() - begun
        print(f"{number}/{len(left)} {run}: {score}{seconds:.0f} s", flush=True)


def show(runs: list[Run], done: set[Run]) -> None:
    """Print runs, which of them are done, and the time the others need."""
    for run in runs:
        print("done" if run in done else "    ", run)
    seconds = sum(run.seconds for run in runs if run not in done)
    print(f"{len(runs)} runs, {sum(run in done for run in runs)} done; {seconds / 60:.0f} min left")


def main(arguments: list[str] | None = None) -> None:
    """Run, list or print what is asked for."""
    options = _parser().parse_args(arguments)
    budget = Budget(None, options.steps) if options.steps else Budget(options.minutes)
    results = Results(options.out / "results.jsonl")
    runs = list_runs(options.only, options.sets, options.shots, options.seeds, str(budget))
    part, parts = options.part
    runs = part_of(runs, part, parts)
    if options.table:
        print(tables(results.read(), str(budget)))
        return
    if options.list:
        show(runs, set(results.read()))
        return
    torch.set_num_threads(options.threads)
    model = load_model("starter")
    assert model.adapter_path is not None
    starter = load_adapter(model.adapter_path, model.sam, model.clip)
    work(Bench(model, starter, options.data, options.device), runs, results)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("build/fewshot"))
    parser.add_argument("--minutes", type=float, default=1.0, help="of every training")
    parser.add_argument("--steps", type=int, help="of every training, in place of --minutes")
    threads = int(os.environ.get("OMP_NUM_THREADS", 1))
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--only",
        type=_some(EXPERIMENTS),
        default=DEFAULT_EXPERIMENTS,
        help=f"some of {','.join(EXPERIMENTS)}",
    )
    parser.add_argument("--sets", type=_some(SETS), default=tuple(SETS))
    parser.add_argument("--shots", type=_numbers, default=SHOTS)
    parser.add_argument("--seeds", type=_numbers, help="0,1,2, and up to 5 for next")
    parser.add_argument("--part", type=_part, default=(0, 1), help="I/N: this process's share")
    parser.add_argument("--list", action="store_true", help="print the runs")
    parser.add_argument("--table", action="store_true", help="print what there is as tables")
    return parser


def _some(known: Any) -> Any:
    """Names out of some, separated by commas."""

    def parse(text: str) -> tuple[str, ...]:
        names = tuple(name.strip() for name in text.split(","))
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"'{name}' is none of: {', '.join(known)}")
        return names

    return parse


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def _part(text: str) -> tuple[int, int]:
    part, parts = (int(number) for number in text.split("/"))
    if not 0 <= part < parts:
        raise argparse.ArgumentTypeError(f"'{text}' is no share. Write 0/2 and 1/2.")
    return part, parts


if __name__ == "__main__":
    main()
