"""``diagnose``: a finished run again, with probes."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from avalanche_vlm.commands import inputs, store
from avalanche_vlm.commands.progress import progress as watched
from avalanche_vlm.errors import InputError


def diagnose(options: Namespace) -> int:
    """Repeat the run of a folder with probes, attribute what was lost, and write ``diagnosis.json`` into it."""
    from avalanche_vlm.studies.diagnosis import diagnose as run_with_probes
    from avalanche_vlm.training import recipes
    from avalanche_vlm.training.settings import TrainSettings

    folder = Path(options.out)
    request, result = read(folder)
    # As on the command line of `run`, whose options the request holds under the same names.
    asked = Namespace(**{"benchmark": None, "data": None, **request})
    model = inputs.make_model(asked, request["seed"])
    benchmark = inputs.make_benchmark(asked, model, request["seed"])
    defaults = recipes.get(request["recipe"]).settings
    changed = {name: v for name, v in request["recipe_options"].items() if name not in defaults or defaults[name] != v}
    with (
        watched(options.quiet) as progress,
        progress.task(f"{request['recipe']} with probes", len(result["tasks"])) as bar,
    ):
        found, outcome = run_with_probes(
            benchmark,
            request["recipe"],
            model=model,
            settings=TrainSettings(**request["train"]),
            options=changed,
            seed=request["seed"],
            device=inputs.device_of(asked),
            progress=bar,
        )
    store.write_json(folder / "diagnosis.json", found)
    _say(found)
    if outcome.result["matrix"] != result["matrix"]:
        print(
            f"The repeated run does not give the matrix of {folder / 'result.json'}: versions, data or the machine "
            "have changed, and the diagnosis is of the repeated run."
        )
    print(f"written to {folder / 'diagnosis.json'}")
    return 0


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was asked for and what it came to.

    :raises InputError: if the folder holds no finished run.
    """
    request, result = (store.read_json(folder / f"{name}.json") for name in ("request", "result"))
    if not isinstance(request, dict) or not isinstance(result, dict):
        below = sorted(path.parent for path in folder.glob("*/seed-*/result.json"))
        hint = f"; there is one in {below[0]}" if below else ""
        raise InputError(f"{folder} holds no finished run (request.json and result.json){hint}")
    for name in ("recipe", "recipe_options", "train", "seed", "model", "pretrained", "device", "order", "label_space"):
        if name not in request:
            raise InputError(f"{folder / 'request.json'} is damaged or of an older version: it has no {name!r}")
    if "matrix" not in result or "tasks" not in result:
        raise InputError(f"{folder / 'result.json'} is damaged: it has no matrix or no tasks")
    return request, result


def _say(found: dict[str, Any]) -> None:
    for name, loss in found["exposures"].items():
        points, low, high = loss["points"], loss["low"], loss["high"]
        figures = "not measured" if points is None else f"{points:.1f} ({low:.1f} to {high:.1f})"
        print(f"{name:>12}: {figures} {loss['measure']}")
    print(found["attribution"]["verdict"]["sentence"])
