"""The first page: on the code host, and as index pages and the napari hub show it."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from docs.pages import README, ROOT, links
from PIL import Image
from readme_renderer import markdown

from tools.hub_readme import Repository, for_index

TEXT = README.read_text("utf-8")
PLACE = Repository("https://example.org", "somebody/something", "v1")


def test_the_first_lines_say_for_whom_which_data_and_which_problem() -> None:
    start = " ".join(TEXT.splitlines()[1:6])
    assert "biologists" in start and "Which data:" in start and "Which problem:" in start


def test_the_first_screen_shows_two_commands_and_what_they_are_for() -> None:
    screen = TEXT.partition("\n## ")[0]
    assert screen.count("\n") < 30
    assert "\nmake demo" in screen and "\nmake test" in screen
    (picture,) = re.findall(r"^!\[[^\]]{20,}\]\(([^)]+)\)$", screen, re.MULTILINE)
    assert (ROOT / picture).stat().st_size < 2_000_000
    with Image.open(ROOT / picture) as opened:
        assert opened.size[0] >= 800
        assert opened.n_frames > 30 and opened.info["loop"] == 0


def test_the_animation_shows_more_and_more() -> None:
    (picture,) = (target for target in links(README) if target.endswith(".gif"))
    with Image.open(ROOT / picture) as film:
        frames = []
        for number in range(film.n_frames):
            film.seek(number)
            frames.append((film.info["duration"], film.convert("RGB").resize((100, 66))))
    seconds = sum(duration for duration, _ in frames) / 1000
    assert 5 < seconds < 30
    # What is read longest: the image, the mask, the objects, the one added, what was kept.
    shown = [frame.tobytes() for duration, frame in frames if duration > 1500]
    assert len(shown) >= 4 and len(set(shown)) == len(shown)


@pytest.mark.parametrize("place", [PLACE, None], ids=["released", "elsewhere"])
def test_it_renders_on_index_pages(place: Repository | None) -> None:
    shown = markdown.render(for_index(TEXT, place))
    assert shown is not None
    assert all(f"<{element}" in shown for element in ("table", "pre", "h2", "li"))
    addresses = re.findall(r'(?:src|href)="([^"]*)"', shown)
    assert not [one for one in addresses if not one.startswith(("https://", "#"))]
    assert shown.count("<img") == (TEXT.count("![") if place else 0)


def test_addresses_of_a_release_are_those_of_its_files() -> None:
    shown = for_index("![a b](docs/a.gif) [c](docs/c.md#d) [e](https://e.org) [f](#f)", PLACE)
    assert shown == (
        "![a b](https://example.org/somebody/something/raw/v1/docs/a.gif) "
        "[c](https://example.org/somebody/something/blob/v1/docs/c.md#d) "
        "[e](https://e.org) [f](#f)"
    )


def test_elsewhere_there_are_no_addresses_that_lead_nowhere() -> None:
    assert for_index("a\n\n![b](c.gif)\n\n[d](e.md) [f](https://f.org)\n", None) == (
        "a\n\nd [f](https://f.org)\n"
    )


@pytest.mark.parametrize(
    ("environment", "page"),
    [
        ({}, None),
        ({"GITHUB_REPOSITORY": "a/b"}, None),
        ({"GITHUB_REPOSITORY": "a/b", "GITHUB_REF_NAME": "v1"}, "https://github.com/a/b"),
        (
            {"GITHUB_SERVER_URL": "https://h", "GITHUB_REPOSITORY": "a/b", "GITHUB_SHA": "0f"},
            "https://h/a/b",
        ),
    ],
)
def test_the_place_of_a_release_is_what_the_job_says(
    environment: dict[str, str], page: str | None
) -> None:
    found = Repository.of(environment)
    assert (found and found.page) == page


def test_a_release_carries_it_in_its_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_REPOSITORY", "somebody/something")
    monkeypatch.setenv("GITHUB_REF_NAME", "v1")
    monkeypatch.delenv("GITHUB_SERVER_URL", raising=False)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=800)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = message_from_bytes(archive.read(name))
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "Source, https://github.com/somebody/something" in metadata.get_all("Project-URL")
    assert "https://github.com/somebody/something/raw/v1/docs/images/" in metadata.get_payload()
