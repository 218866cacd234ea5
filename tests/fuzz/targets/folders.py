"""Class folders of any shape: odd names, links in circles, pipes, files in the place of folders."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from random import Random

from example import Example, WrongAccept
from mutators import TEXTS

from avalanche_vlm.errors import InputError

SHARE, QUICK = 15, 15

_NAMES = (
    "cat",
    "dog",
    "train",
    "test",
    "val",
    "validation",
    "train2017",
    "001.ak47",
    "002.flag",
    "n01440764",
    "t-shirt",
    "t_shirt",
)
_NAMES += (
    "a",
    ".hidden",
    "1",
    "10",
    "2",
    "x y",
    "²",
    "٣",
    "classes.txt",
    "metadata.csv",
    "___",
    "-",
    "CON",
    "a.png",
    "\udcff",
    "\x1b[2J",
    "\n",
)
_NAMES += tuple(
    text for text in TEXTS if text and "/" not in text and "\0" not in text and text != "\ud800" and len(text) < 250
)
_KINDS = (
    "image",
    "image",
    "image",
    "image",
    "folder",
    "text",
    "link",
    "circle",
    "dangling",
    "pipe",
    "broken",
    "closed",
)


def make(random: Random) -> Example:
    """A list of places, each with what is there."""
    names = random.sample(_NAMES, random.randrange(1, 6))
    tree = []
    for _ in range(random.randrange(1, 16)):
        parts = [random.choice(names) for _ in range(random.randrange(4))]
        kind = random.choice(_KINDS)
        last = (
            random.choice(("1.png", "2.PNG", "3.jpg", "4.gif", "5.txt", "no"))
            if kind in ("image", "broken")
            else random.choice(_NAMES)
        )
        tree.append([kind, *parts, last])
    options = {"layout": random.choice(("auto", "class", "task/class")), "on_error": random.choice(("raise", "skip"))}
    options |= random.choice(
        ({}, {}, {"split_classes": 2}, {"split_classes": 1, "class_order": "sorted"}, {"label_space": "union"})
    )
    return Example("tree.json", json.dumps([tree, options]).encode())


def check(example: Example, folder: Path) -> None:
    """No more samples than there are pictures, each in one split."""
    from avalanche_vlm.benchmarks.sources.folder import image_folder_stream
    from avalanche_vlm.benchmarks.sources.gathering import gathered
    from avalanche_vlm.benchmarks.sources.registry import format_of

    tree, options = json.loads(example.content)
    root = folder / "root"
    root.mkdir()
    pictures = 0
    for kind, *parts in tree:
        with contextlib.suppress(OSError, ValueError):
            pictures += _place(root, root.joinpath(*parts), kind)
    try:
        format_of(root)
        if not any(kind in ("link", "circle") for kind, *_ in tree):  # a link shows a picture twice
            list(gathered([root]))
        stream = image_folder_stream(
            root, train_transform=_same, eval_transform=_same, check="fast", check_workers=0, **options
        )
        samples = sum(len(e.dataset) for of in (stream.train_stream, stream.test_stream) for e in of)
        if samples > pictures and not any(kind in ("link", "circle") for kind, *_ in tree):
            raise WrongAccept(f"{samples} samples of {pictures} pictures")
    except InputError:
        pass
    finally:
        for path in root.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)


def _place(root: Path, path: Path, kind: str) -> int:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() or path.is_symlink():
        return 0
    if kind == "image":
        Image.new("RGB", (2, 2), hash(str(path.relative_to(root))) % 255).save(path, format="PNG")
        return 1
    if kind == "broken":
        path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
        return 1
    if kind == "folder" or kind == "closed":
        path.mkdir()
        if kind == "closed":
            path.chmod(0)
    elif kind == "text":
        path.write_bytes(b"cat\ndog\n")
    elif kind == "link":
        path.symlink_to(root / "cat")
    elif kind == "circle":
        path.symlink_to("..")
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "pipe":
        os.mkfifo(path)
    return 0


def _same(image):
    return image
