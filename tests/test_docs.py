"""The documentation: its Python runs, its links lead somewhere, and every page can be found."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import types
from itertools import chain, count
from pathlib import Path

import pytest
from PIL import Image

from napari_clipsam._plugin.keymap import SHORTCUTS
from napari_clipsam.adapters import base

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)


def code_blocks(page: Path) -> list[str]:
    """Blocks marked ``python``, each below as many empty lines as stand before it."""
    text = page.read_text(encoding="utf-8")
    return [
        "\n" * text.count("\n", 0, match.start(2)) + match.group(2)
        for match in _FENCE.finditer(text)
        if match.group(1) == "python"
    ]


def anchors(text: str) -> set[str]:
    """Anchors that GitHub gives to the headings of a page."""
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        numbered = (f"{slug}-{number}" for number in count(1))
        found.add(next(name for name in chain([slug], numbered) if name not in found))
    return found


WITH_CODE = [page for page in PAGES if code_blocks(page)]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.stem)
def test_the_python_of_a_page_runs_from_top_to_bottom(
    page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # What a page registers is not to outlive it.
    monkeypatch.setattr(base, "_LAYERS", dict(base._LAYERS))
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("page")
    # Dataclasses look up the module their annotations belong to.
    monkeypatch.setitem(sys.modules, "page", module)
    for block in code_blocks(page):
        exec(compile(block, str(page), "exec", dont_inherit=True), module.__dict__)


def test_the_example_of_an_adapter_keeps_the_contract_of_all(tmp_path: Path) -> None:
    (tmp_path / "film.py").write_text(code_blocks(DOCS / "add-an-adapter.md")[0])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "film", "-p", "no:cacheprovider"]
    command += ["-k", "film", "tests/adapters/test_contract.py"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # All tests of the contract, not merely one.
    assert int(re.search(r"(\d+) passed", done.stdout).group(1)) >= 15


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.stem)
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    targets = [target.partition("#")[0] for target in _LINK.findall(page.read_text("utf-8"))]
    local = [target for target in targets if target and "://" not in target]
    missing = [target for target in local if not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.stem)
def test_anchors_name_headings_of_the_pages_they_lead_to(page: Path) -> None:
    lost = []
    for target in _LINK.findall(page.read_text("utf-8")):
        name, _, anchor = target.partition("#")
        other = page.parent / name if name else page
        if anchor and "://" not in target and other.suffix == ".md":
            lost += [target] * (anchor not in anchors(other.read_text("utf-8")))
    assert not lost


def test_anchors_are_made_of_headings_as_github_makes_them() -> None:
    text = "# What's *new*? (1.0)\n## A `b_c`\n```sh\n# no heading\n```\n"
    text += "## [Grüße](a.md) - d\n## A b_c\n"
    assert anchors(text) == {"whats-new-10", "a-b_c", "grüße---d", "a-b_c-1"}


def test_the_first_screen_of_the_readme_shows_two_commands_and_their_result() -> None:
    screen = (ROOT / "README.md").read_text("utf-8").partition("\n## ")[0]
    assert screen.count("\n") < 30
    assert "\nmake demo" in screen and "\nmake test" in screen
    (picture,) = re.findall(r"^!\[[^\]]{20,}\]\(([^)]+)\)$", screen, re.MULTILINE)
    with Image.open(ROOT / picture) as opened:
        width, height = opened.size
    assert 800 <= width <= 2000 and height >= 250
    assert (ROOT / picture).stat().st_size < 500_000


def test_every_page_is_linked_from_the_index() -> None:
    linked = set(_LINK.findall((DOCS / "index.md").read_text("utf-8")))
    assert {page.relative_to(DOCS).as_posix() for page in PAGES} - {"index.md"} <= linked


def test_every_picture_is_shown_and_small() -> None:
    shown = {
        (page.parent / target).resolve()
        for page in (*PAGES, ROOT / "README.md")
        for target in _LINK.findall(page.read_text("utf-8"))
    }
    pictures = sorted((DOCS / "images").glob("segment-*.png"))
    assert len(pictures) >= 7
    assert not [picture.name for picture in pictures if picture not in shown]
    sizes = [picture.stat().st_size for picture in pictures]
    assert max(sizes) < 250_000 and sum(sizes) < 1_500_000
    for picture in pictures:
        with Image.open(picture) as opened:
            assert opened.size == (1200, 800), picture


def test_the_page_of_shortcuts_is_the_table_of_shortcuts() -> None:
    text = (DOCS / "how-to" / "shortcuts.md").read_text("utf-8")
    table = text.partition("| --- | --- |\n")[2].partition("\n\n")[0]
    assert table.splitlines() == [f"| {one.shown} | {one.words} |" for one in SHORTCUTS]


def test_pages_speak_of_no_place_on_one_machine() -> None:
    for page in PAGES:
        assert not re.search(r"(?<![\w.])/(?:work|home|root|tmp)/", page.read_text("utf-8")), page


def test_code_blocks_are_found_where_they_stand(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("one\n```python\na = 1\n```\n```py\nnot run\n```\n```python\nb = 2\n```\n")
    assert code_blocks(page) == ["\n\na = 1\n", "\n" * 8 + "b = 2\n"]
