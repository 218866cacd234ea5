"""``report``: one page of what a folder holds, or of two results side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from avalanche_vlm.commands import store
from avalanche_vlm.commands.kept_views import read_views
from avalanche_vlm.commands.requests import ReportRequest
from avalanche_vlm.commands.store import ADVISED, DIAGNOSED, RESULT_FILE
from avalanche_vlm.errors import InputError, naming
from avalanche_vlm.units import tell, visible


def report(request: ReportRequest) -> int:
    """Results, diagnosis and advice of a folder as ``report.html``, ``report.md`` and ``report.json`` in it; two
    results as ``side-by-side.html`` and so on, in the first one's folder.

    :param request: what was asked for.
    :return: exit code of the process.
    """
    from avalanche_vlm.report.page import as_html, as_markdown, content

    folder, stem = request.out, "report"
    if request.beside is None:
        results, diagnosis, advice, unfinished = read_folder(folder)
        pair = None
    else:
        pair, unfinished = _sides(folder, request.beside)
        results, diagnosis, advice = [entry for runs in pair.values() for entry in runs], None, None
        stem = "side-by-side"
    if not request.with_pictures:
        results = [_without_pictures(entry) for entry in results]
    found = content(results, diagnosis, advice, unfinished, pair)
    for name, text in ((f"{stem}.html", as_html(found)), (f"{stem}.md", as_markdown(found))):
        store.write_text(folder / name, visible(text))
    store.write_json(folder / f"{stem}.json", found)
    for sentence in found["answer"]["sentences"]:
        tell(sentence)
    tell(f"written to {folder / stem}.html, {stem}.md and {stem}.json")
    return 0


def _sides(first: Path, second: Path) -> tuple[dict[str, list[dict[str, Any]]], list[dict[str, Any]]]:
    """The finished runs of two folders by what these are called, and what the others have come to. Each says in
    ``side`` whose it is."""
    pair: dict[str, list[dict[str, Any]]] = {}
    unfinished = []
    if first.is_dir() and second.is_dir() and first.samefile(second):
        raise InputError(f"{first} and {second} are one folder, and two results are put side by side")
    for name, folder in zip(_names([first, second]), (first, second), strict=True):
        begun = _unfinished(folder)  # before the results, so that a run that ends meanwhile is one or the other
        pair[name] = [{**entry, "side": name} for entry in _one_result(folder)]
        unfinished += [
            {**found, "side": name} for run, found in begun.items() if not os.path.lexists(run / RESULT_FILE)
        ]
    return pair, unfinished


def _one_result(folder: Path) -> list[dict[str, Any]]:
    """The finished run of a folder, or all seeds of one recipe, as a comparison lays them out."""
    if not folder.is_dir():
        raise InputError(f"there is no folder at {folder}")
    if (entry := _entry(folder)) is not None:
        return [entry]
    below = _runs(folder, RESULT_FILE)
    apart = [run for run in below if run.parent != folder]
    if not below or apart:
        runs = "1 run in a folder of its" if len(apart) == 1 else f"{len(apart)} runs in folders of their"
        hint = f": it holds {runs} own, such as {apart[0].parent}" if apart else ""
        raise InputError(
            f"{folder} is not the folder of one finished run or of one recipe's seeds, which are put side by side{hint}"
        )
    entries = [entry for run in below if (entry := _entry(run)) is not None]
    return _of_one_recipe(folder, entries)


def _of_one_recipe(folder: Path, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs that differ in the seed alone, in the order of their seeds."""
    from avalanche_vlm.evaluation.comparable import check_one_table
    from avalanche_vlm.evaluation.variants import row_names

    results = [entry["result"] for entry in entries]
    with naming(str(folder)):
        check_one_table(results)
        if len(names := dict.fromkeys(row_names(results))) > 1:
            raise InputError(f"it has runs of {' and '.join(names)}, and one recipe's seeds are put side by side")
    return sorted(entries, key=lambda entry: str(entry["result"]["protocol"].get("seed")).zfill(20))


def _names(folders: Sequence[Path]) -> list[str]:
    """What two folders are called: by their last parts, as many as tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    named = (["/".join(of[-number:]) for of in parts] for number in range(1, max(map(len, parts)) + 1))
    return next((names for names in named if len(set(names)) > 1), [f"{folders[0]} (first)", f"{folders[1]} (second)"])


def _entry(folder: Path) -> dict[str, Any] | None:
    """What a run has come to, with what it has kept for its report."""
    entry = store.read_entry(folder)
    return None if entry is None else {**entry, "views": read_views(folder, entry["result"]["run"])}


def _without_pictures(entry: dict[str, Any]) -> dict[str, Any]:
    return {**entry, "views": {**entry["views"], "examples": []}} if entry["views"] else entry


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
    entries = {run: entry for run in _runs(folder, RESULT_FILE) if (entry := _entry(run)) is not None}
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
