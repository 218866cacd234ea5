"""What a process holds in memory over a stream of many small tasks, recipe by recipe.

    python benchmarks/long_stream.py --out runs/long_stream

Five tasks of the picturebook come again and again, so that neither the data nor the classes grow; every experience has
a number of its own, as on a stream that goes on. A small model with random weights trains one batch of each, in a run
like any other (:func:`~avalanche_vlm.studies.experiment.run_experiment`), so that what the ledger and the evaluator
keep is in the figures. Each recipe is a process of its own, forked from one that has imported what all need; started
again with the same ``--out`` the script keeps what is finished. After every 50th experience the script collects
garbage, and notes the resident memory, what the C allocator has handed out of it (glibc 2.33 or newer), and the bytes
of what the training would go on from (:func:`~avalanche_vlm.training.state.training_state`): the model with its
modules, and all that plugins keep.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from memory_budgets import allocated
from resident import status

CLASSES, CLASS_SETS, TEST_PICTURES = 20, 5, 4
MIB = 2**20
LESS: dict[str, dict[str, Any]] = {
    "replay": {"max_bytes": 2**16},
    "icarl": {"max_bytes": 2**16},
    "latent-replay": {"max_bytes": 2**16},
    "gift": {"n": 16},
    "lwf-vr": {"sentences": 16},
    "ewc-clip": {"samples": 8},
    "adapter-per-task": {"bottleneck": 8},
    "moe-adapters": {"experts": 4, "bottleneck": 8},
    "rail-primal": {"hidden": 32},
    "ranpac": {"hidden": 32},
    "lada": {"units": 2, "bottleneck": 4},
    "proof": {"exemplars": 3},
    "coda-prompt": {"components": 2, "length": 2},
    "dualprompt": {"shared_blocks": 1},
}
"""Options with which a recipe is quick on 16 pictures a task, and a memory with a budget is full before the first
look."""


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
    for split, n in (("train", n_train), ("test", TEST_PICTURES)):
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


def small_model() -> Any:
    """A CLIP of 32 numbers, with random weights, that reads the picturebook."""
    from open_clip.model import CLIP

    from avalanche_vlm.models import from_open_clip, tiny

    tokenizer = tiny.build_tokenizer()
    vision = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
    text = {"width": 32, "heads": 2, "layers": 2, "context_length": tokenizer.context_length}
    clip = CLIP(32, vision, {**text, "vocab_size": tokenizer.vocab_size})
    model = from_open_clip(clip, tokenizer, image_size=32, mean=tiny.MEAN, std=tiny.STD, name="small")
    return model.unfreeze(*model.frozen).freeze("scale")


def memory(model: Any, plugins: Sequence[Any]) -> dict[str, int]:
    """What the process holds, and what of it the training would go on from."""
    import torch

    from avalanche_vlm.training.state import training_state

    gc.collect()
    kept = training_state(model, plugins, strict=False).values()
    tensors = {t.untyped_storage().data_ptr(): t for t in kept if isinstance(t, torch.Tensor)}
    bytes_kept = sum(t.untyped_storage().nbytes() for t in tensors.values())
    del kept, tensors
    return {"resident": status("VmRSS"), "in_use": allocated(), "kept": bytes_kept}


def run_one(recipe: str, experiences: int, every: int, n_train: int, evaluate_every: int) -> dict[str, Any]:
    """Train a long stream with a recipe, and note what the process holds; evaluate the tasks that were seen now and
    then, or never."""
    import time

    import torch

    from avalanche_vlm.studies.experiment import run_experiment
    from avalanche_vlm.training import recipes
    from avalanche_vlm.training.plugins.base import VLMPlugin
    from avalanche_vlm.training.recipes import settings_for
    from avalanche_vlm.training.settings import TrainSettings

    rows: list[dict[str, int]] = []

    class Looks(VLMPlugin):
        """Looks before an experience begins: all that came after the one before is over."""

        states: ClassVar[dict[str, Any]] = {}

        def __init__(self) -> None:
            super().__init__()
            self.trained = 0

        def before_training(self, strategy: Any, **kwargs: Any) -> None:
            if self.trained and self.trained % every == 0:
                rows.append({"experience": self.trained, **memory(strategy.model, strategy.plugins)})
            self.trained += 1

    torch.set_num_threads(1)
    torch.manual_seed(0)
    started = time.process_time()
    benchmark = long_stream(experiences + 1, n_train, n_reference=n_train)  # one more, for the last look before it
    train, options = settings_for(recipe, "picturebook")
    train |= {"epochs": 1, "warmup": 0, "lr": min(train["lr"], 1e-4), "batch_size": n_train, "train_templates": "first"}
    options |= {"batch_size": n_train} if "batch_size" in recipes.get(recipe).options else {}
    options |= LESS.get(recipe, {})
    run_experiment(
        benchmark,
        recipe,
        model=small_model(),
        settings=TrainSettings(**train, eval_tasks="seen", eval_every=max(1, evaluate_every)),
        options=options,
        plugins=[Looks()],
        evaluate=evaluate_every > 0,
    )
    return {"recipe": recipe, "rows": rows, "seconds": time.process_time() - started}


def keep_one(path: Path, *job: Any) -> None:
    """:func:`run_one`, into a file."""
    result = run_one(*job)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result))


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
    parser.add_argument("--n-train", type=int, default=16, help="pictures per task (default: 16)")
    parser.add_argument("--evaluate-every", type=int, default=0, help="experiences between evaluations (default: none)")
    options = parser.parse_args()
    import torch

    from avalanche_vlm.studies import experiment  # noqa: F401  (what all processes have from the start)
    from avalanche_vlm.training import recipes

    torch.set_num_threads(1)

    names = options.recipes.split(",") if options.recipes else recipes.list(kind="classes")
    sizes = (options.experiences, options.every, options.n_train, options.evaluate_every)
    jobs = {options.out / f"{name}-{'-'.join(map(str, sizes))}.json": (name, *sizes) for name in names}
    head = ("recipe", "experiences", "MiB at first", "at last", "kept", "in use", "beyond what is kept", "CPU s")
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for path, job in jobs.items():
        if not path.exists():
            process = multiprocessing.get_context("fork").Process(target=keep_one, args=(path, *job))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"{job} failed")
        print(figures(json.loads(path.read_text())), flush=True)


if __name__ == "__main__":
    main()
