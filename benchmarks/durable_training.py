"""What checkpoints cost a training: its time, bytes on disk, and memory.

    python benchmarks/durable_training.py
    python benchmarks/durable_training.py --models tiny ViT-B-16 --recipes fine-tune zscl --folder DIR

Of every model: seconds of an iteration, seconds of a checkpoint within an experience (the first, and one after more
iterations), of those at an experience's end and at the next one's start, what else the plugin does per iteration, and
the most memory that writing took above what the training had. The share is that of a training whose experiences last as
long as is said, at the plugin's default: one checkpoint every ten minutes, and two at the ends. Of every recipe on the
tiny model: bytes of all checkpoints that are there after two experiences, by the last two of either kind.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from avalanche.training.plugins import EvaluationPlugin
from resident import peak_above

from avalanche_vlm.benchmarks import VLMBenchmark, picturebook
from avalanche_vlm.models import VLM, create_vlm
from avalanche_vlm.training import CheckpointPlugin, VLMNaive, criterion_for, recipes, resume
from avalanche_vlm.training.checkpoint import recorder
from avalanche_vlm.training.plugins.base import VLMPlugin

MB = 1e6


class Watch(VLMPlugin):
    """Times iterations, and asks for checkpoints after some of them."""

    states = {}  # noqa: RUF012

    def __init__(self, asked: tuple[int, ...], checkpoints: CheckpointPlugin) -> None:
        super().__init__()
        self.asked, self.checkpoints = asked, checkpoints
        self.seconds: list[float] = []

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self.began = time.perf_counter()

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self.began)
        if len(self.seconds) in self.asked:
            self.checkpoints.request()


def stream(model: VLM, samples: int) -> VLMBenchmark:
    """Two experiences."""
    transforms = {"train_transform": model.transforms.eval, "eval_transform": model.transforms.eval}
    return picturebook.mtil_like(
        order=["sketches", "night"],
        n_train=samples,
        n_test=8,
        n_held_out=16,
        n_reference=64,
        tokenizer=model.tokenizer,
        **transforms,
    )


def trained(
    model: VLM, benchmark: VLMBenchmark, recipe: str, batch: int, folder: Path, asked: tuple[int, ...]
) -> tuple[Watch, list[tuple[str, float, float]]]:
    """A training with checkpoints, and stage, seconds and MB of memory of each that was written."""
    checkpoints = CheckpointPlugin(folder)
    watch = Watch(asked, checkpoints)
    chosen = recipes.get(recipe)
    model.set_label_space(benchmark.label_space)
    given = {what: getattr(benchmark, what) for what in chosen.takes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        strategy = VLMNaive(
            model=model,
            optimizer=torch.optim.AdamW(model.parameters(), lr=1e-5),
            criterion=criterion_for("classes", model),
            train_mb_size=batch,
            plugins=[*recipes.build(recipe, model=model, **given), watch, checkpoints],
            evaluator=EvaluationPlugin(loggers=[]),
        )
    written: list[tuple[str, float, float]] = []
    real = recorder.Recorder._write

    def timed(self: Any, position: Any) -> None:
        with peak_above() as memory:
            began = time.perf_counter()
            real(self, position)
            seconds = time.perf_counter() - began
        written.append((position.stage, seconds, memory[0]))

    recorder.Recorder._write = timed  # type: ignore[method-assign]
    try:
        for experience in benchmark.train_stream[resume(strategy, folder) :]:
            strategy.train(experience)
    finally:
        recorder.Recorder._write = real  # type: ignore[method-assign]
    return watch, written


def overhead() -> float:
    """Seconds per iteration of what the plugin does when nothing is due."""

    class Nobody:
        def started(self) -> None: ...

    from avalanche_vlm.training.checkpoint.batches import EpochBatches

    owner: Any = recorder.Recorder.__new__(recorder.Recorder)
    owner.__dict__ |= {
        "pending": None, "minutes": 10, "wanted": False, "stop": None, "watched": True, "_seen": [[0, 1]],
        "_epoch": 0, "last": None, "_written": time.monotonic(), "phase": "outside",
    }  # fmt: skip
    batches: list[int] = list(range(20_000))

    def walked(loader: Any) -> float:
        began = time.perf_counter()
        for _ in loader:
            pass
        return time.perf_counter() - began

    plain = min(walked(batches) for _ in range(3))
    return (min(walked(EpochBatches(batches, owner)) for _ in range(3)) - plain) / len(batches)


def sizes(folder: Path) -> Iterator[int]:
    """Bytes of all files."""
    yield from (path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["tiny", "ViT-B-16"])
    parser.add_argument("--recipes", nargs="*", help="recipes whose bytes are counted; by default all for classes")
    parser.add_argument("--folder", help="where checkpoints are written; by default the system's temporary folder")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"per iteration without a checkpoint: {1e6 * overhead():.0f} microseconds", flush=True)
    print("| model | seconds of an iteration | within: first | within: later | end | start | MB of memory |")
    print("|---|---|---|---|---|---|---|")
    for name in args.models:
        large = name != "tiny"
        model = create_vlm(name)
        batch, samples = (4, 20) if large else (64, 640)
        with tempfile.TemporaryDirectory(dir=args.folder) as home:
            watch, written = trained(model, stream(model, samples), "fine-tune", batch, Path(home), (2, 4))
        within = [seconds for stage, seconds, _ in written if stage == "within"]
        end, start = (statistics.median(s for at, s, _ in written if at == stage) for stage in ("trained", "start"))
        iteration, memory = statistics.median(watch.seconds), max(mb for *_, mb in written)
        row = [name, *(f"{s:.3f}" for s in (iteration, *within, end, start)), f"{memory:.1f}"]
        print(f"| {' | '.join(row)} |", flush=True)
        for minutes in (1, 10, 60):
            spent = minutes / 10 * within[-1] if minutes >= 10 else 0.0
            share = (spent + end + start) / (60 * minutes)
            print(f"experiences of {minutes} minutes: {share:.2%} of the time", flush=True)
        del model, watch
    print("| recipe | MB on disk | MB of the model |\n|---|---|---|")
    for name in recipes.list(kind="classes") if args.recipes is None else args.recipes:
        model = create_vlm("tiny")
        weights = sum(p.nbytes for p in model.parameters())
        with tempfile.TemporaryDirectory(dir=args.folder) as home:
            trained(model, stream(model, 64), name, 16, Path(home), (2, 4, 6, 8))
            print(f"| {name} | {sum(sizes(Path(home))) / MB:.1f} | {weights / MB:.1f} |", flush=True)


if __name__ == "__main__":
    main()
