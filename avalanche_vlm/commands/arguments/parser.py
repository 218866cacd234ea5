"""The words of the command line. Nothing heavy is imported here."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from avalanche_vlm.commands.arguments import deploying, living, showing, training
from avalanche_vlm.units import visible

if TYPE_CHECKING:
    from avalanche_vlm.commands.requests import Part


def parse(argv: Sequence[str] | None = None) -> tuple[str, Part]:
    """The command and its request.

    :param argv: arguments without the program's name; the process's by default.
    :return: name of the command, and what it is asked.
    :raises InputError: for an argument of the right form that cannot be meant.
    :raises SystemExit: for an argument of the wrong form, with usage on standard error and exit code 2.
    """
    parser, commands = _parser()
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        commands[options.command].error(f"unrecognized arguments: {' '.join(unknown)}")  # with that command's usage
    from avalanche_vlm.commands.requests.building import REQUESTS

    return options.command, REQUESTS[options.command](options)


class _Parser(argparse.ArgumentParser):
    """A parser that takes options by their whole names: ``compare --seed 3`` would pass for ``--seeds 3``. What it
    says of words that it does not know is harmless to a terminal."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, with usage, and end.

        :param message: what is wrong.
        :raises SystemExit: with exit code 2.
        """
        super().error(visible(message))


def _parser() -> tuple[_Parser, dict[str, _Parser]]:
    """The parser, and those of the commands."""
    parser = _Parser(prog="avalanche-vlm", description="Continual learning of vision-language models, measured.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    training.add_training_commands(commands)
    living.add_living_commands(commands)
    deploying.add_deploying_commands(commands)
    showing.add_showing_commands(commands)
    return parser, commands.choices
