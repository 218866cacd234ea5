"""``run`` and ``compare``."""

from __future__ import annotations

import io
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from avalanche_vlm.commands import inputs, store
from avalanche_vlm.errors import InputError


def run(options: Namespace) -> int:
    """One recipe, one seed: results, table and plots in ``--out``."""
    from avalanche_vlm.report import plots, table

    out = Path(options.out)
    with _progress(options.quiet) as progress:
        entry = _execute(options, options.recipe, options.seed, out, progress)
    table.print_matrix(entry["result"])
    _report(out, [entry])
    _save(out / "held_out.png", plots.held_out_curves([entry["result"]]))
    return 0


def compare(options: Namespace) -> int:
    """Several recipes and seeds side by side; what is finished is kept.

    A recipe that fails does not stop the others: its sentence is printed, and the exit code is 2.
    """
    from avalanche_vlm.report import plots
    from avalanche_vlm.training import recipes

    out = Path(options.out)
    names = options.recipes.split(",")
    for name in names:
        recipes.get(name)
    entries, failures = [], []
    with _progress(options.quiet) as progress:
        for seed in options.seeds:
            for name in names:
                folder = out / name / f"seed-{seed}"
                try:
                    entries.append(_execute(options, name, seed, folder, progress))
                except InputError as error:
                    failures.append(f"{name}, seed {seed}: {error}")
    entries.sort(key=lambda entry: names.index(entry["result"]["protocol"]["recipe"]))
    if entries:
        _report(out, entries)
        results = [entry["result"] for entry in entries]
        _save(out / "metrics.png", plots.metric_bars(results))
        _save(out / "held_out.png", plots.held_out_curves(results))
        _save(out / "matrices.png", plots.matrices(results))
    for failure in failures:
        print(f"avalanche-vlm: {failure}", file=sys.stderr)
    return 2 if failures else 0


def _execute(options: Namespace, recipe: str, seed: int, folder: Path, progress: _Progress) -> dict[str, Any]:
    """The stored result of this request, or a new one."""
    from avalanche_vlm.experiment import TrainSettings, run_experiment
    from avalanche_vlm.report import plots

    train, recipe_options = inputs.settings(options, recipe)
    request = _request(options, recipe, seed, train, recipe_options)
    kept = store.finished(folder, request)
    if kept is not None:
        progress.say(f"{recipe}, seed {seed}: finished before, kept")
        return {"result": kept[0], "timing": kept[1]}
    started = time.perf_counter()
    store.write_json(folder / "request.json", request)
    model = inputs.make_model(options, seed)
    benchmark = inputs.make_benchmark(options, model, seed)
    for sentence in benchmark.data.skipped:
        progress.say(f"left out: {sentence}")
    partial = folder / "partial.json"

    def on_row(step: int, matrix: Any) -> None:
        rows = [[None if v != v else round(100 * float(v), 4) for v in row] for row in matrix]
        store.write_json(partial, {"recipe": recipe, "seed": seed, "unit": "percent", "matrix": rows})

    with progress.task(f"{recipe}, seed {seed}", len(benchmark.task_names)) as advance:
        outcome = run_experiment(
            benchmark,
            recipe,
            model=model,
            settings=TrainSettings(**train),
            options=recipe_options,
            seed=seed,
            device=inputs.device_of(options),
            progress=advance,
            on_row=on_row,
        )
    timing = {**outcome.timing, "total_seconds": round(time.perf_counter() - started, 2)}
    store.write_json(folder / "timing.json", timing)
    store.write_json(folder / "result.json", outcome.result)
    partial.unlink(missing_ok=True)
    _save(folder / "matrix.png", plots.matrices([outcome.result]))
    return {"result": outcome.result, "timing": timing}


def _request(options: Namespace, recipe: str, seed: int, train: dict, recipe_options: dict) -> dict[str, Any]:
    """Everything on the command line that decides a result."""
    names = ("benchmark", "data", "order", "label_space", "model", "pretrained", "n_train", "n_test", "n_held_out")
    more = ("n_reference", "on_error", "reference", "template", "device")
    chosen = {name: getattr(options, name) for name in names + more}
    if options.data:
        chosen["benchmark"] = None
    return {**chosen, "recipe": recipe, "seed": seed, "train": train, "recipe_options": recipe_options}


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


class _Progress:
    """A bar per experiment on standard error, or nothing at all."""

    def __init__(self, bars: Any | None, quiet: bool) -> None:
        self._bars = bars
        self._quiet = quiet

    def say(self, sentence: str) -> None:
        if not self._quiet:
            print(sentence, file=sys.stderr)

    @contextmanager
    def task(self, label: str, tasks: int) -> Iterator[Any]:
        """A callback ``(experience, iteration, iterations)`` that moves the bar."""
        if self._bars is None:
            yield None
            return
        bar = self._bars.add_task(label, total=tasks)
        try:
            yield lambda experience, step, total: self._bars.update(bar, completed=experience + step / total)
        finally:
            self._bars.refresh()


@contextmanager
def _progress(quiet: bool) -> Iterator[_Progress]:
    if quiet or not sys.stderr.isatty():
        yield _Progress(None, quiet)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("task {task.completed:.1f}/{task.total}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield _Progress(bars, quiet)
