"""Files of tensors: headers of safetensors, manifests of images and feature caches, changed or forged."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from random import Random

import torch
from example import Example, WrongAccept
from mutators import as_text, changed, changed_json
from safetensors.torch import load, save

from avalanche_vlm.errors import InputError

SHARE, QUICK = 130, 60

_FEATURES = "features.safetensors"


@cache
def _seeds() -> dict[str, bytes]:
    g = torch.Generator().manual_seed(0)
    tensors = {
        "a": torch.randn(3, 4, generator=g),
        "b": torch.arange(5),
        "c": torch.tensor(True),
        "d": torch.zeros(0, 2),
    }
    return {
        "any.safetensors": save(tensors, {"format": "pt"}),
        "half.safetensors": save(
            {"x": torch.ones(2, 2).half(), "y": torch.ones(3).bfloat16(), "z": torch.ones(1, dtype=torch.uint8)}
        ),
        "manifest.safetensors": save(
            {
                "names": torch.arange(8).view(4, 2),
                "states": torch.arange(12).view(4, 3),
                "levels": torch.tensor([1, 2, 2, 1], dtype=torch.uint8),
            },
            {"version": "1", "pillow": "x", "digest": "x"},
        ),
        _FEATURES: save(
            {"digests": torch.zeros(3, 16, dtype=torch.uint8), "features": torch.randn(3, 8, generator=g)}, {}
        ),
    }


def make(random: Random) -> Example:
    """A file whose bytes, or whose header alone, are changed."""
    name = random.choice(list(_seeds()))
    content = _seeds()[name]
    if random.randrange(3) == 0:
        return Example(
            name, changed(random, content, (b"{", b"}", b'"', b"F64", b"data_offsets", b"__metadata__", b"-1"))
        )
    length = int.from_bytes(content[:8], "little")
    header = changed_json(
        random, json.loads(content[8 : 8 + length]), ("a", "dtype", "shape", "data_offsets", "__metadata__")
    )
    text = as_text(random, header)
    return Example(name, len(text).to_bytes(8, "little") + text + content[8 + length :])


def check(example: Example, folder: Path) -> None:
    """What is read is what safetensors itself reads, of a file that it takes."""
    from avalanche_vlm.benchmarks.sources.manifest import read_known
    from avalanche_vlm.models.checkpoints import inspect_checkpoint, read_weights
    from avalanche_vlm.storage import read_tensors

    path = folder / example.name
    path.write_bytes(example.content)
    read_known(path)
    if example.name == _FEATURES:
        _cache(example, folder / "cache")
    for read in (inspect_checkpoint, read_weights):
        try:
            read(path)
        except InputError:
            continue
    found = read_tensors(path)
    mapped = read_tensors(path, mapped=True)
    try:
        theirs = load(example.content)
    except Exception as error:
        raise WrongAccept(f"safetensors refuses what is read here: {error}") from error
    for name in {*found, *theirs, *mapped}:
        if not all(_same(found.get(name), other.get(name)) for other in (theirs, mapped)):
            raise WrongAccept(f"{name}: {found.get(name)} and {theirs.get(name)}")


def _same(a, b) -> bool:
    if a is None or b is None or a.dtype != b.dtype or a.shape != b.shape:
        return False
    return a.contiguous().reshape(-1).view(torch.uint8).equal(b.contiguous().reshape(-1).view(torch.uint8))


def _cache(example: Example, folder: Path) -> None:
    """A file of the cache with a digest that fits: features that are served are finite and of the tower's width."""
    import hashlib

    from avalanche_vlm.models.feature_cache import _FORMAT, _check, _Shelf

    try:
        tensors = load(example.content)
        check = _check(tensors["digests"], tensors["features"])
    except Exception:
        return
    key = hashlib.sha256(b"key").hexdigest()[:32]
    folder.mkdir()
    (folder / "x.safetensors").write_bytes(
        save(tensors, {"format": _FORMAT, "key": key, "sha256": check, "model": "x"})
    )
    shelf = _Shelf(folder, key, "x", 8, {torch.float32})
    for digest in list(shelf._places):
        served = shelf[digest]
        if served.ndim != 1 or not served.is_floating_point() or not served.isfinite().all():
            raise WrongAccept(f"a feature {served.dtype} {tuple(served.shape)} is served")
