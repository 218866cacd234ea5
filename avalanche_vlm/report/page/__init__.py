"""One report for a manager and an engineer: a content, built once, as HTML, Markdown and JSON.

:func:`content` takes what a folder holds and gives plain JSON types: every number, every sentence. The renderers add
none: a figure on the page carries the path of its number in the content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche_vlm._lazy import attach

if TYPE_CHECKING:
    from avalanche_vlm.report.page.build import content
    from avalanche_vlm.report.page.html import as_html
    from avalanche_vlm.report.page.markdown import as_markdown
else:
    __getattr__, __dir__ = attach(__name__, __file__)

__all__ = ["as_html", "as_markdown", "content"]
