"""The commands of the documentation run, or are made of what there is."""

from __future__ import annotations

import importlib.metadata
import re
import shlex
from pathlib import Path

import pytest
import typer.main
from docs.pages import ALL, DOCS, README, ROOT, answers, blocks, commands, name_of
from packaging.requirements import Requirement

from napari_clipsam.cli import main
from napari_clipsam.cli._app import app

OURS = "napari-clipsam"
TARGETS = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
EVERYTHING = [(page, words) for page in ALL for words in commands(page)]
#: Of these the pages show how they are installed or begun; what is theirs is not tested here.
OTHERS = {
    "pip": {"install", "download", "uninstall"},
    "uv": {"venv", "pip"},
    "conda": {"create", "activate"},
    "bioimageio": {"test"},
    "dask": {"scheduler", "worker"},
    "napari": set(),
    "source": None,
}


def label(value: object) -> str:
    return name_of(value) if isinstance(value, Path) else " ".join(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(("page", "words"), EVERYTHING, ids=label)
def test_commands_are_made_of_what_there_is(page: Path, words: list[str]) -> None:
    name, *rest = words
    name = name.removeprefix(".venv/bin/")
    while "=" in name and rest:  # a variable of the environment
        name, *rest = rest
    if name == OURS:
        parse(rest)
    elif name == "make":
        assert {word for word in rest if "=" not in word} <= TARGETS
    elif name == "python":
        check_script(rest)
    elif name == "pre-commit":
        assert (ROOT / ".pre-commit-config.yaml").is_file()
    else:
        known = OTHERS[name]
        assert known is None or not rest or rest[0] in known
        check_requirements(rest)


@pytest.mark.parametrize("page", ALL, ids=name_of)
def test_commands_within_a_sentence_are_made_of_what_there_is(page: Path) -> None:
    for text in re.findall(rf"(?<!`)`{OURS} ([^`]+)`(?!`)", page.read_text("utf-8")):
        if "COMMAND" not in text:
            parse(shlex.split(text))


def parse(words: list[str]) -> None:
    """Fail where a command of ours does not understand its words."""
    command = typer.main.get_command(app)
    context = command.make_context(OURS, list(words), resilient_parsing=True)
    while words and hasattr(command, "commands"):
        if words[0].startswith("-"):
            return
        assert words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]
        context = command.make_context(words[0] if words else "", [], resilient_parsing=True)
    parser = command.make_parser(context)
    parser.parse_args(list(words))


def check_script(words: list[str]) -> None:
    """Fail where a script or one of its options is not there."""
    if words[0] == "-m":
        assert words[1] in {"venv", "starter.report", "starter.check"}
        return
    text = (ROOT / words[0]).read_text("utf-8")
    options = [word for word in words[1:] if word.startswith("--")]
    assert not [option for option in options if f'"{option}"' not in text]


def check_requirements(words: list[str]) -> None:
    """Fail where ours is asked for with an extra that it does not have."""
    asked = [Requirement(word) for word in words if word.startswith(OURS)]
    extras = set(importlib.metadata.metadata(OURS).get_all("Provides-Extra"))
    assert all(one.extras <= extras for one in asked)


RUN = [
    (page, words[1:])
    for page, words in EVERYTHING
    if words[:2] == [OURS, "segment"] and "--model" not in words and "large" not in words[2]
]


@pytest.mark.parametrize(("page", "words"), RUN, ids=label)
def test_examples_of_segment_do_what_they_say(
    page: Path, words: list[str], files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "reports").mkdir()
    assert main(words) == 0, capsys.readouterr().err
    out = files / words[words.index("-o") + 1]
    assert out.is_file() or [*out.glob("*.tif")]


def test_there_are_examples_to_run() -> None:
    assert len(RUN) >= 10 and README in {page for page, _ in RUN}


ERRORS = [
    (page, words, printed)
    for page in ALL
    for words, printed in answers(page)
    if printed.startswith("error: ")
]


@pytest.mark.parametrize(("page", "words", "printed"), ERRORS, ids=lambda value: label(value)[:60])
def test_errors_are_those_of_the_page(
    page: Path, words: list[str], printed: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words[1:]) == 2
    assert capsys.readouterr().err.strip() == printed


def test_pages_show_what_bad_input_gives() -> None:
    assert len(ERRORS) >= 4


def test_the_overview_names_every_command() -> None:
    overview = blocks(DOCS / "command-line.md")[0].text
    named = re.findall(rf"^{OURS} ([a-z]+)  ", overview, re.MULTILINE)
    assert sorted(named) == sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", ALL, ids=name_of)
def test_every_block_is_of_a_kind_that_is_tried(page: Path) -> None:
    known = {"python", "py", "sh", "", "{toctree}", "{include}"}
    assert {one.language for one in blocks(page)} <= known


def test_what_is_joined_is_tried_in_parts(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```sh\nmake a && make \\\n  b   # both\n```\n```\n$ x -o 'a b'\nerror: no\n```\n"
    )
    assert commands(page) == [["make", "a"], ["make", "b"]]
    assert answers(page) == [(["x", "-o", "a b"], "error: no")]
