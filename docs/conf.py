"""Sphinx: ``pip install -e ".[docs]" && sphinx-build docs docs/_build``."""

import re
import shutil
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import inventories  # noqa: E402
import reference  # noqa: E402

project = html_title = "avalanche_vlm"
copyright = "The authors of avalanche_vlm"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.intersphinx"]
root_doc = "index"
exclude_patterns = ["_build"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
nitpicky = True
nitpick_ignore_regex = [
    # Projects without an inventory here.
    (
        r"py:.*",
        r"(annotated_types|fastapi|matplotlib|numpy\._typing|numpy\.typing|open_clip|PIL|pydantic|pydantic_core|rich"
        r"|starlette|torchmetrics|typing|typing_extensions)\..*",
    ),
    # What ours derives from, or is made of, and is nobody's to use.
    (r"py:.*", r"(avalanche_vlm|torch)(\.\w+)*\._\w+(\.\w+)*"),
    # What Avalanche does not document.
    (
        r"py:class",
        r"avalanche(\.\w+)*"
        r"\.(AlternativeValues|DataAttribute|MetricValue|SupervisedStrategyProtocol|TaskAwareSupervisedClassificationDataset)",
    ),
    # Aliases in signatures beside names that are imported for type checkers alone, so that none of them is resolved.
    (r"py:class", r"OnError|Table"),
    # What pydantic keeps of a type's range.
    (
        r"py:class",
        r"FieldInfo|NoneType|Ge|Gt|Le|Lt|AllowInfNan|MultipleOf|MinLen|MaxLen|_PydanticGeneralMetadata|1e\+18",
    ),
    (r"py:.*", "|".join(f"({re.escape(whole)}|{whole.rpartition('.')[2]})" for whole in reference.type_variables())),
]

myst_heading_anchors = 3
nb_execution_mode = "off"

autodoc_default_options = {"ignore-module-all": True}
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_type_aliases = reference.annotated()
autodoc_typehints_format = "short"
# It reads the sources of dependencies again for this, and pydantic's models do not survive that.
autodoc_use_type_comments = False

intersphinx_mapping = {name: (url, f"inventories/{name}.inv") for name, (url, _) in inventories.PROJECTS.items()}


SHORT, LONG = 16, 40
"""Characters in a cell of a table: of a figure with its spread at most, and of a sentence at least."""


def copy_notebooks(app: Sphinx) -> None:
    """Sphinx reads below its own folder alone, and the notebooks lie with the examples."""
    gallery = app.srcdir / "notebooks"
    shutil.rmtree(gallery, ignore_errors=True)
    gallery.mkdir()
    for path in (HERE.parent / "examples").glob("*.ipynb"):
        shutil.copy2(path, gallery)


def name_offers(app: Sphinx, env: BuildEnvironment) -> None:
    """Let names be found under the path by which a package offers them, too."""
    known, modules = env.domains.python_domain.objects, env.domains.python_domain.modules
    for name, home in reference.offered().items():
        if home in modules:
            modules.setdefault(name, modules[home])
        for path, entry in list(known.items()):
            if path == home or path.startswith(f"{home}."):
                known.setdefault(name + path.removeprefix(home), entry._replace(aliased=True))


def say_plainly(app: Sphinx, *told: Any) -> tuple[str | None, str | None]:
    """Leave ranges out of signatures, which come last of all that is told of an object."""
    signature, result = told[-2:]
    return signature and reference.plain(signature), result and reference.plain(result)


def aim(app: Sphinx, page: nodes.document) -> None:
    """Have types that are whole names found as such: ``bytes`` is no attribute of ours that has this name."""
    for link in page.findall(pending_xref):
        link["reftarget"] = reference.IN_SHORT.get(link["reftarget"], link["reftarget"])
        if reference.exact(link["reftarget"]):
            link.attributes.pop("refspecific", None)


def weigh_cells(app: Sphinx, page: nodes.document) -> None:
    """Tell the style sheet which cells of tables hold figures and which hold sentences."""
    for cell in page.findall(nodes.entry):
        words = cell.astext()
        if len(words) <= SHORT and re.search(r"\d", words):
            cell["classes"].append("figures")
        elif len(words) >= LONG:
            cell["classes"].append("words")


def setup(app: Sphinx) -> None:
    """Make what is not in the repository: the pages of the reference and those of the notebooks."""
    app.connect("builder-inited", lambda app: reference.write(app.srcdir / "api"))
    app.connect("builder-inited", copy_notebooks)
    app.connect("autodoc-process-signature", say_plainly)
    app.connect("doctree-read", aim)
    app.connect("doctree-read", weigh_cells)
    app.connect("env-updated", name_offers)
