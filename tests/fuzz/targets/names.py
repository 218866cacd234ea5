"""Files of class names, of the order of classes, and of a text a line."""

from __future__ import annotations

from pathlib import Path
from random import Random

from example import Example, WrongAccept
from mutators import as_text, changed, changed_json

from avalanche_vlm.errors import InputError

SHARE, QUICK = 80, 60

_LISTS = [
    b"cat\ndog\nflag\n",
    b"0 cat\n1 dog\n2 flag\n",
    b"1: cat\n2: dog\n3: flag\n",
    b"0\tcat\n1\tdog\n2\tflag\n",
    b"id,name\n0,cat\n1,dog\n2,flag\n",
    b"n01440764 tench, Tinca tinca\nn01443537 goldfish\nn02 x\n",
    b"['cat', 'dog', \"flag\"]",
    b"{0: 'cat', 1: 'dog', 2: 'flag'}",
    b"{'cat': 0, 'dog': 1, 'flag': 2}",
    b"names:\n  0: cat\n  1: dog\n",
    b"001.ak47\n002.flag\n003.x\n",
]
_VALUES = [
    ["cat", "dog", "flag"],
    {"0": "cat", "1": "dog", "2": "flag"},
    {"cat": 0, "dog": 1, "flag": 2},
    [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}, {"id": 2, "name": "flag"}],
    {"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"], "2": ["n02", "x"]},
]
_WORDS = [
    b"\n",
    b"\r",
    b"\t",
    b":",
    b",",
    b";",
    b"[",
    b"{",
    b"(",
    b"'" * 3,
    b"\\",
    b"0",
    b"1.0",
    b"-1",
    b"\xc2\xb2",
    b"\xd9\xa3",
    b"\0",
    b"1e9",
    b"9" * 5000,
]
_WORDS += [
    b"(" * 3000,
    b"-" * 3000,
    b"0x",
    b"b'x'",
    b"1+1j",
    b"...",
    b"#",
    b"\xe2\x80\xa8",
    b"\xff\xfe",
    b"None",
    b"nan",
    b"lambda: 0",
]


def make(random: Random) -> Example:
    """A file of names, changed."""
    if random.randrange(3):
        return Example("names.txt", changed(random, random.choice(_LISTS), _WORDS, _LISTS))
    return Example(
        "names.json", as_text(random, changed_json(random, random.choice(_VALUES), ("id", "name", "0", "cat")))
    )


def check(example: Example, folder: Path) -> None:
    """A text for every label, or a sentence."""
    from avalanche_vlm.benchmarks.sources.class_names import (
        UNNAMED,
        choose_names,
        from_folders,
        meaningless,
    )
    from avalanche_vlm.benchmarks.sources.class_split import divided
    from avalanche_vlm.benchmarks.sources.items import Item, Items
    from avalanche_vlm.benchmarks.sources.name_lists import names_for, names_of_ids
    from avalanche_vlm.commands.requests.deploying import _lines

    path = folder / example.name
    path.write_bytes(example.content)
    (folder / "classes.txt").write_bytes(example.content)
    for labels in (
        ["0", "1", "2"],
        ["1", "2", "3"],
        ["cat", "dog", "flag"],
        ["n01440764", "n01443537", "n02"],
        ["²", "1.0", "-1"],
    ):
        items = Items.of(Item(str(folder / "a.png"), label, "all", "train") for label in labels)
        for read in (
            lambda labels=labels: _all_named(names_for(path, labels)[0], labels),
            lambda labels=labels: choose_names(None, labels, folder),
            lambda labels=labels, items=items: divided(items, ["all"], 2, path, 0, choose_names(None, labels, folder)),
            lambda items=items: divided(items, ["all"], 1, path, 0, UNNAMED),
        ):
            _or_a_sentence(read)
    _or_a_sentence(lambda: _all_texts(names_of_ids(path, [0, 1, 2])[0]))
    lines: tuple[str, ...] = _or_a_sentence(lambda: _lines(str(path))) or ()
    if lines:
        meaningless(lines)
        from_folders(lines[:50])


def _or_a_sentence(read):
    try:
        return read()
    except InputError:
        return None


def _all_named(names: dict[str, str], labels: list[str]) -> None:
    if set(names) != set(labels):
        raise WrongAccept(f"names of {sorted(names)} for {labels}")
    _all_texts(list(names.values()))


def _all_texts(names: list[str]) -> None:
    if not all(isinstance(name, str) and name.strip() for name in names):
        raise WrongAccept(f"an empty name, or none: {names}")
