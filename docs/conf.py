"""Settings of the documentation's site; `make docs` builds it into build/site."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from pathlib import Path

from sphinx.domains.python import PyObject

sys.path.insert(0, str(Path(__file__).parent))

project = "napari-clipsam"
author = "napari-clipsam contributors"
release = version = version_of("napari-clipsam")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml"]
exclude_patterns = ["screenshots", "_templates", "_static"]
templates_path = ["_templates"]

myst_enable_extensions = ["dollarmath", "attrs_block"]
# Anchors as GitHub makes them, so that links work there and here.
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings give types, with shapes
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
for field in PyObject.doc_field_types:
    if field.name == "variable":
        field.label = "Attributes"  # as the docstrings have it; Sphinx says Variables
# What single backquotes mean in docstrings.
default_role = "code"

html_theme = "pydata_sphinx_theme"
html_title = "napari-clipsam"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_sidebars = {"**": ["contents"]}
html_theme_options = {
    "navbar_center": [],
    "navbar_persistent": [],
    "navbar_end": ["search-button", "theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_prev_next": True,
}
copyright = "napari-clipsam contributors, BSD-3-Clause"
