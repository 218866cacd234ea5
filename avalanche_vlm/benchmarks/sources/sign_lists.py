"""GTSRB's traffic signs: training images in class folders, test images in one folder with a table of their classes."""

from __future__ import annotations

from pathlib import Path

from avalanche_vlm.benchmarks.sources.class_folders import class_folders
from avalanche_vlm.benchmarks.sources.delimited import rows_of
from avalanche_vlm.benchmarks.sources.labelled import LabelledSet, by_class_name, whole_number
from avalanche_vlm.benchmarks.sources.problems import Problems
from avalanche_vlm.benchmarks.sources.text import lines_of
from avalanche_vlm.errors import InputError


def traffic_signs(root: Path, folder: str, train: str, test: str, table: str) -> LabelledSet:
    """Class folders ``00000`` to ``00042``, and ``Filename;...;ClassId`` a line.

    :param root: folder that holds the data sets.
    :param folder: folder of all of it, relative to ``root``.
    :param train: folder with the class folders, relative to ``folder``.
    :param test: folder with the test images, relative to ``folder``.
    :param table: table with the classes of the test images, relative to ``folder``.
    :raises InputError: if the table has not these columns, or a class that is no number from 0.
    """
    home, place = root / folder, root / folder / table
    trained = class_folders(root, {"train": f"{folder}/{train}"})
    order = list(trained.keys)
    tested = []
    for number, row in rows_of(place, lines_of(place), Problems("raise"), ";"):
        name, label = str(row.get("filename") or "").strip(), whole_number(str(row.get("classid") or "").strip())
        if not name or label is None:
            raise InputError(f"{place}, line {number}: expected an image under Filename and a class under ClassId")
        tested.append((home / test / name, f"{label:05d}"))
    train_rows = list(zip(trained.parts["train"].path_texts, _keys(trained, order), strict=True))
    return by_class_name({"train": train_rows, "test": tested}, order)


def _keys(found: LabelledSet, order: list[str]) -> list[str]:
    return [order[label] for label in found.parts["train"].labels.tolist()]
