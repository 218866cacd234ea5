"""Lists of paths that say which images train and which test; a path's folder, or a list beside it, says the class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from avalanche_vlm.benchmarks.sources.class_folders import of_style
from avalanche_vlm.benchmarks.sources.images import EXTENSIONS
from avalanche_vlm.benchmarks.sources.labelled import (
    LabelledSet,
    by_class_name,
    names_by_label,
    of_files,
    spaced,
    whole_number,
)
from avalanche_vlm.benchmarks.sources.text import read_text
from avalanche_vlm.errors import InputError


def yaml_lists(root: Path, folder: str, parts: Mapping[str, str]) -> LabelledSet:
    """CODA-Prompt's lists: ``data:`` and a path a line behind a hyphen, then ``targets:``, which the folders say too.

    :param root: folder that holds the data sets.
    :param folder: folder of the lists and of the class folders, relative to ``root``.
    :param parts: list of each part.
    :raises InputError: if a list has no ``data:``, or one target stands for two folders, or two targets for one.
    """
    rows, folders, numbers = {}, dict[str, str](), dict[str, str]()
    for part, name in parts.items():
        place, heading = root / folder / name, ""
        found: dict[str, list[str]] = {}
        for line in read_text(place).splitlines():
            if line.strip().endswith(":") and not line.lstrip().startswith("-"):
                heading = line.strip()[:-1]
            elif line.lstrip().startswith("- "):
                found.setdefault(heading, []).append(line.strip()[2:].strip("'\" "))
        if not found.get("data"):
            raise InputError(f"{place} has no list of paths under data:")
        rows[part] = _in_class_folders(root / folder, found["data"], place)
        targets = found.get("targets")
        if targets is not None and len(targets) != len(found["data"]):
            raise InputError(f"{place} has {len(found['data'])} paths and {len(targets)} targets")
        for (image, of), target in zip(rows[part], targets or (), strict=False):
            if folders.setdefault(target, of) != of or numbers.setdefault(of, target) != target:
                raise InputError(f"{place} has the target {target} for {image.name} in {of}, and another one elsewhere")
    return by_class_name(rows)


def styled_lists(root: Path, folder: str, parts: Mapping[str, str], style: str) -> LabelledSet:
    """The images of CODA-Prompt's lists in one style, which the beginning of a file's name says: ``sketch_12.jpg``.

    :param root: folder that holds the data sets.
    :param folder: folder of the lists and of the class folders, relative to ``root``.
    :param parts: list of each part.
    :param style: beginning of the names, up to the underscore.
    :raises InputError: as :func:`yaml_lists` does, and if there is no image of the style.
    """
    return of_style(yaml_lists(root, folder, parts), style, str(root / folder))


def labelled_lists(root: Path, folder: str, parts: Mapping[str, str], images: str | None = None) -> LabelledSet:
    """``path label`` a line, as DomainNet and CORe50 have it: labels from 0, names from the folders of the images.

    :param root: folder that holds the data sets.
    :param folder: folder of the lists, relative to ``root``.
    :param parts: list of each part.
    :param images: folder that paths are relative to, relative to ``root``; that of the lists for None.
    :raises InputError: for a line without a label, for a label with images in folders of two names, and for a label
        beyond the number of images.
    """
    named: dict[int, str] = {}
    found: dict[str, tuple[list[Path], list[int]]] = {}
    for part, name in parts.items():
        place, paths, labels = root / folder / name, list[Path](), list[int]()
        for row, line in enumerate(read_text(place).splitlines(), start=1):
            if not line.strip():
                continue
            path, _, last = line.strip().rpartition(" ")
            label = whole_number(last)
            if not path or label is None:
                raise InputError(f"{place}, line {row}: expected a path and a label from 0, not {line!r:.200}")
            of = Path(path).parent.name
            if named.setdefault(label, of) != of:
                raise InputError(f"{place}, line {row}: the label {label} is {of!r} here, and {named[label]!r} above")
            paths.append(root / (folder if images is None else images) / path)
            labels.append(label)
        found[part] = (paths, labels)
    lists = " and ".join(str(root / folder / name) for name in parts.values())
    keys = names_by_label(named, sum(len(paths) for paths, _ in found.values()), lists)
    return LabelledSet([spaced(key) for key in keys], {part: of_files(*rows) for part, rows in found.items()}, keys)


def real_and_fake(root: Path, parts: Mapping[str, str]) -> LabelledSet:
    """CDDB: images in folders ``0_real`` and ``1_fake``, at the top or in a folder for each class of their contents.

    :param root: folder that holds the data sets.
    :param parts: folder of each part, relative to ``root``.
    :raises InputError: if a folder has no such images.
    """
    kinds = {"0_real": "real", "1_fake": "fake"}
    rows = {}
    for part, folder in parts.items():
        found = [path for path in (root / folder).rglob("*") if path.suffix.lower() in EXTENSIONS]
        rows[part] = [(path, kinds[path.parent.name]) for path in sorted(found) if path.parent.name in kinds]
        if not rows[part]:
            raise InputError(f"{root / folder} has no images in folders 0_real and 1_fake")
    return by_class_name(rows, list(kinds.values()))


def headed_list(root: Path, folder: str, file: str) -> LabelledSet:
    """RAPF's list: paths below the headings ``train`` and ``test``; lines that name no image are left out.

    :param root: folder that holds the data sets.
    :param folder: folder of the list and of the class folders, relative to ``root``.
    :param file: name of the list.
    :raises InputError: if a heading is missing.
    """
    place, heading = root / folder / file, ""
    found: dict[str, list[str]] = {}
    for line in map(str.strip, read_text(place).splitlines()):
        if line.strip(":") in ("train", "test"):
            heading = line.strip(":")
        elif heading and Path(line.split()[0] if line else "").suffix.lower() in EXTENSIONS:
            found.setdefault(heading, []).append(line.split()[0])
    for part in ("train", "test"):
        if not found.get(part):
            raise InputError(f"{place} has no paths below a heading {part}")
    return by_class_name({part: _in_class_folders(root / folder, paths, place) for part, paths in found.items()})


def bird_lists(root: Path, folder: str) -> LabelledSet:
    """CUB-200-2011: numbers of images with paths, classes and a 1 for training, a file each.

    :param root: folder that holds the data sets.
    :param folder: folder of the lists and of ``images``, relative to ``root``.
    :raises InputError: if a list lacks an image or a class.
    """
    home = root / folder
    paths, labels, trains, names = (
        _pairs(home / name) for name in ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
    )
    order = {number: place for place, number in enumerate(names)}
    parts: dict[str, tuple[list[Path], list[int]]] = {"train": ([], []), "test": ([], [])}
    for number, path in paths.items():
        if number not in labels or number not in trains:
            raise InputError(f"{home / 'images.txt'} has the image {number}, which the other lists do not have")
        if labels[number] not in order:
            raise InputError(f"{home / 'classes.txt'} does not have the class {labels[number]} of image {number}")
        images, of = parts["train" if trains[number] == "1" else "test"]
        images.append(home / "images" / path)
        of.append(order[labels[number]])
    called = [name.partition(".")[2].replace("_", " ") or name for name in names.values()]
    return LabelledSet(called, {part: of_files(*rows) for part, rows in parts.items()}, list(names.values()))


def _in_class_folders(folder: Path, paths: Iterable[str], place: Path) -> list[tuple[Path, str]]:
    """The images with the folder that each lies in, wherever the list's author had them."""
    found = []
    for path in paths:
        parts = Path(path).parts
        if len(parts) < 2:
            raise InputError(f"{place} has the path {path!r}, in which no class folder stands")
        found.append((folder / parts[-2] / parts[-1], parts[-2]))
    return found


def _pairs(path: Path) -> dict[str, str]:
    found = {}
    for row, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip():
            first, _, rest = line.strip().partition(" ")
            if not rest.strip():
                raise InputError(f"{path}, line {row}: expected a number and what it stands for, not {line!r}")
            found[first] = rest.strip()
    return found
