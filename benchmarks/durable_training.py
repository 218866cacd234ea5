"""What checkpoints cost a training: its time, bytes on disk, and memory.

    python benchmarks/durable_training.py
    python benchmarks/durable_training.py --models tiny ViT-B-16 --recipes fine-tune zscl --folder DIR

Of every model: seconds of an iteration, seconds and processor time of a checkpoint within an experience (the first,
and the quickest of the later ones), of those at an experience's end and at the next one's start, what else the plugin
does per iteration, and the most memory that writing took above what the training had. The share is that of a training
whose experiences last as long as is said, at the plugin's default: one checkpoint every ten minutes, and two at the
ends; by the seconds that the training waits, and by the processor time of all threads, the one that waits for the disk
included, which other processes beside it disturb least. Of every recipe on the
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
from typing import Any, NamedTuple

import torch
from avalanche.training.plugins import EvaluationPlugin
from resident import peak_above

from avalanche_vlm.benchmarks import VLMBenchmark, picturebook
from avalanche_vlm.models import VLM, create_vlm
from avalanche_vlm.training import CheckpointPlugin, VLMNaive, criterion_for, recipes, resume
from avalanche_vlm.training.checkpoint import recorder
from avalanche_vlm.training.checkpoint.writing import CheckpointWriter
from avalanche_vlm.training.plugins.base import VLMPlugin

MB = 1e6


class Written(NamedTuple):
    """A checkpoint: what kind of one, the seconds that the training waited, processor time of all threads until the
    disk had it, and MB of memory."""

    stage: str
    seconds: float
    cpu: float
    memory: float


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
) -> tuple[Watch, list[Written]]:
    """A training with checkpoints, and what each took that was written."""
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
    written: list[Written] = []
    real = recorder.Recorder._write

    def timed(self: Any, position: Any) -> None:
        self.writer.settle()  # what the disk still has to do is waited for behind the scenes
        with peak_above() as memory:
            began, cpu = time.perf_counter(), time.process_time()
            real(self, position)
            seconds = time.perf_counter() - began
            self.writer.settle()
            cpu = time.process_time() - cpu
        written.append(Written(position.stage, seconds, cpu, memory[0]))

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
        "_epoch": 0, "_written": time.monotonic(), "phase": "outside",
        "writer": CheckpointWriter(Path(tempfile.gettempdir())),
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
    parser.add_argument("--batch", type=int, default=4, help="samples of a batch, for models other than tiny")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"per iteration without a checkpoint: {1e6 * overhead():.0f} microseconds", flush=True)
    print("| model | an iteration | within: first | within: later | end | start | MB of memory |")
    print("|---|---|---|---|---|---|---|")
    for name in args.models:
        large = name != "tiny"
        model = create_vlm(name)
        batch, samples = (args.batch, 5 * args.batch) if large else (64, 640)
        with tempfile.TemporaryDirectory(dir=args.folder) as home:
            watch, written = trained(model, stream(model, samples), "fine-tune", batch, Path(home), (2, 3, 4))
        within = [one for one in written if one.stage == "within"]
        best = [
            Written("", *(min(of) for of in zip(*(one[1:] for one in some), strict=True)))
            for some in (
                within[:1],
                within[1:],
                *([one for one in written if one.stage == at] for at in ("trained", "start")),
            )
        ]
        row = [name, f"{statistics.median(watch.seconds):.3f}"]
        row += [f"{one.seconds:.3f} ({one.cpu:.3f})" for one in best]
        print(f"| {' | '.join(row)} | {max(one.memory for one in written):.1f} |", flush=True)
        _, later, end, start = best
        for minutes in (1, 10, 60):
            times = minutes / 10 if minutes >= 10 else 0.0
            spent = [times * later[i] + end[i] + start[i] for i in (1, 2)]
            shares = [f"{of / (60 * minutes):.2%}" for of in spent]
            print(
                f"experiences of {minutes} minutes: {shares[0]} of the time ({shares[1]} as processor time)", flush=True
            )
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
