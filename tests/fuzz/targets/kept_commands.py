"""The folder of a saved model with one kept file changed, and a command on it: an answer or a sentence, and what the
command does not write stays."""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache
from pathlib import Path
from random import Random

import world
from example import Example, WrongAccept
from mutators import as_text, changed, changed_json

from avalanche_vlm.storage.documents import seal_of

SHARE, QUICK, WORLD = 2, 4, True

_UPDATE = ["update", "run", "--data", "table.csv", "--epochs", "1", "--batch-size", "2", "--recipe", "fine-tune"]
_COMMANDS = (
    *(["predict", "run", "a.png"], ["versions", "run"], ["versions", "run", "--json"], ["rollback", "run", "v1"]),
    *(["diff", "run", "v1", "v2", "--json"], ["diff", "run", "v1", "v1"], ["report", "run"]),
    *(["export", "run", "--to", to, "--out", "exported"] for to in ("open_clip", "peft", "hub-folder")),
)
_OFTEN = 12
"""Inputs for each of which one is an update: it costs as much as forty others, where it comes to train."""
_LARGE = 1 << 20
"""Bytes of a file that is not changed: weights of the base have a target of their own."""
_WORDS = (b"F32", b"I64", b"U8", b"pixels", b"shape", b"data_offsets", b"sha256", b"[", b"-1", b"null", b"1e400")


@cache
def _names() -> tuple[str, ...]:
    there = world.folder() / "run"
    found = (
        p for p in there.rglob("*") if p.is_file() and not p.is_symlink() and p.suffix in (".json", ".safetensors")
    )
    return tuple(
        sorted(
            p.relative_to(world.folder()).as_posix()
            for p in found
            if 0 < p.stat().st_size < _LARGE and p.name[0] != "."
        )
    )


@cache
def _content(name: str) -> bytes:
    return (world.folder() / name).read_bytes()


def make(random: Random) -> Example:
    """A command, and a kept file: JSON changed in what it says and often sealed again, or any file in its bytes."""
    words = _UPDATE if random.randrange(_OFTEN) == 0 else random.choice(_COMMANDS)
    name = random.choice(_names())
    content = _content(name)
    if name.endswith(".json") and random.randrange(6):
        value = json.loads(content)
        value = changed_json(random, value, list(value) if isinstance(value, dict) else ())
        if isinstance(value, dict) and "sha256" in value and random.randrange(4):
            value.pop("sha256")
            plain = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
            value["sha256"] = plain if name.endswith("/model.json") else seal_of(value)
        content = as_text(random, value)
    else:
        content = changed(random, content, _WORDS)
    return Example("kept.json", json.dumps({"words": words, "name": name, "content": content.hex()}).encode())


def check(example: Example, folder: Path) -> None:
    """The exit code is one that is documented; a command that was refused has changed no file that was there."""
    said = json.loads(example.content)
    world.copied(folder, said["name"], bytes.fromhex(said["content"]), "run")
    _bring(folder)
    before = _state(folder / "run")
    here = os.getcwd()
    os.chdir(folder)
    try:
        code, out = world.said([*said["words"], *(["--quiet"] if said["words"][0] in ("update", "predict") else [])])
    finally:
        os.chdir(here)
    if code not in (0, 2, 3) or "Traceback" in out or (code == 2 and len(out.strip().splitlines()) != 1):
        raise WrongAccept(f"{said['words']} with {said['name']} changed: exit code {code}: {out[-600:]}")
    if code == 2 and said["words"][0] != "update":
        after = _state(folder / "run")
        if lost := [name for name in before if after.get(name) != before[name]]:
            raise WrongAccept(f"{said['words']} was refused and has changed {lost}")


def _bring(folder: Path) -> None:
    """What there is to answer and to learn."""
    from PIL import Image

    for name, color in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (32, 32), color).save(folder / f"{name}.png")
    rows = [
        f"{name}.png,{label},{split}" for name, label in (("a", "red"), ("b", "blue")) for split in ("train", "test")
    ]
    (folder / "table.csv").write_text("image,label,split\n" + "\n".join(rows) + "\n")


def _state(folder: Path) -> dict[str, object]:
    """Files by their paths: links by where they lead to, others by size and time."""
    return {
        path.relative_to(folder).as_posix(): os.readlink(path) if path.is_symlink() else path.stat()[6:9:2]
        for path in folder.rglob("*")
        if (path.is_file() or path.is_symlink()) and "lock" not in path.name
    }
