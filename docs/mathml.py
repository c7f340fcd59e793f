"""Equations as MathML, which browsers draw by themselves: no script, no font, no network.

A Sphinx extension. It takes the place of Sphinx's own renderers for HTML.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from docutils import nodes
from latex2mathml.converter import convert

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.writers.html5 import HTML5Translator

#: What people write for GitHub's renderer, and how the converter knows it.
_SPELLINGS = {"{aligned}": "{align*}", r"\%": "%"}

#: The converter leaves out the frame of those that it does not know, without a word.
_ENVIRONMENTS = {"align*", "array", "bmatrix", "cases", "matrix", "pmatrix"}


def to_mathml(latex: str, display: str = "inline") -> str:
    """Convert an equation.

    Parameters
    ----------
    latex : str
        Without dollar signs.
    display : {"inline", "block"}
        In a line of text, or in one of its own.

    Returns
    -------
    str
        A ``<math>`` element.

    Raises
    ------
    ValueError
        Something in it was not understood, and would be shown as it is written.
    """
    for written, known in _SPELLINGS.items():
        latex = latex.replace(written, known)
    made = convert(latex, display=display)
    unknown = set(re.findall(r"\\begin\{([^}]*)\}", latex)) - _ENVIRONMENTS
    if unknown or "\\" in made or "<mi>&</mi>" in made:
        raise ValueError(f"The equation cannot be shown as MathML: {latex}")
    return made


def _inline(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(to_mathml(node.astext()))
    raise nodes.SkipNode


def _block(translator: HTML5Translator, node: nodes.math_block) -> None:
    equation = to_mathml(node.astext(), "block")
    translator.body.append(f'<div class="equation">{equation}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer and choose it."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
