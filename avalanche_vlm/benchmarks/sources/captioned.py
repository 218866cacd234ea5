"""What the lists of images with captions come to, by part: Karpathy's, COCO's, and folders with a table of metadata. No
image is opened."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np

from avalanche_vlm.benchmarks.sources.columns import under_our_names
from avalanche_vlm.benchmarks.sources.dividing import seeded_split
from avalanche_vlm.benchmarks.sources.problems import Problems
from avalanche_vlm.benchmarks.sources.registry import Row, read_rows
from avalanche_vlm.benchmarks.sources.splits import split_of
from avalanche_vlm.benchmarks.sources.table import encodable, file_of_image
from avalanche_vlm.errors import InputError

_COCO_YEAR = re.compile(r"COCO_((?:train|val|test)\d{4})_")
"""How COCO's files of 2014 and 2015 are called: after the folder that they lie in."""
TESTED = 0.01
"""Share of a step's pairs that is tested where the step has no test part, as in TiC-CLIP (arXiv 2310.16226)."""


@dataclass(frozen=True)
class CaptionedPart:
    """Images with captions, a row for each caption: an image with five captions has five rows.

    :param images: paths of the image files of the N rows.
    :param captions: captions of the N rows.
    """

    images: tuple[Path, ...]
    captions: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.captions)

    def files(self) -> list[Path]:
        """The image files, each once, in the order in which they come."""
        return list(dict.fromkeys(self.images))

    def at(self, rows: Iterable[int]) -> CaptionedPart:
        """Some of the rows, in the order given.

        :param rows: places of the rows.
        """
        chosen = list(rows)
        return CaptionedPart(tuple(self.images[row] for row in chosen), tuple(self.captions[row] for row in chosen))

    def of_files(self, files: Iterable[Path]) -> CaptionedPart:
        """The rows of some image files, in the order in which they stand here.

        :param files: paths of image files.
        """
        wanted = set(files)
        return self.at(row for row, path in enumerate(self.images) if path in wanted)

    def joined(self, other: CaptionedPart) -> CaptionedPart:
        """These rows and those of another part behind them.

        :param other: the part whose rows come last.
        """
        return CaptionedPart(self.images + other.images, self.captions + other.captions)

    def few_captions(self, most: int | None, seed: int) -> CaptionedPart:
        """The rows with some captions of each image, drawn image by image. An image with fewer has them all.

        :param most: captions of an image, 1 or more; None for all.
        :param seed: seed of the draw, 0 or more.
        """
        if most is None:
            return self
        rows: dict[Path, list[int]] = {}
        for row, path in enumerate(self.images):
            rows.setdefault(path, []).append(row)
        rng = np.random.default_rng(seed)
        drawn = (np.sort(rng.permutation(len(of))[:most]).tolist() for of in rows.values())
        return self.at(sorted(of[place] for of, places in zip(rows.values(), drawn, strict=True) for place in places))


@dataclass(frozen=True)
class CaptionedSet:
    """Images with captions.

    :param parts: rows by part: ``train``, ``valid``, ``test``, or ``all`` where the data set is not split; of a data
        set in steps ``train STEP`` and ``test STEP``, or ``all STEP``, in the order of the steps.
    """

    parts: Mapping[str, CaptionedPart]

    def halves(self) -> tuple[CaptionedPart, CaptionedPart]:
        """The training and the test rows; of a data set without a split, 80 percent of its images are drawn to train
        (:func:`~avalanche_vlm.benchmarks.sources.dividing.seeded_split`), with all their captions."""
        if "all" not in self.parts:
            return self.parts["train"], self.parts["test"]
        whole = self.parts["all"]
        files = whole.files()
        train, test = seeded_split(len(files))
        return whole.of_files(files[row] for row in train), whole.of_files(files[row] for row in test)

    def steps(self, seed: int) -> dict[str, tuple[CaptionedPart, CaptionedPart, list[int] | None]]:
        """The training and the test rows of each step, and the places of the test rows where they are drawn.

        :param seed: seed of the draw where a step has no test part, 0 or more.
        """
        found: dict[str, tuple[CaptionedPart, CaptionedPart, list[int] | None]] = {}
        for name, rows in self.parts.items():
            part, _, step = name.partition(" ")
            if part == "train":
                found[step] = rows, self.parts[f"test {step}"], None
            elif part == "all":
                test = drawn_by_caption(rows.captions, TESTED, seed)
                chosen = set(test)
                found[step] = rows.at(row for row in range(len(rows)) if row not in chosen), rows.at(test), test
        return found

    def tested(self) -> CaptionedPart:
        """The test rows, of a data set in steps those of all steps."""
        if not any(" " in name for name in self.parts):
            return self.halves()[1]
        return reduce(CaptionedPart.joined, (test for _, test, _ in self.steps(0).values()))


