"""Names of classes as files and lists have them, for the labels that the data have."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from avalanche_vlm.benchmarks.sources.text import read_text
from avalanche_vlm.errors import InputError

ClassNames = Sequence[str] | Mapping[Any, str] | str | Path
"""Names in the order of their ids, by label, or the path of a file with either."""
_WITH_NUMBER = re.compile(r"(\d+)\s*[\t:,;. ]\s*(\S.*)")
_GAP = re.compile(r"[_\-\s]+")
_HEADERS = {"name", "class_name", "class name", "classname", "label_name", "names", "english", "text"}


def names_for(given: ClassNames, labels: Iterable[str]) -> tuple[dict[str, str], str]:
    """The name of every label.

    A file is JSON or a literal of Python's (a list, an object from label to name or from name to id, or a list of
    objects with ``id`` and ``name``) or text with a line per class: a name, or a label and a name behind a tab, a
    comma, a semicolon, a colon or a space. Lines that are numbered from 0 or 1 are names in that order. Names without
    labels are in the order of the ids where labels are whole numbers (from 0, or from 1 where there is no 0 and as many
    names as the largest label), and otherwise in the order of the sorted labels, as torchvision's ``ImageFolder``
    numbers them; where all labels are among the names, they name themselves.

    :param given: names, or the path of a file of names.
    :param labels: labels that need a name.
    :return: the name of each label, and in words how they were put together.
    :raises InputError: in one sentence, if a label has no name, or names and labels do not correspond.

    >>> names_for(["cat", "dog"], ["0", "1.0"])[0]
    {'0': 'cat', '1.0': 'dog'}
    """
    known = list(dict.fromkeys(labels))
    where = str(given) if isinstance(given, str | Path) else "class_names"
    read = _read(Path(given)) if isinstance(given, str | Path) else given
    named = {_key(str(label)): str(name) for label, name in read.items()} if isinstance(read, Mapping) else None
    lines = [] if isinstance(read, Mapping) else [str(line).strip() for line in read]
    if named is None and isinstance(given, str | Path):
        named = _pairs(lines, {_key(label) for label in known}, where)
        lines = _bare(lines)
    if named is not None:
        for label in known:
            if not named.get(_key(label), "").strip():
                raise InputError(f"{where} has no name for the class {label!r}")
        return {label: named[_key(label)].strip() for label in known}, "by label"
    found, how = _in_order(lines, known, where)
    if without := [label for label, name in found.items() if not name]:
        raise InputError(f"{where} has an empty name for the class {without[0]!r}")
    return found, how


def names_of_ids(given: ClassNames, ids: Collection[int]) -> tuple[list[str], list[str]]:
    """Names for class ids from 0, at least up to the largest one that occurs.

    :param given: names, or the path of a file of names.
    :param ids: class ids that occur.
    :return: the names in the order of the ids, up to that of the largest id, and the names that are left over.
    :raises InputError: in one sentence, if an id has no name or is negative.
    """
    last = max(ids)
    if min(ids) < 0:
        raise InputError(f"class ids are whole numbers from 0, but the benchmark has the class id {min(ids)}")
    if isinstance(given, Sequence) and not isinstance(given, str):
        names = [str(name).strip() for name in given]
        if len(names) <= last:
            raise InputError(f"class_names has {len(names)} names, but the benchmark has the class id {last}")
        if "" in names[: last + 1]:
            raise InputError(f"class_names: the class {names.index('')} has an empty name")
        return names[: last + 1], names[last + 1 :]
    named, _ = names_for(given, [str(number) for number in range(last + 1)])
    read = _read(Path(given)) if isinstance(given, str | Path) else given
    if isinstance(read, Mapping):
        return list(named.values()), [str(name) for label, name in read.items() if _key(str(label)) not in named]
    return list(named.values()), [str(name) for name in read][len(named) :]


def _read(path: Path) -> list[str] | dict[str, str]:
    text = read_text(path)
    content = _parsed(path, text)
    if content is None:
        return [line.strip() for line in text.splitlines() if line.strip()]
    if isinstance(content, list) and content and all(isinstance(entry, dict) for entry in content):
        if any(isinstance(entry.get("id"), list | dict | set) for entry in content):
            raise InputError(f"{path} has an id that is neither a number nor a text")
        content = {entry.get("id"): entry.get("name") for entry in content}  # categories of a COCO file
    if isinstance(content, dict):
        if content and all(isinstance(value, int) for value in content.values()):
            content = {number: name for name, number in content.items()}  # torchvision's class_to_idx
        content = {key: value[-1] if isinstance(value, list) and value else value for key, value in content.items()}
    entries = list(content.values()) if isinstance(content, dict) else content
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise InputError(f"{path} holds neither a list of names nor names by label")
    return {str(key): name for key, name in content.items()} if isinstance(content, dict) else entries


def _parsed(path: Path, text: str) -> Any:
    """What a file holds in JSON, or as a literal of Python's as the lists of ImageNet's names are; None for lines."""
    try:
        return json.loads(text) if path.suffix.lower() == ".json" or text.lstrip().startswith(("{", "[")) else None
    except (ValueError, RecursionError) as error:
        if path.suffix.lower() == ".json":
            raise InputError(f"{path} is not JSON ({getattr(error, 'msg', error)})") from error
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        if text.lstrip().startswith("{"):
            raise InputError(f"{path} begins with a brace, but is neither JSON nor a literal of Python's") from error
        return None


def _pairs(lines: Sequence[str], keys: set[str], where: str) -> dict[str, str] | None:
    """Label and name of each line, where the lines have both."""
    for separator in ("\t", ": ", ",", ";", ":", None):
        split = _split(lines, separator)
        body = split[1:] if split and split[0][1].strip().lower() in _HEADERS else split
        if not body:
            continue
        found = {_key(label): name.strip().strip('"') for label, name in body}
        if keys <= set(found) or (separator in ("\t", ": ") and keys & set(found)):
            if len(found) < len(body):
                twice = next(key for key, n in Counter(_key(label) for label, _ in body).items() if n > 1)
                raise InputError(f"{where} names the class {twice!r} more than once")
            return found
        if separator == ": " and not counts_up([label for label, _ in body]):
            raise InputError(f"{where} has names by label, but there is no class {body[0][0].strip()!r}")
    return None


def _split(lines: Sequence[str], separator: str | None) -> list[list[str]]:
    """Both parts of each line; nothing if a line has only one."""
    found = []
    for line in lines:
        parts = line.split(separator, 1)
        if len(parts) < 2:
            return []
        found.append(parts)
    return found


def counts_up(words: Sequence[str]) -> bool:
    """Whether words are the numbers from 0 or from 1 in their order.

    :param words: texts, which may be of any length.

    >>> counts_up(["0", "1"]), counts_up(["1", "2", "3"]), counts_up(["707", "747"]), counts_up(["9" * 5000])
    (True, True, False, False)
    """
    return any(all(_is(word, start + n) for n, word in enumerate(words)) for start in (0, 1))


def _is(word: str, number: int) -> bool:
    # Of some thousand digits Python reads none, and no list is so long.
    return word.strip().isdecimal() and len(word.strip()) < 20 and int(word) == number


def _bare(lines: Sequence[str]) -> list[str]:
    """Names without the numbers that stand before them in lines that are numbered through: ``0 cat``, ``1: dog``."""
    names, start = [], 0
    for n, line in enumerate(lines):
        match = _WITH_NUMBER.fullmatch(line)
        if n == 0 and match and _is(match[1], 1):
            start = 1
        if not match or not _is(match[1], start + n):
            return list(lines)
        names.append(match[2].strip())
    return names if len(names) > 1 else list(lines)


def _in_order(lines: Sequence[str], labels: Sequence[str], where: str) -> tuple[dict[str, str], str]:
    numbers = {label: int(_key(label)) for label in labels if re.fullmatch(r"\d{1,300}", _key(label))}
    if len(numbers) == len(labels):
        from_one = min(numbers.values(), default=0) > 0 and len(lines) == max(numbers.values(), default=0)
        start = 1 if from_one else 0
        if max(numbers.values(), default=-1) - start >= len(lines):
            largest = max(numbers, key=lambda label: numbers[label])
            raise InputError(f"{where} has {len(lines)} names, but there is a class {largest!r}")
        named = {label: lines[number - start] for label, number in numbers.items()}
        return named, f"in the order of the ids from {start}"
    spelled = {single_spaced(line).lower(): line for line in lines}
    if all(single_spaced(label).lower() in spelled for label in labels):
        return {label: spelled[single_spaced(label).lower()] for label in labels}, "by label"
    if len(lines) != len(labels):
        raise InputError(f"{where} has {len(lines)} names for {len(labels)} classes, and does not say which is whose")
    return dict(zip(sorted(labels), lines, strict=True)), "in the order of the sorted labels"


def _key(label: str) -> str:
    """A label as it is looked up: ``0.0`` and ``00`` are 0."""
    text = label.strip()
    return str(int(float(text))) if re.fullmatch(r"\d+(\.0+)?", text) and len(text) < 16 else text


def single_spaced(text: str) -> str:
    """A name with single spaces where it has underlines, dashes or more of them.

    :param text: the name as it is spelled.

    >>> single_spaced("red__fox-cub ")
    'red fox cub'
    """
    return _GAP.sub(" ", text).strip()
