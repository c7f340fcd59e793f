"""The page on the command line: its examples are understood, and it leaves no option out."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from napari_clipsam.cli._app import app

PAGE = Path(__file__).resolve().parents[2] / "docs" / "command-line.md"
TEXT = PAGE.read_text(encoding="utf-8")
EXAMPLES = [
    line.removeprefix("$ ")
    for fence in re.findall(r"^```(?:sh)?\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    for line in fence.splitlines()
    if re.match(r"(\$ )?napari-clipsam \w+ .*[/.-]", line)
]
COMMANDS = typer.main.get_command(app).commands


def chosen(words: list[str]) -> tuple[typer.core.TyperCommand, list[str]]:
    """The command that words name, through groups, and the words left for it."""
    command, rest = COMMANDS[words[0]], words[1:]
    while rest and hasattr(command, "commands"):
        command, rest = command.commands[rest[0]], rest[1:]
    return command, rest


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_are_understood(example: str) -> None:
    command, rest = chosen(shlex.split(example, comments=True)[1:])
    context = command.make_context(command.name, rest)
    assert context.params


def test_there_are_examples_of_the_commands_that_take_files() -> None:
    named = [example.split()[1] for example in EXAMPLES]
    assert {"segment", "evaluate", "models", "adapters"} <= set(named)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_section(name: str) -> None:
    assert f"\n## {name}\n" in TEXT
    for sub in getattr(COMMANDS[name], "commands", {}):
        assert f"{name} {sub}" in TEXT


def test_every_option_is_told_and_none_that_is_not_there() -> None:
    leaves = [leaf for c in COMMANDS.values() for leaf in getattr(c, "commands", {"": c}).values()]
    known = {o for leaf in leaves for p in leaf.params for o in (*p.opts, *p.secondary_opts)}
    known = {option for option in known if option.startswith("--")} | {"--help"}
    told = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", TEXT))
    assert told <= known
    assert known - told == {"--output"}
