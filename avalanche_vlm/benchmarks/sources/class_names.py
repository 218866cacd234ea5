"""Names of classes: those that lie with the data, those that folders have, and labels that mean nothing."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from avalanche_vlm.benchmarks.sources.name_lists import ClassNames, counts_up, names_for, single_spaced
from avalanche_vlm.benchmarks.sources.ordering import by_size
from avalanche_vlm.benchmarks.sources.problems import unused_classes
from avalanche_vlm.errors import DataWarning, InputError

if TYPE_CHECKING:
    from avalanche_vlm.benchmarks.label_space import LabelSpace


BESIDE = "classes.txt"
"""The file of names that is read without being asked for, where it lies with the data."""

_TASKS_NAMED = 3
"""Tasks that a sentence on many of them names."""

_ID = re.compile(r"[+-]?\d+([.,]\d+)?|n\d{8}|/[mg]/\w+|Q\d+|(class|label|category|cls|id)[ _.-]?\d+", re.IGNORECASE)
_SYNSET_OR_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?|n\d{8}")
_NUMBERED = re.compile(r"(\d+)([._\-\s]+)(?=[^\W\d])(.+)")


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
    names = {folder: single_spaced(bare.get(folder, folder)) or bare.get(folder, folder) for folder in folders}
    times = Counter(names.values())
    others: dict[str, set[str]] = {}
    for other in beside:
        others.setdefault(single_spaced(other), set()).add(other)
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


def _without_numbers(folders: Collection[str]) -> dict[str, str]:
    """Folder names without their numbers, if all are numbered and stay apart; none otherwise. Behind another sign than
    a dot the number must count them: ``2_door_car`` and ``4_wheel_drive`` are names."""
    found = {folder: match for folder in folders if (match := _NUMBERED.fullmatch(folder))}
    if len(found) < max(2, len(folders)):
        return {}
    numbers = sorted((match[1] for match in found.values()), key=by_size)
    dotted = all("." in match[2] for match in found.values()) and len(set(map(by_size, numbers))) == len(numbers)
    bare = {folder: match[3] for folder, match in found.items()}
    return bare if (counts_up(numbers) or dotted) and len(set(map(single_spaced, bare.values()))) == len(bare) else {}


def untested_classes(
    classes: Mapping[str, Sequence[str]], tested: Mapping[str, Collection[str]], names: Chosen
) -> list[str]:
    """What is to be said of classes that are trained and have no images to test them on: one sentence, which names the
    first three tasks that have some and counts the others, or none.

    :param classes: what the classes of each task are told by, by task.
    :param tested: what those classes are told by that have test images, by task.
    :param names: names of the classes.
    """
    found = []
    for task, texts in classes.items():
        if untested := [names.names.get(text, text) for text in texts if text not in tested[task]]:
            found.append((task, untested))
    told = [unused_classes(task, "test", untested) for task, untested in found[:_TASKS_NAMED]]
    if more := len(found) - len(told):
        told.append(f"and {more} more {'tasks have' if more > 1 else 'task has'} such classes")
    return ["; ".join(told)] if told else []
