"""What others need to carry the project on: recipes, citation, templates, what is new."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from docs.pages import DOCS, README, ROOT

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
PACKAGE = ROOT / "src" / "napari_clipsam"
RECIPES = dict(re.findall(r"^### (.+)\n((?:(?!^#).*\n)+)", CONTRIBUTING, re.MULTILINE))
_PATH = re.compile(r"`((?:[\w.]+/)*[\w.-]+(?:/|\.(?:py|md|yaml|toml|cff|rst)))`")


def named_files(text: str) -> set[str]:
    return set(_PATH.findall(text))


@pytest.mark.parametrize("name", sorted(named_files(CONTRIBUTING)))
def test_files_that_recipes_name_are_there(name: str) -> None:
    assert (ROOT / name).exists() or (PACKAGE / name).exists()


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_numbered_and_name_files(name: str) -> None:
    steps = re.findall(r"^(\d+)\. ", RECIPES[name], re.MULTILINE)
    assert steps == [str(number) for number in range(1, len(steps) + 1)] and len(steps) >= 2
    assert named_files(RECIPES[name])


def test_there_are_recipes_for_what_is_added_most() -> None:
    for what in ("adapter", "prompt", "model", "command", "dock", "file format", "benchmark"):
        assert any(what in name for name in RECIPES), what


def test_the_citation_names_this_version_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["title"] == project["name"]
    assert str(citation["version"]) == project["version"]
    assert citation["license"] == project["license"]
    (paper,) = citation["references"]
    assert paper["title"] in README.read_text("utf-8")
    assert paper["identifiers"][0]["value"] in README.read_text("utf-8")


def test_what_is_new_begins_with_this_version() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert re.search(r"^## (\S+)", changes, re.MULTILINE).group(1) == project["version"]


@pytest.mark.parametrize(
    "form", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem
)
def test_forms_for_issues_are_complete(form: Path) -> None:
    content = yaml.safe_load(form.read_text("utf-8"))
    if form.stem == "config":
        assert content == {"blank_issues_enabled": True}
        return
    assert {"name", "description", "body"} <= set(content)
    for part in content["body"]:
        assert part["type"] in {"textarea", "checkboxes", "input", "dropdown", "markdown"}
        assert part["attributes"]["label"]
    names = [part["id"] for part in content["body"]]
    assert len(names) == len(set(names))
    assert any(part.get("validations", {}).get("required") for part in content["body"])


def test_hooks_before_a_commit_are_the_tools_of_the_project() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    entries = [hook["entry"] for repo in hooks["repos"] for hook in repo["hooks"]]
    assert all(entry.startswith((".venv/bin/ruff ", ".venv/bin/mypy")) for entry in entries)


def test_questions_are_those_that_people_ask() -> None:
    text = (DOCS / "questions.md").read_text("utf-8")
    questions = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert len(questions) >= 25 and len(set(questions)) == len(questions)
    answers = re.split(r"^#{2,3} .+$", text, flags=re.MULTILINE)[1:]
    assert min(len(answer.strip()) for answer in answers if answer.strip()) > 80
