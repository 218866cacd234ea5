"""Our recipes as plugins in Avalanche's own ``Naive``, with Avalanche's own metrics and loggers.

``python examples/plug_into_avalanche.py``: two tasks of the picturebook, four recipes, about a minute.
"""

from __future__ import annotations

import argparse

import torch
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.logging import BaseLogger, InteractiveLogger
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.evaluation.held_out import HeldOutScores
from avalanche_vlm.evaluation.matrix import PerformanceMatrix
from avalanche_vlm.models import create_vlm
from avalanche_vlm.training import recipes

LEARNING_RATES = {"fine-tune": 5e-4, "replay": 5e-4, "zscl": 5e-4, "lora": 5e-3}


def train(recipe: str, n_train: int, n_test: int, epochs: int, verbose: bool) -> dict:
    """Train two tasks with a recipe.

    :return: Avalanche's stream accuracy, our matrix and held-out curve, all in [0, 1].
    """
    torch.manual_seed(0)
    benchmark = picturebook.mtil_like(order=["sketches", "night"], n_train=n_train, n_test=n_test, n_held_out=200)
    model = create_vlm("tiny")
    plugins = recipes.build(recipe, model=model, reference=benchmark.reference if recipe == "zscl" else None)
    matrix, held_out = PerformanceMatrix(), HeldOutScores(benchmark.held_out)
    evaluator = EvaluationPlugin(
        accuracy_metrics(experience=True, stream=True),
        loss_metrics(experience=True),
        matrix,
        held_out,
        loggers=[InteractiveLogger() if verbose else BaseLogger()],
    )
    strategy = Naive(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=LEARNING_RATES[recipe], weight_decay=0.0, fused=True),
        criterion=torch.nn.CrossEntropyLoss(),
        train_mb_size=64,
        train_epochs=epochs,
        eval_mb_size=256,
        plugins=plugins,
        evaluator=evaluator,
    )
    strategy.eval(benchmark.test_stream)
    for experience in benchmark.train_stream:
        strategy.train(experience)
        metrics = strategy.eval(benchmark.test_stream)
    return {
        "stream_accuracy": next(v for name, v in metrics.items() if name.startswith("Top1_Acc_Stream")),
        "matrix": matrix.rows(),
        "held_out": held_out.result()["captions R@1"],
    }


def main(argv: list[str] | None = None) -> dict[str, dict]:
    """Run the recipes and print what each came to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-train", type=int, default=640)
    parser.add_argument("--n-test", type=int, default=250)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--verbose", action="store_true", help="log with Avalanche's InteractiveLogger")
    options = parser.parse_args(argv)
    torch.set_num_threads(min(2, torch.get_num_threads()))
    outcomes = {
        recipe: train(recipe, options.n_train, options.n_test, options.epochs, options.verbose)
        for recipe in LEARNING_RATES
    }
    for recipe, outcome in outcomes.items():
        first, last = 100 * outcome["held_out"][0], 100 * outcome["held_out"][-1]
        print(
            f"{recipe:10s} accuracy over both tasks {100 * outcome['stream_accuracy']:5.1f} %, "
            f"held-out R@1 {first:5.1f} -> {last:5.1f} %"
        )
    return outcomes


if __name__ == "__main__":
    main()
