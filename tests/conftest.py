"""Fixtures and options every test may use."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Before Qt, which pytest-qt loads after this file: on Windows the other order fails. torchvision
# brings in triton, whose LLVM crashes when loaded after the one OpenGL draws with in software.
import torch
import torchvision  # noqa: F401
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]
_WINDOWS = "tests/plugin/qt/"

# What a script starts in the background ignores interrupts, and what that starts as well.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Whatever a processor is made for, tests expect the numbers of float32; processes inherit it.
os.environ["NAPARI_CLIPSAM_PRECISION"] = "fp32"
# Nor does any test but its own measure which way to attend is fastest here.
os.environ["NAPARI_CLIPSAM_ATTENTION"] = "default"
torch.set_num_threads(min(int(os.environ.get("OMP_NUM_THREADS", "1")), os.cpu_count() or 1))
# How long an example takes says more about the machine's other work than about the code. The suite
# draws the same examples every time; `--hypothesis-profile search` looks for new ones.
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("steady", settings.get_profile("search"), derandomize=True)
settings.load_profile("steady")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--parity",
        metavar="DIR",
        help="folder of reference numbers for tests/test_parity.py (default: shared/parity)",
    )


@pytest.fixture
def full_disk() -> Callable[[], AbstractContextManager[None]]:
    """A context in which no file of this process grows beyond a few bytes."""
    resource = pytest.importorskip("resource")

    @contextmanager
    def full() -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (16, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return full


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where several processes test, keep files whole, and all windows in one of them.

    Windows of two processes would take the keyboard from each other.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Files(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return _WINDOWS if file.startswith(_WINDOWS) else file

    return Files(config, log)


@pytest.fixture(autouse=True, scope="session")
def _few_windows() -> Iterator[None]:
    """Let refiners learn from so few windows a step that all tests which teach stay fast."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("napari_clipsam.training.concept_refining.WINDOWS", 1)
        patch.setattr("napari_clipsam.training.concept_refining.CONCEPT_WIDTHS", (8, 16))
        yield


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    """Let no test depend on what others drew before it."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - the one that libraries draw from


def _shared_folder() -> Path:
    return Path(os.environ.get("NAPARI_CLIPSAM_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with the microscopy data (`data/`) and the reference numbers (`parity/`)."""
    folder = _shared_folder()
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}: NAPARI_CLIPSAM_SHARED names another place")
    return folder


@pytest.fixture(scope="session")
def parity_dir(request: pytest.FixtureRequest) -> Path:
    """Folder of reference numbers; one that was asked for by name must be there."""
    asked = request.config.getoption("--parity")
    if asked is not None:
        folder = Path(asked)
        if not folder.is_dir():
            pytest.fail(f"--parity {folder}: there is no such folder")
        return folder
    folder = _shared_folder() / "parity"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}: name one with --parity DIR")
    return folder