def drawn_by_caption(captions: Sequence[str], share: float, seed: int) -> list[int]:
    """The places of some captions, drawn by what they say and not by where they stand: whoever holds the same pairs in
    another order draws the same captions.

    :param captions: captions of all pairs, one for each.
    :param share: share of them that is drawn, in (0, 1); one at least.
    :param seed: seed of the draw, 0 or more.

    >>> drawn_by_caption(["a", "b", "c", "d"], 0.5, 0), drawn_by_caption(["d", "c", "b", "a"], 0.5, 0)
    ([0, 2], [1, 3])
    """
    met: Counter[str] = Counter()
    keys = np.empty(len(captions), np.uint64)
    for place, caption in enumerate(captions):
        # Of equal captions each has a draw of its own: otherwise all of them would be drawn, or none.
        keys[place] = _number(f"{seed} {caption} {met[caption]}" if caption in met else f"{seed} {caption}")
        met[caption] += 1
    return sorted(np.argsort(keys, kind="stable")[: max(1, round(share * len(keys)))].tolist())


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def karpathy_split(
    root: Path, problems: Problems, file: str, images: str, trains: Collection[str] = ("train",)
) -> CaptionedSet:
    """A data set of which one JSON file in Karpathy's form says the images, their captions and their parts; ``restval``
    trains.

    :param root: folder that holds the data sets.
    :param problems: takes captions that cannot be used.
    :param file: the JSON file, relative to ``root``.
    :param images: folder of the images, relative to ``root``; of several behind ``or`` the first that there is.
    :param trains: parts that train, of ``train`` and ``valid``; their images come in the order of the file.
    :raises InputError: if the file is none, or a picture of it belongs to no part.
    """
    listed, folder = root / file, first_there(root, images)
    rows: dict[str, list[tuple[Path, str]]] = {"train": [], "valid": [], "test": []}
    for part, path, caption in _captions(listed, folder, problems):
        if part is None:
            raise InputError(f"{listed}: {path.name} belongs to no split: expected train, restval, val or test")
        rows["train" if part in trains else part].append((path, caption))
    for part, of in rows.items():
        if not of and part != "valid":
            raise InputError(f"{listed} has no images of the split {part}")
    return CaptionedSet({part: _part(of) for part, of in rows.items() if of})


def caption_files(root: Path, problems: Problems, parts: Mapping[str, str], images: Mapping[str, str]) -> CaptionedSet:
    """A data set with a JSON file of captions in COCO's form for each part.

    :param root: folder that holds the data sets.
    :param problems: takes captions that cannot be used.
    :param parts: JSON file of each part, relative to ``root``.
    :param images: folder of the images of each part, relative to ``root``.
    :raises InputError: if a file is none, or has no captions.
    """
    found = {}
    for part, file in parts.items():
        rows = [(path, caption) for _, path, caption in _captions(root / file, root / images[part], problems)]
        if not rows:
            raise InputError(f"{root / file} has no captions")
        found[part] = _part(rows)
    return CaptionedSet(found)


def karpathy_or_captions(
    root: Path, problems: Problems, file: str, parts: Mapping[str, str], images: str
) -> CaptionedSet:
    """A data set with Karpathy's one JSON file, or where that is not there with a file in COCO's form for each part, as
    evaluation tools write them.

    :param root: folder that holds the data sets.
    :param problems: takes captions that cannot be used.
    :param file: Karpathy's JSON file, relative to ``root``.
    :param parts: JSON file of each part in COCO's form, relative to ``root``.
    :param images: folder of the images, relative to ``root``; of several behind ``or`` the first that there is.
    :raises InputError: if neither can be read.
    """
    if (root / file).exists():
        return karpathy_split(root, problems, file, images)
    missing = [name for name in parts.values() if not (root / name).exists()]
    if missing:
        raise InputError(f"{root} has neither {file} nor {missing[0]}: one of them says which image is of which part")
    return caption_files(root, problems, parts, dict.fromkeys(parts, str(first_there(root, images).relative_to(root))))


def described_folder(root: Path, problems: Problems, folder: str) -> CaptionedSet:
    """A folder of images with ``metadata.csv`` or ``metadata.jsonl`` (``file_name`` and ``text``), or with folders of
    splits that have one each. Without a test part, or without a split, all of it is for the benchmark to split.

    :param root: folder that holds the data sets.
    :param problems: takes captions that cannot be used.
    :param folder: the folder, relative to ``root``.
    :raises InputError: if it has no captions.
    """
    rows: dict[str, list[tuple[Path, str]]] = {}
    for part, path, caption in _captions(root / folder, root / folder, problems):
        rows.setdefault(part or "all", []).append((path, caption))
    if not rows:
        raise InputError(f"{root / folder} has no captions: it should hold metadata.jsonl with file_name and text")
    if rows.keys() >= {"train", "test"} and "all" not in rows:
        return CaptionedSet({part: _part(of) for part, of in rows.items()})
    return CaptionedSet({"all": _part([row for of in rows.values() for row in of])})


def first_there(root: Path, folders: str) -> Path:
    """The first of several folders that there is; the first of them where there is none.

    :param root: folder that the folders lie in.
    :param folders: names of folders, with ``or`` between them.
    """
    names = folders.split(" or ")
    return next((root / name for name in names if (root / name).is_dir()), root / names[0])


def _captions(listed: Path, folder: Path, problems: Problems) -> Iterable[tuple[str | None, Path, str]]:
    """Part, image file and caption of every row of a table that can be used."""
    rows: Sequence[Row] = under_our_names(list(read_rows(listed, problems)), {}, listed)
    for line, fields in rows:
        where, image, caption = f"{listed}, row {line}", fields.get("image"), fields.get("caption")
        if not isinstance(image, str) or not image.strip():
            problems.add(f"{where}: the image is missing")
        elif caption is None or not str(caption).strip():
            problems.add(f"{where}: the caption is empty")
        elif not isinstance(caption, str) or not encodable(caption) or not encodable(image):
            problems.add(f"{where}: the caption is not text")
        else:
            name = image.strip()
            if "/" not in name and (year := _COCO_YEAR.match(name)):
                name = f"{year[1]}/{name}"
            yield split_of(str(fields.get("split") or "")), file_of_image(folder, name), caption.strip()


def _part(rows: Sequence[tuple[Path, str]]) -> CaptionedPart:
    return CaptionedPart(tuple(path for path, _ in rows), tuple(caption for _, caption in rows))
