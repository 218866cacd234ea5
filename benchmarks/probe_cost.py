"""What the three probes add to training, at their default frequency.

    python benchmarks/probe_cost.py

Fine-tuning the tiny model on the eight tasks of the picturebook in the sizes and settings of ``avalanche-vlm run
--full``, twice side by side in one process: with Avalanche's accuracy, and with the three probes beside it. Each task
is trained by both in turn, and both evaluate the test stream after it. Seconds are of processor time on one thread.
The weights must come out equal to the last bit.

Beside other processes a processor second does more or less work from one minute to the next, by more than what is
measured. So the time spent in the probes' own callbacks is taken as well, and set against the rest of the same call to
``train``; the two runs side by side are the check that nothing is spent elsewhere.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.evaluation.probes import DriftProbe, ErosionProbe, InterferenceProbe
from avalanche_vlm.models import create_vlm
from avalanche_vlm.training.recipes import settings_for

WAYS = ("without", "drift", "interference", "erosion", "all three")


@dataclass
class Run:
    """A strategy with its own random state, as it would have in a process of its own."""

    strategy: Naive
    random: torch.Tensor
    train: list[float]
    clock: dict[str, float]
    inside: list[dict[str, float]]
    evaluate: float = 0.0

    def timed(self, call: Any, *args: Any) -> float:
        torch.set_rng_state(self.random)
        started = time.process_time()
        call(*args)
        seconds = time.process_time() - started
        self.random = torch.get_rng_state()
        return seconds


def watch(probe: Any, clock: dict[str, float]) -> Any:
    """Add up the time in a probe's callbacks."""
    name = type(probe).__name__
    clock[name] = 0.0

    def watched(callback: Callable) -> Callable:
        def call(strategy: Any) -> Any:
            started = time.process_time()
            result = callback(strategy)
            clock[name] += time.process_time() - started
            return result

        return call

    for callback in dir(probe):
        if callback.startswith(("before_", "after_")):
            setattr(probe, callback, watched(getattr(probe, callback)))
    return probe


def metrics_of(way: str, benchmark: Any) -> list:
    makers = {
        "drift": lambda: DriftProbe(benchmark.held_out[0]),
        "interference": InterferenceProbe,
        "erosion": lambda: ErosionProbe(benchmark.held_out),
    }
    return [make() for name, make in makers.items() if way in (name, "all three")]


def start(way: str, benchmark: Any, settings: dict[str, Any]) -> Run:
    torch.manual_seed(0)
    model = create_vlm("tiny")
    clock: dict[str, float] = {}
    probes = [watch(probe, clock) for probe in metrics_of(way, benchmark)]
    strategy = Naive(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=settings["lr"]),
        criterion=torch.nn.CrossEntropyLoss(),
        train_mb_size=settings["batch_size"],
        train_epochs=settings["epochs"],
        eval_mb_size=256,
        evaluator=EvaluationPlugin(accuracy_metrics(stream=True), *probes, loggers=[]),
    )
    return Run(strategy, torch.get_rng_state(), [], clock, [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--apart", action="store_true", help="also each probe alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="No loggers specified")
    settings, _ = settings_for("fine-tune", "picturebook")
    benchmark = picturebook.mtil_like(seed=0, n_train=options.images)
    ways = WAYS if options.apart else ("without", "all three")
    runs = {way: start(way, benchmark, settings) for way in ways}
    for run in runs.values():
        run.evaluate += run.timed(run.strategy.eval, benchmark.test_stream)
    for experience in list(benchmark.train_stream)[: options.tasks]:
        for run in runs.values():
            run.clock.update(dict.fromkeys(run.clock, 0.0))
            run.train.append(run.timed(run.strategy.train, experience))
            run.inside.append(dict(run.clock))
            run.evaluate += run.timed(run.strategy.eval, benchmark.test_stream)
        seconds = ", ".join(
            f"{way} {run.train[-1]:.2f} ({sum(run.inside[-1].values()):.2f} in probes)" for way, run in runs.items()
        )
        print(f"{experience.task_name}: {seconds} s", file=sys.stderr, flush=True)
    plain = runs["without"]
    weights = plain.strategy.model.state_dict()
    print(f"{options.tasks} tasks of {options.images} pictures, {settings}, torch {torch.__version__}\n")
    print("| probes | training, s | in probes, s | of the rest | by task | side by side | with evaluation | same |")
    print("|---|---|---|---|---|---|---|---|")
    for way, run in runs.items():
        inside = [sum(seconds.values()) for seconds in run.inside]
        each = sorted(100 * i / (t - i) for i, t in zip(inside, run.train, strict=True))
        train, whole = sum(run.train), sum(run.train) + run.evaluate
        of_rest = 100 * sum(inside) / (train - sum(inside))
        more = 100 * (train / sum(plain.train) - 1), 100 * (whole / (sum(plain.train) + plain.evaluate) - 1)
        same = all(torch.equal(w, weights[name]) for name, w in run.strategy.model.state_dict().items())
        print(
            f"| {way} | {train:.1f} | {sum(inside):.2f} | {of_rest:.1f} % | {each[0]:.1f} to {each[-1]:.1f} % | "
            f"{more[0]:+.1f} % | {more[1]:+.1f} % | {'yes' if same else 'NO'} |"
        )
    for name in runs["all three"].clock:
        seconds = sum(of[name] for of in runs["all three"].inside)
        rest = sum(runs["all three"].train) - sum(sum(of.values()) for of in runs["all three"].inside)
        print(f"{name}: {seconds:.2f} s, {100 * seconds / rest:.1f} % of training without probes")


if __name__ == "__main__":
    main()
