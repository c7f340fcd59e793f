"""`kill -9` at any moment: what is restored is what was there, to the byte."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from session import writer
from session.comparing import same_session
from session.steps import Driver

from napari_clipsam.session.journal import Journal, restore, unfinished

TESTS = Path(__file__).resolve().parents[1]


def write_until_killed(folder: Path, seed: int, steps: int, rest: float) -> int:
    """Let another process record, and kill it after so many steps; returns how many it told of."""
    command = [sys.executable, "-m", "session.writer", str(folder), str(seed)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
    )
    with process:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            if int(line) >= steps:
                break
        time.sleep(rest)
        assert process.poll() is None, process.stderr.read()
        process.kill()
        rest_of_lines = process.stdout.read().split()
    # The last line may be half written.
    return max([steps, *(int(line) for line in rest_of_lines[:-1])])


@pytest.mark.parametrize("seed", range(20))
def test_a_killed_session_is_restored_to_the_byte(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    steps, rest = int(rng.integers(1, 120)), float(rng.random() * 0.02)
    said = write_until_killed(tmp_path, seed, steps, rest)
    (lost,) = unfinished(tmp_path)
    restored = restore(lost.path)

    driver = Driver(writer.layers())
    for number in range(said):
        writer.step(driver, seed, number)
    # What was going on when it was killed may be recorded and not yet told.
    for number in range(said, said + 3):
        if same_session(restored, driver):
            break
        writer.step(driver, seed, number)
    else:
        pytest.fail(f"not as it was after {said} steps, nor one of the next two")

    # And work goes on from there.
    journal, _ = Journal.reopen(lost.path)
    journal.close(finished=True)
    assert not unfinished(tmp_path)
