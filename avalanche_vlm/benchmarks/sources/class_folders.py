"""Class folders with images, in the order in which torchvision's ``ImageFolder`` numbers them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from avalanche_vlm.benchmarks.sources.images import EXTENSIONS, ImageFiles
from avalanche_vlm.benchmarks.sources.labelled import LabelledPart, LabelledSet, by_class_name, spaced
from avalanche_vlm.benchmarks.sources.path_texts import PathTexts
from avalanche_vlm.benchmarks.sources.text import filled_lines, read_text
from avalanche_vlm.errors import InputError


def class_folders(root: Path, parts: Mapping[str, str], only: Collection[str] | None = None) -> LabelledSet:
    """A data set with a folder for each class: classes and images sorted by their names, character by character.

    :param root: folder that holds the data sets.
    :param parts: folder of each part, relative to ``root``; of several behind ``or`` the first that there is.
    :param only: class folders that are read, though there may be others; None for all.
    :raises InputError: if a folder has no class folders with images, or others in the place of some that are read.
    """
    places = {
        part: next((root / of for of in folder.split(" or ") if (root / of).is_dir()), root / folder)
        for part, folder in parts.items()
    }
    # Folder by folder: of a million images none has a text of its own.
    found: dict[str, tuple[PathTexts, list[tuple[str, int]]]] = {}
    for part, place in places.items():
        held: list[tuple[str, int]] = []
        found[part] = PathTexts.beneath(_noted(_folders(place, only), held)), held
    classes = sorted({label for _, held in found.values() for label, _ in held})
    ids = {label: number for number, label in enumerate(classes)}
    read: dict[str, LabelledPart] = {}
    for part, (paths, held) in found.items():
        labels = np.array([ids[label] for label, _ in held], dtype=np.int64)
        read[part] = LabelledPart(ImageFiles(paths), np.repeat(labels, [number for _, number in held]))
    return LabelledSet([spaced(label) for label in classes], read, classes)


def _noted(
    folders: Iterable[tuple[str, list[str], str]], held: list[tuple[str, int]]
) -> Iterator[tuple[str, list[str]]]:
    """Folders and their images; the class and the number of images of each is noted on the way."""
    for above, names, label in folders:
        held.append((label, len(names)))
        yield above, names


def lettered_folders(root: Path, parts: Mapping[str, str]) -> LabelledSet:
    """Class folders ``a_abbey`` and ``b_bistro_indoor``: SUN397's, whose letters' folders became a part of the names.

    :param root: folder that holds the data sets.
    :param parts: folder of each part, relative to ``root``.
    """
    found = class_folders(root, parts)
    return replace(found, names=[spaced(key[2:]) if key[1:2] == "_" else spaced(key) for key in found.keys])


def styled_folders(root: Path, parts: Mapping[str, str], style: str) -> LabelledSet:
    """The images of ImageNet-R in one style, which the beginning of a file's name says: ``sketch_12.jpg``.

    :param root: folder that holds the data sets.
    :param parts: folder of each part, relative to ``root``.
    :param style: beginning of the names, up to the underscore.
    :raises InputError: if there is no image of the style.
    """
    return of_style(class_folders(root, parts), style, str(root / next(iter(parts.values()))))


def of_style(found: LabelledSet, style: str, where: str) -> LabelledSet:
    """The images whose files' names begin with a style; the classes stay, though some may have no image.

    :param found: images in all styles.
    :param style: beginning of the names, up to the underscore.
    :param where: what has the images, for the sentence.
    :raises InputError: if there is no image of the style.
    """
    rows = {
        part: [row for row, path in enumerate(images.path_texts) if os.path.basename(path).partition("_")[0] == style]
        for part, images in found.parts.items()
    }
    if not any(rows.values()):
        raise InputError(f"{where} has no image of the style {style}: its name would begin with {style}_")
    return replace(found, parts={part: images.at(rows[part]) for part, images in found.parts.items()})


def annotated_folders(root: Path, folder: str) -> LabelledSet:
    """TinyImageNet: training images in class folders, test images in one folder with a list of their classes.

    :param root: folder that holds the data sets.
    :param folder: folder of all of it, relative to ``root``.
    :raises InputError: if the list has a line without a class.
    """
    home = root / folder
    order = filled_lines(home / "wnids.txt")
    listed = home / "val" / "val_annotations.txt"
    tested = []
    for row, line in enumerate(read_text(listed).splitlines(), start=1):
        words = line.split("\t")
        if len(words) < 2:
            raise InputError(f"{listed}, line {row}: expected a file and its class between tabs, not {line!r}")
        tested.append((home / "val" / "images" / words[0], words[1].strip()))
    return by_class_name({"train": list(_images(home / "train")), "test": tested}, order)


def numbered_images(root: Path, folder: str, left_out: tuple[str, ...] = ()) -> LabelledSet:
    """Class folders whose images are named ``image_0001.jpg``, as Caltech101 has them.

    :param root: folder that holds the data sets.
    :param folder: folder with the class folders, relative to ``root``.
    :param left_out: class folders that are no classes.
    """
    return by_class_name({"all": [row for row in _images(root / folder) if row[1] not in left_out]})


def nested_folders(root: Path, folder: str, classes: str) -> LabelledSet:
    """Class folders in folders, ``/a/abbey`` and ``/b/bistro/indoor``, as SUN397 has them, sorted by their whole paths:
    what a file system lists first may differ from disk to disk.

    :param root: folder that holds the data sets.
    :param folder: folder that holds all images, relative to ``root``.
    :param classes: file in it with the folder of a class a line.
    :raises InputError: if an image lies in no class folder.
    """
    home = root / folder
    order = filled_lines(home / classes)
    found = [
        (Path(above) / name)
        for above, _, names in os.walk(home)
        for name in names
        if Path(name).suffix.lower() in EXTENSIONS
    ]
    found.sort(key=lambda path: path.relative_to(home).parts)
    rows = [(path, "/".join(path.relative_to(home).parts[1:-1])) for path in found]
    # The letter's folder that all of them lie in is none of the name.
    return by_class_name({"all": rows}, [name[3:] for name in order])


def _images(folder: Path) -> Iterator[tuple[str, str]]:
    return ((above + name, label) for above, names, label in _folders(folder) for name in names)


def _folders(folder: Path, only: Collection[str] | None = None) -> Iterator[tuple[str, list[str], str]]:
    """Each folder with images, the separator behind it, with their names and their class."""
    try:
        classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
    except OSError as error:
        raise InputError(f"cannot read the folder {folder}: {error.strerror or error}") from error
    if only is not None:
        others, missing = sorted(set(classes) - set(only)), sorted(set(only) - set(classes))
        if others and missing:
            raise InputError(
                f"{folder} has the class folder {others[0]}, which is none of the {len(only)} that are read, and no "
                f"{missing[0]}, which is one of them: it holds another choice of classes"
            )
        classes = [label for label in classes if label in only]
    none = True
    for label in classes:
        for above, _, names in sorted(os.walk(folder / label, followlinks=True)):
            if images := sorted(name for name in names if os.path.splitext(name)[1].lower() in EXTENSIONS):
                none = False
                yield os.path.join(above, ""), images, label
    if none:
        raise InputError(f"{folder} has no class folders with images")
