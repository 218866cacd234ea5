"""Every recipe of parameter-efficient adaptation: with and without the task id, on new classes, and at many tasks.

    python benchmarks/adaptation.py --out runs/adaptation

Each run is a process of its own, and started again with the same ``--out`` the script keeps what is finished. The last
table is the time of a prediction with 1, 10, 50 and 200 tasks in the pool: modules with random weights, and a router
that was fitted on as many groups of features, for pictures that spread over all of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from apart import run_all, table

STREAMS = ("mtil_like", "class_incremental, union")
TOLD = "mtil_like, task id"
FIGURES = {
    "last": "Last",
    "avg": "Avg",
    "transfer": "Transfer",
    "forget": "Forget",
    "zsd": "ZSD",
    "held_out_r1": "held-out R@1",
    "attributes": "attributes",
    "router": "routed right",
    "trained": "trained",
    "added": "added",
    "kb_per_task": "stored kB per task",
    "seconds": "train s (CPU)",
}
SURVEY = ("last", "avg", "transfer", "forget", "zsd")
DIGITS = {"trained": 0, "added": 0, "seconds": 0, "kb_per_task": 0}
TASKS = (1, 10, 50, 200)
BATCH = 256


def run_one(recipe: str, stream: str, seed: int, n_train: int, n_test: int, device: str) -> dict[str, Any]:
    """One recipe, one stream, one seed."""
    import torch

    from avalanche_vlm.benchmarks import picturebook
    from avalanche_vlm.evaluation import survey_metrics
    from avalanche_vlm.evaluation.routing import routing_scores
    from avalanche_vlm.models import create_vlm
    from avalanche_vlm.studies.experiment import run_experiment
    from avalanche_vlm.training.recipes import settings_for
    from avalanche_vlm.training.settings import TrainSettings

    torch.set_num_threads(1)
    train, options = settings_for(recipe, "picturebook")
    name, _, how = stream.partition(", ")
    space = {"label_space": how} if how else {}
    benchmark = getattr(picturebook, name)(seed, n_train=n_train, n_test=n_test, n_held_out=500, **space)
    model = create_vlm("tiny").to(device)
    told: list[list[float]] = []

    def with_the_task_id(step: int, matrix: Any) -> None:
        if model.routed is not None and not how:
            model.routed.use_task_labels = True
            told.append(accuracies(model, benchmark.test_stream))
            model.routed.use_task_labels = False

    outcome = run_experiment(
        benchmark,
        recipe,
        model=model,
        settings=TrainSettings(**train),
        options=options,
        seed=seed,
        device=device,
        on_row=with_the_task_id,
    )
    result = outcome.result
    costs, held_out = result["costs"], result["held_out"]
    attributes = [values for name, values in held_out.items() if not name.startswith("captions")]
    return {
        "recipe": recipe,
        "stream": stream,
        "seed": seed,
        **result["metrics"],
        "held_out_r1": held_out["captions R@1"][-1],
        "held_out_r1_change": held_out["captions R@1"][-1] - held_out["captions R@1"][0],
        "attributes": statistics.mean(values[-1] for values in attributes),
        "attributes_change": statistics.mean(values[-1] - values[0] for values in attributes),
        "router": None if model.routed is None else 100 * routing_scores(model, benchmark.test_stream).accuracy,
        "trained": costs["trainable_parameters"],
        "added": costs["added_parameters"],
        "kb_per_task": costs["stored_bytes"] / 1e3 / len(result["tasks"]),
        "seconds": outcome.timing["train_cpu_seconds"],
        "told": survey_metrics(told[1:], told[0]) if told else None,
    }


def accuracies(model: Any, stream: Any) -> list[float]:
    """In percent, for every experience."""
    from torch.utils.data import DataLoader

    from avalanche_vlm.evaluation.rightness import rightness

    found = []
    with model.evaluating():
        for experience in stream:
            right, total = 0.0, 0
            for x, y, labels in DataLoader(experience.dataset.eval(), BATCH):
                right += rightness(model(x.to(model.device), labels), y).sum().item()
                total += len(y)
            found.append(100 * right / total)
    return found


def seconds_per_image(recipe: str, tasks: int, rounds: int) -> float | None:
    """Median over rounds, of a batch; None for a recipe that does not choose among modules."""
    import torch
    import torch.nn.functional as F

    from avalanche_vlm.benchmarks import picturebook
    from avalanche_vlm.models import create_vlm
    from avalanche_vlm.training import recipes

    torch.manual_seed(0)
    model = create_vlm("tiny")
    benchmark = picturebook.mtil_like(0, n_train=8, n_test=32, n_held_out=8, n_reference=64)
    resources = {name: getattr(benchmark, name) for name in recipes.get(recipe).takes}
    plugins = recipes.build(recipe, model=model, **resources)
    if model.routed is None:
        return None
    model.set_label_space(benchmark.label_space)
    images = torch.stack([e.dataset.eval()[i][0] for e in benchmark.test_stream for i in range(32)])[:BATCH]
    pool = model.routed.pool
    with torch.no_grad():
        model.eval()
        plain = model.encode_image_plain(images)
        for task in range(tasks):
            pool.add(f"task_{task}")
            near = plain[task % len(plain)] + 0.02 * torch.randn(60, plain.shape[1])
            model.routed.learn(f"task_{task}", F.normalize(near, dim=1), torch.zeros(60, dtype=torch.long))
        model.eval()
        seconds = []
        for _ in range(rounds + 1):
            started = time.perf_counter()
            model(images, 0)
            seconds.append(time.perf_counter() - started)
    del plugins
    return statistics.median(seconds[1:]) / len(images)


def erosion(results: list[dict[str, Any]], stream: str) -> str:
    """How far held-out scores ended from the pretrained model's, the worst of the seeds."""
    rows = [result for result in results if result["stream"] == stream]
    lines = ["| change over the stream, points | held-out R@1 | attributes |", "|---|---|---|"]
    for recipe in dict.fromkeys(result["recipe"] for result in rows):
        of = [result for result in rows if result["recipe"] == recipe]
        cells = (
            f"{min(r[f'{name}_change'] for r in of):+.1f} to {max(r[f'{name}_change'] for r in of):+.1f}"
            for name in ("held_out_r1", "attributes")
        )
        lines.append(f"| `{recipe}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/adaptation"))
    parser.add_argument("--recipes", default="", help="of all of the family, these (default: all)")
    parser.add_argument("--streams", default=";".join(STREAMS), help="separated by semicolons (default: both)")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--n-train", type=int, default=256, help="pictures per task (default: 256)")
    parser.add_argument("--n-test", type=int, default=125, help="likewise (default: 125)")
    parser.add_argument("--rounds", type=int, default=7, help="of the timing at many tasks")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=2, help="at a time; each has one thread")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_one(*json.loads(options.one))))
        return
    import torch

    from avalanche_vlm.training import recipes

    torch.set_num_threads(1)
    names = options.recipes.split(",") if options.recipes else recipes.list(family="PEA")
    streams = options.streams.split(";")
    seconds = {name: {tasks: seconds_per_image(name, tasks, options.rounds) for tasks in TASKS} for name in names}
    routed = [name for name in names if seconds[name][1] is not None]
    sizes = (options.n_train, options.n_test)
    jobs = {
        options.out / f"{stream.replace(', ', '-').replace(' ', '-')}-{name}-{seed}-{sizes[0]}-{sizes[1]}.json": (
            name,
            stream,
            seed,
            *sizes,
            options.device,
        )
        for seed in map(int, options.seeds.split(","))
        for stream in streams
        for name in names
    }
    results = run_all(__file__, jobs, options.processes)
    told = [result | result["told"] | {"stream": TOLD} for result in results if result["told"]]
    parts = [table(results, stream, FIGURES, DIGITS) for stream in streams]
    if STREAMS[0] in streams:
        parts += [table(told, TOLD, {name: FIGURES[name] for name in SURVEY}, DIGITS), erosion(results, STREAMS[0])]
    lines = [f"| ms per picture, batches of {BATCH} | " + " | ".join(f"{t} task{'s' * (t > 1)}" for t in TASKS) + " |"]
    lines.append("|---" * (len(TASKS) + 1) + "|")
    for name in routed:
        lines.append(f"| `{name}` | " + " | ".join(f"{1000 * seconds[name][t]:.2f}" for t in TASKS) + " |")
    text = "\n\n".join([*parts, "\n".join(lines)])
    (options.out / "tables.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
