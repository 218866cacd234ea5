"""Sphinx: ``pip install -e ".[docs]" && sphinx-build docs docs/_build``."""

project = "avalanche_vlm"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown"}
root_doc = "index"
html_theme = "furo"
exclude_patterns = ["_build"]
