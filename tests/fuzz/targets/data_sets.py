"""Roots of published data sets with one file changed: images with classes that have names, or one sentence."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from random import Random

import real_formats
from example import Example, WrongAccept
from mutators import as_text, changed, changed_json

from avalanche_vlm.errors import InputError

SHARE, QUICK = 30, 30

_MAKERS = {
    **real_formats.TORCHVISION,
    "dtd-coop": lambda root: real_formats.coop(root, "dtd-coop"),
    "tinyimagenet": real_formats.tinyimagenet,
    "cub200": real_formats.cub200,
    "imagenet-r-coda": real_formats.imagenet_r,
    "imagenet-r-rapf": real_formats.imagenet_r,
    "domainnet-real": real_formats.domainnet,
}
_WORDS = (b" ", b"\n", b"/", b"\\", b"\0", b"\t", b":", b"- ", b"data:", b"targets:", b"train", b"test", b"image_1.jpg")
_WORDS += (
    b"0",
    b"-1",
    b"999999999999",
    b"9223372036854775808",
    b"9" * 5000,
    b"1.5",
    b"\xff",
    b"\xd9\xa3",
    b"../" * 900,
)
_PICTURES = (".jpg", ".jpeg", ".png")
_DATE = 116
"""Bytes of text at the beginning of MATLAB's files, in which the time stands."""


@cache
def _root(name: str) -> Path:
    """The data set, made once for a process."""
    root = Path(tempfile.mkdtemp(prefix="fuzz-data-"))
    _MAKERS[name](root)
    for path in root.rglob("*.mat"):
        path.write_bytes(b" " * _DATE + path.read_bytes()[_DATE:])
    return root


@cache
def _lists(name: str) -> tuple[Path, ...]:
    root = _root(name)
    found = (path for path in root.rglob("*") if path.is_file() and path.suffix.lower() not in _PICTURES)
    return tuple(sorted(path.relative_to(root) for path in found))


def make(random: Random) -> Example:
    """A file of a data set that is no image, changed."""
    name = random.choice([name for name in _MAKERS if name not in ("caltech101", "eurosat")])  # images alone
    file = random.choice(_lists(name))
    content = (_root(name) / file).read_bytes()
    if file.suffix == ".json" and random.randrange(4):
        return Example(f"{name}/{file}", as_text(random, changed_json(random, json.loads(content))))
    return Example(f"{name}/{file}", changed(random, content, _WORDS))


def check(example: Example, folder: Path) -> None:
    """Every image has a class, every class a name, and what is split can be split."""
    from avalanche_vlm.benchmarks.datasets.declaration import DATASETS
    from avalanche_vlm.benchmarks.families.building import other_sizes
    from avalanche_vlm.benchmarks.sources.dividing import train_and_test

    name, _, file = example.name.partition("/")
    root = _root(name)
    whole = (root / file).read_bytes()
    (root / file).write_bytes(example.content)
    try:
        found = DATASETS.get(name).load(root)
    except InputError as error:
        if len(str(error)) > 5000:
            raise WrongAccept(f"a sentence of {len(str(error))} letters") from error
        raise
    finally:
        (root / file).write_bytes(whole)
    other_sizes(DATASETS.get(name), found)
    for part in train_and_test(found):
        if [found.names[label] for label in part.labels if label < 0] or len(part.images) != len(part):
            raise WrongAccept(f"{name}: an image without a class")
