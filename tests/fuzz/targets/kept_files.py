"""JSON files that runs, comparisons, advice and diagnoses keep, changed: what reads them says so in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import world
from example import Example, WrongAccept
from mutators import as_text, changed_json

from avalanche_vlm.errors import InputError

SHARE, QUICK, WORLD = 6, 6, True


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
    return Example(name, as_text(random, changed_json(random, value, others)))


def check(example: Example, folder: Path) -> None:
    """``report`` and all that takes a finished run, a pilot or a record for what it is."""
    part = example.name.split("/")[0]
    there = world.copied(folder, example.name, example.content, part)
    kind = Path(example.name).name
    for path in [there, (folder / example.name).parent]:
        code, out = world.said(["report", str(path)])
        if code not in (0, 2) or "Traceback" in out:
            raise WrongAccept(f"report ends with {code}: {out[-500:]}")
    if kind in ("result.json", "timing.json", "request.json", "ledger.json"):
        _runs((folder / example.name).parent)
    if "/pilots/" in example.name:
        _pilot(example)


def _runs(run: Path) -> None:
    from avalanche_vlm.commands import store
    from avalanche_vlm.evaluation.chance import remarks
    from avalanche_vlm.report import table

    asked = (
        store.read_experiment(world.folder() / run.relative_to(run.parents[-1]).parts[0] / "request.json")
        if False
        else None
    )
    try:
        asked, result = store.read_run(run)
    except InputError:
        return
    kept = store.finished(run, asked)
    if kept is None:
        return
    result, timing = kept
    entries = [{"result": result, "timing": timing}]
    table.as_csv(entries)
    table.summary(entries)
    remarks([result])


def _pilot(example: Example) -> None:
    from avalanche_vlm.studies.advice.pilot import Pilot

    try:
        content = json.loads(example.content)
    except ValueError:
        return
    if isinstance(content, dict) and isinstance(content.get("pilot"), dict):
        Pilot.from_json(content["pilot"])
