"""Where a stream hurts: the three probes in Avalanche's own ``Naive``, beside its metrics and loggers.

``python examples/diagnose_in_avalanche.py``: three tasks of the picturebook, plain fine-tuning, about a minute.
Whatever the strategy and the plugins are, the probes stay the same lines.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.logging import CSVLogger, InteractiveLogger, TextLogger
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.evaluation.probes import DriftProbe, ErosionProbe, InterferenceProbe
from avalanche_vlm.models import create_vlm


def diagnose(n_train: int, n_test: int, epochs: int, folder: Path, verbose: bool) -> dict[str, Any]:
    """Fine-tune and look.

    :param folder: for the logs.
    :return: what each probe found, scores in [0, 1]; and Avalanche's metrics as they ended.
    """
    torch.manual_seed(0)
    benchmark = picturebook.mtil_like(order=["sketches", "night", "digits"], n_train=n_train, n_test=n_test)
    model = create_vlm("tiny")
    drift = DriftProbe(benchmark.held_out[0])  # captions that no task trains
    interference = InterferenceProbe()
    erosion = ErosionProbe(benchmark.held_out)
    with (folder / "log.txt").open("w") as log:
        evaluator = EvaluationPlugin(
            accuracy_metrics(experience=True, stream=True),
            loss_metrics(experience=True),
            drift,
            interference,
            erosion,
            loggers=[TextLogger(log), CSVLogger(str(folder)), *([InteractiveLogger()] if verbose else [])],
        )
        strategy = Naive(
            model=model,
            optimizer=torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.0, fused=True),
            criterion=torch.nn.CrossEntropyLoss(),
            train_mb_size=64,
            train_epochs=epochs,
            eval_mb_size=256,
            evaluator=evaluator,
        )
        metrics = strategy.eval(benchmark.test_stream)
        for experience in benchmark.train_stream:
            strategy.train(experience)
            metrics = strategy.eval(benchmark.test_stream)
    return {
        "drift": drift.result(),
        "interference": interference.result(),
        "erosion": erosion.result(),
        "metrics": metrics,
    }


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run it and say what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-train", type=int, default=640)
    parser.add_argument("--n-test", type=int, default=250)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", type=Path, help="folder for Avalanche's text and CSV logs; thrown away by default")
    parser.add_argument("--verbose", action="store_true", help="also log to the terminal")
    options = parser.parse_args(argv)
    torch.set_num_threads(min(2, torch.get_num_threads()))
    with tempfile.TemporaryDirectory() as passing:
        folder = options.out or Path(passing)
        folder.mkdir(parents=True, exist_ok=True)
        found = diagnose(options.n_train, options.n_test, options.epochs, folder, options.verbose)

    curves, layers = found["drift"]["curves"], found["drift"]["layers"]
    print("drift, step by step (step 0 is the pretrained model)")
    for name in ("hit@1", "paired cosine", "modality gap", "RSA", "image CKA", "text CKA"):
        print(f"  {name:14s}", "  ".join(f"{value:6.3f}" for value in curves[name]))
    print("  CKA of the last step by block:")
    for name, value in zip(layers["names"], layers["CKA"][-1], strict=True):
        print(f"    {name:10s} {value:.3f}")

    last = found["interference"]
    print("interference in the last task: cosine with earlier tasks' gradients, share below 0, Fisher-weighted update")
    columns = (last["conflict"]["cosine"][-1], last["conflict"]["negative share"][-1], last["update"][-1])
    for block, cosine, share, update in zip(last["blocks"], *columns, strict=True):
        print(f"  {block:10s} {cosine:6.3f}  {share:4.2f}  {update:.2e}")

    print("erosion: score at the start and where it was last measured, and calibration error")
    for name, of in found["erosion"]["sets"].items():
        read = [i for i, score in enumerate(of["score"]) if score == score]
        score, error = ([of[key][i] for i in (read[0], read[-1])] for key in ("score", "calibration error"))
        print(f"  {name:16s} {score[0]:.3f} -> {score[1]:.3f}, calibration error {error[0]:.3f} -> {error[1]:.3f}")
    for entry in found["erosion"]["classes"][:3]:
        print(f"  most eroded: {entry['class']} of {entry['set']}, {entry['before']:.2f} -> {entry['after']:.2f}")
    return found


if __name__ == "__main__":
    main()
