"""Tables of every format with any bytes: rows, streams and reference pairs, or one sentence."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from random import Random

from example import Example, WrongAccept
from mutators import as_text, changed, changed_json
from PIL import Image

from avalanche_vlm.errors import InputError

SHARE, QUICK = 75, 60

_ROWS = [
    {"image": "a.png", "label": "cat", "task": "one", "split": "train"},
    {"image": "b.png", "label": "dog, big", "task": "one", "split": "test"},
    {"image": "sub\\c.png", "label": 'a "quoted" name', "task": "two", "split": "val"},
]
_COCO = {
    "images": [{"id": 1, "file_name": "a.png"}, {"id": "2", "file_name": "b.png"}],
    "annotations": [{"image_id": 1, "caption": "a cat"}, {"image_id": 2, "caption": "a dog"}],
}
_KARPATHY = {
    "images": [
        {"filename": "a.png", "filepath": ".", "split": "restval", "sentences": [{"raw": "a cat"}, {"raw": "one"}]},
        {"filename": "b.png", "split": "test", "sentences": ["a dog"]},
    ]
}
_OBJECTS = [{"image": "a.png", "caption": ["a cat", "one"]}, {"image": "b.png", "caption": "a dog"}]
_CSV = b'image,label,task,split\r\na.png,cat,one,train\r\nb.png,"dog, big",one,test\n"sub/c.png","a ""q"" name",two,\n'
_TEXTS = {
    "table.csv": [_CSV, _CSV.replace(b",", b";"), b"image|caption\na.png| a cat, sat\nb.png|dog\n"],
    "table.tsv": [_CSV.replace(b",", b"\t"), b"image\tcaption\na.png\ta cat\nb.png\ta \xc3\xa4 dog\n"],
    "metadata.csv": [b"file_name,text\na.png,a cat, and more\nb.png,a dog\n"],
    "list.txt": [
        b"a.png#0\ta cat\na.png#1\tone\nb.png#0\ta dog\n",
        b"a.png\ta cat\nb.png\tdog\n",
        b"image,caption\na.png,x\n",
    ],
    "list.token": [b"a.png#0\ta cat\nb.png#0\ta dog\n"],
}
_LINES = {
    "table.jsonl": _ROWS,
    "metadata.jsonl": [{"file_name": "a.png", "text": "x"}, {"file_name": "b.png", "text": "y"}],
}
_WHOLE = {"coco.json": _COCO, "karpathy.json": _KARPATHY, "objects.json": _OBJECTS}
_WORDS = [
    b'"',
    b'""',
    b",",
    b";",
    b"\t",
    b"|",
    b"\n",
    b"\r\n",
    b"\r",
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xc2\x85",
    b"\xe2\x80\xa8",
]
_WORDS += [
    b"image",
    b"label",
    b"caption",
    b"task",
    b"split",
    b"train",
    b"\xed\xa0\x80",
    b"x" * 140000,
    b"../" * 900,
    b"a\0b.png",
    b"#0\t",
]
_NAMES = ("image", "label", "caption", "task", "split", "file_name", "id", "image_id", "sentences", "raw", "filename")


def make(random: Random) -> Example:
    """A table of some format, changed."""
    name = random.choice([*_TEXTS, *_LINES, *_WHOLE])
    if name in _TEXTS:
        content = changed(random, random.choice(_TEXTS[name]), _WORDS, [of for all_ in _TEXTS.values() for of in all_])
    elif name in _LINES:
        content = b"\n".join(as_text(random, changed_json(random, row, _NAMES)) for row in _LINES[name])
    else:
        content = as_text(random, changed_json(random, _WHOLE[name], _NAMES))
    if random.randrange(6) == 0:
        content = content.decode(errors="replace").encode(random.choice(("utf-16", "utf-16-le", "utf-32", "utf-8-sig")))
    return Example(name, content)


def check(example: Example, folder: Path) -> None:
    """What is read with every row is read when rows may be left out, and none is."""
    from avalanche_vlm.benchmarks.sources.gathering import gathered
    from avalanche_vlm.benchmarks.sources.problems import Problems
    from avalanche_vlm.benchmarks.sources.registry import format_of, kind_of_data, read_rows
    from avalanche_vlm.benchmarks.sources.table import reference_table, table_stream

    for name in ("a.png", "b.png", "sub/c.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (2, 2)).save(folder / name)
    path = folder / example.name
    path.write_bytes(example.content)
    list(gathered([path]))
    if example.name.startswith("metadata"):
        path = folder
    kind = kind_of_data(path)
    strict = lenient = None
    problems = Problems("skip")
    try:
        lenient = list(read_rows(path, problems))
    finally:
        with contextlib.suppress(InputError):
            strict = list(read_rows(path, Problems("raise")))
        if strict is not None and (strict != lenient or problems.skipped):
            raise WrongAccept(f"{format_of(path).name}: {len(strict)} rows are read where {problems.skipped} is wrong")
    options = {"train_transform": _same, "eval_transform": _same, "check": "none"}
    found = []
    for read in (
        lambda: table_stream(path, on_error="skip", kind=kind, tokenizer=_tokens, **options),
        lambda: table_stream(path, on_error="skip", kind="pairs", tokenizer=_tokens, **options),
        lambda: table_stream(path, on_error="skip", kind="classes", split_classes=1, **options),
        lambda: reference_table(path, transform=_same, on_error="skip", check="none"),
    ):
        try:
            found.append(read())
        except InputError:
            continue
    for stream in found[:-1]:
        json.dumps(getattr(stream, "protocol", None), allow_nan=False)


def _same(image):
    return image


def _tokens(texts):
    import torch

    return torch.zeros(len(texts), 8, dtype=torch.long)
