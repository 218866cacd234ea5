"""What a target is: a module that makes inputs and sees what becomes of them."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple, Protocol, cast

TARGETS = (
    "tables",
    "table_rows",
    "parquet",
    "images",
    "folders",
    "names",
    "options",
    "arguments",
    "commands",
    "kept_files",
    "versions",
    "kept_commands",
    "tensor_files",
    "states",
    "saved_models",
    "model_settings",
    "model_folders",
    "weights",
    "pictures",
    "data_sets",
)
"""Modules of :mod:`targets`, each with one target."""


class Example(NamedTuple):
    """One input.

    :param name: name of a file, by which a target knows what it is.
    :param content: what the file holds.
    """

    name: str
    content: bytes


class Target(Protocol):
    """A module of :mod:`targets`.

    ``SHARE`` is its share of all inputs, beside those of the others; ``QUICK`` the number of inputs that the test suite
    gives it. ``WORLD``, where it is true, says that its inputs are made from files that :mod:`world` keeps.
    """

    SHARE: int
    QUICK: int

    def make(self, random: Random) -> Example:
        """An input.

        :param random: what decides everything about it.
        """

    def check(self, example: Example, folder: Path) -> None:
        """Give an input to what is tested. An ``InputError`` is an answer, any other exception is a finding.

        :param example: the input.
        :param folder: an empty folder for whatever the check needs on disk.
        """


class WrongAccept(Exception):
    """Something passed, or came out, that should not have: an oracle of a target's says so."""


def target(name: str) -> Target:
    """A target by its name.

    :param name: one of :data:`TARGETS`, or a module that can be imported.
    """
    return cast(Target, importlib.import_module(f"targets.{name}" if name in TARGETS else name))


def shares(names: Sequence[str], inputs: int) -> dict[str, int]:
    """How many of some inputs each target gets, at least one.

    :param names: names of targets.
    :param inputs: inputs for all of them together.
    """
    weights = {name: target(name).SHARE for name in names}
    return {name: max(1, inputs * weight // sum(weights.values())) for name, weight in weights.items()}
