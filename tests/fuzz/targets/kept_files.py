"""JSON files that runs, comparisons, advice and diagnoses keep, changed: what reads them says so in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import world
from example import Example, WrongAccept
from mutators import as_text, changed_json

from avalanche_vlm.errors import InputError
from avalanche_vlm.storage.documents import seal_of

SHARE, QUICK, WORLD = 4, 6, True


def make(random: Random) -> Example:
    """A kept file, changed."""
    files = {
        n: of
        for n, of in world.files().items()
        if "/versions/" not in n and "/tests/" not in n and "/checkpoint/" not in n
    }
    name = random.choice(list(files))
    value = json.loads(files[name])
    others = [key for of in (value, value.get("protocol"), value.get("pilot")) if isinstance(of, dict) for key in of]
    changed = changed_json(random, value, others)
    if random.random() < 0.6 and isinstance(changed, dict) and "sha256" in changed:
        changed = {**changed, "sha256": seal_of({key: of for key, of in changed.items() if key != "sha256"})}
    return Example(name, as_text(random, changed))


def check(example: Example, folder: Path) -> None:
    """``report`` and all that takes a finished run, a pilot or a record for what it is."""
    part = example.name.split("/")[0]
    there = world.copied(folder, example.name, example.content, part)
    kind = Path(example.name).name
    for path in [there, (folder / example.name).parent]:
        code, out = world.said(["report", str(path)])
        if code not in (0, 2) or "Traceback" in out:
            raise WrongAccept(f"report ends with {code}: {out[-500:]}")
    if kind in ("result.json", "timing.json", "request.yaml", "ledger.json"):
        _runs((folder / example.name).parent)
    if "/pilots/" in example.name:
        _pilot(folder / example.name)


def _runs(run: Path) -> None:
    from avalanche_vlm.commands import store
    from avalanche_vlm.evaluation.chance import remarks
    from avalanche_vlm.report import table

    try:
        asked, result = store.read_run(run)
        entry = store.finished(run, asked)
    except InputError:
        return
    if entry is None:
        return
    entries = [entry]
    table.as_csv(entries)
    table.summary(entries)
    remarks([result])


def _pilot(path: Path) -> None:
    from avalanche_vlm.studies.advice.advised import PILOT
    from avalanche_vlm.studies.advice.pilot import Pilot

    try:
        content = PILOT.read(path)
    except InputError:
        return
    if "pilot" in content:
        Pilot.from_json(content["pilot"])
