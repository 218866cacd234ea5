"""Lists in text and JSON that say which image is of which class, as the distributors of data sets wrote them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from avalanche_vlm.benchmarks.sources.labelled import (
    LabelledSet,
    by_class_name,
    names_by_label,
    of_files,
    spaced,
    whole_number,
)
from avalanche_vlm.benchmarks.sources.text import json_content, read_text
from avalanche_vlm.errors import InputError


def variant_lists(root: Path, folder: str, parts: Mapping[str, str]) -> LabelledSet:
    """FGVC-Aircraft: ``number variant`` a line, the images beside in ``images``, the variants in ``variants.txt``.

    :param root: folder that holds the data sets.
    :param folder: folder of the lists, relative to ``root``.
    :param parts: list of each part in that folder.
    """
    home = root / folder
    order = _lines(home / "variants.txt")
    rows = {
        part: [(home / "images" / f"{image}.jpg", label) for image, label in _words(home / name, 1)]
        for part, name in parts.items()
    }
    found = by_class_name(rows, order)
    return LabelledSet(order, found.parts, order)  # an underscore would be part of a variant's name


def folder_lists(root: Path, folder: str, parts: Mapping[str, str]) -> LabelledSet:
    """DTD: ``class/image.jpg`` a line, the images in ``images``, the lists in ``labels``.

    :param root: folder that holds the data sets.
    :param folder: folder of both, relative to ``root``.
    :param parts: list of each part.
    """
    home = root / folder
    rows = {
        part: [(home / "images" / line, line.partition("/")[0]) for line in _lines(home / "labels" / name)]
        for part, name in parts.items()
    }
    return by_class_name(rows)


def grouped_lists(root: Path, folder: str, parts: Mapping[str, str]) -> LabelledSet:
    """Food-101: an object from class to images ``class/number`` in ``meta``, the images in ``images``.

    :param root: folder that holds the data sets.
    :param folder: folder of both, relative to ``root``.
    :param parts: list of each part.
    :raises InputError: if a list is no such object.
    """
    home = root / folder
    rows = {}
    for part, name in parts.items():
        content = json_content(home / "meta" / name)
        if not isinstance(content, dict) or not all(isinstance(images, list) for images in content.values()):
            raise InputError(f"{home / 'meta' / name} is no object from class names to lists of images")
        rows[part] = [(home / "images" / f"{image}.jpg", label) for label, of in content.items() for image in of]
    return by_class_name(rows)


def breed_lists(root: Path, folder: str, parts: Mapping[str, str]) -> LabelledSet:
    """Oxford-IIIT Pet: ``image class species breed`` a line, classes from 1, in ``annotations``; images in ``images``.

    :param root: folder that holds the data sets.
    :param folder: folder of both, relative to ``root``.
    :param parts: list of each part.
    :raises InputError: for a line whose second word is no number, and for a number beyond that of the images.
    """
    home = root / folder
    rows: dict[str, tuple[list[Path], list[int]]] = {}
    named: dict[int, str] = {}
    for part, name in parts.items():
        images, labels = [], []
        for image, rest in _words(home / "annotations" / name, 1):
            number = whole_number(rest.split()[0])
            if not number:
                place = home / "annotations" / name
                raise InputError(f"{place}: the class of {image} is a number from 1, not {rest.split()[0][:40]}")
            images.append(home / "images" / f"{image}.jpg")
            labels.append(number - 1)
            named[number - 1] = " ".join(word.title() for word in image.rpartition("_")[0].split("_"))
        rows[part] = (images, labels)
    names = names_by_label(named, sum(len(images) for images, _ in rows.values()), home / "annotations")
    return LabelledSet(names, {part: of_files(*of) for part, of in rows.items()}, names)


def split_file(root: Path, file: str, images: str, left_out: tuple[str, ...] = ()) -> LabelledSet:
    """CoOp's splits (Dassl): an object with ``train``, ``val`` and ``test``, each a list of ``[path, label, name]``.

    :param root: folder that holds the data sets.
    :param file: JSON file with the splits, relative to ``root``.
    :param images: folder that paths are relative to, relative to ``root``.
    :param left_out: names of classes that are left out.
    :raises InputError: if the file is no such object, one label has two names, or a label is left out.
    """
    place = root / file
    content = json_content(place)
    if not isinstance(content, dict) or not {"train", "test"} <= set(content):
        raise InputError(f"{place} is no split file: it has no train and test")
    named: dict[int, str] = {}
    found: dict[str, tuple[list[Path], list[int]]] = {}
    for part, key in {"train": "train", "valid": "val", "test": "test"}.items():
        paths, labels = [], []
        listed = content.get(key) or []
        if not isinstance(listed, list):
            raise InputError(f"{place}: {key} is no list of images")
        for row, entry in enumerate(listed):
            if not (isinstance(entry, list) and len(entry) == 3 and type(entry[1]) is int and entry[1] >= 0):
                raise InputError(f"{place}, {key}, row {row}: expected [path, label, class name], not {entry!r:.200}")
            path, label, name = str(entry[0]), entry[1], str(entry[2])
            if name in left_out:
                continue
            if named.setdefault(label, name) != name:
                raise InputError(f"{place}: the label {label} has two names, {named[label]!r} and {name!r}")
            paths.append(root / images / path)
            labels.append(label)
        if paths or part != "valid":
            found[part] = (paths, labels)
    if missing := [number for number in range(len(named)) if number not in named]:
        raise InputError(f"{place} has no image of the label {missing[0]}, and labels beyond it")
    names = [spaced(named[number]) for number in range(len(named))]
    return LabelledSet(names, {part: of_files(*of) for part, of in found.items()}, names)


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in read_text(path).splitlines() if line.strip() and not line.startswith("#")]


def _words(path: Path, number: int) -> Iterator[list[str]]:
    """The first words of each line, and the rest of it."""
    for row, line in enumerate(_lines(path), start=1):
        words = line.split(" ", number)
        if len(words) <= number:
            raise InputError(f"{path}, line {row}: {line!r} has fewer than {number + 1} words")
        yield words
