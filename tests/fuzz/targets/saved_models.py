"""Saved models whose description is changed and sealed again, or one of whose files is changed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from random import Random

import world
from example import Example, WrongAccept
from mutators import changed, changed_json

SHARE, QUICK, WORLD = 2, 3, True

_NAME = "run/versions/v1/model.json"


def make(random: Random) -> Example:
    """A description, or another file of the version but for the large ones."""
    content = world.files()[_NAME]
    if random.randrange(8) == 0:
        return Example(_NAME, changed(random, content))
    value = json.loads(content)
    value.pop("sha256")
    value = changed_json(random, value, list(value))
    if isinstance(value, dict):
        value = {**value, "sha256": hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()}
    return Example(_NAME, json.dumps(value).encode())


def check(example: Example, folder: Path) -> None:
    """It is loaded and answers, or a sentence says why not."""
    import torch

    from avalanche_vlm.artifacts import load
    from avalanche_vlm.artifacts.loading import open_saved

    there = world.copied(folder, example.name, example.content, "run")
    code, out = world.said(["versions", str(there)])
    if code not in (0, 2) or "Traceback" in out:
        raise WrongAccept(f"versions ends with {code}: {out[-500:]}")
    open_saved(there).label_space  # noqa: B018
    model = load(there)
    with torch.no_grad():
        found = model.encode_image(torch.zeros(1, 3, 32, 32))
    if not found.isfinite().all():
        raise WrongAccept("features that are not finite")
