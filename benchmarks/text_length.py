"""What it saves to compute those positions of a text that its features depend on, beside the whole context.

    python benchmarks/text_length.py --threads 1

Steps of the same recipe on the same batches, with texts as they are and within
:meth:`~avalanche_vlm.models.VLM.whole_texts`, in turn; then the most memory that each takes, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from contextlib import nullcontext
from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin
from resident import peak_above
from step import BATCHES, random_model, two_tasks

from avalanche_vlm.training import VLMNaive, recipes

BATCH = 32
CASES = (("fine-tune", 10), ("fine-tune", 100), ("moe-adapters", 100), ("coop", 100), ("maple", 100))


class InTurn(SupervisedPlugin):
    """Seconds of processor time of every iteration, every other one with whole texts; the first two do not count."""

    def __init__(self, whole: bool | None) -> None:
        super().__init__()
        self.whole, self.seconds, self._number = whole, {False: [], True: []}, 0
        self._within: Any = nullcontext()

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self._now = self._number % 2 == 1 if self.whole is None else self.whole
        self._within = strategy.model.whole_texts() if self._now else nullcontext()
        self._within.__enter__()
        self._mark = time.process_time()

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        spent = time.process_time() - self._mark
        self._within.__exit__(None, None, None)
        if self._number >= 2:
            self.seconds[self._now].append(spent)
        self._number += 1


def run(recipe: str, model_name: str, classes: int, iterations: int, whole: bool | None) -> tuple[InTurn, float]:
    torch.manual_seed(0)
    model = random_model(model_name)
    benchmark = two_tasks(model, "classes", classes, iterations * BATCH)
    model.set_label_space(benchmark.label_space)
    clock = InTurn(whole)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        strategy = VLMNaive(
            model=model,
            optimizer=torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True),
            criterion=torch.nn.CrossEntropyLoss(),
            train_mb_size=BATCH,
            plugins=[*recipes.build(recipe, model=model), clock],
            evaluator=None,
        )
    with peak_above() as memory:
        strategy.train(benchmark.train_stream[0])
    return clock, memory[0]


def peak(arguments: dict[str, Any]) -> float:
    """MB that training takes at most above what there was before it."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", json.dumps(arguments)], capture_output=True, text=True, check=True
    )
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="small", choices=list(BATCHES))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        torch.set_num_threads(1)
        print(run(**json.loads(options.one))[1])
        return
    print(f"{options.model}, batches of {BATCH}, {options.threads} thread(s), torch {torch.__version__}\n")
    print("| recipe | classes | ms, as they are | ms, whole | ratio (min to max) | MB, as they are | MB, whole |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for recipe, classes in (
        ("fine-tune", 10),
        ("fine-tune", 100),
        ("moe-adapters", 100),
        ("coop", 100),
        ("maple", 100),
    ):
        clock, _ = run(recipe, options.model, classes, 2 + 2 * options.rounds, None)
        short, whole = (clock.seconds[kind] for kind in (False, True))
        ratios = sorted(b / a for a, b in zip(short, whole, strict=True))
        job = {"recipe": recipe, "model_name": options.model, "classes": classes, "iterations": 3}
        memory = [peak({**job, "whole": kind}) for kind in (False, True)]
        times = f"{1000 * statistics.median(short):.0f} | {1000 * statistics.median(whole):.0f}"
        ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"| `{recipe}` | {classes} | {times} | {ratio} | {memory[0]:.0f} | {memory[1]:.0f} |", flush=True)


if __name__ == "__main__":
    main()
