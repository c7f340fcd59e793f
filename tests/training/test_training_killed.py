"""`kill -9` at any moment of a training: its state is whole or not there, and it can go on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from lessons import split, tiny_model
from training import learning_process

from napari_clipsam.errors import WeightsError
from napari_clipsam.training.checkpoint import load_state, run_fingerprint
from napari_clipsam.training.events import TrainResult

TESTS = Path(__file__).resolve().parents[1]
STEPS = learning_process.SETTINGS.steps
CPU = torch.device("cpu")


def start(state: Path) -> subprocess.Popen[str]:
    """Another process that is about to train."""
    command = [sys.executable, "-m", "training.learning_process", str(state)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    environment["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, text=True
    )


def train_until_killed(process: subprocess.Popen[str], steps: int, rest: float) -> None:
    """Let it train, and kill it a moment after so many steps."""
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stdin.write("\n")
    process.stdin.flush()
    for line in process.stdout:
        if int(line) >= steps:
            break
    time.sleep(rest)
    assert process.poll() is None, process.stderr.read()
    process.kill()
    process.wait()


def finished(state: Path, resume: bool) -> TrainResult:
    result = list(learning_process.run(state, resume))[-1].result
    assert result is not None and result.facts["steps"] == STEPS
    return result


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """The run that nothing cut off."""
    return finished(tmp_path_factory.mktemp("whole") / "run.training.pt", resume=False)


def test_a_killed_training_ends_as_if_it_had_not_been(whole: TrainResult, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folders = [tmp_path / str(number) for number in range(2)]
    for folder in folders:
        folder.mkdir()
    fingerprint = run_fingerprint(tiny_model(), split(), learning_process.SETTINGS, "base")
    processes = [start(folder / "run.training.pt") for folder in folders]
    # While the words are learnt, and afterwards.
    moments = [(first, float(rng.random() * 0.05)) for first in rng.integers((1, 5), (4, 10))]
    try:
        for process, (steps, rest) in zip(processes, moments, strict=True):
            train_until_killed(process, int(steps), rest)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    for folder, (steps, rest) in zip(folders, moments, strict=True):
        case = f"killed {rest:.4f} s after step {steps}"
        file = folder / "run.training.pt"
        # What was being written when it was killed, and nothing of the saves before.
        assert len(list(folder.iterdir())) <= 2, case
        if not file.exists():
            assert steps <= 1, case
            with pytest.raises(WeightsError, match="Train from the start"):
                finished(file, resume=True)
            continue
        reached = load_state(file, fingerprint, CPU)["step"]
        assert steps - 1 <= reached <= STEPS, case
        result = finished(file, resume=True)
        assert result.best == whole.best, case
        for name, value in whole.adapter.state_dict().items():
            assert torch.equal(value, result.adapter.state_dict()[name]), (case, name)
