"""The distributions: what is in them and what is not, what they say of themselves."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import napari_clipsam

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "napari_clipsam"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
VERSION = napari_clipsam.__version__
INFO = f"napari_clipsam-{VERSION}.dist-info"
LARGEST = 40e6


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution of this working tree."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=800)
    return folder


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> dict[str, bytes]:
    (path,) = distributions.glob("*.whl")
    assert path.stat().st_size < LARGEST
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def sdist(distributions: Path) -> set[str]:
    (path,) = distributions.glob("*.tar.gz")
    assert path.stat().st_size < LARGEST
    with tarfile.open(path) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    return set(names)


@pytest.fixture(scope="module")
def metadata(wheel: dict[str, bytes]) -> Message:
    return message_from_bytes(wheel[f"{INFO}/METADATA"])


def test_the_wheel_holds_the_package_and_nothing_else(wheel: dict[str, bytes]) -> None:
    assert {name.partition("/")[0] for name in wheel} == {"napari_clipsam", INFO}
    packaged = {name for name in wheel if name.startswith("napari_clipsam/")}
    here = {
        f"napari_clipsam/{path.relative_to(SOURCE).as_posix()}"
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packaged == here


@pytest.mark.parametrize(
    "name",
    [
        "napari_clipsam/napari.yaml",
        "napari_clipsam/py.typed",
        "napari_clipsam/models/starter/sam.safetensors",
        "napari_clipsam/models/starter/clip.safetensors",
        "napari_clipsam/models/starter/adapter.safetensors",
        "napari_clipsam/models/starter/NOTICE.md",
        f"{INFO}/licenses/LICENSE",
        f"{INFO}/licenses/src/napari_clipsam/models/starter/NOTICE.md",
    ],
)
def test_the_wheel_holds_what_works_offline_and_what_has_to_come_with_it(
    name: str, wheel: dict[str, bytes]
) -> None:
    assert name in wheel
    assert wheel[name] or name.endswith("py.typed")


def test_the_notices_name_all_that_the_starter_was_trained_on(wheel: dict[str, bytes]) -> None:
    notices = wheel["napari_clipsam/models/starter/NOTICE.md"].decode()
    for owner in ("BBBC038", "Okinawa Institute of Science & Technology", "(c) 2017 shenggan"):
        assert owner in notices
    assert "Permission is hereby granted" in notices


def test_the_source_distribution_is_enough_to_build_and_test(sdist: set[str]) -> None:
    for name in ("pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff"):
        assert name in sdist
    for part in ("src/napari_clipsam/napari.yaml", "tests/conftest.py", "tools/setup.sh"):
        assert part in sdist
    assert "src/napari_clipsam/models/starter/NOTICE.md" in sdist
    for folder in ("build/", "dist/", ".venv/", "benchmarks/", "demo_output/"):
        assert not any(name.startswith(folder) for name in sdist)


def test_the_metadata_are_what_index_and_hub_read(metadata: Message) -> None:
    assert metadata["Version"] == VERSION
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "Framework :: napari" in metadata.get_all("Classifier", [])


def test_no_qt_is_among_the_dependencies(metadata: Message) -> None:
    needed = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    always = {one.name.lower() for one in needed if one.marker is None}
    assert "napari" in always
    assert not always & {"pyqt5", "pyqt6", "pyside2", "pyside6"}
    assert {"all", "bioimageio", "cluster"} <= set(metadata.get_all("Provides-Extra", []))


def test_every_dependency_has_a_lowest_version() -> None:
    groups = [PROJECT["project"]["dependencies"]]
    groups += PROJECT["dependency-groups"].values()
    for line in (line for group in groups for line in group if isinstance(line, str)):
        assert ">=" in str(Requirement(line).specifier), line


# ---------------------------------------------------------------- workflows

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def read(path: Path) -> dict:
    # YAML takes the key `on` for a truth value.
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {"on" if key is True else key: value for key, value in values.items()}


def steps(path: Path) -> list[dict]:
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


def test_there_are_workflows_for_tests_and_for_releases() -> None:
    assert {"test.yml", "release.yml"} <= {path.name for path in WORKFLOWS}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_do_no_more_than_it_needs(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["group"]
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"] <= 120, name
    for step in steps(path):
        assert re.fullmatch(r"[\w.-]+/[\w./-]+@(v\d+|release/v\d+)", step.get("uses", "a/b@v1"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_names_only_what_is_there(path: Path) -> None:
    commands = "\n".join(step["run"] for step in steps(path) if "run" in step)
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake (\w+)", commands)) <= targets
    for script in re.findall(r"\btools/[\w.]+", commands):
        assert (ROOT / script).is_file(), script
    for group in re.findall(r"--group (\w+)", commands):
        assert group in PROJECT["dependency-groups"]


def test_the_matrix_has_the_oldest_and_the_newest_python_that_the_metadata_name() -> None:
    (workflow,) = (path for path in WORKFLOWS if path.name == "test.yml")
    matrix = read(workflow)["jobs"]["test"]["strategy"]["matrix"]
    named = [
        text.rpartition(" ")[2]
        for text in PROJECT["project"]["classifiers"]
        if re.search(r":: 3\.\d+$", text)
    ]
    assert matrix["python"] == [named[0], named[-1]]
    assert {name.partition("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}


def test_a_release_needs_no_password() -> None:
    (workflow,) = (path for path in WORKFLOWS if path.name == "release.yml")
    jobs = read(workflow)["jobs"]
    (publish,) = (
        job
        for job in jobs.values()
        if any("pypi-publish" in step.get("uses", "") for step in job["steps"])
    )
    assert publish["permissions"] == {"id-token": "write"}
    assert "secrets." not in workflow.read_text(encoding="utf-8")
    assert read(workflow)["on"] == {"push": {"tags": ["v*"]}}
