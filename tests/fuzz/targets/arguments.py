"""Arguments of every command, drawn from the parser's own declarations: a request that means something, a sentence, or
usage."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from functools import cache
from pathlib import Path
from random import Random

import world
from example import Example, WrongAccept
from mutators import NUMBERS, TEXTS

SHARE, QUICK = 80, 15

_PATHS = (
    "table.csv",
    "pictures",
    ".",
    "..",
    "/",
    "/dev/null",
    "nowhere/x",
    "names.txt",
    "",
    "a" * 300,
    "\udcff",
    "run",
)
_WORDS = (
    "fine-tune",
    "zscl,lora",
    "lora",
    "picturebook",
    "all",
    "sketches,night",
    "v1",
    "tiny",
    "ViT-B-16",
    "auto",
    "cpu",
    "cuda:7",
)
_WORDS += (
    "n_train=3",
    "rank=4",
    "lora.rank=nan",
    "x=",
    "=",
    "a photo of a {}.",
    "{",
    "{}{}",
    "{0.__class__}",
    "v1",
    "0,1,0",
    "0",
    "1e-3",
)
_WORDS += ("hf-hub:a/b", "local-dir:.", "local-dir:", "openai", "random", "1,,2", "none", "@names.txt", "--", "-h")


@cache
def _commands() -> dict[str, list[argparse.Action]]:
    from avalanche_vlm.commands.arguments import parser

    world.one_parser()
    return {name: of._actions for name, of in parser._parser()[1].items()}


def make(random: Random) -> Example:
    """Arguments of a command, of which some are what is wanted and some are not."""
    command = random.choice(list(_commands()))
    actions = [action for action in _commands()[command] if not isinstance(action, argparse._HelpAction)]
    chosen = [action for action in actions if action.required or not action.option_strings or random.randrange(6) == 0]
    words = [command]
    for action in chosen:
        values = (
            []
            if action.nargs == 0
            else [_value(random, action) for _ in range(random.choice((1, 1, 1, 2)) if action.nargs == "+" else 1)]
        )
        if action.option_strings and random.randrange(5) == 0 and len(values) == 1:
            words.append(f"{action.option_strings[0]}={values[0]}")
        else:
            words += [*action.option_strings[:1], *values]
    for _ in range(random.choice((0, 0, 0, 1))):
        words.insert(random.randrange(len(words) + 1), random.choice((*TEXTS, *_WORDS)))
    return Example("arguments.json", json.dumps(words).encode())


def check(example: Example, folder: Path) -> None:
    """A request is parsed alike twice, and is stored as JSON."""
    from avalanche_vlm.commands.arguments import parse
    from avalanche_vlm.commands.checks import check as looked_at

    words = json.loads(example.content)
    _prepare(folder)
    with contextlib.chdir(folder), contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            command, request = parse(words)
        except SystemExit as ended:
            if ended.code not in (0, 2):
                raise WrongAccept(f"exit code {ended.code}") from ended
            return
        if parse(words) != (command, request):
            raise WrongAccept("two requests of the same words")
        try:
            looked_at(request)
        except OSError as error:
            if error.filename is None:  # else the command line says what the system said of the file
                raise


def _prepare(folder: Path) -> None:
    from PIL import Image

    (folder / "pictures" / "cat").mkdir(parents=True)
    Image.new("RGB", (2, 2)).save(folder / "pictures" / "cat" / "a.png")
    (folder / "table.csv").write_text("image,label\npictures/cat/a.png,cat\n")
    (folder / "names.txt").write_text("cat\ndog\n")


def _value(random: Random, action: argparse.Action) -> str:
    if action.choices and random.randrange(4):
        return random.choice(list(action.choices))
    kind = random.randrange(5)
    if kind == 0:
        return random.choice(TEXTS)
    if kind == 1:
        return str(random.choice(NUMBERS))
    if kind == 2 or action.metavar in ("FILE", "DIR", "PATH", "TABLE", "FOLDER"):
        return random.choice(_PATHS)
    return random.choice((*_WORDS, *map(str, range(5)), "0.5"))
