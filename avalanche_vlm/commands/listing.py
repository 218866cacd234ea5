"""``list``: recipes, benchmarks, models and formats that there are, and all about one of them."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from avalanche_vlm.benchmarks.registry import BENCHMARKS, describe_benchmark
from avalanche_vlm.benchmarks.sources.registry import FORMATS
from avalanche_vlm.catalogue import catalogue
from avalanche_vlm.commands.requests import ListRequest
from avalanche_vlm.commands.wanted import complete
from avalanche_vlm.models.names import architectures, refuse_unknown_name
from avalanche_vlm.units import tell

_MARKED = re.compile(
    r"(?<![\w:]):[\w:]+:`(?P<last>~?)(?P<reference>[^`]*)`"
    r"|(?<!\w)``(?P<code>.+?)``"
    r"|(?<![\w:`])`(?P<name>[^`]+)`",
    re.DOTALL,
)
"""What reST marks: a reference, of which a tilde shows the last part alone, code, or a name. Within a word (a time
before a mark) nothing begins."""
_TITLED = re.compile(r"(?P<title>.+?)\s*<[^<>]*>", re.DOTALL)
_PROSE = ("docstring", "summary", "description")
"""Facts that are written in reST; others are shown as they are."""

Lines = Sequence[Mapping[str, Any]]
"""What there is: one mapping each, with ``name`` first and ``summary`` last."""


def listing(request: ListRequest) -> int:
    """Print what there is, or all about one of them.

    :param request: what was asked for.
    :return: exit code of the process.
    :raises InputError: if there is none of the name that was asked for.
    """
    every, describe = _SHELVES[request.what]
    if request.name is None:
        lines = every()
        tell(json.dumps(lines, indent=1) if request.as_json else "\n".join(_table(lines)))
    else:
        found = describe(request.name)
        tell(json.dumps(found, indent=1) if request.as_json else "\n".join(_described(found)))
    return 0


def _recipes() -> Lines:
    """From the catalogue, which is read without torch, unless there are recipes that it cannot know."""
    if complete():
        return [_recipe_line(of.name, of.family, of.kinds, of.summary) for of in catalogue()]
    from avalanche_vlm.training import recipes

    every = (recipes.get(name) for name in recipes.list())
    return [_recipe_line(of.name, of.family, of.kinds, of.summary) for of in every]


def _recipe_line(name: str, family: str, kinds: Sequence[str], summary: str) -> dict[str, Any]:
    return {"name": name, "family": family, "kinds": list(kinds), "summary": summary}


def _recipe(name: str) -> dict[str, Any]:
    from avalanche_vlm.training import recipes

    return recipes.describe(name).as_json()


def _benchmarks() -> Lines:
    return [{"name": of.name, "family": of.family, "kind": of.kind, "summary": of.summary} for of in BENCHMARKS]


def _formats() -> Lines:
    return [
        {
            "name": of.name,
            "files": list(of.suffixes) or [f"folder with {' or '.join(of.markers[:2])}" if of.marker else "folder"],
        }
        | {"summary": of.summary}
        for of in FORMATS
    ]


def _format(name: str) -> dict[str, Any]:
    FORMATS.get(name)
    return next(dict(line) for line in _formats() if line["name"] == name)


def _models() -> Lines:
    """The tiny model, and the architectures that the installed open_clip has a configuration of."""
    tiny = {"name": "tiny", "summary": "1.5 million parameters, 32 x 32 pixels, shipped with its weights"}
    return [tiny, *({"name": name, "summary": "an architecture of open_clip"} for name in architectures())]


def _model(name: str) -> dict[str, Any]:
    if name != "tiny":
        refuse_unknown_name(name, architectures())
    line = next(dict(line) for line in _models() if line["name"] == name)
    if name == "tiny":
        return {**line, "pretrained": ["shipped", "random"]}
    import open_clip

    configuration = open_clip.get_model_config(name) or {}
    return {
        **line,
        "width": configuration.get("embed_dim"),
        "pixels": configuration.get("vision_cfg", {}).get("image_size"),
        "pretrained": [*open_clip.list_pretrained_tags_by_model(name), "random"],
    }


_SHELVES: dict[str, tuple[Callable[[], Lines], Callable[[str], dict[str, Any]]]] = {
    "recipes": (_recipes, _recipe),
    "benchmarks": (_benchmarks, describe_benchmark),
    "models": (_models, _model),
    "formats": (_formats, _format),
}


def _table(lines: Lines) -> Iterator[str]:
    """Columns, as wide as their widest word but for the last.

    >>> list(_table([{"name": "a", "kinds": ["x", "y"]}, {"name": "bc", "kinds": []}]))
    ['a   x, y', 'bc']
    """
    rows = [[_text(value, name) for name, value in line.items()] for line in lines]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def _described(facts: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """A fact a line, what belongs together indented, what is not known left out.

    >>> list(_described({"name": "a", "paper": None, "options": {"rank": 8}}))
    ['name: a', 'options:', '  rank: 8']
    >>> list(_described({"summary": "see ``a``", "default": "`a`"}))
    ['summary: see a', 'default: `a`']
    """
    for name, value in facts.items():
        if value in (None, "", [], {}):
            continue
        label = f"{indent}{name}:"
        parts = list(value) if isinstance(value, list) else []
        if isinstance(value, Mapping):
            yield label
            yield from _described(value, indent + "  ")
        elif parts and all(isinstance(part, Mapping) for part in parts):
            yield label
            for part in parts:
                first, *rest = _described(part, indent + "    ")
                yield f"{indent}  - {first.strip()}"
                yield from rest
        else:
            wrapped = textwrap.wrap(f"{label} {_text(value, name)}", 100, subsequent_indent=indent + "    ")
            yield from wrapped or [label]


def _text(value: Any, name: str) -> str:
    """The value of a fact of this name."""
    if isinstance(value, list):
        return ", ".join(_text(part, name) for part in value)
    if isinstance(value, bool):
        return str(value).lower()
    return plain_words(str(value)) if name in _PROSE else str(value)


def plain_words(text: str) -> str:
    """A text of a docstring as a terminal has it: without marks of code, and of references the title or last part.

    :param text: text in reST.

    >>> plain_words("``side=\\"both\\"``, see :class:`~package.module.Gate`")
    'side="both", see Gate'
    >>> plain_words("from 10:30:`x` to :class:`a gate <package.module.Gate>`")
    'from 10:30:`x` to a gate'
    """
    return _MARKED.sub(_unmarked, text)


def _unmarked(found: re.Match[str]) -> str:
    reference = found["reference"]
    if reference is None:
        return found["code"] or found["name"]
    if titled := _TITLED.fullmatch(reference):
        return titled["title"]
    return reference.rpartition(".")[2] if found["last"] else reference
