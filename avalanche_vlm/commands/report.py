"""``report``: one page of what a folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from avalanche_vlm.commands import store
from avalanche_vlm.commands.requests import ReportRequest
from avalanche_vlm.errors import InputError
from avalanche_vlm.units import tell, visible


def report(request: ReportRequest) -> int:
    """Results, diagnosis and advice of a folder as ``report.html``, ``report.md`` and ``report.json`` in it.

    :param request: what was asked for.
    :return: exit code of the process.
    """
    from avalanche_vlm.report.page import as_html, as_markdown, content

    folder = request.out
    found = content(*read_folder(folder), unfinished=_unfinished(folder))
    for name, text in (("report.html", as_html(found)), ("report.md", as_markdown(found))):
        store.write_text(folder / name, visible(text))
    store.write_json(folder / "report.json", found)
    for sentence in found["answer"]["sentences"]:
        tell(sentence)
    tell(f"written to {folder / 'report.html'}, report.md and report.json")
    return 0


def read_folder(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any] | None, dict[str, Any] | None]:
    """The results of a ``run``, of a ``compare`` or of the runs in folders side by side, with their timing, the
    diagnosis and the advice, where there are some.

    A diagnosis lies beside its run: below the folder of a comparison it counts if it is the only one.

    :raises InputError: if there is nothing to report, or a file is damaged.
    """
    from avalanche_vlm.report.page.reading import fault

    if not folder.is_dir():
        raise InputError(f"there is no folder at {folder}")
    entries = []
    for path in _runs(folder, "result.json"):
        result = _object(path)
        if result is not None:
            wrong = fault(result)
            if wrong:
                raise InputError(f"{path} is not a result of avalanche-vlm run: {wrong}")
            beside = {name: _object(path.with_name(f"{name}.json")) or {} for name in ("timing", "ledger")}
            entries.append({"result": result, **beside})
    diagnosed = [path for each in ("*/diagnosis.json", "*/seed-*/diagnosis.json") for path in folder.glob(each)]
    diagnosis = _object(folder / "diagnosis.json")
    if diagnosis is None and len(diagnosed) == 1:
        diagnosis = _object(diagnosed[0])
    advice = _object(folder / "advice.json")
    if not entries and diagnosis is None and advice is None and not _unfinished(folder):
        raise InputError(
            f"{folder} holds no result.json, diagnosis.json or advice.json: avalanche-vlm run makes a first"
        )
    return entries, diagnosis, advice


def _runs(folder: Path, name: str) -> list[Path]:
    """Files of this name of the run or the runs that a folder holds."""
    return [folder / name, *sorted([*folder.glob(f"*/{name}"), *folder.glob(f"*/seed-*/{name}")])]


def _unfinished(folder: Path) -> list[dict[str, Any]]:
    """The rows that runs have come to which are not finished."""
    paths = [path for path in _runs(folder, "partial.json") if not path.with_name("result.json").exists()]
    return [found for path in paths if (found := _object(path)) is not None]


def _object(path: Path) -> dict[str, Any] | None:
    """What a JSON file holds; None if there is none.

    :raises InputError: if it is there and holds something else.
    """
    if not path.exists():
        return None
    content = store.read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged or cannot be read: it is not a JSON object")
    return content
