"""Options of declared benchmarks: what each accepts, said once, for checks, lists and pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal

from avalanche_vlm.benchmarks.declaration import REQUIRED
from avalanche_vlm.errors import InputError
from avalanche_vlm.units import did_you_mean

_Form = Literal["choice", "number", "text", "names", "classes"]
"""What the value of an option is: one of several words, a whole number, a text, one of several words or names in an
order, or one of several words or class ids in an order."""


@dataclass(frozen=True)
class BenchmarkOption:
    """An option of a benchmark.

    :param name: what it is called.
    :param form: what its value is.
    :param default: the value that it has by itself; :data:`~avalanche_vlm.benchmarks.declaration.REQUIRED` if it must
        be given. A default of None may be given, too.
    :param says: what it decides, in a phrase.
    :param choices: words that a ``"choice"`` accepts, and names that stand for whole orders.
    :param least: smallest number that is accepted.
    :param most: largest number that is accepted; None for any.
    """

    name: str
    form: _Form
    default: Any
    says: str
    choices: tuple[str, ...] = ()
    least: int = 0
    most: int | None = None

    @property
    def accepts(self) -> str:
        """What it accepts and decides, in words.

        >>> BenchmarkOption("shots", "number", None, "training images per class", least=1).accepts
        'a whole number from 1, or none: training images per class'
        """
        words = ", ".join(self.choices)
        said = {
            "choice": f"one of {words}",
            "number": f"a whole number from {self.least}" + (f" to {self.most}" if self.most is not None else ""),
            "text": "a text",
            "names": f"{words}, or names in an order" if words else "names in an order",
            "classes": f"{words}, or class ids in an order",
        }[self.form]
        return f"{said}{', or none' if self.default is None else ''}: {self.says}"

    def checked(self, value: Any, of: str) -> Any:
        """The value, if it can be meant.

        :param value: what was given.
        :param of: what has the option, at the beginning of a sentence.
        :return: the value as the benchmark takes it.
        :raises InputError: in one sentence, for anything else.
        """
        if value is None and self.default is None:
            return None
        if self.form == "number":
            whole = isinstance(value, Integral) and not isinstance(value, bool)
            if whole and self.least <= value and (self.most is None or value <= self.most):
                return int(value)
        elif self.form == "names":
            names = [value] if isinstance(value, str) else list(value) if isinstance(value, Sequence) else []
            if names and all(isinstance(name, str) for name in names):
                return names[0] if len(names) == 1 and names[0] in self.choices else tuple(names)
        elif self.form == "classes":
            if isinstance(value, str) and value:
                return value  # which of them it is, the benchmark tells
            if isinstance(value, list | tuple) and all(isinstance(of, Integral) for of in value):
                return tuple(int(of) for of in value)
        elif self.form == "choice":
            if value in self.choices:
                return value
        elif str(value):
            return str(value)
        raise InputError(f"{of}: {self.name} is {self.accepts.partition(':')[0]}, not {value!r}")


def all_checked(options: Sequence[BenchmarkOption], given: dict[str, Any], of: str) -> dict[str, Any]:
    """Values of all options: those given, if they can be meant, and defaults.

    :param options: options that there are.
    :param given: values by the names of options.
    :param of: what has the options, at the beginning of a sentence.
    :raises InputError: in one sentence, for an option that there is not, that is missing, or whose value is none.
    """
    known = {option.name: option for option in options}
    for name in given:
        if name not in known:
            raise InputError(f"{of} has no option {name!r}{did_you_mean(name, known)}; it has {', '.join(known)}")
    found = {}
    for name, option in known.items():
        if name not in given and option.default is REQUIRED:
            raise InputError(f"{of} needs {name}: {option.says}")
        found[name] = option.checked(given[name], of) if name in given else option.default
    return found
