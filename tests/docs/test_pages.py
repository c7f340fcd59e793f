"""The pages: links lead somewhere, pictures are shown and made by a script, tables are right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from docs.pages import ALL, DOCS, PAGES, ROOT, anchors, links, name_of, python_blocks
from PIL import Image

from napari_clipsam._plugin.keymap import SHORTCUTS

IMAGES = DOCS / "images"
SCRIPTS = [DOCS / "make_demo_picture.py", *sorted((DOCS / "screenshots").glob("*.py"))]


@pytest.mark.parametrize("page", ALL, ids=name_of)
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    targets = [target.partition("#")[0] for target in links(page)]
    local = [target for target in targets if target and "://" not in target]
    missing = [target for target in local if not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", ALL, ids=name_of)
def test_anchors_name_headings_of_the_pages_they_lead_to(page: Path) -> None:
    lost = []
    for target in links(page):
        name, _, anchor = target.partition("#")
        other = page.parent / name if name else page
        if anchor and "://" not in target and other.suffix == ".md":
            lost += [target] * (anchor not in anchors(other.read_text("utf-8")))
    assert not lost


def test_anchors_are_made_of_headings_as_github_makes_them() -> None:
    text = "# What's *new*? (1.0)\n## A `b_c`\n```sh\n# no heading\n```\n"
    text += "## [Grüße](a.md) - d\n## A b_c\n"
    assert anchors(text) == {"whats-new-10", "a-b_c", "grüße---d", "a-b_c-1"}


def test_every_picture_is_shown_and_small() -> None:
    shown = {(page.parent / target).resolve() for page in ALL for target in links(page)}
    pictures = sorted(IMAGES.iterdir())
    assert len(pictures) >= 15
    assert not [picture.name for picture in pictures if picture not in shown]
    sizes = [picture.stat().st_size for picture in pictures if picture.suffix != ".gif"]
    assert max(sizes) < 350_000 and sum(sizes) < 3_500_000


def test_pictures_of_sessions_have_one_size() -> None:
    for picture in IMAGES.glob("*-*.png"):
        with Image.open(picture) as opened:
            assert opened.size == (1200, 800), picture


def test_every_picture_is_made_by_a_script() -> None:
    made = "".join(script.read_text("utf-8") for script in SCRIPTS)
    for picture in IMAGES.iterdir():
        # Sessions put their own name before the picture's.
        name = picture.stem.removeprefix("segment-").removeprefix("teach-")
        drawn_by_hand = picture.suffix == ".svg"
        assert drawn_by_hand or f'"{name}"' in made or f'"{picture.name}"' in made, picture


def test_the_page_of_shortcuts_is_the_table_of_shortcuts() -> None:
    text = (DOCS / "how-to" / "shortcuts.md").read_text("utf-8")
    table = text.partition("| --- | --- |\n")[2].partition("\n\n")[0]
    assert table.splitlines() == [f"| {one.shown} | {one.words} |" for one in SHORTCUTS]


@pytest.mark.parametrize("part", ["models", "inference", "training", "session", "_plugin"])
def test_the_architecture_names_every_module(part: str) -> None:
    text = (DOCS / "architecture.md").read_text("utf-8")
    modules = {path.stem for path in (ROOT / "src" / "napari_clipsam" / part).glob("[a-z]*.py")}
    assert not {name for name in modules if not re.search(rf"[`/]{name}(`|\.py)", text)}


def test_pages_speak_of_no_place_on_one_machine() -> None:
    for page in PAGES:
        assert not re.search(r"(?<![\w.])/(?:work|home|root|tmp)/", page.read_text("utf-8")), page


def test_python_blocks_are_found_where_they_stand(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("one\n```python\na = 1\n```\n```py\nnot run\n```\n```python\nb = 2\n```\n")
    assert python_blocks(page) == ["\n\na = 1\n", "\n" * 8 + "b = 2\n"]


def test_entries_of_menus_are_those_of_the_manifest() -> None:
    manifest = yaml.safe_load((ROOT / "src" / "napari_clipsam" / "napari.yaml").read_text("utf-8"))
    given = manifest["contributions"]
    plugin = manifest["display_name"]
    widgets = {f"Plugins > {plugin} > {one['display_name']}" for one in given["widgets"]}
    samples = {
        # Pages may leave out what stands in brackets.
        f"File > Open Sample > {plugin} > {one['display_name'].replace(' (synthetic)', '')}"
        for one in given["sample_data"]
    }
    titles = {one["id"]: one["title"] for one in given["commands"]}
    segment = {
        f"Layers > Segment > {titles[one['command']]}"
        for one in given["menus"]["napari/layers/segment"]
    }
    known = widgets | samples | segment
    known |= {" > ".join(entry.split(" > ")[:-1]) for entry in known}
    text = "".join(page.read_text("utf-8") for page in ALL)
    shown = re.findall(r"\*((?:Plugins|Layers|File > Open Sample) > [^*]+)\*", text)
    assert len(shown) > 10
    assert not {entry.replace("\n", " ") for entry in shown} - known
