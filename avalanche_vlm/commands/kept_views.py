"""What a run keeps for its report besides its result: ``views.json``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.views.records import VIEWS, KeptViews, chosen_examples
from avalanche_vlm.storage.json_files import TruncatedError

if TYPE_CHECKING:
    from avalanche_vlm.evaluation.views.records import ViewsRecord

VIEWS_FILE = "views.json"


def write_views(folder: Path, run: str, views: ViewsRecord) -> None:
    """Write what a report shows of a run.

    :param folder: the folder of the run.
    :param run: what the run is known by.
    :param views: what was seen.
    :raises InputError: if it cannot be written.
    """
    VIEWS.write(folder / VIEWS_FILE, cast("KeptViews", {"run": run, **views}))


def cut_examples(folder: Path, run: str, most: int) -> None:
    """Leave no more test pictures of a run than are asked for: what one was finished with may be more than is wanted.

    :param folder: the folder of the run.
    :param run: what the result in it is known by.
    :param most: pictures that are left, at most.
    :raises InputError: if the file is damaged, was changed, is of another run, or cannot be written.
    """
    views = read_views(folder, run)
    if len(views.get("examples", ())) > most:
        lost, won = ([e for e in views["examples"] if e["kind"] == kind] for kind in ("lost", "won"))
        write_views(folder, run, cast("ViewsRecord", {**views, "examples": chosen_examples(lost, won, most)}))


def read_views(folder: Path, run: str) -> Mapping[str, Any]:
    """What a report shows of a run.

    :param folder: the folder of the run.
    :param run: what the result beside it is known by.
    :return: what was kept; nothing where a run has kept nothing, as those of earlier versions.
    :raises InputError: if the file is damaged, was changed, or is of another run.
    """
    path = folder / VIEWS_FILE
    if not os.path.lexists(path):
        return {}
    try:
        found = VIEWS.read(path)
    except TruncatedError as error:
        raise InputError(f"{error}: remove it, and the result stands without it") from error
    if found["run"] != run:
        raise InputError(
            f"{path} is of another run ({found['run']}) than the result beside it ({run}): remove it, and the result "
            "stands without it"
        )
    return {name: value for name, value in found.items() if name != "run"}
