"""What the plots of a stream take in seconds and memory, by its number of tasks.

``python benchmarks/many_tasks.py 1000`` draws them in this process and says what each took.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from avalanche_vlm.commands.jobs import save_figure
from avalanche_vlm.evaluation.curves import HELD_OUT
from avalanche_vlm.report import plots


def resident() -> float:
    """The most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(tasks: int) -> None:
    """Draw the plots of one run.

    :param tasks: number of tasks of the stream, 1 or more.
    """
    scores = 100 * np.random.default_rng(0).random((tasks + 1, tasks))
    result = {
        "protocol": {"recipe": "fine-tune", "seed": 0},
        "tasks": [f"task {i} of the stream" for i in range(tasks)],
        "matrix": scores.tolist(),
        "held_out": {HELD_OUT: scores[:, 0].tolist()},
    }
    with tempfile.TemporaryDirectory() as folder:
        for draw in (plots.held_out_curves, plots.matrices):
            before, started = resident(), time.perf_counter()
            save_figure(Path(folder) / "plot.png", partial(draw, [result])())
            took = time.perf_counter() - started
            print(f"{draw.__name__}, {tasks} tasks: {took:.1f} s, {resident() - before:.0f} MiB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
