"""CLEAR's buckets: images of the same classes in the order of the years, a training and a test part of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from avalanche_vlm.benchmarks.sources.labelled import LabelledPart, LabelledSet, of_files, refuse_labels, whole_number
from avalanche_vlm.benchmarks.sources.text import filled_lines, json_content, read_text
from avalanche_vlm.errors import InputError


def part_name(part: str, bucket: int) -> str:
    """What the part of a bucket is called.

    :param part: ``train`` or ``test``.
    :param bucket: number of the bucket in the order of time, from 0.

    >>> part_name("train", 3)
    'train 3'
    """
    return f"{part} {bucket}"


def dated_metadata(root: Path, folder: str) -> LabelledSet:
    """Folders ``train`` and ``test``: ``labeled_metadata.json`` names a JSON file for each bucket and class, whose
    entries have ``IMG_PATH``; ``class_names.txt`` has the classes in order.

    :param root: folder that holds the data sets.
    :param folder: folder of both, relative to ``root``.
    :raises InputError: if a file is none of these, a bucket lacks a class, or the parts have other buckets or classes.
    """
    home = root / folder
    names = filled_lines(home / "train" / "class_names.txt")
    found: dict[str, LabelledPart] = {}
    buckets: list[str] = []
    for part in ("train", "test"):
        place = home / part / "labeled_metadata.json"
        content = _object(json_content(place), place)
        ordered = sorted(content, key=lambda of: (whole_number(of) is None, whole_number(of) or 0, of))
        if buckets and ordered != buckets:
            raise InputError(
                f"{place} has the buckets {', '.join(ordered)}, and the training part {', '.join(buckets)}"
            )
        buckets = ordered
        for number, bucket in enumerate(buckets):
            of_class = _object(content[bucket], place)
            images, labels = [], []
            for label, name in enumerate(names):
                if name not in of_class:
                    raise InputError(f"{place}: bucket {bucket} has no file for the class {name!r}")
                listed = home / part / str(of_class[name])
                for entry in _object(json_content(listed), listed).values():
                    path = entry.get("IMG_PATH") if isinstance(entry, dict) else None
                    if not isinstance(path, str):
                        raise InputError(f"{listed} has an entry without IMG_PATH")
                    images.append(home / part / path)
                    labels.append(label)
            found[part_name(part, number)] = of_files(images, labels)
    return _dated(names, found, home)


def dated_lists(root: Path, folder: str, lists: str) -> LabelledSet:
    """The first editions: ``training_folder/bucket_indices.json`` has the buckets in order, ``path label`` lists lie
    in a folder for each, and ``class_names.txt`` has the classes in order.

    :param root: folder that holds the data sets.
    :param folder: folder of all of it, relative to ``root``.
    :param lists: folder with a folder of ``train.txt`` and ``test.txt`` for each bucket, relative to ``folder``.
    :raises InputError: if a file is none of these.
    """
    home = root / folder
    place = home / "training_folder" / "bucket_indices.json"
    buckets = json_content(place)
    if not isinstance(buckets, list):
        raise InputError(f"{place} is no list of buckets")
    names = filled_lines(home / "class_names.txt")
    found = {}
    for number, bucket in enumerate(buckets):
        for part in ("train", "test"):
            listed = home / lists / str(bucket) / f"{part}.txt"
            images, labels = [], []
            for row, line in enumerate(read_text(listed).splitlines(), start=1):
                if not line.strip():
                    continue
                path, _, last = line.strip().rpartition(" ")
                label = whole_number(last)
                if not path or label is None:
                    raise InputError(f"{listed}, line {row}: expected a path and a label from 0, not {line!r:.200}")
                images.append(home / path)
                labels.append(label)
            refuse_labels(labels, len(names), listed)
            found[part_name(part, number)] = of_files(images, labels)
    return _dated(names, found, home)


def _dated(names: Sequence[str], found: dict[str, LabelledPart], home: Path) -> LabelledSet:
    if not found:
        raise InputError(f"{home} has no buckets")
    return LabelledSet([name.replace("_", " ") for name in names], found, names)


def _object(content: Any, place: Path) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise InputError(f"{place} is no JSON object of the kind that CLEAR has")
    return content
