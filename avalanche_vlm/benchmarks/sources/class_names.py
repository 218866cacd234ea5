"""Names of classes: read from a file, made of folder names, and told from labels that mean nothing."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avalanche_vlm.benchmarks.sources.text import read_text
from avalanche_vlm.errors import DataWarning, InputError

if TYPE_CHECKING:
    from avalanche_vlm.benchmarks.label_space import LabelSpace

ClassNames = Sequence[str] | Mapping[Any, str] | str | Path
"""Names in the order of their ids, by label, or the path of a file with either."""

BESIDE = "classes.txt"
"""The file of names that is read without being asked for, where it lies with the data."""

_ID = re.compile(r"[+-]?\d+([.,]\d+)?|n\d{8}|/[mg]/\w+|Q\d+|(class|label|category|cls|id)[ _.-]?\d+", re.IGNORECASE)
_SYNSET_OR_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?|n\d{8}")
_NUMBERED = re.compile(r"(\d+)([._\-\s]+)(?=[^\W\d])(.+)")
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


def beside(path: Path) -> Path | None:
    """The file of names that lies with data, if there is one.

    :param path: the data: a folder, or a table in a folder.
    """
    folders = (path, path.parent) if path.is_dir() else (path.parent,)
    return next((folder / BESIDE for folder in folders if (folder / BESIDE).is_file()), None)


@dataclass(frozen=True)
class Chosen:
    """Names for the labels of some data.

    :param names: label to name; a label that is missing names itself.
    :param source: where they are from, for the protocol.
    :param notes: what is to be said of it, a sentence each.
    """

    names: Mapping[str, str]
    source: str | None = None
    notes: tuple[str, ...] = ()


UNNAMED = Chosen({})
"""Every label names itself."""


def choose_names(given: ClassNames | None, labels: Iterable[str], data: Path) -> Chosen:
    """The names that were given, or those of a ``classes.txt`` that lies with the data and fits.

    :param given: what the user gave, None for nothing.
    :param labels: labels of all classes.
    :param data: the folder or table.
    :return: the names and what is to be said of them.
    :raises InputError: if names that were given do not fit.
    """
    labels = sorted(set(labels))
    if given is not None:
        names, how = names_for(given, labels)
        source = str(given) if isinstance(given, str | Path) else "given"
        first = labels[0]
        return Chosen(names, source, (f"class names from {source}, {how}: {first!r} is {names[first]!r}",))
    file = beside(data)
    if file is None:
        return UNNAMED
    try:
        names, how = names_for(file, labels)
        if how == "in the order of the sorted labels" and not all(map(_SYNSET_OR_NUMBER.fullmatch, labels)):
            raise InputError("its names do not say which class folder or label they are for")
    except InputError as error:
        return Chosen({}, None, (f"{file} is not used for class names: {error}",))
    if names == {label: label for label in labels}:
        return UNNAMED
    first = labels[0]
    return Chosen(names, str(file), (f"class names from {file}, {how}: {first!r} is {names[first]!r}",))


def from_folders(folders: Collection[str], beside: Collection[str] = ()) -> tuple[dict[str, str], list[str]]:
    """Names of class folders: underscores and hyphens as spaces, and without the number where every folder begins with
    one of its own (``001.Black_footed_Albatross``).

    Folders whose names would become equal in that way keep the names that they have, which is said.

    :param folders: folder names of the classes of one task.
    :param beside: folder names of other tasks' classes that compete with these, where equal names are one class.
    :return: the name of each, and what is to be said of them, a sentence each.

    >>> from_folders(["t-shirt", "t_shirt", "red_cap"])[0]
    {'t-shirt': 't-shirt', 't_shirt': 't_shirt', 'red_cap': 'red cap'}
    >>> from_folders(["001.ak47", "002.flag"])[0]
    {'001.ak47': 'ak47', '002.flag': 'flag'}
    >>> from_folders(["t-shirt", "red_cap"], beside=["t_shirt", "red_cap"])[0]
    {'t-shirt': 't-shirt', 'red_cap': 'red cap'}
    >>> from_folders(["___", "red_cap"])[0]
    {'___': '___', 'red_cap': 'red cap'}
    """
    bare, notes = _without_numbers(folders), []
    if bare:
        first = min(bare)
        notes.append(f"the numbers before the names of class folders are left out: {first!r} is {bare[first]!r}")
    # Of nothing but underscores nothing would be left.
    names = {folder: _spaced(bare.get(folder, folder)) or bare.get(folder, folder) for folder in folders}
    times = Counter(names.values())
    others: dict[str, set[str]] = {}
    for other in beside:
        others.setdefault(_spaced(other), set()).add(other)
    alike = sorted(
        folder
        for folder, name in names.items()
        if times[name] > 1 or others.get(name, set()) - {bare.get(folder, folder)}
    )
    if alike:
        listed = ", ".join(map(repr, sorted({*alike, *(o for folder in alike for o in others.get(names[folder], ()))})))
        notes.append(
            f"the class folders {listed} differ in nothing but underscores, hyphens and spaces: they stay apart, "
            "under the names that they have"
        )
    return names | {folder: folder if times[names[folder]] > 1 else bare.get(folder, folder) for folder in alike}, notes


def meaningless(names: Collection[str]) -> str | None:
    """The sentence on class names that look like numbers or ids: a text tower has nothing to go by.

    :param names: names of all classes.
    :return: the sentence; None unless half of the names or more look so.

    >>> meaningless(["n01440764", "n01443537"])[:55]
    "the class names 'n01440764' and 'n01443537' look like n"
    >>> meaningless(["707", "airbus", "cessna"])
    """
    found = list(dict.fromkeys(name for name in names if _ID.fullmatch(name.strip())))
    if not found or 2 * len(found) < len(set(names)):
        return None
    shown = " and ".join(map(repr, found[:2]))
    noun, verb, numbers = (
        ("names", "look", "numbers or ids") if len(found) > 1 else ("name", "looks", "a number or an id")
    )
    return (
        f"the class {noun} {shown} {verb} like {numbers}, which say nothing to a text tower: name the classes with "
        "class_names (--class-names FILE: a name a line in the order of the ids, or label and name), or in a file "
        f"{BESIDE} with the data"
    )


def warned_of(space: LabelSpace) -> list[str]:
    """What is to be said of class names that mean nothing or cannot be told apart, of which the user is warned.

    :param space: the classes of a stream.
    :return: the sentences, for its report.
    """
    found = [sentence for sentence in (meaningless(space.class_names), space.alike()) if sentence]
    for sentence in found:
        warnings.warn(sentence, DataWarning, stacklevel=3)
    return found


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
        split = [line.split(separator, 1) for line in lines]
        body = split[1:] if split and len(split[0]) == 2 and split[0][1].strip().lower() in _HEADERS else split
        if not body or any(len(parts) < 2 for parts in body):
            continue
        found = {_key(label): name.strip().strip('"') for label, name in body}
        if keys <= set(found) or (separator in ("\t", ": ") and keys & set(found)):
            if len(found) < len(body):
                twice = next(key for key, n in Counter(_key(label) for label, _ in body).items() if n > 1)
                raise InputError(f"{where} names the class {twice!r} more than once")
            return found
        if separator == ": " and not _numbered([label for label, _ in body]):
            raise InputError(f"{where} has names by label, but there is no class {body[0][0].strip()!r}")
    return None


def _numbered(words: Sequence[str]) -> bool:
    """Whether words are the numbers from 0 or from 1 in their order.

    >>> _numbered(["0", "1"]), _numbered(["1", "2", "3"]), _numbered(["707", "747"]), _numbered(["9" * 5000])
    (True, True, False, False)
    """
    # Of some thousand digits Python reads none, and no list is so long.
    numbers = [int(word) if word.strip().isdecimal() and len(word.strip()) < 20 else -1 for word in words]
    return numbers in (list(range(len(words))), list(range(1, len(words) + 1)))


def _bare(lines: Sequence[str]) -> list[str]:
    """Names without the numbers that stand before them in lines that are numbered through: ``0 cat``, ``1: dog``."""
    found = [re.fullmatch(r"(\d+)\s*[\t:,;. ]\s*(\S.*)", line) for line in lines]
    matches = [match for match in found if match]
    numbered = len(matches) > 1 and len(matches) == len(lines) and _numbered([match[1] for match in matches])
    return [match[2].strip() for match in matches] if numbered else list(lines)


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
    spelled = {_spaced(line).lower(): line for line in lines}
    if all(_spaced(label).lower() in spelled for label in labels):
        return {label: spelled[_spaced(label).lower()] for label in labels}, "by label"
    if len(lines) != len(labels):
        raise InputError(f"{where} has {len(lines)} names for {len(labels)} classes, and does not say which is whose")
    return dict(zip(sorted(labels), lines, strict=True)), "in the order of the sorted labels"


def _key(label: str) -> str:
    """A label as it is looked up: ``0.0`` and ``00`` are 0."""
    text = label.strip()
    return str(int(float(text))) if re.fullmatch(r"\d+(\.0+)?", text) and len(text) < 16 else text


def _spaced(text: str) -> str:
    return re.sub(r"[_\-\s]+", " ", text).strip()


def _without_numbers(folders: Collection[str]) -> dict[str, str]:
    """Folder names without their numbers, if all are numbered and stay apart; none otherwise. Behind another sign than
    a dot the number must count them: ``2_door_car`` and ``4_wheel_drive`` are names."""
    found = {folder: match for folder in folders if (match := _NUMBERED.fullmatch(folder))}
    if len(found) < max(2, len(folders)):
        return {}
    numbers = sorted(int(match[1]) for match in found.values())
    counted = numbers in (list(range(len(numbers))), list(range(1, len(numbers) + 1)))
    dotted = all("." in match[2] for match in found.values()) and len(set(numbers)) == len(numbers)
    bare = {folder: match[3] for folder, match in found.items()}
    return bare if (counted or dotted) and len(set(map(_spaced, bare.values()))) == len(bare) else {}
