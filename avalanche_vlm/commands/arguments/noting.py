"""A parser that knows what it takes."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial
from typing import Any


@dataclass(frozen=True)
class Word:
    """A positional word or an option of a command.

    :param action: argparse's action for it.
    :param repeated: whether it may be given several times, each a value more.
    """

    action: argparse.Action
    repeated: bool

    @property
    def name(self) -> str:
        """What it is called in a file: the option without its hyphens, or the name of the positional word."""
        options = self.action.option_strings
        return options[-1].lstrip("-") if options else self.action.dest

    @property
    def positional(self) -> bool:
        """Whether it is told by its place, and has no name on the command line."""
        return not self.action.option_strings

    @property
    def is_flag(self) -> bool:
        """Whether it has no value: it is there or not."""
        return self.action.nargs == 0


class NotingParser(argparse.ArgumentParser):
    """A parser that notes every word that it is told to take, in its groups as well.

    :param settings: argparse's settings; options are taken by their whole names.
    """

    def __init__(self, **settings: Any) -> None:
        self.takes: list[Word] = []
        super().__init__(**{"allow_abbrev": False, **settings})

    def add_argument(self, *names: str, **settings: Any) -> argparse.Action:
        """Take a word more.

        :param names: the option's names, or that of a positional word.
        :param settings: argparse's settings of it.
        """
        return self._noted(super().add_argument, *names, **settings)

    def add_argument_group(self, *args: Any, **settings: Any) -> Any:
        """A group of words in the help.

        :param args: what argparse takes of it by place.
        :param settings: what argparse takes of it by name.
        """
        return self._noting(super().add_argument_group(*args, **settings))

    def _noting(self, group: Any) -> Any:
        group.add_argument = partial(self._noted, group.add_argument)
        exclusive = group.add_mutually_exclusive_group
        group.add_mutually_exclusive_group = lambda **settings: self._noting(exclusive(**settings))
        return group

    def _noted(self, add: Any, *names: str, **settings: Any) -> argparse.Action:
        action: argparse.Action = add(*names, **settings)
        self.takes.append(Word(action, settings.get("action") == "append"))
        return action

    def written(self, words: list[str]) -> tuple[dict[str, Any], list[str]]:
        """What words give, whether it can be meant or not.

        :param words: words of the command line behind the command's name.
        :return: values as texts by the name of argparse's destination, without those that are not given; and words
            that nothing takes.
        """
        loose = argparse.ArgumentParser(prog=self.prog, allow_abbrev=False, add_help=False, usage=argparse.SUPPRESS)
        for word in self.takes:
            action = word.action
            settings: dict[str, Any] = {"default": argparse.SUPPRESS}
            if word.is_flag:
                settings |= {"action": "store_true"}
            elif word.positional:
                settings |= {"nargs": "*" if action.nargs == "+" else "?"}
            else:
                settings |= {"nargs": action.nargs, "action": "append" if word.repeated else "store"}
            if not word.positional:
                settings["dest"] = action.dest
            loose.add_argument(*(action.option_strings or [action.dest]), **settings)
        found, unknown = loose.parse_known_intermixed_args(words)
        return {name: value for name, value in vars(found).items() if value not in (None, [])}, unknown
