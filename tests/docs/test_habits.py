"""What others need to carry the project on: recipes, citation, templates, what is new."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from docs.pages import DOCS, README, ROOT, name_of

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
PACKAGE = ROOT / "src" / "napari_clipsam"
RECIPES = dict(re.findall(r"^### (.+)\n((?:(?!^#).*\n)+)", CONTRIBUTING, re.MULTILINE))
_PATH = re.compile(r"`((?:[\w.]+/)*[\w.-]+(?:/|\.(?:py|md|yaml|toml|cff|rst)))`")

SOURCES = [path.read_text("utf-8") for path in PACKAGE.rglob("*.py")]
#: What is shown to people, with sentences that go over several lines in one.
ON_SCREEN = re.sub(r'"\s+f?"', "", "\n".join(SOURCES)).lower()
ON_SCREEN += (PACKAGE / "napari.yaml").read_text("utf-8").lower()
FOR_USERS = [
    DOCS / "questions.md",
    *sorted((DOCS / "how-to").glob("*.md")),
    *sorted((DOCS / "tutorials").glob("*.md")),
]
#: Words of napari, one the user gave, and sentences put together when they are shown.
NOT_OURS = {
    "open sample",
    "auto-contrast",
    "bright nuclei (nuclei stack, 29 nov)",
    "belongs to another clip",
    "is not the one that its publisher states",
}
_QUOTED = re.compile(r"(?<![*\w])\*([^*\n]+)\*(?!\*)")
_BLOCK = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
#: At least a sentence, up to the next heading.
_ANSWER = re.compile(r"\A\s*[A-Z`*][^#]{80,}")


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


def test_names_in_recipes_are_in_the_package() -> None:
    names = set(re.findall(r"`([A-Z]\w+)`", CONTRIBUTING))
    assert "ExportKind" in names
    assert not names - {name for source in SOURCES for name in _defined(ast.parse(source))}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_name_is_in_the_file_that_the_recipe_names(recipe: str) -> None:
    for name, file in re.findall(r"`(\w+)` in `([\w./]+\.py)`", RECIPES[recipe]):
        assert name in _defined(ast.parse((PACKAGE / file).read_text("utf-8")))


def _defined(module: ast.Module) -> set[str]:
    """Names that a module gives something at its top."""
    names: set[str] = set()
    for node in module.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


@pytest.mark.parametrize("page", FOR_USERS, ids=name_of)
def test_words_that_pages_quote_are_on_the_screen(page: Path) -> None:
    parts = {
        part.strip().lower()
        for quoted in _QUOTED.findall(_BLOCK.sub("", page.read_text("utf-8")))
        for part in re.split(r">|\.\.\.", quoted)
    }
    assert not [part for part in parts - NOT_OURS if part not in ON_SCREEN]


def test_every_question_is_answered() -> None:
    parts = re.split(r"^### (.+)$", (DOCS / "questions.md").read_text("utf-8"), flags=re.MULTILINE)
    answers = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert len(answers) == len(parts) // 2 >= 25
    assert not [question for question, answer in answers.items() if not _ANSWER.search(answer)]
