"""Sphinx: ``pip install -e ".[docs]" && sphinx-build docs docs/_build``."""

project = "avalanche_vlm"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown"}
root_doc = "index"
html_theme = "furo"
exclude_patterns = ["_build"]
