"""Records of a model's versions, and the test samples that are kept with it, changed."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import world
from example import Example, WrongAccept
from mutators import as_text, changed, changed_json

SHARE, QUICK, WORLD = 4, 6, True


def make(random: Random) -> Example:
    """A record, or a file of kept samples."""
    if random.randrange(3):
        name = random.choice([n for n in world.files() if n.startswith(("run/versions/v1.json", "run/tests/"))])
        value = json.loads(world.files()[name])
        return Example(name, as_text(random, changed_json(random, value, list(value))))
    name = random.choice(sorted(p.name for p in (world.folder() / "run" / "tests").glob("*.safetensors")))
    content = (world.folder() / "run" / "tests" / name).read_bytes()
    return Example(f"run/tests/{name}", changed(random, content, (b"pixels", b"I64", b"F32", b"[", b"-1")))


def check(example: Example, folder: Path) -> None:
    """``versions`` and ``rollback``, and the kept samples one by one."""
    from avalanche_vlm.benchmarks.transforms import ImageTransform
    from avalanche_vlm.models import tiny
    from avalanche_vlm.studies.living.kept import kept_sets
    from avalanche_vlm.studies.living.records import read_record

    there = world.copied(folder, example.name, example.content, "run")
    for words in (["versions", str(there)], ["versions", str(there), "--json"], ["rollback", str(there), "v1"]):
        code, out = world.said(words)
        if code not in (0, 2) or "Traceback" in out:
            raise WrongAccept(f"{words[0]} ends with {code}: {out[-500:]}")
    record = read_record(there, "v1")
    for asked in kept_sets(there, [*record.experiences, *record.held_out], ImageTransform(32, tiny.MEAN, tiny.STD)):
        for row in range(len(asked.dataset)):
            asked.dataset[row]
