"""``report``: one page of what a folder holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from avalanche_vlm.commands import store
from avalanche_vlm.commands.requests import ReportRequest
from avalanche_vlm.commands.store import ADVISED, DIAGNOSED, RESULT_FILE
from avalanche_vlm.errors import InputError
from avalanche_vlm.units import tell, visible


def report(request: ReportRequest) -> int:
    """Results, diagnosis and advice of a folder as ``report.html``, ``report.md`` and ``report.json`` in it.

    :param request: what was asked for.
    :return: exit code of the process.
    """
    from avalanche_vlm.report.page import as_html, as_markdown, content

    folder = request.out
    results, diagnosis, advice, unfinished = read_folder(folder)
    found = content(results, diagnosis, advice, unfinished)
    for name, text in (("report.html", as_html(found)), ("report.md", as_markdown(found))):
        store.write_text(folder / name, visible(text))
    store.write_json(folder / "report.json", found)
    for sentence in found["answer"]["sentences"]:
        tell(sentence)
    tell(f"written to {folder / 'report.html'}, report.md and report.json")
    return 0


def read_folder(folder: Path) -> tuple[list[dict[str, Any]], Any | None, Any | None, list[dict[str, Any]]]:
    """The results of a ``run``, of a ``compare`` or of the runs in folders side by side, with their timing, the
    diagnosis and the advice, where there are some, and what runs have come to that are not finished.

    A diagnosis lies beside its run: below the folder of a comparison it counts if it is the only one. Runs may go on
    meanwhile, and end.

    :raises InputError: if there is nothing to report, or a file is damaged.
    """
    from avalanche_vlm.studies.advice.advised import ADVICE
    from avalanche_vlm.studies.diagnosed import DIAGNOSIS

    if not folder.is_dir():
        raise InputError(f"there is no folder at {folder}")
    begun = _unfinished(folder)  # before the results, so that a run that ends meanwhile is one or the other
    entries = {run: entry for run in _runs(folder, RESULT_FILE) if (entry := store.read_entry(run)) is not None}
    diagnosed = _runs(folder, DIAGNOSED)
    of = diagnosed[0] if diagnosed[:1] == [folder] or len(diagnosed) == 1 else None
    diagnosis = None if of is None else DIAGNOSIS.read(of / DIAGNOSED)
    if diagnosis is not None and of in entries and diagnosis["run"] != (run := entries[of]["result"]["run"]):
        raise InputError(
            f"{of / DIAGNOSED} is of another run ({diagnosis['run']}) than {RESULT_FILE} beside it ({run}): "
            "avalanche-vlm diagnose makes one of it"
        )
    advice = ADVICE.read(folder / ADVISED) if os.path.lexists(folder / ADVISED) else None
    unfinished = [found for run, found in begun.items() if run not in entries]
    if not entries and diagnosis is None and advice is None and not unfinished:
        raise InputError(
            f"{folder} holds no result.json, diagnosis.json or advice.json: avalanche-vlm run makes a first"
        )
    return list(entries.values()), diagnosis, advice, unfinished


def _runs(folder: Path, name: str) -> list[Path]:
    """Folders of the run or the runs that a folder holds, which have a file of this name."""
    below = [path.parent for each in ("*", "*/seed-*") for path in folder.glob(f"{each}/{name}")]
    return [*([folder] if os.path.lexists(folder / name) else []), *sorted(below)]


def _unfinished(folder: Path) -> dict[Path, dict[str, Any]]:
    """What runs have come to that are not finished, by their folders."""
    runs = [run for run in _runs(folder, store.PARTIAL) if not os.path.lexists(run / RESULT_FILE)]
    return {run: found for run in runs if (found := store.read_partial(run)) is not None}
