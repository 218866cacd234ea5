"""What replay costs as the past grows: time per training step, and resident memory.

    python benchmarks/replay_cost.py

The step is a whole iteration of Avalanche's ``Naive`` on the tiny model, with a memory of one budget that has seen 1,
10 or 100 tasks. Past tasks have the classes of the present one, as in a domain-incremental stream; under "new classes"
they have those of the seven other tasks of the stream in turn, whose prompts the text tower encodes as well. Rounds are
interleaved, so that what else the machine does falls on all alike.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin
from avalanche.training.supervised import Naive

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.benchmarks.scenario import ImageDataset, as_experience_data
from avalanche_vlm.memory import ExemplarMemory, FeatureMemory, LatentMemory
from avalanche_vlm.models import VLM, create_vlm
from avalanche_vlm.training.plugins import (
    ExemplarReplayPlugin,
    FeatureReplayPlugin,
    LatentReplayPlugin,
    TextReplayPlugin,
)

TASKS = (1, 10, 100)
KINDS = (
    "exemplars",
    "exemplars, JPEG",
    "latents",
    "texts",
    "statistics",
    "exemplars, new classes",
    "exemplars, new classes, a single past task per batch",
    "latents, new classes",
)
BATCH = 32


def filled(kind: str, tasks: int, model: VLM) -> SupervisedPlugin:
    """A plugin whose memory of a fixed budget is full of ``tasks`` tasks."""
    generator = torch.Generator().manual_seed(tasks)
    classes = [torch.tensor(of_task) for of_task in model.label_space.tasks]
    memory: Any
    if kind.startswith("exemplars"):
        memory = ExemplarMemory(1 << 20, codec="jpeg" if "JPEG" in kind else "uint8")
        plugin: SupervisedPlugin = ExemplarReplayPlugin(model, memory, BATCH, "single" if "single" in kind else "equal")
    elif kind.startswith("latents"):
        memory = LatentMemory(1 << 20, "int8")
        plugin = LatentReplayPlugin(model, memory, batch_size=BATCH)
    elif kind == "texts":
        memory = LatentMemory(1 << 18)
        plugin = TextReplayPlugin(model, memory, batch_size=BATCH)
    else:
        memory = FeatureMemory("full", max_bytes=1 << 20)
        plugin = FeatureReplayPlugin(model, memory, batch_size=BATCH)
    per_task = 2400 // tasks  # more than any of the budgets holds
    for task in range(tasks):
        label = 1 + task % (len(classes) - 1) if "new classes" in kind else 0
        y = classes[label][torch.randint(len(classes[label]), (per_task,), generator=generator)]
        labels = torch.full_like(y, label)
        if kind.startswith("exemplars"):
            memory.add(torch.randint(256, (per_task, 3, 32, 32), generator=generator).byte(), y, labels, step=task)
        elif kind.startswith("latents"):
            memory.add(torch.randn(per_task, 17, 128, generator=generator), y, labels, step=task)
        elif kind == "texts":
            tokens = torch.randint(1, 100, (per_task, 20), generator=generator)
            memory.add(torch.randn(per_task, 128, generator=generator), y, labels, tokens, step=task)
        else:
            memory.fit(torch.randn(per_task, 128, generator=generator), y, labels, step=task)
    return plugin


class Clock(SupervisedPlugin):
    """Seconds of every iteration."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self._started = time.perf_counter()

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self._started)


class WithoutTheEnd:
    """The plugin, but what it does after an experience: the memory stays what it is."""

    def __init__(self, plugin: SupervisedPlugin) -> None:
        plugin.after_training_exp = lambda strategy, **kwargs: None
        self.plugin = plugin


def steps(rounds: int) -> None:
    """Median milliseconds per step, and the ratio to one past task."""
    benchmark = picturebook.mtil_like(0, n_train=4 * BATCH, n_test=8, n_held_out=8, n_reference=8)
    for kind in KINDS:
        runs: dict[int, tuple[Naive, Clock]] = {}
        for tasks in TASKS:
            torch.manual_seed(0)
            model = create_vlm("tiny").set_label_space(benchmark.label_space)
            clock = Clock()
            strategy = Naive(
                model=model,
                optimizer=torch.optim.SGD(model.parameters(), lr=1e-6),
                criterion=torch.nn.CrossEntropyLoss(),
                train_mb_size=BATCH,
                plugins=[WithoutTheEnd(filled(kind, tasks, model)).plugin, clock],
                evaluator=None,
            )
            runs[tasks] = strategy, clock
        for _ in range(rounds + 1):
            for strategy, _ in runs.values():
                strategy.train(benchmark.train_stream[0])
        medians = {tasks: statistics.median(clock.seconds[4:]) * 1000 for tasks, (_, clock) in runs.items()}
        cells = " | ".join(f"{medians[t]:.1f} ms" for t in TASKS)
        ratios = " | ".join(f"{medians[t] / medians[1]:.3f}" for t in TASKS[1:])
        print(f"| {kind} | {cells} | {ratios} |", flush=True)


def resident() -> int:
    """Bytes of this process in memory, without what the C allocator keeps although nobody uses it."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def experience(step: int, transform: Any) -> SimpleNamespace:
    """One of 33 MB, which whoever asked for it is alone to hold."""
    generator = torch.Generator().manual_seed(step)
    samples = 33_000_000 // 3072
    pixels = torch.randint(256, (samples, 3, 32, 32), generator=generator, dtype=torch.uint8)
    data = ImageDataset(pixels, torch.randint(54, (samples,), generator=generator))
    return SimpleNamespace(dataset=as_experience_data(data, transform, transform), current_experience=step)


def bounded(make: Callable[[], ExemplarMemory], name: str) -> None:
    """Growth of resident memory over 50 experiences through a buffer of 1 MiB."""
    model = create_vlm("tiny", "random")
    plugin = ExemplarReplayPlugin(model, make())
    sizes = [resident()]
    for step in range(50):
        seen = SimpleNamespace(experience=experience(step, model.transforms.eval), device=torch.device("cpu"))
        plugin.after_training_exp(seen)
        del seen
        sizes.append(resident())
    growth = (max(sizes) - sizes[0]) / 1e6, (max(sizes) - sizes[1]) / 1e6
    print(
        f"| {name} | {len(plugin.memory):,} | {plugin.memory.stored().total:,} | {growth[0]:.1f} MB | "
        f"{growth[1]:.1f} MB |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", message="No loggers specified")
    print("| memory | 1 task | 10 tasks | 100 tasks | ratio at 10 | at 100 |\n|---|---|---|---|---|---|")
    steps(options.rounds)
    print("\n| buffer of 1 MiB | pictures | bytes | growth over 50 experiences of 33 MB | of it after the first |")
    print("|---|---|---|---|---|")
    bounded(lambda: ExemplarMemory(1 << 20), "uint8")
    bounded(lambda: ExemplarMemory(1 << 20, codec="jpeg"), "JPEG")
    with tempfile.TemporaryDirectory() as folder:
        bounded(lambda: ExemplarMemory(1 << 20, folder=folder), "uint8, on disk")


if __name__ == "__main__":
    main()
