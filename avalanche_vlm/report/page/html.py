"""The content as one HTML file: no script, nothing fetched, light and dark, phone and paper."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

from avalanche_vlm.report.page import charts
from avalanche_vlm.report.page.charts.bars import scale_of
from avalanche_vlm.report.page.sections import SECTIONS
from avalanche_vlm.report.rounding import MISSING, has_spread, show, suffix

HUES = {"drift": "drift", "interference": "interference", "erosion": "erosion", "mismatched pairs": "pairs"}
"""Causes, and the page's colours for them; any other cause is grey."""


def as_html(content: dict[str, Any]) -> str:
    """The page.

    Every figure carries ``data-path`` (where its number stands in the content) and ``data-kind`` (how it is rounded).

    :param content: what :func:`avalanche_vlm.report.page.content` gave.
    """
    page = _environment().get_template("page.html")
    empty = {name for line in content["empty"] for name in line["sections"]}
    shown = [section for section in SECTIONS if section.name not in empty]
    return page.render(
        c=content, sections=shown, empty=empty, n=partial(_figure, content), bounds=partial(_bounds, content)
    )


def at(content: Any, path: str) -> Any:
    """What stands at a dotted path.

    >>> at({"a": [{"b": 3}]}, "a.0.b")
    3
    """
    for key in path.split("."):
        content = content[int(key)] if isinstance(content, list) else content[key]
    return content


@cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def safe(chart: Any) -> Any:  # charts escape what comes from outside
        return lambda *arguments, **named: Markup(chart(*arguments, **named))

    environment = Environment(
        loader=PackageLoader("avalanche_vlm.report.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        hue=lambda cause: HUES.get(cause, "other"),
        scale_of=scale_of,
        spread=has_spread,
        suffix=suffix,
        steps=lambda tasks: ["pretrained", *tasks],
        style=Markup(environment.get_template("style.css").render()),
        **{name: safe(getattr(charts, name)) for name in charts.__all__},
    )
    return environment


def _figure(content: dict[str, Any], path: str, kind: str) -> Any:
    from markupsafe import Markup

    value = at(content, path)
    if kind in ("flag", "words"):
        words = MISSING if value is None else {True: "yes", False: "no"}.get(value, value)
        return Markup("{}").format(words)
    span = Markup('<span class="{}" data-path="{}" data-kind="{}">{}</span>')
    return span.format("n" if value is not None else "n none", path, kind, show(value, kind))


def _bounds(content: dict[str, Any], path: str) -> bool:
    return any(at(content, f"{path}.{end}") is not None for end in ("low", "high"))
