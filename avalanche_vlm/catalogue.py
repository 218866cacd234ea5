"""The names of the shipped recipes, with what a help text says of them, for readers that must not wait for torch.

Which of them a command tries by default is a choice of the command's, not a fact of the method, and stands here beside
them.

``catalogue.json`` is generated from the recipes' declarations (``python docs/generate.py``), and a test fails when it
is stale. Recipes of other distributions are not in it: :func:`avalanche_vlm.training.recipes.list` knows them as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

COMPARED = ("fine-tune", "replay", "zscl", "lora")
"""What ``compare`` tries where nothing is asked for: the baseline, and one recipe of each family."""

ADVISED = (
    *("fine-tune", "zero-shot", "wise-ft", "magmax", "zscl"),
    *("nusa", "replay", "prototype-replay", "lora", "ranpac"),
)
"""What advice tries where nothing is asked for: doing nothing, and recipes of every family that a user can run without
more than the stream, in the order of the first pilots."""


class Listed(NamedTuple):
    """A line of the catalogue.

    :param name: the recipe's name, as users write it.
    :param family: the survey's paradigm: ``none``, ``MMRE``, ``CREG``, ``PEA`` or ``fusion``.
    :param summary: what the recipe does, in a phrase.
    :param kinds: kinds of streams that the recipe is for, of ``classes`` and ``pairs``.
    :param takes: resources that the recipe can use, of ``reference`` and ``generator``.
    :param needs: resources that the recipe cannot do without.
    :param options: what each option ``accepts``, in words, and the ``schema`` of its type as JSON has it, None where
        that does not say all.
    """

    name: str
    family: str
    summary: str
    kinds: tuple[str, ...]
    takes: tuple[str, ...]
    needs: tuple[str, ...]
    options: Mapping[str, Mapping[str, Any]]


@cache
def catalogue() -> tuple[Listed, ...]:
    """The shipped recipes, in the survey's order of families.

    >>> [line.name for line in catalogue() if line.family == "none"]
    ['fine-tune', 'zero-shot']
    """
    lines = json.loads((files("avalanche_vlm") / "catalogue.json").read_text(encoding="utf-8"))["recipes"]
    lists = ("kinds", "takes", "needs")
    return tuple(Listed(**{**line, **{name: tuple(line[name]) for name in lists}}) for line in lines)
