"""Lists of classes, and pictures, in MATLAB's ``.mat`` files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from avalanche_vlm.benchmarks.sources.labelled import (
    LabelledPart,
    LabelledSet,
    of_files,
    refuse_label_beyond,
    refuse_labels,
)
from avalanche_vlm.benchmarks.sources.mat_files import read_mat
from avalanche_vlm.errors import InputError


def flower_lists(root: Path, folder: str, parts: Mapping[str, str]) -> LabelledSet:
    """Oxford Flowers: ``imagelabels.mat`` has the class of every image, from 1, and ``setid.mat`` the images' numbers.

    :param root: folder that holds the data sets.
    :param folder: folder of both and of ``jpg``, relative to ``root``.
    :param parts: name of each part in ``setid.mat``.
    :raises InputError: if a number is that of no image, or a class is none from 1.
    """
    home = root / folder
    labels = _numbers(home / "imagelabels.mat", "labels")
    if len(labels) and labels.min() < 1:
        raise InputError(f"{home / 'imagelabels.mat'}: the class of an image is a number from 1, not {labels.min()}")
    last = int(labels.max(initial=0))
    refuse_label_beyond(last - 1, len(labels), home / "imagelabels.mat")
    names = [f"class {number}" for number in range(1, last + 1)]
    found = {}
    for part, name in parts.items():
        chosen = _numbers(home / "setid.mat", name)
        if len(chosen) and not (chosen.min() >= 1 and chosen.max() <= len(labels)):
            raise InputError(f"{home / 'setid.mat'} has an image beyond the {len(labels)} of imagelabels.mat")
        images = [home / "jpg" / f"image_{number:05d}.jpg" for number in chosen.tolist()]
        found[part] = of_files(images, labels[chosen - 1] - 1)
    return LabelledSet(names, found, names)


def car_lists(root: Path, folder: str, parts: Mapping[str, tuple[str, str]]) -> LabelledSet:
    """Stanford Cars: ``annotations`` with ``fname`` and ``class`` from 1, and the names in ``devkit/cars_meta.mat``.

    :param root: folder that holds the data sets.
    :param folder: folder of all of it, relative to ``root``.
    :param parts: file with the annotations and folder of the images of each part.
    :raises InputError: if an annotation has no file, or no class of those that have a name.
    """
    home = root / folder
    names = [str(name) for name in np.atleast_1d(read_mat(home / "devkit" / "cars_meta.mat", "class_names"))]
    found = {}
    for part, (file, images) in parts.items():
        rows = np.atleast_1d(read_mat(home / file, "annotations"))
        if rows.ndim != 1 or not rows.dtype.names or not {"fname", "class"} <= set(rows.dtype.names):
            raise InputError(f"{home / file} has annotations without fname and class")
        try:
            labels = [int(row["class"]) - 1 for row in rows]
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"{home / file} has a class that is no number from 1") from error
        refuse_labels(labels, len(names), home / file)
        found[part] = of_files([home / images / str(row["fname"]) for row in rows], labels)
    return LabelledSet(names, found, names)


def digit_arrays(root: Path, folder: str, parts: Mapping[str, str]) -> LabelledSet:
    """SVHN's cropped digits: ``X`` ``[32, 32, 3, N]`` has the pictures, ``y`` their digits, of which 10 stands for 0.

    :param root: folder that holds the data sets.
    :param folder: folder of the files, relative to ``root``.
    :param parts: file of each part.
    :raises InputError: if a file has no such pictures, not a digit for each, or what is no digit.
    """
    names = [str(digit) for digit in range(10)]
    found = {}
    for part, name in parts.items():
        place = root / folder / name
        pictures, digits = read_mat(place, "X"), _numbers(place, "y")
        if not (isinstance(pictures, np.ndarray) and pictures.dtype == np.uint8 and pictures.ndim == 4):
            raise InputError(f"{place} has no 8-bit pictures under 'X'")
        if pictures.shape[2] != 3 or pictures.shape[3] != len(digits):
            shape = " x ".join(map(str, pictures.shape))
            raise InputError(f"{place} has {len(digits)} digits, and pictures of {shape} under 'X'")
        labels = np.where(digits == 10, 0, digits)
        refuse_labels(labels.tolist(), len(names), place)
        found[part] = LabelledPart(np.ascontiguousarray(pictures.transpose(3, 0, 1, 2)), labels)
    return LabelledSet(names, found, names)


def _numbers(path: Path, name: str) -> np.ndarray:
    found = np.atleast_1d(read_mat(path, name))
    whole = found.dtype.kind in "iu" or (found.dtype.kind == "f" and bool((np.trunc(found) == found).all()))
    if not whole or found.ndim != 1 or (len(found) and not -(2**53) < found.min() <= found.max() < 2**53):
        raise InputError(f"{path} has no list of whole numbers {name!r}")
    return found.astype(np.int64)
