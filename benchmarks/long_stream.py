"""What a process holds in memory over a stream of many small tasks, recipe by recipe.

    python benchmarks/long_stream.py --out runs/long_stream

Five tasks of the picturebook come again and again, so that neither the data nor the classes grow; every experience has
a number of its own, as on a stream that goes on. Each recipe is a process of its own, and started again with the same
``--out`` the script keeps what is finished. After every 50th experience the script evaluates two tasks, collects
garbage, and notes the resident memory, what the C allocator has handed out of it (glibc 2.33 or newer), and the bytes
of what the training would go on from (:func:`~avalanche_vlm.training.state.training_state`): the model with its
modules, and all that plugins keep.
"""

from __future__ import annotations

import argparse
import gc
import json
from pathlib import Path
from typing import Any

from apart import run_all
from memory_budgets import allocated
from resident import status

CLASSES, CLASS_SETS = 20, 5
MIB = 2**20


def long_stream(experiences: int, n_train: int, n_reference: int) -> Any:
    """A stream of classes whose tasks come again and again.

    :param experiences: number of experiences, 1 or more.
    :param n_train: training pictures of each.
    :param n_reference: reference pairs.
    """
    import numpy as np
    import torch

    from avalanche_vlm.benchmarks.label_space import join_tasks
    from avalanche_vlm.benchmarks.picturebook.generator import PicturebookGenerator
    from avalanche_vlm.benchmarks.picturebook.held_out import reference_pairs
    from avalanche_vlm.benchmarks.picturebook.tasks import TEMPLATES, Task, classes_by
    from avalanche_vlm.benchmarks.picturebook.view import Reading
    from avalanche_vlm.benchmarks.scenario import ImageDataset, VLMBenchmark, as_experience_data

    reading = Reading.of(None, None, None)
    tasks = [
        Task(f"objects {i}", classes_by("object", part), TEMPLATES["object"], "graffiti", {"pattern": 0})
        for i, part in enumerate(np.arange(CLASSES).reshape(CLASS_SETS, -1))
    ]
    turns = [tasks[i % CLASS_SETS] for i in range(experiences)]
    space = join_tasks([(f"task {i}", t.class_names, t.templates) for i, t in enumerate(turns)], "seen")
    streams: dict[str, list[Any]] = {"train": [], "test": []}
    for split, n in (("train", n_train), ("test", CLASSES)):
        data = []
        for task, ids in zip(tasks, space.tasks, strict=False):
            pictures, labels = task.draw(n, 0, split)
            data.append(ImageDataset(torch.from_numpy(pictures), np.array(ids)[labels].tolist()))
        for i in range(experiences):
            streams[split].append(as_experience_data(data[i % CLASS_SETS], reading.train, reading.test, i))
    return VLMBenchmark(
        "long stream",
        "classes",
        streams["train"],
        streams["test"],
        label_space=space,
        task_names=space.task_names,
        reference=reference_pairs(0, n_reference, reading.test),
        generator=PicturebookGenerator(),
    )


def run_one(recipe: str, experiences: int, every: int, n_train: int) -> dict[str, Any]:
    """Train a long stream with a recipe, evaluate two tasks now and then, and note what the process holds."""
    import time

    import torch

    from avalanche_vlm.evaluation.matrix import PerformanceMatrix
    from avalanche_vlm.models import create_vlm
    from avalanche_vlm.studies.feasible import resources
    from avalanche_vlm.studies.strategy import strategy_of
    from avalanche_vlm.training import recipes
    from avalanche_vlm.training.plugins import WarmupCosinePlugin
    from avalanche_vlm.training.recipes import settings_for
    from avalanche_vlm.training.recipes.runnable import settled
    from avalanche_vlm.training.settings import TrainSettings
    from avalanche_vlm.training.state import training_state

    torch.set_num_threads(1)
    torch.manual_seed(0)
    benchmark = long_stream(experiences, n_train, n_reference=n_train)
    train, options = settings_for(recipe, "picturebook")
    settings = TrainSettings(**{**train, "epochs": 1, "warmup": 0, "lr": min(train["lr"], 1e-4)})
    settings = settled(settings, recipe, "classes")
    model = create_vlm("tiny")
    taken = resources(recipe, benchmark)
    model.set_label_space(benchmark.label_space)
    model.competing.in_training = settings.train_classes or "current"
    plugins = recipes.build(recipe, model=model, **taken, **options)
    every_plugin = [*plugins, WarmupCosinePlugin(0)]
    strategy = strategy_of(model, "classes", settings, every_plugin, PerformanceMatrix(), device="cpu")
    rows, started = [], time.process_time()
    for number, experience in enumerate(benchmark.train_stream, 1):
        strategy.train(experience)
        if number % every == 0:
            strategy.eval(benchmark.test_stream[:2])
            gc.collect()
            kept = training_state(model, plugins).values()
            tensors = {t.untyped_storage().data_ptr(): t for t in kept if isinstance(t, torch.Tensor)}
            rows.append(
                {
                    "experience": number,
                    "resident": status("VmRSS"),
                    "in_use": allocated(),
                    "kept": sum(t.untyped_storage().nbytes() for t in tensors.values()),
                }
            )
            del kept, tensors
    return {"recipe": recipe, "rows": rows, "seconds": time.process_time() - started}


def figures(result: dict[str, Any]) -> str:
    """A row of the table: memory at the first and the last look, its growth, and what of that is declared as kept."""
    first, last = result["rows"][0], result["rows"][-1]
    grown = {name: last[name] - first[name] for name in first}
    beyond = 100 * (grown["resident"] - grown["kept"]) / first["resident"]
    cells = [f"`{result['recipe']}`", str(last["experience"])]
    cells += [f"{first['resident'] / MIB:,.0f}", f"{last['resident'] / MIB:,.0f}"]
    cells += [f"{grown[name] / MIB:,.1f}" for name in ("kept", "in_use")]
    return "| " + " | ".join([*cells, f"{beyond:+.1f} %", f"{result['seconds']:,.0f}"]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/long_stream"))
    parser.add_argument("--recipes", default="", help="of all, these (default: all)")
    parser.add_argument("--experiences", type=int, default=1000, help="(default: 1000)")
    parser.add_argument("--every", type=int, default=50, help="experiences from one look to the next (default: 50)")
    parser.add_argument("--n-train", type=int, default=64, help="pictures per task (default: 64)")
    parser.add_argument("--processes", type=int, default=2, help="at a time; each has one thread")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_one(*json.loads(options.one))))
        return
    from avalanche_vlm.training import recipes

    names = options.recipes.split(",") if options.recipes else recipes.list(kind="classes")
    sizes = (options.experiences, options.every, options.n_train)
    jobs = {options.out / f"{name}-{'-'.join(map(str, sizes))}.json": (name, *sizes) for name in names}
    head = ("recipe", "experiences", "MiB at first", "at last", "kept", "in use", "beyond what is kept", "CPU s")
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for result in run_all(__file__, jobs, options.processes):
        print(figures(result))


if __name__ == "__main__":
    main()
