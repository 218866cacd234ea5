"""What a log says of its run: its name, its tags and its settings."""

from __future__ import annotations

import json
import math
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avalanche_vlm._content import digest
from avalanche_vlm.evaluation.comparable import deciding
from avalanche_vlm.storage.durable import make_folder, replace_file
from avalanche_vlm.storage.json_files import json_lines, read_json_file
from avalanche_vlm.units import one_line, visible

TAGS = ("recipe", "seed", "benchmark", "label_space", "model")
"""What of a protocol is a tag; the digest of its run is one more."""
RUN = "run"
"""The tag of the digest."""
LOG = "log"
"""The tag of what one log is known by: a run that is started twice has two."""
FILE = "run.json"
"""Of which run a folder's log is."""
_KNOWN = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class AboutRun:
    """A run as its logs know it.

    :param run: the digest that tells it from others.
    :param title: its name among others.
    :param tags: what others are found by, as texts by name.
    :param settings: its protocol in JSON types by dotted name, without the places where files lie.
    """

    run: str
    title: str
    tags: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


def as_text(value: object) -> str:
    """What any log can hold: a text on one line, and what is no character with backslashes.

    :param value: a name, or anything else.

    >>> as_text("caf\\udce9\\nau lait")
    'caf\\\\udce9 au lait'
    """
    return one_line(visible(value))


def about_run(protocol: Mapping[str, Any], run: str | None = None, title: str | None = None) -> AboutRun:
    """What a protocol says of its run.

    :param protocol: ``protocol`` of a result, or what one knows of it.
    :param run: the digest that tells it from others; None for that of the protocol.
    :param title: its name among others; None for recipe and seed.

    >>> about = about_run({"recipe": "lora", "seed": 1, "label_space": None}, run="ab")
    >>> about.title, dict(about.tags)
    ('lora, seed 1', {'recipe': 'lora', 'seed': '1', 'run': 'ab'})
    """
    settings = deciding(protocol)
    run = run or digest([json.dumps(settings, sort_keys=True, default=str)])
    tags = {name: as_text(protocol[name]) for name in TAGS if protocol.get(name) is not None}
    known = [tags[name] if name == "recipe" else f"{name} {tags[name]}" for name in ("recipe", "seed") if name in tags]
    title = as_text(title or ", ".join(known) or run)
    return AboutRun(run, title, {**tags, RUN: run}, _text(settings))


@dataclass(frozen=True)
class Log:
    """Which log one writes to.

    :param known: what it is known by, wherever several logs are in one place.
    :param goes_on: whether an earlier process has begun it.
    """

    known: str
    goes_on: bool = False


def begin_or_go_on(folder: Path, about: AboutRun, goes_on: bool, files: str | None = None) -> Log:
    """The log that a folder holds, or a new one: what is there then is set aside, in a folder ``earlier-N`` within.

    :param folder: the folder of one run's log, made if it is not there.
    :param about: the run that is logged.
    :param goes_on: whether the training goes on from a checkpoint, and its log with it.
    :param files: pattern of the names of the log's files; None for one that has none in this folder.
    :raises InputError: if the folder cannot be written.
    """
    make_folder(folder)
    path = folder / FILE
    if path.exists():
        there = read_json_file(path)
        there = there if isinstance(there, dict) else {}
        known = there.get(LOG)
        if goes_on and there.get(RUN) == about.run and isinstance(known, str) and _KNOWN.fullmatch(known):
            return Log(known, True)
        _set_aside(folder, [*([] if files is None else sorted(folder.glob(files))), path])
    log = Log(secrets.token_hex(8))
    told = {LOG: log.known, RUN: about.run, "title": about.title, "tags": dict(about.tags)}
    told["settings"] = dict(about.settings)
    replace_file(path, ("".join(json_lines(told)) + "\n").encode())
    return log


def _set_aside(folder: Path, paths: Sequence[Path]) -> None:
    number = 1
    while os.path.lexists(aside := folder / f"earlier-{number}"):
        number += 1
    make_folder(aside)
    for path in paths:
        path.rename(aside / path.name)


def _text(value: Any) -> Any:
    """A value of JSON's types; others, and numbers that JSON has not, as texts, and texts on one line."""
    if isinstance(value, Mapping):
        return {as_text(name): _text(of) for name, of in value.items()}
    if isinstance(value, list | tuple):
        return [_text(of) for of in value]
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return as_text(value)
