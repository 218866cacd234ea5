"""``run`` and ``compare``."""

from __future__ import annotations

import io
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avalanche_vlm.commands import prepare, store
from avalanche_vlm.commands.durable import Command, locked, say_where
from avalanche_vlm.commands.progress import Progress
from avalanche_vlm.commands.progress import progress as watched
from avalanche_vlm.commands.requests import CompareRequest, Experiment, RunRequest, Saving
from avalanche_vlm.errors import DataWarning, InputError
from avalanche_vlm.storage.durable import replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from avalanche_vlm.benchmarks.scenario import VLMBenchmark
    from avalanche_vlm.studies.outcome import Outcome


def run(request: RunRequest) -> int:
    """One recipe, one seed: results, table and plots in the request's folder. Interrupted, it goes on where it was.

    :param request: what was asked for.
    :return: exit code of the process.
    """
    command = Command(request.out)
    with command.interruptible():
        asked = prepare.experiment(request, request.recipe, request.seed)
        with locked(request.out):
            return _run(request, asked, command)


def _run(request: RunRequest, asked: Experiment, command: Command) -> int:
    from avalanche_vlm.report import lettering, plots, table

    with watched(request.quiet) as progress:
        job = _job(asked, request.out, request.saving)
        if unknown := prepare.knows_nothing_of(request):
            progress.say(unknown)
        _confirm([job])
        entry = _execute(job, request.checkpoint_minutes, command, progress)
        if numbered := lettering.key(entry["result"]["tasks"]):
            progress.say(numbered)
    table.print_matrix(entry["result"])
    _report(request.out, [entry])
    _save(request.out / "held_out.png", plots.held_out_curves([entry["result"]]))
    return 0


def compare(request: CompareRequest) -> int:
    """Several recipes and seeds side by side; what is finished is kept, and what was interrupted goes on where it was.

    What is asked for is checked against what is there before anything is trained. A recipe that fails does not stop
    the others: its sentence is printed, and the exit code is 2.

    :param request: what was asked for.
    :return: exit code of the process.
    """
    command = Command(request.out)
    with command.interruptible():
        experiments, left_out = prepare.experiments(request)
        with locked(request.out):
            return _compare(request, experiments, left_out, command)


def _compare(request: CompareRequest, experiments: list[Experiment], left_out: list[str], command: Command) -> int:
    from avalanche_vlm.report import lettering, plots

    out = request.out
    jobs = [_job(asked, out / asked.recipe / f"seed-{asked.seed}", request.saving) for asked in experiments]
    entries: list[dict[str, Any]] = []
    failures: dict[str, list[str]] = {}
    with watched(request.quiet) as progress:
        for why in left_out:
            progress.say(f"left out: {why}")
        if unknown := prepare.knows_nothing_of(request):
            progress.say(unknown)
        _confirm(jobs)
        for job in jobs:
            try:
                with locked(job.folder):
                    entries.append(_execute(job, request.checkpoint_minutes, command, progress))
            except InputError as error:
                failures.setdefault(str(error), []).append(str(job.asked))
        if entries and (numbered := lettering.key(entries[0]["result"]["tasks"])):
            progress.say(numbered)
    entries.sort(key=lambda entry: request.recipes.index(entry["result"]["protocol"]["recipe"]))
    if entries:
        _report(out, entries)
        results = [entry["result"] for entry in entries]
        _save(out / "metrics.png", plots.metric_bars(results))
        _save(out / "held_out.png", plots.held_out_curves(results))
        _save(out / "matrices.png", plots.matrices(results))
    for sentence, failed in failures.items():
        print(f"avalanche-vlm: {'; '.join(failed)}: {sentence}", file=sys.stderr)
    return 2 if failures else 0


@dataclass(frozen=True)
class _Job:
    """One experiment and where its result goes.

    :param asked: what is run.
    :param folder: the folder of its result.
    :param saving: what is saved of its model.
    :param kept: result and timing, if it was finished before.
    :param begun: the protocol of a run that was interrupted, and goes on.
    """

    asked: Experiment
    folder: Path
    saving: Saving
    kept: tuple[dict[str, Any], dict[str, float]] | None
    begun: dict[str, Any] | None


def _job(asked: Experiment, folder: Path, saving: Saving) -> _Job:
    kept = store.finished(folder, asked)
    return _Job(asked, folder, saving, kept, None if kept else store.unfinished(folder, asked))


def _confirm(jobs: list[_Job]) -> None:
    """Refuse finished results, and unfinished ones, whose data, model or resources have changed since, before anything
    is trained."""
    from avalanche_vlm.studies.conditions import conditions_of

    there = [(job, job.kept[0], "a result") for job in jobs if job.kept is not None]
    there += [(job, {"protocol": job.begun}, "an unfinished run") for job in jobs if job.begun is not None]
    for seed in dict.fromkeys(job.asked.seed for job, *_ in there):
        of_seed = [entry for entry in there if entry[0].asked.seed == seed]
        # All that one command runs with a seed starts from the same data and the same weights.
        model, benchmark = prepare.opened(of_seed[0][0].asked)
        conditions = conditions_of(benchmark, model)
        for job, result, what in of_seed:
            protocol = prepare.protocol(job.asked, model, benchmark, conditions)
            store.confirm(job.folder, job.asked, result, protocol, what)


