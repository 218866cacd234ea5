"""What the plots and the report of a stream take in seconds and memory, by its number of tasks.

``python benchmarks/many_tasks.py 1000`` draws them in this process and says what each took; with ``report`` behind it,
the page alone, in a process that has drawn nothing.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from avalanche_vlm import cli
from avalanche_vlm.commands.jobs import save_figure
from avalanche_vlm.evaluation.curves import HELD_OUT
from avalanche_vlm.evaluation.results import RESULT, metrics_of
from avalanche_vlm.report import plots

PAGES = ("report.html", "report.md", "report.json")


def resident() -> float:
    """The most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def result_of(tasks: int) -> dict[str, Any]:
    """A result with drawn scores.

    :param tasks: number of tasks of the stream, 1 or more.
    """
    scores = (100 * np.random.default_rng(0).random((tasks + 1, tasks))).round(4)
    protocol = {"recipe": "fine-tune", "recipe_options": {}, "train": {}, "seed": 0, "versions": {}, "unit": "percent"}
    none = dict.fromkeys(("stored_bytes", "trainable_parameters", "added_parameters", "model_parameters"), 0)
    matrix = scores.tolist()
    return {
        "run": "0" * 16,
        "protocol": protocol,
        "tasks": [f"task {i} of the stream" for i in range(tasks)],
        "matrix": matrix,
        "held_out": {HELD_OUT: scores[:, 0].tolist()},
        "alignment": {},
        "metrics": metrics_of(matrix),
        "classes": [],
        "chance": [],
        "data": {"skipped": [], "notes": [], "cut": {}},
        "costs": none,
    }


def write_result(tasks: int, folder: str) -> None:
    """A result where ``report`` looks for it.

    :param tasks: number of tasks of the stream, 1 or more.
    :param folder: the folder of the run.
    """
    RESULT.write(Path(folder) / "result.json", result_of(tasks))


def report_of(tasks: int) -> None:
    """The page of one run.

    :param tasks: number of tasks of the stream, 1 or more.
    """
    with tempfile.TemporaryDirectory() as folder:
        writer = multiprocessing.get_context("spawn").Process(target=write_result, args=(tasks, folder))
        writer.start(), writer.join()
        before, started = resident(), time.process_time()
        if cli.main(["report", folder]):
            raise SystemExit("there is no report")
        took = time.process_time() - started
        sizes = ", ".join(f"{name} {Path(folder, name).stat().st_size / 2**20:.1f} MiB" for name in PAGES)
        print(f"report, {tasks} tasks: {took:.1f} s of processor time, {resident() - before:.0f} MiB; {sizes}")


def plots_of(tasks: int) -> None:
    """The plots of one run.

    :param tasks: number of tasks of the stream, 1 or more.
    """
    result = result_of(tasks)
    with tempfile.TemporaryDirectory() as folder:
        for draw in (plots.held_out_curves, plots.matrices):
            before, started = resident(), time.perf_counter()
            save_figure(Path(folder) / "plot.png", partial(draw, [result])())
            took = time.perf_counter() - started
            print(f"{draw.__name__}, {tasks} tasks: {took:.1f} s, {resident() - before:.0f} MiB")


if __name__ == "__main__":
    of = report_of if "report" in sys.argv else plots_of
    of(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
