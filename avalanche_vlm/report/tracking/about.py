"""What a log says of its run: its name, its tags and its settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avalanche_vlm._content import digest
from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.comparable import deciding
from avalanche_vlm.storage.durable import replace_file
from avalanche_vlm.storage.json_files import json_lines, read_json_file

TAGS = ("recipe", "seed", "benchmark", "label_space", "model")
"""What of a protocol is a tag; the digest of its run is one more."""
RUN = "run"
"""The tag of the digest."""
FILE = "run.json"
"""Of which run a folder's log is."""


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
    tags = {name: str(protocol[name]) for name in TAGS if protocol.get(name) is not None}
    known = [tags[name] if name == "recipe" else f"{name} {tags[name]}" for name in ("recipe", "seed") if name in tags]
    return AboutRun(run, title or ", ".join(known) or run, {**tags, RUN: run}, settings)


def begin_or_go_on(folder: Path, about: AboutRun) -> None:
    """Have a folder hold the log of one run.

    :param folder: the folder of the log, made if it is not there.
    :param about: the run that is logged.
    :raises InputError: if it holds that of another run, or cannot be written.
    """
    path = folder / FILE
    if path.exists():
        there = read_json_file(path)
        if not isinstance(there, dict) or there.get(RUN) != about.run:
            raise InputError(f"{folder} holds the log of another run, which stays as it is")
        return
    known = {RUN: about.run, "title": about.title, "tags": dict(about.tags), "settings": dict(about.settings)}
    replace_file(path, ("".join(json_lines(known)) + "\n").encode(errors="backslashreplace"))
