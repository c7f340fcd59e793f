"""What the stages of both refiners share: what frozen networks answer, kept, and the training."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from napari_clipsam.models.weights import load_sam
from starter import config, validate
from starter.data import Sample
from starter.loop import Run, arguments, matrices_apart, prepare, training_store

__all__ = ["Collect", "RefinerStage", "refiner_arguments", "train_refiner"]

#: Options, samples, how often each is to be drawn, and the number of the process, to columns.
Collect = Callable[[argparse.Namespace, list[Sample], list[float], int], Sequence[Tensor]]


@dataclass(frozen=True)
class RefinerStage:
    """One of `config.REFINERS` and how it is trained.

    Attributes
    ----------
    name : str
        Of the refiner, its checkpoint and its curve.
    network : type
        Built with the widths of the refiner.
    columns : type
        A named tuple of tensors; how often each row is drawn is its ``share``.
    collect : callable
        A function of a module that makes the columns.
    draw : callable
        Columns, rows and two random generators to what the refiner sees and what is there.
    losses : callable
        Refiner, what it sees and what is there to the loss and terms to report.
    scores : callable
        Refiner, validation columns and device to scores by name.
    """

    name: str
    network: Callable[[tuple[int, ...]], nn.Module]
    columns: Callable[..., Any]
    collect: Collect
    draw: Callable[..., tuple[Tensor, Tensor]]
    losses: Callable[..., tuple[Tensor, dict[str, Tensor]]]
    scores: Callable[..., dict[str, float]]


def refiner_arguments(description: str, batch: int) -> argparse.ArgumentParser:
    """Command line options that both stages have."""
    parser = arguments(description, steps=6000)
    parser.set_defaults(batch=batch, generated=300, shares=(0.55, 0.17, 0.0, 0.28))
    parser.add_argument("--base", default="build/starter_run", help="folder of the frozen networks")
    parser.add_argument("--views", type=int, default=2, help="of each image")
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--start", help="SAM whose refiner is gone on from")
    return parser


def train_refiner(stage: RefinerStage, options: argparse.Namespace) -> bool:
    """Train, resume or finish a stage; whether its schedule is over."""
    prepare(options)
    known, shown = (
        stage.columns(*_kept(options, stage.name, split, stage.collect))
        for split in ("train", "val")
    )
    refiner = stage.network(config.REFINERS[stage.name])
    if options.start:
        refiner.load_state_dict(getattr(load_sam(options.start), stage.name).state_dict())
    refiner = refiner.to(options.device, memory_format=torch.channels_last)
    run = Run(stage.name, refiner.train(), matrices_apart(refiner, options.rate), options)
    rng = np.random.default_rng(options.seed + run.step)
    generator = torch.Generator().manual_seed(options.seed + run.step)
    for _ in run.steps():
        chosen = torch.multinomial(known.share, options.batch, True, generator=generator)
        seen, there = stage.draw(known, chosen, rng, generator)
        loss, terms = stage.losses(refiner, seen.to(options.device), there.to(options.device))
        loss.backward()
        run.update()
        run.log(**terms)
        if run.validates:
            run.report(stage.scores(run.average.model, shown, options.device), "val")
    if run.done == 1:
        run.report(stage.scores(run.average.model, shown, options.device), "val")
    return run.done == 1


def _kept(options: argparse.Namespace, name: str, split: str, collect: Collect) -> list[Tensor]:
    """Columns of one split, from the folder of the run, or collected in `options.workers` parts."""
    path = Path(options.out) / f"{name}_seen_{split}.pt"
    if not path.exists():
        if split == "train":
            store = training_store(options)
            samples, chances = [item.sample for item in store.items], store.chances
        else:
            samples = validate.validation_samples(options.data)
            chances = np.full(len(samples), 1 / max(1, len(samples)))
        count = options.workers
        parts = [(options, samples[i::count], chances[i::count].tolist(), i) for i in range(count)]
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = zip(*_in_processes(collect, parts), strict=True)
        torch.save([torch.cat(column) for column in columns], path)
    return torch.load(path, weights_only=True)


def _in_processes(collect: Collect, parts: list[tuple]) -> list[Sequence[Tensor]]:
    """Columns of parts of the samples, each collected in a process of its own."""
    if len(parts) == 1:
        return [collect(*parts[0])]
    with ProcessPoolExecutor(len(parts), get_context("spawn")) as pool:
        # Tensors would be sent through files that stay open.
        found = pool.map(_as_arrays, [collect] * len(parts), parts)
        return [[torch.from_numpy(array) for array in arrays] for arrays in found]


def _as_arrays(collect: Collect, part: tuple) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in collect(*part)]
