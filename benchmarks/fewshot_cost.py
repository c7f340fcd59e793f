"""What teaching costs: an epoch with and without cached trunks, files, memory of a step."""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.epochs import Epoch
from benchmarks.fewshot_runs import Run
from benchmarks.fewshot_train import Bench, taught
from benchmarks.measuring import Setting
from benchmarks.networks import open_clip_vit
from napari_clipsam.adapters.base import AdapterConfig
from napari_clipsam.adapters.files import save_adapter
from napari_clipsam.adapters.inject import Adapter, build_adapter
from napari_clipsam.models.clip import build_clip
from napari_clipsam.models.registry import LoadedModel
from napari_clipsam.models.sam import SAM_CONFIGS, Sam, default_split
from napari_clipsam.training.samples import make_split
from napari_clipsam.training.settings import FitSettings
from napari_clipsam.training.starting import prepare_adapter

__all__ = ["epoch", "learn", "sizes", "vit_b"]

_VIEWS, _TURNS = 3, 4


def epoch(bench: Bench, run: Run) -> dict[str, Any]:
    """Seconds of an epoch, with cached trunks and without, and of CLIP for as many views.

    The trainer computes CLIP's features once, too, so neither epoch has them; with CLIP in both
    they are added to both. On a CPU most steps look at a window of their view (``mixed``); what
    the trunk is to be compared with are steps that look at all of it.
    """
    labelled = bench.set(run.set)
    split = make_split(labelled.examples(labelled.draw(run.shots, run.seed)), seed=run.seed)
    device = bench.segmenter.device
    cached, recomputed = (
        Epoch(bench.model, bench.starter, split, device, cache, _VIEWS) for cache in (True, False)
    )
    times = Setting(device).race(
        {
            "cached": lambda: cached.run(whole=True),
            "recomputed": lambda: recomputed.run(whole=True),
            "clip": recomputed.clip,
            "mixed, cached": lambda: cached.run(whole=False),
            "mixed, recomputed": lambda: recomputed.run(whole=False),
        },
        _TURNS,
    )
    whole = times["cached"], times["recomputed"]
    with_clip = ([x + y for x, y in zip(t, times["clip"], strict=True)] for t in whole)
    return {
        "views": len(cached.views),
        "times": times,
        "ratio": _ratio(*whole),
        "ratio_with_clip": _ratio(*with_clip),
        "ratio_mixed": _ratio(times["mixed, cached"], times["mixed, recomputed"]),
        "threads": torch.get_num_threads(),
        "device": str(device),
    }


def _ratio(a: list[float], b: list[float]) -> float:
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def learn(bench: Bench, run: Run) -> dict[str, Any]:
    """Teach with the budget of minutes that a user gets, and tell when the best was there."""
    labelled = bench.set(run.set)
    started = time.perf_counter()
    values = taught(bench, run, labelled.draw(run.shots, run.seed))
    good = [second for second, score in values["curve"] if score >= values["best"] - 0.01]
    best = [second for second, score in values["curve"] if score >= values["best"]]
    values["whole_seconds"] = time.perf_counter() - started
    values["good_seconds"] = good[0] if good else None
    values["best_seconds"] = best[0] if best else None
    return values


def sizes(bench: Bench) -> dict[str, Any]:
    """Bytes of adapter files, and activations of a step of ViT-B."""
    from napari_clipsam.training.budget import step_memory

    found: dict[str, Any] = {"starter, as it ships": _bytes(bench.starter)}
    for name, tuning in (("lora", "lora"), ("attention", "attention")):
        settings = FitSettings(clip_tuning=tuning)  # type: ignore[arg-type]
        start = prepare_adapter(bench.model, bench.starter, settings, 5)
        start.teach("a word")
        found[f"starter, a word taught, CLIP's {name}"] = _bytes(start)
    large = vit_b(bench.segmenter.device)
    for name in ("none", "lora", "attention"):
        config = AdapterConfig(
            n_conditioned=large.sam.config.depth - default_split(large.sam.config.depth),
            clip_tuning=name,  # type: ignore[arg-type]
        )
        adapter = build_adapter(config, large.sam, large.clip, 0)
        adapter.teach("a word")
        found[f"ViT-B, CLIP's {name}"] = _bytes(adapter)
    activations = step_memory(large, FitSettings(goal="both"))
    weights = sum(p.nbytes for module in (large.sam, large.clip) for p in module.parameters())
    # Of this whole process, temporary arrays and the optimiser included: an upper bound.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak *= 1 if sys.platform == "darwin" else 1024
    return {
        "file_bytes": found,
        "step_memory": activations,
        "weights": weights,
        "process_peak": peak,
    }


def vit_b(device: torch.device) -> LoadedModel:
    """SAM ViT-B and CLIP ViT-B/16 with random weights."""
    torch.manual_seed(0)
    sam = Sam(SAM_CONFIGS["vit_b"]).to(device).requires_grad_(False)
    clip = build_clip(open_clip_vit("ViT-B-16")).to(device).requires_grad_(False)
    return LoadedModel("random ViT-B", sam, clip, None)


def _bytes(adapter: Adapter) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return save_adapter(adapter, Path(folder) / "a.safetensors").stat().st_size
