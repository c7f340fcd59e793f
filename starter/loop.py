"""What the training stages share: schedule, averaged weights, checkpoints, curves."""

from __future__ import annotations

import argparse
import copy
import csv
import math
import os
import time
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import torch
from torch import nn

from starter.batches import Store, load_store
from starter.data import TRAINING_SETS, load_split
from starter.synthetic import generate_many

__all__ = [
    "SHARES_OF_KINDS",
    "Average",
    "Run",
    "arguments",
    "autocast",
    "matrices_apart",
    "prepare",
    "training_store",
]

#: How often nuclei, phase contrast, blood smears (few, so they weigh more) and generated images are
#: drawn.
SHARES_OF_KINDS = (0.42, 0.13, 0.1, 0.35)


def arguments(description: str, steps: int) -> argparse.ArgumentParser:
    """Command line options that every stage has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", default="../shared/data", help="data folder, or a packed one")
    parser.add_argument("--out", default="build/starter_run", help="folder of the run")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--minutes", type=float, default=None, help="end the schedule by then")
    parser.add_argument("--stop-after", type=float, default=None, help="minutes; resume later")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--generated", type=int, default=6000, help="number of generated images")
    parser.add_argument(
        "--shares", type=float, nargs=4, default=SHARES_OF_KINDS, help="of each kind"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="that generate them")
    parser.add_argument("--save-every", type=int, default=200, help="steps")
    parser.add_argument("--validate-every", type=int, default=1000, help="steps; 0: at the end")
    parser.add_argument("--log-every", type=int, default=100, help="steps")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def prepare(options: argparse.Namespace) -> None:
    """Seed, and let a GPU choose its fastest kernels; shapes repeat from step to step."""
    torch.manual_seed(options.seed)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")


def training_store(options: argparse.Namespace) -> Store:
    """Measured and generated images on the device; stages of one process share them."""
    shares = tuple(options.shares)
    return _store(options.data, options.generated, options.workers, options.device, shares)


@cache
def _store(data: str, count: int, workers: int, device: str, shares: tuple[float, ...]) -> Store:
    measured, phase, blood = (load_split(data, [name], "train") for name in TRAINING_SETS)
    start = time.perf_counter()
    generated = list(generate_many(range(count), 320, workers))
    print(f"generated {count} images in {time.perf_counter() - start:.0f} s", flush=True)
    kinds = (measured, phase, blood, generated)
    return load_store(list(zip(shares, kinds, strict=True)), device)


def autocast(device: str) -> torch.autocast:
    """bf16 where the device is made for it."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda")


def matrices_apart(model: nn.Module, rate: float) -> list[dict]:
    """Parameter groups of a `Run`: weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    return [
        {"params": matrices, "lr": rate, "weight_decay": 0.05},
        {"params": others, "lr": rate, "weight_decay": 0.0},
    ]


class Average:
    """Exponential moving average of weights; what is evaluated and shipped."""

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        self.model = copy.deepcopy(model).eval()
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take one step towards `model`; faster at the start."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        own, new = list(self.model.parameters()), list(model.parameters())
        torch._foreach_lerp_(own, [p.detach() for p in new], 1 - decay)


class Run:
    """A resumable training run of one stage.

    Parameters
    ----------
    name : str
        Names the checkpoint and the curve in the folder of the run.
    model : nn.Module
        Its trainable parameters are fitted.
    groups : list of dict
        Parameter groups with ``params``, ``lr`` and ``weight_decay``.
    """

    def __init__(
        self, name: str, model: nn.Module, groups: list[dict], options: argparse.Namespace
    ) -> None:
        self.name, self.model, self.options = name, model, options
        self.folder = Path(options.out)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.average = Average(model)
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
        self.rates = [g["lr"] for g in groups]
        self.parameters = [p for g in groups for p in g["params"]]
        self.step = 0
        self.started = time.perf_counter()
        self.before = 0.0
        self._sums: dict[str, torch.Tensor] = {}
        if self._checkpoint.exists():
            self._resume()

    @property
    def _checkpoint(self) -> Path:
        return self.folder / f"{self.name}.pt"

    def _resume(self) -> None:
        state = torch.load(self._checkpoint, weights_only=True, map_location=self.options.device)
        self.model.load_state_dict(state["model"])
        self.average.model.load_state_dict(state["average"])
        self.average.updates = state["step"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.before = state["seconds"]
        print(f"{self.name}: resumed at step {self.step}", flush=True)

    def save(self) -> None:
        """Write the checkpoint; the old one stays whole until the new one is."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        part = self._checkpoint.with_suffix(".part")
        torch.save(state, part)
        part.replace(self._checkpoint)

    @property
    def seconds(self) -> float:
        """Time spent so far, in earlier runs too."""
        return self.before + time.perf_counter() - self.started

    @property
    def done(self) -> float:
        """Share of the schedule that is behind, by steps or by time; 1 at its end."""
        done = self.step / self.options.steps
        if self.options.minutes is not None:
            done = max(done, self.seconds / (60 * self.options.minutes))
        return min(1.0, done)

    def steps(self) -> Iterator[int]:
        """Step numbers until the schedule or the time is over; sets the learning rate of each."""
        warm = max(1, min(150, self.options.steps // 10))
        stop = self.options.stop_after
        while (done := self.done) < 1:
            if stop is not None and time.perf_counter() - self.started > 60 * stop:
                break
            factor = min(1.0, (self.step + 1) / warm) * (
                0.02 + 0.49 * (1 + math.cos(math.pi * done))
            )
            for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate * factor
            yield self.step
            self.step += 1
            if self.step % self.options.save_every == 0:
                self.save()
        self.save()

    def update(self) -> None:
        """Apply the gradients gathered so far; skip a step with a value that is not finite."""
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        if torch.isfinite(norm):
            self.optimizer.step()
            self.average.update(self.model)
        self.optimizer.zero_grad(set_to_none=True)

    @property
    def validates(self) -> bool:
        """Whether the step that was just taken is one to validate after."""
        every = self.options.validate_every
        return every > 0 and (self.step + 1) % every == 0

    def log(self, **values: torch.Tensor) -> None:
        """Sum up terms; print and append their means to the curve from time to time."""
        every = self.options.log_every
        for key, value in values.items():
            self._sums[key] = self._sums.get(key, 0) + value.detach()
        if (self.step + 1) % every == 0:
            means = {k: float(v) / every for k, v in self._sums.items()}
            self.report(means)
            self._sums.clear()

    def report(self, values: dict[str, float], kind: str = "train") -> None:
        """Print one row and append it to the curve."""
        text = "  ".join(f"{k} {v:.4f}" for k, v in values.items())
        print(f"{self.name} {kind} {self.step + 1:6d} {self.seconds:6.0f} s  {text}", flush=True)
        path = self.folder / f"{self.name}_curve.csv"
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([self.step + 1, kind, k, f"{v:.5f}"] for k, v in values.items())


def count_parameters(modules: Iterable[nn.Module]) -> float:
    """Millions of parameters."""
    return sum(p.numel() for m in modules for p in m.parameters()) / 1e6
