"""Runs that each have a process of their own, a few at a time, are kept when they are finished, and make a table."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def run_all(
    script: str, jobs: Mapping[Path, Sequence[Any]], processes: int, environment: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Call ``script --one JSON`` for every job whose file is not there, and read all of them.

    :param script: prints one line of JSON at the end of its standard output.
    :param jobs: the file that keeps a job's result, and what identifies the job.
    :param processes: at a time; each has one thread.
    :param environment: added to this process's.
    :raises SystemExit: with what the script said, if a job fails; finished jobs are kept.
    """

    def run(path: Path) -> None:
        if path.exists():
            return
        done = subprocess.run(
            [sys.executable, script, "--one", json.dumps(jobs[path])],
            env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"{jobs[path]} failed:\n{done.stderr[-2000:]}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(done.stdout.splitlines()[-1])
        print(f"{jobs[path]}: done", file=sys.stderr)

    with ThreadPoolExecutor(processes) as pool:
        list(pool.map(run, jobs))
    return [json.loads(path.read_text()) for path in jobs]


def table(
    results: Sequence[Mapping[str, Any]], stream: str, figures: Mapping[str, str], digits: Mapping[str, int]
) -> str:
    """Means and standard deviations over seeds, a row per recipe, as Markdown.

    :param results: with ``recipe``, ``stream`` and the figures, of which one may be None where a recipe has none.
    :param stream: whose rows.
    :param figures: names in the results, and in the table's head.
    :param digits: behind the point, 1 where nothing is said; whole numbers come without a deviation.
    """
    rows = [result for result in results if result["stream"] == stream]
    lines = [f"| {stream} | " + " | ".join(figures.values()) + " |", "|---" * (len(figures) + 1) + "|"]
    for recipe in dict.fromkeys(result["recipe"] for result in rows):
        cells = []
        for figure in figures:
            values = [result[figure] for result in rows if result["recipe"] == recipe]
            if values[0] is None:
                cells.append("")
                continue
            n = digits.get(figure, 1)
            spread = f" ± {statistics.stdev(values):.{n}f}" if len(values) > 1 and n else ""
            cells.append(f"{statistics.mean(values):,.{n}f}{spread}")
        lines.append(f"| `{recipe}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)
