"""Commands that only look, on a saved model and with odd arguments: exit code 0, 1 or 2, and no traceback."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from random import Random

import world
from example import Example, WrongAccept
from mutators import TEXTS

from targets import arguments, images, tables

SHARE, QUICK, WORLD = 3, 2, True

_COMMANDS = ("predict", "predict", "predict", "retrieve", "list", "versions", "rollback", "diff", "report", "export")
_PLACES = ("table", "image", "pictures", ".", "..", "/dev/null", "nowhere", "names.txt", "model", "run", "pipe", "")


def make(random: Random) -> Example:
    """Arguments, with a table and an image that are in the folder."""
    command = random.choice(_COMMANDS)
    words = [command]
    model = random.choice(("run", "run", "run", "run/model", "run/versions/v1", *_PLACES))
    if command == "predict":
        words += [model, *(random.choice(_PLACES) for _ in range(random.randrange(1, 4)))]
        words += random.choice(
            ([], ["--labels", random.choice((*TEXTS, "a,b", "a,,b", ","))], ["--label-file", random.choice(_PLACES)])
        )
        words += random.choice(([], ["--template", random.choice((*TEXTS, "a photo of a {}.", "{", "{}{}", "{0.x}"))]))
        words += random.choice(([], ["--top-k", random.choice(("1", "7", "999999999999"))]))
    elif command == "retrieve":
        words += [
            model,
            *random.choice(
                (
                    ["--images", random.choice(_PLACES), "--query", random.choice(TEXTS)],
                    ["--image", "image", "--texts", random.choice(_PLACES)],
                )
            ),
        ]
    elif command == "list":
        words += [
            random.choice(("recipes", "benchmarks", "models", "formats")),
            random.choice((*TEXTS, "lora", "picturebook", "csv")),
        ]
    elif command == "versions":
        words += [model]
    elif command == "rollback":
        words += [model, random.choice(("v1", "v2", "v0", *TEXTS))]
    elif command == "diff":
        words += [model, random.choice(("v1", *TEXTS)), random.choice(("v1", "v2"))]
    elif command == "report":
        words += [model]
    else:
        words += [
            model,
            "--to",
            random.choice(("open_clip", "peft", "hub-folder")),
            "--out",
            random.choice(("exported", "run", "table", "image/x", "x" * 300)),
        ]
    if command in ("predict", "retrieve"):
        words += random.choice(
            (
                [],
                [
                    "--out",
                    random.choice(
                        (
                            "a.csv",
                            "a.jsonl",
                            "nowhere/a.csv",
                            "a.txt",
                            "image/x.csv",
                            "/dev/full/x.csv",
                            "x" * 300 + ".csv",
                        )
                    ),
                ],
            )
        )
        words += random.choice(
            ([], ["--image-column", random.choice(TEXTS)], ["--image-root", random.choice(_PLACES)], ["--quiet"])
        )
    table, image = tables.make(random), images.make(random)
    said = {"words": words, "table": [table.name, table.content.hex()], "image": [image.name, image.content.hex()]}
    return Example("command.json", json.dumps(said).encode())


def check(example: Example, folder: Path) -> None:
    """The exit code is one that is documented, and nothing is told as Python tells it."""
    said = json.loads(example.content)
    arguments._prepare(folder)
    shutil.copytree(world.folder() / "run", folder / "run", copy_function=world.linked, symlinks=True)
    os.mkfifo(folder / "pipe")
    names = {}
    for what in ("table", "image"):
        name, content = said[what]
        names[what] = name
        (folder / name).write_bytes(bytes.fromhex(content))
    words = [names.get(word, word) for word in said["words"]]
    with contextlib.chdir(folder):
        code, out = world.said([w.replace("\0", "0") for w in words])
    if code not in (0, 1, 2) or "Traceback" in out or (code == 2 and not out.strip()):
        raise WrongAccept(f"{words}: exit code {code}: {out[-500:]}")