def _execute(job: _Job, minutes: float | None, command: Command, progress: Progress) -> dict[str, Any]:
    """The stored result of this experiment, or a new one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # the notes on the data say it, once
        return _executed(job, minutes, command, progress)


def _executed(job: _Job, minutes: float | None, command: Command, progress: Progress) -> dict[str, Any]:
    from avalanche_vlm.report import plots
    from avalanche_vlm.studies.experiment import run_experiment
    from avalanche_vlm.studies.outcome import percent_rows
    from avalanche_vlm.training.checkpoint.folder import remove_checkpoints

    asked, folder, picture = job.asked, job.folder, job.folder / "matrix.png"
    partial = folder / "partial.json"
    if job.kept is not None:
        progress.say(f"{asked}: finished before, kept")
        if job.saving.model and not (folder / "model").exists():
            progress.say(f"{asked}: its model was not saved then; another --out runs it again and saves it")
        # Of a process that was killed when it had written the result.
        remove_checkpoints(folder / store.CHECKPOINTS)
        partial.unlink(missing_ok=True)
        if not picture.exists():
            _save(picture, plots.matrices([job.kept[0]]))
        return {"result": job.kept[0], "timing": job.kept[1]}
    if (folder / "result.json").exists():
        progress.say(f"{asked}: {folder / 'result.json'} is damaged or lacks its timing, run again")
    started = time.perf_counter()
    store.write_json(folder / "request.json", asked.stored())
    model, benchmark = prepare.opened(asked)
    for sentence in benchmark.data.skipped:
        progress.say(f"left out: {sentence}")
    for sentence in benchmark.data.notes:
        progress.say_once(sentence)

    def on_row(step: int, matrix: Any) -> None:
        found = {"recipe": asked.recipe, "seed": asked.seed, "unit": "percent", "matrix": percent_rows(matrix)}
        store.write_json(partial, found)

    with command.training(folder / store.CHECKPOINTS, minutes) as checkpoint:
        with progress.task(str(asked), len(benchmark.task_names)) as advance:
            outcome = run_experiment(
                benchmark,
                asked.recipe,
                model=model,
                settings=asked.train,
                options=asked.recipe_options,
                seed=asked.seed,
                device=asked.device,
                progress=advance,
                on_row=on_row,
                checkpoint=checkpoint,
                on_resume=lambda plugin: say_where(progress, asked, plugin),
            )
        if job.saving.model:
            _save_model(job, outcome, benchmark, progress)
        total = time.perf_counter() - started + outcome.seconds_before
        timing = {**outcome.timing, "total_seconds": round(total, 2)}
        store.write_json(folder / "timing.json", timing)
        store.write_json(folder / "ledger.json", outcome.ledger)
        store.write_json(folder / "result.json", outcome.result)
    partial.unlink(missing_ok=True)
    _save(picture, plots.matrices([outcome.result]))
    return {"result": outcome.result, "timing": timing}


def _save_model(job: _Job, outcome: Outcome, benchmark: VLMBenchmark, progress: Progress) -> None:
    """The model as the first version, with what its updates need."""
    from avalanche_vlm.studies.living.first import record_first
    from avalanche_vlm.studies.living.kept import KEPT_BY_DEFAULT
    from avalanche_vlm.training.protocol import model_of

    outcome.save(job.folder, embed_base=job.saving.base, version="v1")
    samples = KEPT_BY_DEFAULT if job.saving.tests is None else job.saving.tests
    record_first(job.folder, "v1", benchmark, model_of(outcome.strategy), samples)
    if samples and job.asked.stream.data:
        progress.say_once(
            f"{samples} test samples of each task at most are kept in {job.folder / 'tests'}, to measure what updates "
            "forget (--no-raw-data keeps none)"
        )


def _report(out: Path, entries: list[dict[str, Any]]) -> None:
    """The table on the terminal with what must be said of it, ``results.csv`` and ``summary.json``."""
    from avalanche_vlm.evaluation.chance import remarks
    from avalanche_vlm.report import table

    store.write_text(out / "results.csv", table.as_csv(entries))
    store.write_json(out / "summary.json", table.summary(entries))
    table.print_table(entries)
    for sentence in remarks([entry["result"] for entry in entries]):
        print(sentence)
    print(f"written to {out}")


_MOST_PIXELS = 6e4
"""Pixels along one side of a plot, at most: matplotlib draws none with 2^16 or more."""
_MOST_AREA = 1e8
"""Pixels of a whole plot, at most: 400 MB while it is drawn."""


def _save(path: Path, figure: Figure) -> None:
    width, height = figure.get_size_inches()
    dpi = min(150, _MOST_PIXELS / max(width, height), (_MOST_AREA / (width * height)) ** 0.5)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    replace_file(path, buffer.getvalue())
