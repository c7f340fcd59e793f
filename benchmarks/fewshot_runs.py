"""What `fewshot.py` runs: data sets, variants, and small runs in their order of importance."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = [
    "ABLATION_SETS",
    "EXPERIMENTS",
    "NEXT",
    "PAIR",
    "SETS",
    "VARIANTS",
    "Budget",
    "Results",
    "Run",
    "Source",
    "Variant",
    "list_runs",
    "part_of",
]

Task = Literal["frozen", "train", "next", "epoch", "learn", "size"]


@dataclass(frozen=True)
class Source:
    """Folder of a data set, the word for what is labelled, planes there are to learn from."""

    folder: str
    word: str
    planes: int


#: The mouse embryo is one stack: some of its slices are tested on (`fewshot_data.TESTED`).
SETS = {
    "EM mitochondria": Source("vnc_em_organelles", "mitochondria", 7),
    "EM synapses": Source("vnc_em_organelles", "synapses", 7),
    "EM membranes (VNC)": Source("vnc_em_organelles", "cell membranes", 7),
    "EM membranes (ISBI)": Source("isbi2012_em_membranes", "cell membranes", 10),
    "EM neurites": Source("isbi2012_em_membranes", "neurites", 10),
    "white blood cells": Source("wbc_blood_smear", "white blood cells", 84),
    "blood cell nuclei": Source("wbc_blood_smear", "nuclei", 84),
    "mouse nuclei": Source("mouse_embryo_nuclei_3d", "nuclei", 18),
    "ovule nuclei": Source("plant_ovule_nuclei_3d", "nuclei", 55),
    "root cells": Source("plant_cells_3d", "cells", 36),
    "phase-contrast cells": Source("usiigaci_phase_contrast", "cells", 24),
}
ABLATION_SETS = ("EM mitochondria", "EM membranes (ISBI)", "phase-contrast cells")
NEXT_SETS = ("EM mitochondria", "EM membranes (ISBI)")
SHOTS = (5, 1, 3, 10)
_ABLATION_SHOTS = 5
_SEEDS, _NEXT_SEEDS = 3, 6
#: Seconds around a training for reading, saving and testing, and of runs that train nothing.
_AROUND = 10.0
_UNTRAINED = {"frozen": 20.0, "epoch": 120.0, "size": 120.0}


@dataclass(frozen=True)
class Variant:
    """How an adapter is trained.

    Attributes
    ----------
    says : str
        For the table.
    settings : dict
        Of `FitSettings`, beside budget and seed.
    from_starter : bool
        Go on from the starter's adapter, or make a new one for the base.
    all_blocks : bool
        Condition every block of the encoder.
    times : int
        Of the budget.
    """

    says: str
    settings: dict[str, Any] = field(default_factory=dict)
    from_starter: bool = False
    all_blocks: bool = False
    times: int = 1


#: Of those from the base, each differs from ``base`` in what it says and nothing else.
VARIANTS = {
    "longer": Variant("what the plugin does, three times as long", from_starter=True, times=3),
    "starter": Variant("what the plugin does: from the starter's adapter", from_starter=True),
    "base": Variant(
        "from the base: semantics, last third, zero init, CLIP adapted, trained by text"
    ),
    "decoder only": Variant(
        "... decoder only, CLIP frozen", {"blocks": False, "clip_tuning": "none"}
    ),
    "lora": Variant("... LoRA, CLIP frozen", {"kind": "lora", "clip_tuning": "none"}),
    "no semantics": Variant("... without semantics", {"semantics": False}),
    "all blocks": Variant("... in all blocks", all_blocks=True),
    "paper init": Variant("... paper's init", {"init": "paper"}),
    "CLIP frozen": Variant("... CLIP frozen", {"clip_tuning": "none"}),
    "clicks": Variant("... trained with clicks", {"concept_prompts": "clicks"}),
}
#: What is compared for every number of planes, and with which number the plugin's own way is shown.
#: With semantics and without start from the base: the starter's adapter was trained with them, so
#: without them it would start from something incomplete.
PAIR = ("base", "no semantics")
_OWN = {5: "longer", 1: "starter"}
#: What is labelled in addition to one plane: the two that the app would propose first, the two that
#: are unsure and lie apart, two drawn, the two it would propose last.
NEXT = ("one", "first", "spread", "random", "last")


@dataclass(frozen=True)
class Budget:
    """Minutes or steps of a training; the one that is not None."""

    minutes: float | None = 1.0
    steps: int | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read what `str` made."""
        number, unit = text.split()
        return cls(float(number)) if unit == "min" else cls(None, int(number))

    def __str__(self) -> str:
        return f"{self.minutes:g} min" if self.steps is None else f"{self.steps} steps"

    @property
    def seconds(self) -> float:
        """About how long a training takes."""
        return 60 * self.minutes if self.minutes is not None else 15 + 0.3 * (self.steps or 0)


