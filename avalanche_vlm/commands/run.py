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
from avalanche_vlm.commands.progress import Progress
from avalanche_vlm.commands.progress import progress as watched
from avalanche_vlm.commands.requests import CompareRequest, Experiment, RunRequest, Saving
from avalanche_vlm.errors import DataWarning, InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from avalanche_vlm.benchmarks.scenario import VLMBenchmark
    from avalanche_vlm.studies.outcome import Outcome


def run(request: RunRequest) -> int:
    """One recipe, one seed: results, table and plots in the request's folder.

    :param request: what was asked for.
    :return: exit code of the process.
    """
    from avalanche_vlm.report import lettering, plots, table

    with watched(request.quiet) as progress:
        job = _job(prepare.experiment(request, request.recipe, request.seed), request.out, request.saving)
        if unknown := prepare.knows_nothing_of(request):
            progress.say(unknown)
        _confirm([job])
        entry = _execute(job, progress)
        if numbered := lettering.key(entry["result"]["tasks"]):
            progress.say(numbered)
    table.print_matrix(entry["result"])
    _report(request.out, [entry])
    _save(request.out / "held_out.png", plots.held_out_curves([entry["result"]]))
    return 0


def compare(request: CompareRequest) -> int:
    """Several recipes and seeds side by side; what is finished is kept.

    What is asked for is checked against what is there before anything is trained. A recipe that fails does not stop
    the others: its sentence is printed, and the exit code is 2.

    :param request: what was asked for.
    :return: exit code of the process.
    """
    from avalanche_vlm.report import lettering, plots

    out = request.out
    experiments, left_out = prepare.experiments(request)
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
                entries.append(_execute(job, progress))
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
    """

    asked: Experiment
    folder: Path
    saving: Saving
    kept: tuple[dict[str, Any], dict[str, float]] | None


def _job(asked: Experiment, folder: Path, saving: Saving) -> _Job:
    return _Job(asked, folder, saving, store.finished(folder, asked))


def _confirm(jobs: list[_Job]) -> None:
    """Refuse finished results whose data, model or resources have changed since, before anything is trained."""
    from avalanche_vlm.studies.conditions import conditions_of

    kept = [(job, job.kept[0]) for job in jobs if job.kept is not None]
    for seed in dict.fromkeys(job.asked.seed for job, _ in kept):
        of_seed = [(job, result) for job, result in kept if job.asked.seed == seed]
        # All that one command runs with a seed starts from the same data and the same weights.
        model, benchmark = prepare.opened(of_seed[0][0].asked)
        conditions = conditions_of(benchmark, model)
        for job, result in of_seed:
            protocol = prepare.protocol(job.asked, model, benchmark, conditions)
            store.confirm(job.folder, job.asked, result, protocol)


def _execute(job: _Job, progress: Progress) -> dict[str, Any]:
    """The stored result of this experiment, or a new one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # the notes on the data say it, once
        return _executed(job, progress)


def _executed(job: _Job, progress: Progress) -> dict[str, Any]:
    from avalanche_vlm.report import plots
    from avalanche_vlm.studies.experiment import run_experiment
    from avalanche_vlm.studies.outcome import percent_rows

    asked, folder = job.asked, job.folder
    if job.kept is not None:
        progress.say(f"{asked}: finished before, kept")
        if job.saving.model and not (folder / "model").exists():
            progress.say(f"{asked}: its model was not saved then; another --out runs it again and saves it")
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
    partial = folder / "partial.json"

    def on_row(step: int, matrix: Any) -> None:
        found = {"recipe": asked.recipe, "seed": asked.seed, "unit": "percent", "matrix": percent_rows(matrix)}
        store.write_json(partial, found)

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
        )
    if job.saving.model:
        _save_model(job, outcome, benchmark, progress)
    timing = {**outcome.timing, "total_seconds": round(time.perf_counter() - started, 2)}
    store.write_json(folder / "timing.json", timing)
    store.write_json(folder / "ledger.json", outcome.ledger)
    store.write_json(folder / "result.json", outcome.result)
    partial.unlink(missing_ok=True)
    _save(folder / "matrix.png", plots.matrices([outcome.result]))
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
            f"{samples} test samples of each task at most are kept in {job.folder / 'tests'}, for what updates forget "
            "(--no-raw-data keeps none)"
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
    store.write_bytes(path, buffer.getvalue())
