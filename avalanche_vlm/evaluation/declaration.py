"""What a figure is declared as: once, where it is computed; result, tables, plots and report read the declaration."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeGuard, get_args

from avalanche_vlm.errors import InputError

Unit = Literal[
    "percent", "points", "ratio", "share", "cosine", "count", "bytes", "seconds", "flops", "scale", "flag", "words"
]
"""What a value is a value of. ``points`` are differences of percentages, ``share`` is a fraction that is shown in
percent, ``scale`` a number whose order of magnitude matters, ``flag`` yes or no."""

Shown = Literal["csv", "summary", "table", "page", "plot", "ledger"]
"""A place where a figure may be shown: a column of ``results.csv``, an entry of ``summary.json``, a column of the
table on the terminal, one of the report (HTML, Markdown and JSON alike), bars of a plot, a line of the cost ledger."""

EVERYWHERE: frozenset[Shown] = frozenset({"csv", "summary", "table", "page"})
"""Where a figure is shown unless it says otherwise."""

ResultEntry = Mapping[str, Any]
"""What is known of one experiment: ``result`` (what ``result.json`` holds), ``timing`` and, where it was kept,
``ledger``; of a result that is put beside another ``side``, what the side is called."""

_TAKEN = ("recipe", "seed")


@dataclass(frozen=True)
class Figure:
    """One number of an experiment, and everything that is needed to show it.

    :param name: name in files, a Python identifier.
    :param title: name on tables, plots and pages.
    :param unit: what the value is a value of, one of :data:`Unit`.
    :param higher_is_better: direction of improvement; None where neither is better.
    :param description: what the figure means, in words for a reader who does not know it.
    :param read: function that finds the value in an :data:`ResultEntry`, None where there is none; by default that is
        ``result.metrics.<name>``.
    :param shown: places where the figure is shown, of :data:`Shown`.
    :raises InputError: if the name cannot head a column, or a unit or place does not exist.

    >>> figure = Figure("steadiness", "Steadiness", "percent", True, "One hundred less the largest drop.")
    >>> figure.value({"result": {"metrics": {"steadiness": 93.5}}}), figure.value({"result": {"metrics": {}}})
    (93.5, None)
    """

    name: str
    title: str
    unit: Unit
    higher_is_better: bool | None
    description: str
    read: Callable[[ResultEntry], Any] | None = field(default=None, compare=False)
    shown: frozenset[Shown] = EVERYWHERE

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isidentifier() or self.name in _TAKEN:
            raise InputError(f"{self.name!r} cannot name a figure: it takes letters, digits and underscores")
        if self.unit not in get_args(Unit):
            raise InputError(f"the unit of {self.name} must be one of {', '.join(get_args(Unit))}, not {self.unit!r}")
        if not isinstance(self.title, str) or not isinstance(self.description, str):
            raise InputError(
                f"title and description of {self.name} are texts, not {self.title!r}, {self.description!r}"
            )
        if self.higher_is_better not in (True, False, None):
            raise InputError(f"higher_is_better of {self.name} is True, False or None, not {self.higher_is_better!r}")
        object.__setattr__(self, "shown", frozenset([self.shown] if isinstance(self.shown, str) else self.shown))
        if unknown := sorted(self.shown - set(get_args(Shown))):
            raise InputError(f"{self.name} can be shown in {', '.join(get_args(Shown))}, not in {', '.join(unknown)}")
        if self.unit in ("flag", "words") and self.shown - {"ledger"}:
            raise InputError(f"{self.name} is no number, so it can be shown in the ledger alone")

    def value(self, entry: ResultEntry) -> Any:
        """The value in an experiment; None where it is missing or not what the unit says.

        :param entry: result, timing and ledger of the experiment, as far as they are known.
        """
        return self.checked(found_at(entry, "result", "metrics", self.name) if self.read is None else self.read(entry))

    def checked(self, value: Any) -> Any:
        """The value if it is what the unit says, else None.

        :param value: anything that a file may hold.
        """
        if self.unit == "flag":
            return value if isinstance(value, bool) else None
        if self.unit == "words":
            return value if isinstance(value, (str, list)) else None
        return number(value)

    def as_json(self) -> dict[str, Any]:
        """The declaration as ``result.json`` holds it for figures that come from outside the package."""
        return {
            "title": self.title,
            "unit": self.unit,
            "higher_is_better": self.higher_is_better,
            "description": self.description,
            "shown": sorted(self.shown),
        }

    @classmethod
    def from_json(cls, name: str, content: Any) -> Figure | None:
        """A declaration that :meth:`as_json` gave; None for anything that is none.

        :param name: the figure's name.
        :param content: what stands under it in a file.

        >>> Figure.from_json("a", Figure("a", "A", "count", None, "Number of As.").as_json()).title
        'A'
        """
        try:
            fields = {key: content[key] for key in ("title", "unit", "higher_is_better", "description")}
            return cls(name, **fields, shown=frozenset(content["shown"]))
        except (InputError, KeyError, TypeError):
            return None


def found_at(entry: ResultEntry, *keys: str) -> Any:
    """What stands at a path of nested mappings; None where the path ends early.

    :param entry: the outermost mapping.
    :param keys: the path, outermost key first.

    >>> found_at({"result": {"costs": {"stored_bytes": 3}}}, "result", "costs", "stored_bytes")
    3
    """
    found: Any = entry
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def number(value: Any) -> float | None:
    """A finite number, or None.

    :param value: anything that a file may hold.

    >>> number(2), number(float("nan")), number(True), number("3")
    (2, None, None, None)
    """
    return value if _is_number(value) and abs(value) <= sys.float_info.max else None


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
