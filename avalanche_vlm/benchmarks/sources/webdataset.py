"""WebDataset's tars as rows of a table: samples of files that share a name up to its first dot, read as a stream."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from avalanche_vlm.benchmarks.label_space import PHOTO, PromptTemplates
from avalanche_vlm.benchmarks.scenario import HeldOutSet, VLMBenchmark
from avalanche_vlm.benchmarks.sources.aside import AsideReading, class_aside, refuse_nothing, table_aside, tested_items
from avalanche_vlm.benchmarks.sources.assemble import image_files, readable
from avalanche_vlm.benchmarks.sources.images import EXTENSIONS
from avalanche_vlm.benchmarks.sources.labelled import refuse_labels, whole_number
from avalanche_vlm.benchmarks.sources.ordering import natural
from avalanche_vlm.benchmarks.sources.problems import Problems
from avalanche_vlm.benchmarks.sources.registry import Row, read_rows
from avalanche_vlm.benchmarks.sources.splits import split_of
from avalanche_vlm.benchmarks.sources.table import table_items, table_stream
from avalanche_vlm.benchmarks.sources.tars import SUFFIX, Member, members_of
from avalanche_vlm.benchmarks.sources.text import filled_lines
from avalanche_vlm.errors import InputError
from avalanche_vlm.units import human_bytes

CLASS_NAMES, TEMPLATES, SHARDS = "classnames.txt", "zeroshot_classification_templates.txt", "nshards.txt"
"""Files that CLIP_benchmark lays beside its tars: names of classes, prompts, and in each part the number of tars."""
TEXT_BYTES = 2**20
"""The most that the texts of a sample have."""
MOST_SHARDS = 10**6

_TEXTS = ("txt", "text", "caption")
_ARRAYS = ("npy", "npz", "pyd", "pickle", "pkl", "pth", "pt")


def tar_rows(path: Path, problems: Problems) -> Iterator[Row]:
    """The samples of a tar, or of a folder of tars, or of its folders of parts with tars.

    Files one after another whose names are the same up to the first dot are a sample: an image, ``cls`` (its class),
    ``txt`` (its captions, one a line), ``json`` (an object, whose texts and numbers are further columns). Arrays and
    pickled objects are never read. Where a folder has ``nshards.txt``, its tars are ``0.tar``, ``1.tar`` and so on.

    :param path: a tar, or a folder.
    :param problems: takes samples that cannot be used.
    :return: number of each sample, from 1, and its fields; images are relative to the folder.
    :raises InputError: in one sentence, for a tar that is missing or cannot be read.
    """
    number = 0
    for shard, split in _shards(path):
        where = shard.relative_to(path if path.is_dir() else path.parent).as_posix()
        for key, files in _samples(shard):
            number += 1
            fields = _fields(f"{path}, row {number} ({key} in {where})", where, files, problems)
            if fields is not None:
                yield number, {**fields, **({"split": split} if split else {})}


def tar_stream(
    path: str | Path,
    *,
    train_transform: Callable,
    eval_transform: Callable,
    tokenizer: Callable | None = None,
    **options: Any,
) -> VLMBenchmark:
    """A stream from tars; options of :func:`~avalanche_vlm.benchmarks.sources.table.table_stream`. Of CLIP_benchmark's
    tars the names of classes and the prompts are those that lie beside them, unless others are given.

    :param path: a tar, or a folder of tars.
    :param train_transform: PIL image to tensor, the model's.
    :param eval_transform: the model's transform of test images, PIL image to tensor.
    :param tokenizer: the model's, for pairs.
    :param options: further options of the stream.
    :raises InputError: in one sentence, for everything that cannot be used.
    """
    path = Path(path)
    names, prompts = class_files(path)
    if names and options.get("kind") != "pairs":
        if options.get("class_names") is None:
            options["class_names"] = {str(number): name for number, name in enumerate(names)}
        if options.get("templates") is None:
            options["templates"] = prompts
        options.setdefault("kind", "classes")
    shown = {"train_transform": train_transform, "eval_transform": eval_transform, "tokenizer": tokenizer}
    return table_stream(path, **{"check": "fast", **shown, **options})


def tar_aside(path: Path, name: str, reading: AsideReading) -> list[HeldOutSet]:
    """Held-out sets from tars, as of any table; of CLIP_benchmark's with the names of classes and the prompts that lie
    beside them, and all of these classes as candidates.

    :param path: a tar, or a folder of tars.
    :param name: what the set is called.
    :param reading: how it is read.
    :raises InputError: in one sentence, for everything that cannot be used.
    """
    names, prompts = class_files(path)
    if not names:
        return table_aside(path, name, reading)
    rows = list(read_rows(path, reading.problems))
    items = tested_items(path, table_items(path, rows, "label", None, reading.problems))
    items = readable(items, reading.problems, path, reading.check, reading.check_workers).items
    refuse_nothing(path, items)
    y = []
    for row, item in enumerate(items):
        label = whole_number(item.text)
        if label is None:
            raise InputError(f"{items.where(row)}the class is a whole number from 0, not {item.text[:40]!r}")
        y.append(label)
    refuse_labels(y, len(names), path)
    return [class_aside(name, image_files(items), y, names, prompts, reading)]


def class_files(path: Path) -> tuple[list[str], PromptTemplates]:
    """The names of classes and the prompts that lie beside CLIP_benchmark's tars; no names where there are none.

    :param path: a tar, or a folder of tars.
    :raises InputError: for prompts without a place for the name.
    """
    names, prompts = path / CLASS_NAMES, path / TEMPLATES
    if not names.is_file():
        return [], PHOTO
    lines = filled_lines(prompts) if prompts.is_file() else []
    return filled_lines(names), PromptTemplates("its own", tuple(lines)) if lines else PHOTO


def _shards(path: Path) -> Iterator[tuple[Path, str]]:
    """The tars with the parts that they are of."""
    if not path.is_dir():
        yield path, ""
        return
    folders = [path, *sorted(child for child in path.iterdir() if child.is_dir() and split_of(child.name))]
    none = True
    for folder in folders:
        for shard in _of_folder(folder):
            none = False
            yield shard, "" if folder == path else folder.name
    if none:
        raise InputError(f"{path} has no tars, nor has a folder train or test in it")


def _of_folder(folder: Path) -> list[Path]:
    listed = folder / SHARDS
    if not listed.is_file():
        names = (of.name for of in os.scandir(folder) if of.name.lower().endswith(SUFFIX) and of.is_file())
        return [folder / name for name in sorted(names, key=natural) if name[0] != "."]
    lines = filled_lines(listed)
    number = whole_number(lines[0]) if len(lines) == 1 else None
    if number is None or not 0 < number <= MOST_SHARDS:
        raise InputError(f"{listed} should hold the number of tars beside it, from 1 to {MOST_SHARDS:,}")
    found = [folder / f"{shard}.tar" for shard in range(number)]
    if missing := next((shard for shard in found if not shard.is_file()), None):
        raise InputError(f"{folder} has no {missing.name}: {SHARDS} says {number} tars, from 0.tar to {number - 1}.tar")
    return found


def _samples(shard: Path) -> Iterator[tuple[str, dict[str, tuple[str, bytes | None]]]]:
    """Key and files of each sample: by their suffixes the name, and of texts what they hold."""
    key: str | None = None
    files: dict[str, tuple[str, bytes | None]] = {}
    for member, file in members_of(shard):
        name = PurePosixPath(member.name)
        stem, dot, suffix = name.name.partition(".")
        if not dot or not stem:
            continue  # hidden files, and files that say of no sample what they are
        own = (name.parent / stem).as_posix()
        if own != key and key is not None:
            yield key, files
            files = {}
        key = own
        suffix = suffix.lower()
        if suffix in files:
            raise InputError(f"{shard} has two files {member.name}: a sample has one of a kind")
        files[suffix] = member.name, _text(shard, member, file) if suffix in ("cls", "json", *_TEXTS) else None
    if key is not None:
        yield key, files


def _text(shard: Path, member: Member, file: BinaryIO) -> bytes:
    if member.size > TEXT_BYTES:
        raise InputError(
            f"{shard}: {member.name} has {human_bytes(member.size)}, and texts are read up to {human_bytes(TEXT_BYTES)}"
        )
    file.seek(member.offset)
    return file.read(member.size)


def _fields(
    where: str, shard: str, files: Mapping[str, tuple[str, bytes | None]], problems: Problems
) -> dict[str, Any] | None:
    """The columns of a sample; None for one that cannot be used."""
    image = next((name for suffix, (name, _) in files.items() if f".{suffix}" in EXTENSIONS), None)
    if image is None:
        problems.add(f"{where}: there is no image")
        return None
    fields: dict[str, Any] = {}
    try:
        texts = {suffix: of[1].decode() for suffix, of in files.items() if of[1] is not None}
        told = json.loads(texts["json"]) if "json" in texts else {}
    except (ValueError, RecursionError):
        problems.add(f"{where}: a text of it is neither UTF-8 nor JSON that can be read")
        return None
    if isinstance(told, dict):
        fields |= {name: value for name, value in told.items() if isinstance(value, str | int | float)}
    if "cls" in texts:
        fields["label"] = texts["cls"].strip()
    if (captions := next((texts[suffix] for suffix in _TEXTS if suffix in texts), None)) is not None:
        fields["caption"] = [line.strip() for line in captions.splitlines() if line.strip()]
    if not fields.keys() & {"label", "caption", "text"} and (array := next((s for s in _ARRAYS if s in files), None)):
        problems.add(f"{where}: its classes lie in a .{array}, which is not read")
        return None
    return {**fields, "image": f"{shard}/{image}"}
