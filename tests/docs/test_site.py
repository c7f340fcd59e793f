"""The documentation as a site: built without a warning, complete, and without the network."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from docs.pages import DOCS, PAGES, ROOT

#: Modules whose public names are promised to be in the reference.
REFERENCE = (
    "adapters.base",
    "errors",
    "models.registry",
    "semantics",
    "session.export",
    "session.journal",
    "session.replay",
    "training.losses",
    "training.metrics",
    "training.settings",
    "training.trainer",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "-q"]
    command += ["-b", "html", "-d", str(out / "doctrees"), str(DOCS), str(out / "html")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr
    return out / "html"


def test_every_page_is_built(site: Path) -> None:
    built = {path.relative_to(site).with_suffix(".md") for path in site.rglob("*.html")}
    assert {page.relative_to(DOCS) for page in PAGES} <= built


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    loaded = re.compile(
        r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"((?:https?:)?//[^\"]+)"
    )
    assert not {
        (page.name, address)
        for page in site.rglob("*.html")
        for address in loaded.findall(page.read_text("utf-8"))
    }


def test_equations_are_drawn_by_the_browser(site: Path) -> None:
    text = (site / "method.html").read_text("utf-8")
    source = (DOCS / "method.md").read_text("utf-8")
    assert text.count('display="block"') == len(re.findall(r"\$\$.+?\$\$", source, re.DOTALL))
    assert text.count("<math") > 40
    assert not re.search(r"\\(?:mathrm|frac|begin)", text)


@pytest.mark.parametrize("latex", [r"\begin{nonsense} a \end{nonsense}", r"a \unheardof b"])
def test_an_equation_that_is_not_understood_ends_the_build(
    latex: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    to_mathml = importlib.import_module("mathml").to_mathml
    with pytest.raises(ValueError, match="cannot be shown as MathML"):
        to_mathml(latex)


def test_the_reference_has_every_public_name(site: Path) -> None:
    pages = "".join(page.read_text("utf-8") for page in (site / "reference").glob("*.html"))
    shown = set(re.findall(r'id="(napari_clipsam[\w.]+)"', pages))
    missing = []
    for name in ("", *REFERENCE):
        module = importlib.import_module(f"napari_clipsam.{name}".rstrip("."))
        for one in module.__all__:
            value = getattr(module, one)
            if not (inspect.isclass(value) or inspect.isfunction(value)):
                continue
            names = {f"{module.__name__}.{one}", f"{value.__module__}.{one}"}
            missing += [one] * (not names & shown)
    assert not missing
    assert "napari_clipsam.__version__" in shown
