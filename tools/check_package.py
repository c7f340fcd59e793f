#!/usr/bin/env python3
"""Builds the package and uses it the way a stranger does: installed from the wheel alone.

    tools/check_package.py                          this Python, all dependencies as new as they get
    tools/check_package.py --python 3.11 --python /path/to/python3.13
    tools/check_package.py --python 3.11 --lowest   as old as pyproject.toml allows; some tests too

Both distributions are built, the wheel from the source distribution, and their metadata checked.
Each environment takes up to 6 GB and some minutes; it is deleted afterwards unless --keep is given.
Needs uv (https://docs.astral.sh/uv) and, on Linux, xvfb-run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What --lowest runs of the test suite: what reads files, loads networks and meets napari.
TESTS = (
    "tests/test_package.py",
    "tests/test_planes.py",
    "tests/models",
    "tests/plugin/test_manifest.py",
)


def main() -> None:
    """Build once, then check every environment that was asked for."""
    options = parse()
    folder: Path = options.folder.resolve()
    wheel = build(folder)
    for python in options.python or [sys.executable]:
        name = f"{Path(python).name}-lowest" if options.lowest else Path(python).name
        environment = folder / name
        try:
            interpreter = install(environment, python, wheel, options.lowest)
            use(interpreter, folder)
            if options.lowest:
                test(interpreter)
        finally:
            if not options.keep:
                shutil.rmtree(environment, ignore_errors=True)
        say(f"{name}: everything works")


def parse() -> argparse.Namespace:
    """Options as typed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", action="append", metavar="VERSION|PATH", help="repeatable")
    parser.add_argument("--lowest", action="store_true", help="oldest dependencies, and some tests")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "package")
    parser.add_argument("--keep", action="store_true", help="keep the environments")
    return parser.parse_args()


def build(folder: Path) -> Path:
    """Both distributions, checked; returns the wheel."""
    dist = folder / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    run("uv", "build", "--out-dir", dist, ROOT)
    run("uvx", "twine", "check", "--strict", *sorted(dist.glob("napari_clipsam*")))
    (wheel,) = dist.glob("*.whl")
    return wheel


def install(environment: Path, python: str, wheel: Path, lowest: bool) -> Path:
    """A new environment with the wheel and a Qt; returns its interpreter."""
    run("uv", "venv", "--quiet", "--clear", "--python", python, environment)
    interpreter = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = ("uv", "pip", "install", "--quiet", "--python", interpreter)
    if lowest:
        # Of a wheel uv takes no dependency for a direct one, so they are written down first.
        bounds = environment / "lowest.txt"
        compiled = ("uv", "pip", "compile", "--quiet", "--python", interpreter, "--group", "dev")
        resolution = ("--resolution", "lowest-direct", "--extra", "all", "--extra", "bioimageio")
        run(*compiled, *resolution, ROOT / "pyproject.toml", "--output-file", bounds)
        run(*pip, "--requirements", bounds)
        run(*pip, "--no-deps", wheel)
    else:
        run(*pip, wheel, "napari[pyqt6]")
    run("uv", "pip", "check", "--python", interpreter)
    return interpreter


def use(interpreter: Path, folder: Path) -> None:
    """All that a user meets first, from a folder without the sources."""
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    home = {**os.environ, "NAPARI_CLIPSAM_HOME": str(work / "home"), "PYTHONNOUSERSITE": "1"}
    script = ROOT / "tools" / "check_installed.py"
    run(*on_a_screen(), interpreter, script, cwd=work, env=home)


def test(interpreter: Path) -> None:
    """The part of the test suite that tells old dependencies from new ones."""
    run(*on_a_screen(), interpreter, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS)


def on_a_screen() -> tuple[str, ...]:
    """What to put before a command that opens windows where there may be no screen."""
    if sys.platform != "linux" or os.environ.get("DISPLAY"):
        return ()
    return ("xvfb-run", "-a", "-s", "-screen 0 1280x1024x24")


def run(*command: object, cwd: Path = ROOT, env: dict[str, str] | None = None) -> None:
    """Run a command, and end with it where it fails."""
    words = [str(word) for word in command]
    say(" ".join(words))
    if subprocess.run(words, cwd=cwd, env=env).returncode:
        sys.exit(f"failed: {' '.join(words)}")


def say(text: str) -> None:
    """Tell what happens, between the outputs of commands."""
    print(f"== {text}", flush=True)


if __name__ == "__main__":
    main()
