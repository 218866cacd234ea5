"""Two processes with one thread each against one process with two threads, on the same batches.

    python benchmarks/several_processes.py --model tiny --recipe fine-tune --steps 30

Seconds of a training step, loading included, each way in turn as often as ``--rounds`` says: the median over the steps,
and of a round's two the ratio. The machine has nothing else to do meanwhile. Processes meet through ``torchrun``; the
program is this file with ``--work``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.models import create_vlm
from avalanche_vlm.training import VLMNaive, criterion_for, distributed, recipes

WARM = 5
"""Steps before the first that counts."""


class Clock(SupervisedPlugin[Any], supports_distributed=True):
    """When every step was over."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self.times.append(time.perf_counter())


def work(asked: argparse.Namespace) -> None:
    """Train, and have the first process write the seconds of its steps."""
    torch.set_num_threads(asked.threads)
    ranks = distributed.start()
    samples = asked.batch * (asked.steps + WARM + 1)
    torch.manual_seed(0)
    model = create_vlm(asked.model, "random")
    asks = {
        "train_transform": model.transforms.train,
        "eval_transform": model.transforms.eval,
        "tokenizer": model.tokenizer,
    }
    stream = picturebook.mtil_like(n_train=samples, n_test=8, order=["sketches"], n_held_out=8, n_reference=256, **asks)
    model.set_label_space(stream.label_space)
    needs = {"reference": stream.reference} if "reference" in recipes.get(asked.recipe).needs else {}
    clock = Clock()
    strategy = VLMNaive(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-5),
        criterion=criterion_for("classes", model),
        train_mb_size=asked.batch,
        train_epochs=1,
        plugins=[*recipes.build(asked.recipe, model=model, **needs), clock],
        evaluator=EvaluationPlugin(loggers=[]),
    )
    strategy.train(stream.train_stream[0])
    if ranks is None or ranks.first:
        seconds = [b - a for a, b in zip(clock.times[WARM:], clock.times[WARM + 1 :], strict=False)]
        asked.work.write_text(json.dumps(seconds))


def measured(asked: argparse.Namespace, processes: int, folder: Path) -> float:
    """The median second of a step in so many processes, which divide two threads."""
    told = folder / "seconds.json"
    options = {"model": asked.model, "recipe": asked.recipe, "batch": asked.batch, "steps": asked.steps, "work": told}
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    program = [str(Path(__file__)), *arguments, "--threads", str(2 // processes)]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": str(2 // processes)}
    subprocess.run([sys.executable, *launcher, *program], check=True, env=environment)
    return statistics.median(json.loads(told.read_text()))


def main() -> None:
    """Measure each way in turn, and print a row of the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--recipe", default="fine-tune")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    if asked.work is not None:
        work(asked)
        return
    with tempfile.TemporaryDirectory() as home:
        pairs = [(measured(asked, 1, Path(home)), measured(asked, 2, Path(home))) for _ in range(asked.rounds)]
    one, two = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratios = sorted(a / b for a, b in pairs)
    print(
        "| model | recipe | one process, ms | two processes, ms | times as fast (min to max) |\n|---|---|---|---|---|"
    )
    spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    print(f"| {asked.model} | `{asked.recipe}` | {1000 * one:.1f} | {1000 * two:.1f} | {spread} |")


if __name__ == "__main__":
    main()
