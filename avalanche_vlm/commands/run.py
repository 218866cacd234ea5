"""``run`` and ``compare``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from avalanche_vlm.commands import prepare, several, store
from avalanche_vlm.commands.durable import Command, locked
from avalanche_vlm.commands.jobs import FAILURE, Job, Logs, confirm_all, draw_plot, execute, job_of, note_failure
from avalanche_vlm.commands.progress import Progress
from avalanche_vlm.commands.progress import progress as watched
from avalanche_vlm.commands.published import published_from
from avalanche_vlm.commands.requests import CompareRequest, Experiment, RunRequest
from avalanche_vlm.commands.side_by_side import side_by_side
from avalanche_vlm.storage.durable import write_or_remark
from avalanche_vlm.units import tell


def run(request: RunRequest) -> int:
    """One recipe, one seed: results, table and plots in the request's folder. Interrupted, it goes on where it was.
    Started by a launcher such as torchrun, several processes train together, and one of them writes and prints.

    :param request: what was asked for.
    :return: exit code of the process.
    """
    command = Command(request.out)
    with several.in_company(request, command) as follows:
        if follows:
            return several.follow(request)
        with command.interruptible():
            asked = prepare.experiment(request, request.recipe, request.seed)
            with locked(request.out):
                return _run(request, asked, command)


def _run(request: RunRequest, asked: Experiment, command: Command) -> int:
    from avalanche_vlm.report import aside_table, table

    with watched(request.quiet) as progress:
        if sizes := prepare.quick_sizes(request):
            progress.say(sizes)
        job = job_of(asked, request.out, request.saving, logs=Logs(request.log, request.out), shard=request.shard)
        if unknown := prepare.knows_nothing_of(request):
            progress.say(unknown)
        for told in published_from(request):
            progress.say(told)
        confirm_all([job])
        entry = execute(job, request.checkpoint_minutes, command, progress)
        for numbered in _numbered(entry["result"]):
            progress.say(numbered)
    _write_table(request.out, [entry])
    table.print_matrix(entry["result"])
    aside_table.print_held_out(entry["result"])
    _report(request.out, [entry])
    _draw_held_out(request.out, [entry["result"]], progress)
    return 0


def compare(request: CompareRequest) -> int:
    """Several recipes and seeds side by side; what is finished is kept, and what was interrupted goes on where it was.

    What is asked for is checked against what is there before anything is trained. A run that fails, for whatever
    reason, does not stop the others: its sentence is printed, its traceback is written to its folder, and the exit code
    is 1, or 2 where nothing but the input was at fault.

    :param request: what was asked for.
    :return: exit code of the process.
    """
    command = Command(request.out)
    with command.interruptible():
        experiments, left_out = prepare.experiments(request)
        with locked(request.out):
            return _compare(request, experiments, left_out, command)


def _compare(
    request: CompareRequest, experiments: list[tuple[str, Experiment]], left_out: list[str], command: Command
) -> int:
    from avalanche_vlm.report import plots

    out = request.out
    logs = Logs(request.log, out)
    jobs = [job_of(asked, out / row / f"seed-{asked.seed}", request.saving, row, logs) for row, asked in experiments]
    entries: dict[Job, dict[str, Any]] = {}
    failures: dict[str, list[str]] = {}
    expected = True
    with watched(request.quiet) as progress:
        if sizes := prepare.quick_sizes(request):
            progress.say(sizes)
        for why in left_out:
            progress.say(f"left out: {why}")
        if unknown := prepare.knows_nothing_of(request):
            progress.say(unknown)
        for told in published_from(request):
            progress.say(told)
        confirm_all(jobs)
        progress.whole(sum(job.kept is None for job in jobs))
        for job, ending in side_by_side(request, jobs, command, progress):
            if (failure := ending.failure) is None:
                entries[job] = ending.value
                so_far = table_order(request, jobs, entries)
                write_or_remark(partial(_write_table, out, so_far), progress.say_once)  # at the end it must be
                progress.scored(so_far)
                continue
            failures.setdefault(failure.sentence, []).append(str(job))
            if not failure.unusable:
                expected = False
                note_failure(job, failure.sentence, failure.traceback)
        ordered = table_order(request, jobs, entries)
        for numbered in _numbered(ordered[0]["result"]) if ordered else ():
            progress.say(numbered)
    if ordered:
        _write_table(out, ordered)
        _report(out, ordered)
        results = [entry["result"] for entry in ordered]
        draw_plot(out / "metrics.png", partial(plots.metric_bars, results), progress)
        _draw_held_out(out, results, progress)
        draw_plot(out / "matrices.png", partial(plots.matrices, results), progress)
    for sentence, failed in failures.items():
        tell(f"avalanche-vlm: {'; '.join(failed)}: {sentence}", errors=True)
    if not expected:
        tell(f"avalanche-vlm: where it was stands in {FAILURE} of each run's folder", errors=True)
    return (2 if expected else 1) if failures else 0


def table_order(
    request: CompareRequest, jobs: Sequence[Job], entries: Mapping[Job, dict[str, Any]]
) -> list[dict[str, Any]]:
    """What there is of a comparison, recipe by recipe and seed by seed as they were asked for, in whatever order it has
    come.

    :param request: what was asked for.
    :param jobs: the comparison's experiments, as they were asked for.
    :param entries: results and timings of those that are finished.
    """
    rows = list(dict.fromkeys(job.row for job in jobs))
    ordered = sorted(jobs, key=lambda job: (request.recipes.index(job.asked.recipe), rows.index(job.row)))
    return [entries[job] for job in ordered if job in entries]


def _report(out: Path, entries: list[dict[str, Any]]) -> None:
    """The table on the terminal with what must be said of it."""
    from avalanche_vlm.evaluation.beside import published_beside
    from avalanche_vlm.evaluation.cells import not_measured
    from avalanche_vlm.evaluation.chance import remarks
    from avalanche_vlm.evaluation.left_out import images_passed_over
    from avalanche_vlm.report import table

    table.print_table(entries)
    results = [entry["result"] for entry in entries]
    said = (*remarks(results), *not_measured(results), *images_passed_over(results))
    for sentence in (*said, *published_beside(results).sentences):
        tell(sentence)
    tell(f"written to {out}")


def _draw_held_out(out: Path, results: Sequence[Mapping[str, Any]], progress: Progress) -> None:
    """The plot of held-out sets, where there are some."""
    from avalanche_vlm.report import plots

    if any(result["held_out"] for result in results):
        draw_plot(out / "held_out.png", partial(plots.held_out_curves, results), progress)


def _numbered(result: Mapping[str, Any]) -> Iterator[str]:
    """What stands in plots for names whose letters no font has."""
    from avalanche_vlm.evaluation.curves import curves_by_set
    from avalanche_vlm.report import lettering

    for names, stem in ((result["tasks"], "task"), (list(curves_by_set(result["held_out"])), lettering.CURVE)):
        if sentence := lettering.key(names, stem):
            yield sentence


def _write_table(out: Path, entries: list[dict[str, Any]]) -> None:
    """``results.csv`` and ``summary.json``."""
    from avalanche_vlm.report import table

    store.write_text(out / "results.csv", table.as_csv(entries))
    store.write_json(out / "summary.json", table.summary(entries))
