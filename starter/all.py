"""The whole recipe with one command: networks, adapter, refiners, files, validation scores.

``python -m starter.all --data ../shared/data --out build/starter_run --minutes 25``

Stages run one after the other, since each alone keeps a GPU busy, and share the minutes as below.
``--stop-after`` ends a call early, between two steps; the same command goes on where the last one
ended. When everything is there the validation scores are printed, and ``--ship`` copies the files
into the package.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from starter import (
    config,
    export,
    stage_adapter,
    stage_clip,
    stage_concept_refiner,
    stage_decoder,
    stage_quality,
    stage_refiner,
    stage_sam,
)
from starter.loop import SHARES_OF_KINDS, training_store

__all__ = ["SETTINGS", "SHARES", "Driver", "main"]

#: Of the minutes: CLIP stops gaining early, SAM gained until its time was over.
SHARES = {
    "clip": 0.14,
    "sam": 0.38,
    "decoder": 0.1,
    "quality": 0.02,
    "adapter": 0.2,
    "refiner": 0.1,
    "concept_refiner": 0.06,
}
_TRAIN = {
    "clip": stage_clip.main,
    "sam": stage_sam.main,
    "decoder": stage_decoder.main,
    "quality": stage_quality.main,
    "adapter": stage_adapter.main,
    "refiner": stage_refiner.main,
    "concept_refiner": stage_concept_refiner.main,
}
# Trained beside the files that stage 1 and 2 left.
_ON_FILES = ("decoder", "quality", "adapter", *config.REFINERS)
# What the quality head is taken of its training, as in the files that ship.
_QUALITY = 0.5
SETTINGS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "cuda": {
        "clip": ("--batch", "48"),
        "sam": ("--batch", "48", "--objects", "8", "--window", "32", "--whole-from", "0.7"),
        "decoder": ("--batch", "32", "--objects", "8", "--crops", "2000"),
        "quality": ("--batch", "128", "--crops", "700"),
        "adapter": ("--batch", "32", "--objects", "4", "--window", "32", "--whole-from", "0.6"),
        "refiner": ("--batch", "256", "--views", "4"),
        "concept_refiner": ("--batch", "128", "--views", "4"),
    },
    "cpu": {
        "clip": ("--batch", "6"),
        "sam": ("--batch", "4", "--objects", "8", "--window", "32", "--whole-from", "0.9"),
        "decoder": ("--batch", "4", "--objects", "8", "--crops", "450"),
        "quality": ("--batch", "128", "--crops", "500"),
        "adapter": ("--batch", "4", "--objects", "3", "--window", "32", "--crops", "160"),
        "refiner": ("--batch", "64"),
        "concept_refiner": ("--batch", "32"),
    },
}
#: Shares of the adapter's training that compete on the validation images.
_BLENDS = (1.0, 0.75)
_COMPARED = ("dice", "object click", "object box")
_LEAST = 0.2


@dataclass
class Driver:
    """Runs what is not done yet until the time of this call is over.

    Attributes
    ----------
    options : argparse.Namespace
    started : float
        Clock at the beginning of this call.
    """

    options: argparse.Namespace
    started: float

    @property
    def out(self) -> Path:
        """Folder of the run."""
        return Path(self.options.out)

    @property
    def left(self) -> float | None:
        """Minutes left of this call; None without an end."""
        if self.options.stop_after is None:
            return None
        return self.options.stop_after - (time.perf_counter() - self.started) / 60

    def run(self) -> bool:
        """Do all that is left; whether everything is done."""
        steps: dict[str, Callable[[], bool]] = {
            "clip": lambda: self.train("clip"),
            "sam": lambda: self.train("sam"),
            "networks": lambda: self.put(export.export_networks),
            "decoder": lambda: self.train("decoder"),
            "better decoder": lambda: self.put(export.export_decoder, [self.out]),
            "quality": lambda: self.train("quality"),
            "better quality": lambda: self.put(export.export_quality, _QUALITY),
            "adapter": lambda: self.train("adapter"),
            "files": self.export_adapter,
            "refiner": lambda: self.train("refiner"),
            "with refiner": lambda: self.put(export.export_refiner, "refiner"),
            "concept_refiner": lambda: self.train("concept_refiner"),
            "with both": lambda: self.put(export.export_refiner, "concept_refiner"),
        }
        done: dict[str, float] = self._record()
        for name, work in steps.items():
            if name in done:
                continue
            if self.left is not None and self.left < _LEAST:
                return False
            start = time.perf_counter()
            if not work():
                return False
            done[name] = round(time.perf_counter() - start, 1)
            self._remember(done)
        return True

    def train(self, stage: str) -> bool:
        """Train one stage; whether its share of the minutes is used up."""
        options = self.options
        words = ["--data", options.data, "--out", options.out, "--device", options.device]
        words += [*SETTINGS["cuda" if options.device.startswith("cuda") else "cpu"][stage]]
        words += ["--steps", str(options.steps)]
        if stage not in config.REFINERS:
            # Generating takes a while and belongs to the call, not to the stage. Refiners have a
            # few images of their own, and look at them before their time begins.
            training_store(options)
            words += ["--generated", str(options.generated)]
        words += ["--minutes", str(options.minutes * SHARES[stage])]
        words += ["--workers", str(options.workers), "--seed", str(options.seed)]
        words += ["--validate-every", "0"]
        if options.batch is not None:
            words += ["--batch", str(options.batch)]
        if stage in _ON_FILES:
            words += ["--base", options.out]
        if self.left is not None:
            words += ["--stop-after", str(self.left)]
        return _TRAIN[stage](words)

    def put(self, write: Callable[..., None], *more: object) -> bool:
        """Write a part into the files of the run."""
        write(self.out, *more)
        return True

    def export_adapter(self) -> bool:
        """Write the adapter, blended with the base as far as the validation images like it."""
        scores: dict[float, dict[str, float]] = {}
        for blend in _BLENDS:
            scores[blend] = self._export(blend)
        best = max(_BLENDS, key=lambda blend: sum(scores[blend][name] for name in _COMPARED))
        if best != _BLENDS[-1]:
            self._export(best)
        print(f"blend {best} of {_BLENDS}", flush=True)
        (self.out / "validation.json").write_text(json.dumps(scores[best], indent=1) + "\n")
        return True

    def _export(self, blend: float) -> dict[str, float]:
        options = argparse.Namespace(
            data=self.options.data,
            device=self.options.device,
            blend=blend,
            layers=None,
            adapter=None,
            base_objects=False,
        )
        return export.export_adapter(self.out, options).info.scores["validation"]

    def _record(self) -> dict[str, Any]:
        path = self.out / "done.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def _remember(self, done: dict[str, Any]) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "done.json").write_text(json.dumps(done, indent=1) + "\n")


def main(argv: list[str] | None = None) -> bool:
    """Run the recipe, or go on with it; whether it is complete."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="../shared/data", help="data folder, or a packed one")
    parser.add_argument("--out", default="build/starter_run", help="folder of the run")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--minutes", type=float, default=25, help="of training, in all calls")
    parser.add_argument("--stop-after", type=float, default=None, help="minutes of this call")
    parser.add_argument("--steps", type=int, default=1_000_000, help="of a stage at most")
    parser.add_argument("--batch", type=int, default=None, help="crops, in place of the settings'")
    parser.add_argument("--generated", type=int, default=6000, help="number of generated images")
    parser.add_argument("--workers", type=int, default=None, help="processes that generate them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ship", action="store_true", help="copy the files into the package")
    # Of the stages that see all kinds of images.
    parser.set_defaults(shares=SHARES_OF_KINDS)
    options = parser.parse_args(argv)
    options.workers = options.workers or os.cpu_count() or 1
    driver = Driver(options, time.perf_counter())
    if not driver.run():
        print("not done yet: the same command goes on", flush=True)
        return False
    print((driver.out / "validation.json").read_text())
    if options.ship:
        export.ship(driver.out)
    return True


if __name__ == "__main__":
    main()
