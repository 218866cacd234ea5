"""``diagnose``: a finished run again, with probes."""

from __future__ import annotations

from typing import Any

from avalanche_vlm.commands import prepare, store
from avalanche_vlm.commands.durable import Command, locked, say_where
from avalanche_vlm.commands.progress import progress as watched
from avalanche_vlm.commands.requests import DiagnoseRequest
from avalanche_vlm.units import tell

CHECKPOINTS = "diagnosis-checkpoint"
"""The folder of a diagnosis's checkpoints, in the folder of the run."""


def diagnose(request: DiagnoseRequest) -> int:
    """Repeat the run of a folder with probes, attribute what was lost, and write ``diagnosis.json`` into it. One that
    was interrupted goes on where it was.

    :param request: what was asked for.
    :return: exit code of the process.
    """
    command = Command(request.out)
    with command.interruptible():
        store.read_run(request.out)  # a folder without a run is not written to
        with locked(request.out):
            return _diagnose(request, command)


def _diagnose(request: DiagnoseRequest, command: Command) -> int:
    from avalanche_vlm.benchmarks.reading import reading_by
    from avalanche_vlm.evaluation.comparable import deciding, difference
    from avalanche_vlm.studies.diagnosed import DIAGNOSIS
    from avalanche_vlm.studies.diagnosis import diagnose as run_with_probes

    folder = request.out
    asked, result = store.read_run(folder)
    model, benchmark = prepare.opened(asked, request.trust_remote_code)
    label = f"{asked.recipe} with probes"
    with (
        watched(request.quiet) as progress,
        progress.task(label, len(result["tasks"])) as bar,
        command.training(folder / CHECKPOINTS, request.checkpoint_minutes) as checkpoint,
        reading_by(asked.train.num_workers),
    ):
        found, outcome = run_with_probes(
            benchmark,
            asked.recipe,
            model=model,
            settings=asked.train,
            options=asked.recipe_options,
            seed=asked.seed,
            device=asked.device,
            progress=bar,
            checkpoint=checkpoint,
            on_resume=lambda plugin: say_where(progress, label, plugin),
        )
        DIAGNOSIS.write(folder / store.DIAGNOSED, {"run": result["run"], **found})
    _say(found)
    stored = result["protocol"]
    changed = difference(stored, outcome.result["protocol"])
    if changed not in deciding(stored):
        changed = None  # a run of an older version does not say it, and its matrix tells
    if changed or outcome.result["matrix"] != result["matrix"]:
        why = f"{changed} has changed" if changed else "the machine or the code has changed"
        tell(
            f"The repeated run is not the one of {folder / store.RESULT_FILE}: {why} since, and the diagnosis is of "
            "the repeated run."
        )
    tell(f"written to {folder / store.DIAGNOSED}")
    return 0


def _say(found: Any) -> None:
    for name, loss in found["exposures"].items():
        points, low, high = loss["points"], loss["low"], loss["high"]
        figures = "not measured" if points is None else f"{points:.1f} ({low:.1f} to {high:.1f})"
        tell(f"{name:>12}: {figures} {loss['measure']}")
    for attribution in found["attribution"]:
        tell(f"{attribution['score']}: {attribution['verdict']['sentence']}")
    for sentence in found["remarks"]:
        tell(sentence)
