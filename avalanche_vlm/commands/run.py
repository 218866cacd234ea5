"""``run`` and ``compare``."""

from __future__ import annotations

import io
import sys
import time
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avalanche_vlm.commands import inputs, store
from avalanche_vlm.commands.progress import Progress
from avalanche_vlm.commands.progress import progress as watched
from avalanche_vlm.errors import InputError

if TYPE_CHECKING:
    from avalanche_vlm.training.settings import TrainSettings


def run(options: Namespace) -> int:
    """One recipe, one seed: results, table and plots in ``--out``."""
    from avalanche_vlm.report import plots, table

    out = Path(options.out)
    with watched(options.quiet) as progress:
        entry = _execute(options, _job(options, options.recipe, options.seed, out), progress)
    table.print_matrix(entry["result"])
    _report(out, [entry])
    _save(out / "held_out.png", plots.held_out_curves([entry["result"]]))
    return 0


def compare(options: Namespace) -> int:
    """Several recipes and seeds side by side; what is finished is kept.

    What is asked for is checked against what is there before anything is trained. A recipe that fails does not stop
    the others: its sentence is printed, and the exit code is 2.
    """
    from avalanche_vlm.report import plots

    out = Path(options.out)
    names = inputs.asked(options)
    left_out = {} if options.recipes else {name: why for name in names if (why := inputs.lacking(options, name))}
    names = [name for name in names if name not in left_out]
    jobs = [_job(options, name, seed, out / name / f"seed-{seed}") for seed in options.seeds for name in names]
    entries: list[dict[str, Any]] = []
    failures: dict[str, list[str]] = {}
    with watched(options.quiet) as progress:
        for why in left_out.values():
            progress.say(f"left out: {why}")
        for job in jobs:
            try:
                entries.append(_execute(options, job, progress))
            except InputError as error:
                failures.setdefault(str(error), []).append(str(job))
    entries.sort(key=lambda entry: names.index(entry["result"]["protocol"]["recipe"]))
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
    """One experiment that was asked for: where its result goes, and everything that decides it.

    :param train: the training settings.
    :param recipe_options: what differs from the recipe's own defaults.
    :param request: all that is known of the protocol before running.
    :param kept: result and timing, if it was finished before.
    """

    recipe: str
    seed: int
    folder: Path
    train: TrainSettings
    recipe_options: dict[str, Any]
    request: dict[str, Any]
    kept: tuple[dict[str, Any], dict[str, float]] | None

    def __str__(self) -> str:
        return f"{self.recipe}, seed {self.seed}"


def _job(options: Namespace, recipe: str, seed: int, folder: Path) -> _Job:
    """What the options ask for.

    :raises InputError: for an unusable option, and if the folder holds the result of another request.
    """
    from avalanche_vlm.training import recipes
    from avalanche_vlm.training.settings import TrainSettings

    recipes.get(recipe)
    if why := inputs.lacking(options, recipe):
        raise InputError(why)
    fields, recipe_options = inputs.settings(options, recipe)
    train = TrainSettings(**fields)
    request = inputs.request(options, recipe, seed, train, recipe_options)
    return _Job(recipe, seed, folder, train, recipe_options, request, store.finished(folder, request))


def _execute(options: Namespace, job: _Job, progress: Progress) -> dict[str, Any]:
    """The stored result of this request, or a new one."""
    from avalanche_vlm.report import plots
    from avalanche_vlm.studies.experiment import run_experiment

    recipe, seed, folder = job.recipe, job.seed, job.folder
    if job.kept is not None:
        progress.say(f"{job}: finished before, kept")
        return {"result": job.kept[0], "timing": job.kept[1]}
    if (folder / "result.json").exists():
        progress.say(f"{job}: {folder / 'result.json'} is damaged or lacks its timing, run again")
    started = time.perf_counter()
    store.write_json(folder / "request.json", job.request)
    model = inputs.make_model(options, seed)
    benchmark = inputs.make_benchmark(options, model, seed)
    for sentence in benchmark.data.skipped:
        progress.say(f"left out: {sentence}")
    partial = folder / "partial.json"

    def on_row(step: int, matrix: Any) -> None:
        rows = [[None if v != v else round(100 * float(v), 4) for v in row] for row in matrix]
        store.write_json(partial, {"recipe": recipe, "seed": seed, "unit": "percent", "matrix": rows})

    with progress.task(str(job), len(benchmark.task_names)) as advance:
        outcome = run_experiment(
            benchmark,
            recipe,
            model=model,
            settings=job.train,
            options=job.recipe_options,
            seed=seed,
            device=inputs.device_of(options),
            progress=advance,
            on_row=on_row,
        )
    timing = {**outcome.timing, "total_seconds": round(time.perf_counter() - started, 2)}
    store.write_json(folder / "timing.json", timing)
    store.write_json(folder / "ledger.json", outcome.ledger)
    store.write_json(folder / "result.json", outcome.result)
    partial.unlink(missing_ok=True)
    _save(folder / "matrix.png", plots.matrices([outcome.result]))
    return {"result": outcome.result, "timing": timing}


def _report(out: Path, entries: list[dict[str, Any]]) -> None:
    """The table on the terminal, ``results.csv`` and ``summary.json``."""
    from avalanche_vlm.report import table

    store.write_text(out / "results.csv", table.as_csv(entries))
    store.write_json(out / "summary.json", table.summary(entries))
    table.print_table(entries)
    print(f"written to {out}")


def _save(path: Path, figure: Any) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    store.write_bytes(path, buffer.getvalue())