@dataclass(frozen=True)
class Run:
    """One thing to measure; `budget` as text, empty where nothing is trained."""

    task: Task
    set: str = ""
    variant: str = ""
    shots: int = 0
    seed: int = 0
    budget: str = ""

    @property
    def cell(self) -> tuple:
        """Runs of one cell are compared with each other, so one process does them all."""
        trained = self.task == "train"
        return (trained or self.task, self.set, self.shots if trained else 0, self.seed)

    @property
    def seconds(self) -> float:
        """About how long it takes."""
        if self.budget:
            times = VARIANTS[self.variant].times if self.variant in VARIANTS else 1
            return times * Budget.parse(self.budget).seconds + _AROUND
        return _UNTRAINED[self.task]

    def __str__(self) -> str:
        parts = (self.task, self.set, self.variant, f"{self.shots} shots", f"seed {self.seed}")
        return ", ".join(part for part in parts if part)


def _frozen(sets: Sequence[str]) -> list[Run]:
    return [Run("frozen", name, "starter") for name in sets]


def _ablation(sets: Sequence[str], shots: Sequence[int], seed: int, budget: str) -> list[Run]:
    if _ABLATION_SHOTS not in shots:
        return []
    return [
        Run("train", name, variant, _ABLATION_SHOTS, seed, budget)
        for name in sets
        if name in ABLATION_SETS
        for variant in VARIANTS
        if VARIANTS[variant].times == 1
    ]


def _shots(sets: Sequence[str], shots: Sequence[int], seed: int, budget: str) -> list[Run]:
    return [
        Run("train", name, variant, count, seed, budget)
        for count in shots
        for variant in (*((_OWN[count],) if count in _OWN else ()), *PAIR)
        for name in sets
        if count <= SETS[name].planes
    ]


def _next(sets: Sequence[str], shots: Sequence[int], seed: int, budget: str) -> list[Run]:
    return [
        Run("next", name, variant, 1 if variant == "one" else 3, seed, budget)
        for name in sets
        if name in NEXT_SETS
        for variant in NEXT
    ]


#: Those that a seed is for.
_SEEDED = {"shots": _shots, "ablation": _ablation, "next": _next}
#: Timings want the machine to themselves, so they are run only where they are asked for.
EXPERIMENTS = ("shots", "ablation", "next", "learn", "epoch", "size")
DEFAULT_EXPERIMENTS = EXPERIMENTS[:3]


def list_runs(
    experiments: Sequence[str],
    sets: Sequence[str] = tuple(SETS),
    shots: Sequence[int] = SHOTS,
    seeds: Sequence[int] | None = None,
    budget: str = "1 min",
) -> list[Run]:
    """All runs of some experiments, each once: those of the first seed first.

    Without `seeds` there are three, and more for what differs little (`next`).
    """
    few = range(_SEEDS) if seeds is None else seeds
    runs: list[Run] = []
    if "shots" in experiments:
        runs += _frozen(sets)
    elif "ablation" in experiments:
        runs += _frozen([name for name in sets if name in ABLATION_SETS])
    for seed in range(_NEXT_SEEDS) if seeds is None else seeds:
        for experiment, make in _SEEDED.items():
            if experiment in experiments and (seed in few or experiment == "next"):
                runs += make(sets, shots, seed, budget)
    if "learn" in experiments:
        named = [name for name in sets if name in ABLATION_SETS]
        runs += [Run("learn", name, "starter", 5, s, "3 min") for name in named for s in few]
    if "epoch" in experiments:
        runs.append(Run("epoch", "EM membranes (ISBI)", "", 5, 0))
    if "size" in experiments:
        runs.append(Run("size"))
    return list(dict.fromkeys(runs))


def part_of(runs: Sequence[Run], part: int, parts: int) -> list[Run]:
    """A process's share of the runs: whole cells, about as much time for each process."""
    cells: dict[tuple, float] = {}
    for run in runs:
        cells[run.cell] = cells.get(run.cell, 0.0) + run.seconds
    loads, owner = [0.0] * parts, {}
    for cell, seconds in cells.items():
        owner[cell] = loads.index(min(loads))
        loads[owner[cell]] += seconds
    return [run for run in runs if owner[run.cell] == part]


class Results:
    """A file with one JSON line a run that is done; several processes may write to it.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, run: Run, values: dict[str, Any]) -> None:
        """Append a line, whole or not at all."""
        line = json.dumps({**asdict(run), **values}) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # One write to a file opened to append is one piece, whoever else writes.
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)

    def read(self) -> dict[Run, dict[str, Any]]:
        """What was measured, by run; the last line of each counts."""
        if not self.path.is_file():
            return {}
        lines = self.path.read_text(encoding="utf-8").splitlines()
        return dict(_parsed(json.loads(line)) for line in lines if line)


def _parsed(record: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    names = Run.__dataclass_fields__.keys()
    return (
        Run(**{name: record[name] for name in names}),
        {name: value for name, value in record.items() if name not in names},
    )
