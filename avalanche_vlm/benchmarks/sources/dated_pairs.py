"""TiC-CLIP's images with captions by steps in time: tars below a folder for each year or month, and tars or tables that
its script names after a batch of years. No image is opened."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote_plus

import ftfy

from avalanche_vlm.benchmarks.sources.captioned import CaptionedPart, CaptionedSet
from avalanche_vlm.benchmarks.sources.delimited import tab_rows
from avalanche_vlm.benchmarks.sources.ordering import natural
from avalanche_vlm.benchmarks.sources.problems import Problems
from avalanche_vlm.benchmarks.sources.registry import Row
from avalanche_vlm.benchmarks.sources.table import encodable, file_of_image
from avalanche_vlm.benchmarks.sources.tars import SUFFIX
from avalanche_vlm.benchmarks.sources.webdataset import SHARDS, tar_rows
from avalanche_vlm.errors import InputError

LONGEST = 500
"""Characters of a caption that is made of a title, a description and tags."""

_MARKUP = re.compile("<.*?>")
_MADE_OF = ("title", "description", "usertags")


def tars_in_time(
    root: Path, problems: Problems, folder: str, steps: Mapping[str, Sequence[int | str]], tests: str | None
) -> CaptionedSet:
    """A data set with a folder of tars, or of folders of tars, for each year or month, and a retrieval set if wanted.

    :param root: folder that holds the data sets.
    :param problems: takes samples that cannot be used.
    :param folder: folder of these folders, relative to ``root``.
    :param steps: names of each step's folders, by the step's name.
    :param tests: folder of the retrieval sets by the same names, relative to ``root``, in CLIP_benchmark's layout; None
        where a part of the pairs is drawn for testing.
    :return: parts ``train STEP`` and ``test STEP`` of each step, or ``all STEP`` where some are to be drawn.
    :raises InputError: in one sentence, for a year or month without tars, or a tar that cannot be read.
    """
    parts = {}
    for step, times in steps.items():
        rows = (row for time in times for row in _below(root / folder / str(time), problems))
        parts[f"{'train' if tests else 'all'} {step}"] = _part(rows)
        if tests:
            places = (root / tests / str(time) for time in times)
            parts[f"test {step}"] = _part(row for place in places for row in _retrieval(place, problems))
    return CaptionedSet(parts)


def batches_of_years(root: Path, problems: Problems, folder: str, steps: Mapping[str, str], own: bool) -> CaptionedSet:
    """A data set as TiC-CLIP's script divides it: tars whose names, or whose folder's, begin with ``train_batch_`` or
    ``test_batch_`` and the batch; or, where there are none, the script's tables ``splits/train_batch_0.csv`` with the
    columns ``path`` and ``caption``, and the images.

    :param root: folder that holds the data sets.
    :param problems: takes samples that cannot be used.
    :param folder: the data set's folder, relative to ``root``.
    :param steps: the batch of each step, by the step's name.
    :param own: whether what the script put aside for testing is the test part; otherwise all is to be drawn from.
    :return: parts ``train STEP`` and ``test STEP`` of each step, or ``all STEP`` where some are to be drawn.
    :raises InputError: in one sentence, for a batch that is missing, or a file that cannot be read.
    """
    place = root / folder
    tars = _tars_below(place)
    parts = {}
    for step, batch in steps.items():
        train = _batch(place, tars, f"train_batch_{batch}", problems, True)
        test = _batch(place, tars, f"test_batch_{batch}", problems, own)
        if own:
            parts[f"train {step}"], parts[f"test {step}"] = train, test
        else:
            parts[f"all {step}"] = train.joined(test)
    return CaptionedSet(parts)


def caption_made(fields: Mapping[str, object]) -> str:
    """The caption of a picture of YFCC100M as TiC-CLIP makes it of title, description and tags.

    :param fields: what is known of the picture.

    >>> caption_made({"title": "A+cat", "description": "<b>on</b> a%20mat", "usertags": "cat,mat"})
    'A cat. on a mat. cat,mat'
    """
    told = ". ".join(str(fields[name]) if fields.get(name) is not None else "" for name in _MADE_OF)
    return _MARKUP.sub("", ftfy.fix_text(unquote_plus(told)))[:LONGEST]


def _batch(place: Path, tars: Sequence[Path], name: str, problems: Problems, needed: bool) -> CaptionedPart:
    """The pairs of one file of the script, which lie in tars, or beside it."""
    named = re.compile(rf"{name}(?!\d)")
    of = [shard for shard in tars if any(named.match(part) for part in shard.relative_to(place).parts)]
    if of:
        return _part(row for shard in of for row in _usable(shard, shard.parent, tar_rows(shard, problems), problems))
    table = place / "splits" / f"{name}.csv"
    if table.is_file():
        images = place / "images"
        if not images.is_dir():
            raise InputError(f"{place} has no images: it should be the folder that the paths in {table} begin in")
        return _part(_usable(table, images, tab_rows(table, problems), problems))
    if needed:
        raise InputError(f"{place} has neither tars {name}__*.tar nor splits/{name}.csv")
    return CaptionedPart((), ())


def _below(place: Path, problems: Problems) -> Iterator[tuple[Path, str]]:
    """The pairs of all tars below a folder, each with one caption."""
    shards = _tars_below(place)
    if not shards:
        raise InputError(f"{place} has no tars, nor has a folder in it")
    for shard in shards:
        yield from _usable(shard, shard.parent, tar_rows(shard, problems), problems)


def _retrieval(place: Path, problems: Problems) -> Iterator[tuple[Path, str]]:
    """The pairs of a retrieval set in CLIP_benchmark's layout, whose captions are lines of a text."""
    if not (place / SHARDS).is_file():
        raise InputError(f"{place} has no {SHARDS}: it should hold the number of tars beside it, 0.tar and so on")
    yield from _usable(place, place, tar_rows(place, problems), problems, lines=True)


def _tars_below(place: Path) -> list[Path]:
    return sorted(
        (of for of in place.rglob(f"*{SUFFIX}") if of.is_file() and not of.name.startswith(".")),
        key=lambda of: [natural(part) for part in of.relative_to(place).parts],
    )


def _usable(
    listed: Path, folder: Path, rows: Iterable[Row], problems: Problems, lines: bool = False
) -> Iterator[tuple[Path, str]]:
    """Image and caption of the samples that have both."""
    for number, fields in rows:
        where = f"{listed}, row {number}"
        image, told = fields.get("image") or fields.get("path"), fields.get("caption", fields.get("text"))
        if told is None and any(fields.get(name) for name in _MADE_OF):
            told = caption_made(fields)
        texts = [" ".join(told)] if isinstance(told, list) and not lines else told if isinstance(told, list) else [told]
        texts = [text.strip() for text in texts if isinstance(text, str) and text.strip()]
        if not isinstance(image, str) or not image.strip():
            problems.add(f"{where}: the image is missing")
        elif not texts:
            problems.add(f"{where}: the caption is empty")
        elif not all(map(encodable, (image, *texts))):
            problems.add(f"{where}: the caption is not text")
        else:
            path = file_of_image(folder, image.strip())
            yield from ((path, text) for text in texts)


def _part(rows: Iterable[tuple[Path, str]]) -> CaptionedPart:
    found = list(rows)
    return CaptionedPart(tuple(path for path, _ in found), tuple(caption for _, caption in found))
