"""The words of the command line. Nothing heavy is imported here."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from avalanche_vlm.commands.arguments import deploying, living, showing, training
from avalanche_vlm.commands.arguments.noting import NotingParser
from avalanche_vlm.errors import InputError
from avalanche_vlm.units import did_you_mean, visible

if TYPE_CHECKING:
    from avalanche_vlm.commands.requests import Part


def parse(argv: Sequence[str] | None = None) -> tuple[str, Part]:
    """The command and its request.

    :param argv: arguments without the program's name; the process's by default.
    :return: name of the command, and what it is asked.
    :raises InputError: for an argument of the right form that cannot be meant, and for a file of ``--config`` that
        cannot be read or says what the command does not take.
    :raises SystemExit: for an argument of the wrong form, with usage on standard error and exit code 2; and with 0
        after help, and after the file of ``--dump-config``.
    """
    parser, commands = _parser()
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in commands or not _configured(words[1:]):
        options = _options(parser, commands, words)
        from avalanche_vlm.commands.requests.building import REQUESTS

        return options.command, REQUESTS[options.command](options)
    from avalanche_vlm.commands.arguments.configuration import Configured
    from avalanche_vlm.commands.requests.building import REQUESTS, swept

    command = words[0]
    configured = Configured(commands[command], command, words[1:])
    build = REQUESTS[command]
    several = [(of, _options(parser, commands, [command, *of.words])) for of in configured.each()]
    request = swept([(of.named, build(options)) for of, options in several])
    if configured.dumps:
        sys.stdout.write(configured.text(several[0][1]))
        parser.exit(0)
    return command, request


def _configured(words: Sequence[str]) -> bool:
    before = words[: words.index("--")] if "--" in words else words
    return any(word in ("--config", "--dump-config") or word.startswith("--config=") for word in before)


def _options(parser: _Parser, commands: dict[str, _Parser], words: Sequence[str]) -> argparse.Namespace:
    if any("\0" in word for word in words):  # from a file or a script: the system itself passes none on
        raise InputError("an argument has the character of code 0 in it, which no path and no name can have")
    for word in words[1 : words.index("--") if "--" in words else None]:
        if re.fullmatch(r"--[\w-]+=--", word):  # argparse takes the value for the end of the options, and gives none
            commands.get(words[0], parser).error(f"argument {word.partition('=')[0]}: expected one argument, not '--'")
    options, unknown = parser.parse_known_args(words)
    if unknown:
        command = commands[options.command]
        known = [option for word in command.takes for option in word.action.option_strings]
        near = did_you_mean(unknown[0].partition("=")[0], known)
        command.error(f"unrecognized arguments: {' '.join(unknown)}{near}")  # with that command's usage
    return options


class _Parser(NotingParser):
    """A parser that takes options by their whole names: ``compare --seed 3`` would pass for ``--seeds 3``. What it
    says of words that it does not know is harmless to a terminal."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, with usage, and end.

        :param message: what is wrong.
        :raises SystemExit: with exit code 2.
        """
        refused = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)$", message)
        if refused is not None:  # argparse itself makes suggestions from Python 3.14 on, where it is told to
            message += did_you_mean(refused[1], [name.strip("' ") for name in refused[2].split(",")])
        super().error(visible(message))


def _parser() -> tuple[_Parser, dict[str, _Parser]]:
    """The parser, and those of the commands."""
    parser = _Parser(prog="avalanche-vlm", description="Continual learning of vision-language models, measured.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    training.add_training_commands(commands)
    living.add_living_commands(commands)
    deploying.add_deploying_commands(commands)
    showing.add_showing_commands(commands)
    for command in commands.choices.values():
        group = command.add_argument_group("from a file")
        group.add_argument("--config", metavar="FILE", help="YAML file of options; those given here go before them")
        group.add_argument("--dump-config", action="store_true", help="print such a file of what is asked, and end")
    return parser, commands.choices
