"""What ``predict`` is given: tables, folders and images in one place, read in batches as a model reads them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from random import Random

from example import Example, WrongAccept

from targets import images, tables

SHARE, QUICK = 20, 30


def make(random: Random) -> Example:
    """Some tables and images, each changed."""
    made = [random.choice((tables, images)).make(random) for _ in range(random.randrange(1, 4))]
    return Example("inputs.json", json.dumps([[of.name, of.content.hex()] for of in made]).encode())


def check(example: Example, folder: Path) -> None:
    """One answer for each thing that was found, and of each image that can be read its pixels."""
    from avalanche_vlm.benchmarks.sources.gathering import gathered
    from avalanche_vlm.benchmarks.transforms import ImageTransform
    from avalanche_vlm.models.reading_files import read_batches

    for number, (name, content) in enumerate(json.loads(example.content)):
        (folder / f"{number}").mkdir()
        (folder / f"{number}" / name).write_bytes(bytes.fromhex(content))
    paths = [*sorted(folder.rglob("*.*")), folder, folder / "nowhere"]
    found = list(gathered(paths))
    transform = ImageTransform(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    names = 0
    for batch in read_batches(partial(gathered, paths), transform, 3):
        names += len(batch.names)
        readable = sum(problem is None for problem in batch.problems)
        if len(batch.images) != readable or (readable and not batch.images.isfinite().all()):
            raise WrongAccept(f"{len(batch.images)} images of {readable}")
        if "" in batch.problems:
            raise WrongAccept("a problem without a sentence")
    if names != len(found):
        raise WrongAccept(f"{names} answers to {len(found)} things")
