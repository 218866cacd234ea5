"""States on disk, as checkpoints are: manifests that are changed and sealed again, and files of tensors."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from random import Random

import torch
from example import Example, WrongAccept
from mutators import as_text, changed, changed_json

from avalanche_vlm.errors import InputError

SHARE, QUICK = 20, 30

_KIND, _WITHIN = "experience of a training", "iteration of a training"


@cache
def _seed() -> Path:
    from avalanche_vlm.storage import save_state

    folder = Path(tempfile.mkdtemp(prefix="fuzz-state-"))
    generator = torch.Generator().manual_seed(0)
    about = {"experiences": [[0, 4]], "settings": {}, "machine": {}, "loader": {}, "conditions": {}, "evaluates": []}
    about |= {"written": 0.5, "base": "abc"}
    state = {"model.w": torch.randn(4, 6, generator=generator).t(), "model.b": torch.zeros(3), "clock": {"a": 1}}
    at = {"experience": 0, "stage": "start", "epoch": 0, "iteration": 0}
    save_state(folder, state, name="0000-start", kind=_KIND, about={**about, "position": at})
    state["model.w"], at = torch.ones(6, 4), {**at, "stage": "within", "iteration": 2}
    save_state(folder, state, name="0000-within-0000-0000002", kind=_WITHIN, about={**about, "position": at})
    for lock in folder.glob(".*"):
        lock.unlink()
    return folder


@cache
def _files() -> dict[str, bytes]:
    """What there is, in an order that does not depend on the names that are drawn anew each time."""
    paths = sorted((p for p in _seed().rglob("*") if p.is_file()), key=lambda p: (p.suffix, p.stat().st_size, p.name))
    return {p.relative_to(_seed()).as_posix(): p.read_bytes() for p in paths}


def make(random: Random) -> Example:
    """A state of which one file is changed: all files in one example, so that it does not depend on this process."""
    files = dict(_files())
    name = random.choice(list(files))
    if name.endswith(".json") and random.randrange(4):
        content = json.loads(files[name])
        content.pop("sha256")
        content = changed_json(
            random,
            content,
            ("format", "kind", "serial", "state", "tensor", "dtype", "shape", "strides", "in", "value", "position"),
        )
        files[name] = sealed(as_text(random, content))
    else:
        files[name] = changed(random, files[name], (b"{", b'"', b":", b"F64"))
    return Example("state.json", json.dumps({name: content.hex() for name, content in files.items()}).encode())


def sealed(text: bytes) -> bytes:
    """A manifest with the digest of what it says.

    :param text: a JSON object without the digest.
    """
    body = text[1:].rstrip(b"\n") + b"\n"
    return b'{"sha256":"%s",' % hashlib.sha256(body).hexdigest().encode() + body


def check(example: Example, folder: Path) -> None:
    """What is read is tensors and values, and a checkpoint that is taken says where it is from."""
    from avalanche_vlm.storage import load_state, save_state, state_names
    from avalanche_vlm.training.checkpoint.folder import holds_checkpoints, newest, noted_in

    place = folder / "state"
    for name, content in json.loads(example.content).items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(bytes.fromhex(content))
    noted_in(place)
    holds_checkpoints(place)
    for read in (lambda: state_names(place, kind=_KIND), lambda: load_state(place, kind=_KIND, name="0000-start")):
        with contextlib.suppress(InputError):
            read()
    shutil.copytree(place, folder / "other")
    try:
        found = newest(place)
        if found is not None:
            for entry in (*found.state.values(), *(found.within or {}).values()):
                if isinstance(entry, torch.Tensor):
                    entry.clone()
                else:
                    json.dumps(entry)
    finally:
        try:
            save_state(folder / "other", {"x": torch.ones(2)}, name="next", kind=_KIND, about={})
        except InputError:
            pass
        else:
            if not torch.equal(load_state(folder / "other", kind=_KIND, name="next").state["x"], torch.ones(2)):
                raise WrongAccept("what was written beside a damaged state is not read back")
