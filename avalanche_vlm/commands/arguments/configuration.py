"""Options from a file: a YAML file stands for words of the command line, which are taken as if they had been written.

What is written on the command line goes before the file. A list where one value is taken is a sweep.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from avalanche_vlm.commands.arguments.noting import NotingParser, Word
from avalanche_vlm.commands.arguments.shared import BENCHMARK
from avalanche_vlm.commands.arguments.values import NumberWord, names
from avalanche_vlm.errors import InputError
from avalanche_vlm.storage.yaml_files import Written, plain_types, read_yaml_file, yaml_text
from avalanche_vlm.units import did_you_mean, in_short

KEPT = "kept"
"""What a stored request says beside the words: what its run is known by, for those that read results."""
COMMAND = "command"
"""Which command a file is of."""
STORED = "request.yaml"
"""What the file of a run is called beside its results; a copy under another name is a file like any other."""
OWN_FOLDER = ("run",)
"""Commands that work in the folder of a stored request unless another is named."""

ON_A_STREAM = ("run", "compare", "advise")
"""Commands that take a benchmark where no stream is named; ``update`` takes what its model was trained on."""

ASSIGNED = {"set": "OPTION=VALUE", "option": "NAME=VALUE", "rate": "TASK=LR"}
"""Repeated options that name what they give a value: in a file each is a mapping."""
SWEPT = (
    *("lr", "epochs", "iterations", "batch-size", "warmup", "weight-decay", "max-grad-norm", "label-smoothing"),
    *("negatives", "train-classes", "train-templates", "amp", "accumulate", "tf32", "compile", "set"),
)
"""What rows of one table may differ in, and a sweep goes through."""
MOST_RUNS = 1000
"""Combinations of a sweep, at most."""

_NEVER = ("help", "config", "dump-config", "trust-remote-code")
_INSTEAD = {
    "data": ("benchmark", "root", "full"),
    "benchmark": ("data",),
    "epochs": ("online", "iterations"),
    "iterations": ("online",),
    "online": ("epochs", "iterations"),
    "lr": ("rate",),
    "labels": ("label-file",),
    "label-file": ("labels",),
    "no-raw-data": ("keep-tests", "keep-examples"),
    "keep-tests": ("no-raw-data",),
    "keep-examples": ("no-raw-data",),
    "no-save": ("embed-base",),
    "images": ("image", "texts"),
    "image": ("images", "query"),
}
"""What is not taken from the file where this is written on the command line: both cannot be meant."""


@dataclass(frozen=True)
class OneOf:
    """One combination of what a file has several values of.

    :param words: the words of the command line behind the command's name.
    :param named: which of the values these are, by name; nothing without a sweep.
    """

    words: list[str]
    named: tuple[tuple[str, str], ...] = ()


@dataclass
class Configured:
    """The words of a command line with a file.

    :param parser: parser of the command.
    :param command: name of the command.
    :param argv: words behind the command's name.
    :raises InputError: for a file that cannot be read, is of another command, or says what the command does not take.
    """

    parser: NotingParser
    command: str
    argv: list[str]
    dumps: bool = False
    _found: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._words = {word.name: word for word in self.parser.takes if word.name not in _NEVER}
        self._given, _ = self.parser.written(self.argv)
        self.dumps = "dump_config" in self._given
        if (path := self._given.get("config")) is not None:
            self._found = self._read(Path(path))
        self._sweep = self._several()

    def _read(self, path: Path) -> dict[str, Any]:
        """What the file says and the command line does not, by name."""
        found: dict[str, Any] = {}
        for name, value in read_yaml_file(path).items():
            key = name.replace("_", "-").lstrip("-") if name not in self._words else name
            if key == COMMAND:
                if value != self.command:
                    raise InputError(f"{path} is a request of {in_short(str(value))}, not of {self.command}")
            elif key == KEPT and isinstance(value, dict):
                if self.command in OWN_FOLDER and path.name == STORED:
                    found.setdefault("out", Written(str(path.parent), plain=False))
            elif key == "trust-remote-code":
                raise InputError(
                    f"{path} sets {name}, and no file may ask that code of a model be run: "
                    "--trust-remote-code on the command line does"
                )
            elif key not in self._words:
                near = did_you_mean(key, self._words)
                raise InputError(f"{path}: {self.command} takes no {in_short(name)}{near}")
            elif key in found and key != "out":
                raise InputError(f"{path} has {key} twice")
            else:
                found[key] = value
        self._path = path
        instead = {other for name in self._written() for other in _INSTEAD.get(name, ())}
        return {name: value for name, value in found.items() if name not in instead and not _nothing(value)}

    def _written(self) -> Iterator[str]:
        """Names of what the command line gives."""
        return (name for name, word in self._words.items() if word.action.dest in self._given)

    def _several(self) -> dict[tuple[str, str], list[Any]]:
        """What there are several values of, by name of the option and, of a mapping, name in it."""
        found: dict[tuple[str, str], list[Any]] = {}
        for name, value in self._found.items():
            word, given = self._words[name], self._words[name].action.dest in self._given
            if name == "set" and isinstance(value, dict) and self.command == "compare":
                mine = _named(name, self._given.get("set", ()))
                found |= {(name, of): each for of, each in value.items() if isinstance(each, list) and of not in mine}
            elif isinstance(value, list) and not given and not _takes_several(word):
                if self.command != "compare":
                    raise InputError(f"{self._path}: {name} has several values, a sweep, which compare runs")
                if name not in SWEPT:
                    raise InputError(
                        f"{self._path}: {name} has several values, and a sweep goes through {', '.join(SWEPT)}: "
                        "results that differ in other things share no table"
                    )
                found[name, ""] = value
        for (name, of), values in found.items():
            if not values:
                raise InputError(f"{self._path}: {of or name} has an empty list of values")
        if (runs := prod(map(len, found.values()))) > MOST_RUNS:
            raise InputError(f"{self._path}: a sweep of {runs:,} combinations; {MOST_RUNS:,} are the most")
        return found

    def each(self) -> Iterator[OneOf]:
        """The words of each combination of a sweep; those of the one there is without."""
        for values in itertools.product(*self._sweep.values()):
            chosen = dict(zip(self._sweep, values, strict=True))
            named = tuple((of or name, _whole(value)) for (name, of), value in chosen.items())
            yield OneOf(self._all_words(chosen), named)

    def _all_words(self, chosen: Mapping[tuple[str, str], Any]) -> list[str]:
        options: list[str] = []
        positionals: list[str] = []
        for name, value in self._found.items():
            word = self._words[name]
            given = self._given.get(word.action.dest)
            if name in ASSIGNED:
                mine = _named(name, given or ())
                options += [f"--{name}={text}" for text in self._assigned(name, value, chosen, mine)]
            elif given is not None:
                continue
            elif not word.positional:
                options += self._option(word, chosen.get((name, ""), value))
        for word in self.parser.takes:  # in the order of their places
            if word.positional and word.name in self._found and word.action.dest not in self._given:
                positionals += self._texts(word, self._found[word.name])
        tail = positionals if not positionals or "--" in self.argv else ["--", *positionals]
        return [*options, *self.argv, *tail]

    def _option(self, word: Word, value: Any) -> list[str]:
        option = f"--{word.name}"
        if word.is_flag:
            if not isinstance(value, Written) or value not in ("true", "false"):
                raise InputError(f"{self._path}: {word.name} is true or false, not {_shown(value)}")
            return [option] if value == "true" else []
        texts = self._texts(word, value)
        if word.action.nargs == "+":
            for text in texts:
                if text.startswith("-"):
                    raise InputError(
                        f"{self._path}: {word.name} has {in_short(text)!r}, which begins as an option does: write "
                        f"./{in_short(text)}"
                    )
            return [option, *texts] if texts else []
        if not word.repeated and len(texts) > 1:
            texts = [",".join(self._without_comma(word, texts))]
        return [f"{option}={text}" for text in texts]

    def _texts(self, word: Word, value: Any) -> list[str]:
        if isinstance(value, Written):
            return [] if value.empty else [str(value)]
        if isinstance(value, list) and all(isinstance(one, Written) for one in value):
            if not value:
                return []
            return [str(one) for one in value]
        raise InputError(f"{self._path}: {word.name} is a text{_or_list(word)}, not {_shown(value)}")

    def _without_comma(self, word: Word, texts: list[str]) -> list[str]:
        for text in texts:
            if "," in text:
                raise InputError(f"{self._path}: {word.name} has {in_short(text)!r}, and a comma separates its names")
        return texts

    def _assigned(self, name: str, value: Any, chosen: Mapping[tuple[str, str], Any], mine: set[str]) -> Iterator[str]:
        """The words ``NAME=VALUE`` of a mapping, or of a list of such words, but for those of the command line."""
        if isinstance(value, Written):
            value = [value]
        if isinstance(value, list):
            for text in self._texts(self._words[name], value):
                if not _named(name, [text]) & mine:
                    yield text
            return
        for of, given in value.items():
            if of in mine:
                continue
            if "=" in of and name != "rate":
                raise InputError(f"{self._path}: {name} has {in_short(of)!r}, and = ends a name")
            given = chosen.get((name, of), given)
            yield f"{of}={_text(given, quoted=name == 'option')}"

    def text(self, options: argparse.Namespace) -> str:
        """The file that asks for the same.

        :param options: the words as argparse has parsed them, of the first combination of a sweep.
        """
        content: dict[str, Any] = {COMMAND: self.command}
        for name, word in self._words.items():
            value = _dumped(word, getattr(options, word.action.dest))
            if name == "benchmark" and value is None and options.data is None and self.command in ON_A_STREAM:
                value = BENCHMARK
            if value not in (None, {}, []):
                content[name] = value
        for (name, of), values in self._sweep.items():
            told = [one if isinstance(one, Written) else plain_types(one) for one in values]
            if of:
                content[name][of] = told
            else:
                content[name] = told
        return yaml_text(content)


def _halves(option: str, text: str) -> tuple[str, str]:
    """Name and value of a word of :data:`ASSIGNED`: names of tasks may have an equals sign in them."""
    name, _, value = (text.rpartition if option == "rate" else text.partition)("=")
    return name, value


def _named(option: str, texts: Iterable[str]) -> set[str]:
    return {_halves(option, text)[0] for text in texts}


def _dumped(word: Word, value: Any) -> Any:
    """What a file says of a value that argparse has."""
    if word.is_flag:
        return value or None
    if value is None:
        return None if word.action.default is None else "none"
    if word.name in ASSIGNED:
        found: dict[str, Any] = {}
        for text in value:
            name, given = text if isinstance(text, tuple) else _halves(word.name, text)
            found.pop(name, None)  # the last one counts, in its place
            found[name] = _as_written(given, quoted=word.name == "option") if isinstance(given, str) else given
        return found
    if isinstance(value, list | tuple):
        return list(value)
    return value if isinstance(value, int | float) else str(value)


def _as_written(text: str, quoted: bool) -> Any:
    """A value behind ``=``, as a file has it: what JSON reads as a text stands in quotation marks."""
    try:
        told = json.loads(text)
        if quoted:  # read as JSON there: numbers, lists and nothing as well
            return told
        return Written(text) if json.dumps(told, allow_nan=False) == text else text
    except (ValueError, RecursionError):
        return text


def _text(value: Any, quoted: bool) -> str:
    """A value of a file as a word behind ``=``: a text that looks like JSON is quoted where it is read as JSON."""
    if not isinstance(value, Written):
        return json.dumps(plain_types(value))
    if quoted and not value.plain:
        try:
            json.loads(value)
        except (ValueError, RecursionError):
            return str(value)
        return json.dumps(str(value))
    return "null" if value.empty else str(value)


def _nothing(value: Any) -> bool:
    return (isinstance(value, Written) and value.empty) or value == {}


def _takes_several(word: Word) -> bool:
    kind = word.action.type
    return word.repeated or word.action.nargs == "+" or kind is names or (isinstance(kind, NumberWord) and kind.several)


def _or_list(word: Word) -> str:
    return " or a list of texts" if _takes_several(word) else ""


def _whole(value: Any) -> str:
    return str(value) if isinstance(value, Written) else json.dumps(plain_types(value))


def _shown(value: Any) -> str:
    return in_short(_whole(value), 60)
