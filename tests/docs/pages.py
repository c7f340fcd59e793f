"""The pages of the documentation, and what is in them."""

from __future__ import annotations

import re
import shlex
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = sorted(DOCS.rglob("*.md"))
#: Also those that lie where code hosts look for them.
ALL = [*PAGES, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md"))]

_FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)


class Block(NamedTuple):
    """A block of code: its language, the line it begins in, its text."""

    language: str
    line: int
    text: str


def blocks(page: Path) -> list[Block]:
    """All blocks of a page."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(match[1], text.count("\n", 0, match.start(2)) + 1, match[2])
        for match in _FENCE.finditer(text)
    ]


def python_blocks(page: Path) -> list[str]:
    """Blocks marked ``python``, each below as many empty lines as stand before it."""
    return ["\n" * (one.line - 1) + one.text for one in blocks(page) if one.language == "python"]


def commands(page: Path) -> list[list[str]]:
    """Commands of the blocks marked ``sh``, as words."""
    shell = [one.text.replace("\\\n", " ") for one in blocks(page) if one.language == "sh"]
    lines = [line for text in shell for line in text.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [part for line in words for part in _parts(line)]


def _parts(words: list[str]) -> list[list[str]]:
    """Commands that are joined by ``&&``."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word == "&&":
            parts.append([])
        else:
            parts[-1].append(word)
    return [part for part in parts if part]


def answers(page: Path) -> list[tuple[list[str], str]]:
    """Commands behind a ``$``, as words, each with what the page says that they print."""
    found = []
    for block in blocks(page):
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            command, _, printed = part.partition("\n")
            found.append((shlex.split(command), printed.strip()))
    return found


def links(page: Path) -> list[str]:
    """Targets of all links and pictures."""
    return _LINK.findall(page.read_text("utf-8"))


def anchors(text: str) -> set[str]:
    """Anchors that GitHub gives to the headings of a page."""
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        numbered = (f"{slug}-{number}" for number in count(1))
        found.add(next(name for name in chain([slug], numbered) if name not in found))
    return found


def name_of(page: Path) -> str:
    """For the names of tests."""
    return page.relative_to(ROOT).with_suffix("").as_posix()
