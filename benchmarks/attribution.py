"""Does the attribution find the cause? Four causes are planted in the tiny model, and it has to name them.

    python benchmarks/attribution.py            # ten seeds of each cause, about 15 minutes; finished trials are kept

Causes: the text space is rotated; noise on one block of the image tower (which one, the seed draws; the attribution has
to name it); fine-tuning on one narrow task (likewise drawn); captions of a share of the pairs shuffled (likewise).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from apart import run_all

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.benchmarks.picturebook.held_out import held_out_sets, reference_pairs
from avalanche_vlm.benchmarks.scenario import PairDataset
from avalanche_vlm.evaluation.blocks import blocks
from avalanche_vlm.evaluation.retrieval import first_hits
from avalanche_vlm.models import VLM, create_vlm
from avalanche_vlm.studies.attribution import ProbePairs, attribute
from avalanche_vlm.studies.experiment import run_experiment
from avalanche_vlm.training.settings import TrainSettings

TASKS = ("night", "sketches", "graffiti", "fabrics")
PAIRS = 600
"""Held-out captions."""
LEAST = 0.1
"""What planted noise and training cost at least, as a share of the pairs: else there is nothing to attribute."""


def damage(model: VLM, seed: int) -> Callable[[], bool]:
    """Whether pairs that are not the probe's show a damage."""
    pairs = ProbePairs(held_out_sets(seed + 10_000, 100, model.transforms.eval, model.tokenizer)[0].dataset)
    return lambda: first_hits(pairs.images(model), pairs.texts(model), pairs.ids).double().mean() < 1 - LEAST


def rotate(model: VLM, rng: torch.Generator, seed: int) -> None:
    """The text projection times a random orthogonal matrix."""
    projection = model.clip.text_projection
    turn = torch.linalg.qr(torch.randn(len(projection.T), len(projection.T), generator=rng))[0]
    with torch.no_grad():
        projection.copy_(projection @ turn)


def noise(model: VLM, rng: torch.Generator, seed: int) -> str:
    """Gaussian noise on every weight of a block of the image tower: half of each tensor's standard deviation, and more
    of the same until other pairs than the probe's show it."""
    block = f"image.{int(torch.randint(4, (), generator=rng))}"
    weights = {name: p for name, p in model.clip.named_parameters() if name in blocks(model)[block]}
    draw = {name: torch.randn(p.shape, generator=rng) * p.std() for name, p in weights.items()}
    more, shows = 0.5, damage(model, seed)
    while not shows():
        with torch.no_grad():
            for name, p in weights.items():
                p += more * draw[name]
        more = 0.2
    return block


def narrow(model: VLM, rng: torch.Generator, seed: int) -> str:
    """Fine-tuning on one task: 256 pictures, 10 epochs at a rate of 2e-3, and again until other pairs than the probe's
    show it."""
    task = TASKS[int(torch.randint(len(TASKS), (), generator=rng))]
    stream = picturebook.mtil_like(seed, n_train=256, n_test=20, n_held_out=20, n_reference=8, order=[task])
    settings = TrainSettings(lr=2e-3, epochs=10, batch_size=64, warmup=5)
    shows = damage(model, seed)
    while not shows():
        run_experiment(stream, "fine-tune", model=model, settings=settings, seed=seed)
    return task


def mild(model: VLM, rng: torch.Generator, seed: int) -> None:
    """An epoch on 256 reference pairs at the default rate: a model that was trained and lost nothing."""
    reference = reference_pairs(seed, 256, model.transforms.eval)
    tokens = model.tokenizer(list(reference.captions))
    optimizer = torch.optim.AdamW(model.trainable_parameters().values(), lr=TrainSettings().lr)
    model.train()
    for rows in torch.randperm(len(reference), generator=rng).split(64):
        logits = model.similarity(model.encode_image(reference.batch(rows.tolist())), model.encode_text(tokens[rows]))
        target = torch.arange(len(rows))
        loss = (
            torch.nn.functional.cross_entropy(logits, target) + torch.nn.functional.cross_entropy(logits.T, target)
        ) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


def shuffled(data: PairDataset, rng: torch.Generator) -> tuple[PairDataset, float]:
    """The captions of a drawn share of the pairs, from 30 to 90 %, moved to one another's pictures."""
    share = 0.3 + 0.6 * float(torch.rand((), generator=rng))
    rows = torch.randperm(len(data), generator=rng)[: int(share * len(data))]
    captions = list(data.captions)
    for here, there in zip(rows.tolist(), rows.roll(1).tolist(), strict=True):
        captions[here] = data.captions[there]
    return PairDataset(data.images, captions), share


CAUSES = {"rotate the text space": "drift", "noise on one block": "interference",
          "fine-tune on one narrow task": "erosion", "shuffle the pairs": "mismatched pairs"}  # fmt: skip
"""What is planted, and what is to be found."""
FOUND = ("drift", "interference", "erosion", "mismatched pairs", "nothing lost", "unexplained")


def trial(cause: str, seed: int) -> dict[str, Any]:
    """Plant a cause and ask for it."""
    torch.set_num_threads(1)
    rng = torch.Generator().manual_seed(1000 * seed + list(CAUSES).index(cause))
    model = create_vlm("tiny")
    start = {name: value.clone() for name, value in model.clip.state_dict().items()}
    held_out = held_out_sets(seed, PAIRS, model.transforms.eval, model.tokenizer)[0].dataset
    plant = {"rotate the text space": rotate, "noise on one block": noise, "fine-tune on one narrow task": narrow}
    planted = plant.get(cause, mild)(model, rng, seed)
    if cause == "shuffle the pairs":
        held_out.dataset, planted = shuffled(held_out.dataset, rng)
    started, started_cpu = time.perf_counter(), time.process_time()
    found = attribute(model, start, held_out, seed=seed)
    seconds = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - started_cpu}
    return {"cause": cause, "seed": seed, "planted": planted, "attribution": found, **seconds}


def right(result: dict[str, Any]) -> bool:
    """The planted cause, and of noise the block."""
    verdict = result["attribution"]["verdict"]
    return verdict["cause"] == CAUSES[result["cause"]] and (
        verdict["cause"] != "interference" or verdict["module"] == result["planted"]
    )


def confusion(results: list[dict[str, Any]]) -> str:
    """Planted against found, as Markdown."""
    lines = ["| planted | " + " | ".join(FOUND) + " | right |", "|---" * (len(FOUND) + 2) + "|"]
    for cause, expected in CAUSES.items():
        rows = [result for result in results if result["cause"] == cause]
        counts = [sum(r["attribution"]["verdict"]["cause"] == found for r in rows) for found in FOUND]
        cells = [f"**{n}**" if found == expected else str(n or "") for found, n in zip(FOUND, counts, strict=True)]
        named = " and named" if expected == "interference" else ""
        lines.append(
            f"| {cause} ({expected}) | " + " | ".join(cells) + f" | {sum(map(right, rows))} of {len(rows)}{named} |"
        )
    return "\n".join(lines)


def figures(results: list[dict[str, Any]]) -> str:
    """Points lost, and the share of them that each kind of intervention recovers, means over seeds."""
    kinds = {"re-match": "re-match", "rotate": "rotate", "linear": "map each", "one block": "put back",
             "two blocks": "greedy", "half way": "half way"}  # fmt: skip
    lines = ["| planted | pretrained | trained | " + " | ".join(kinds) + " | s |", "|---" * (len(kinds) + 4) + "|"]
    for cause in CAUSES:
        rows = [result for result in results if result["cause"] == cause]
        cells = [f"{mean(r['attribution'][name] for r in rows):.1f}" for name in ("before", "trained")]
        for kind, start in kinds.items():
            recovered = []
            for r in rows:
                of_kind = [
                    row["recovered"]
                    for row in r["attribution"]["interventions"]
                    if (row["name"].endswith("(greedy)") if kind == "two blocks" else row["name"].startswith(start))
                ]
                recovered += of_kind[:1]
            cells.append(f"{mean(recovered):.1f}" if recovered else "")
        lines.append(f"| {cause} | " + " | ".join(cells) + f" | {mean(r['cpu_seconds'] for r in rows):.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2,3,4,5,6,7,8,9")
    parser.add_argument("--out", default="runs/attribution")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps([trial(cause, json.loads(options.one)) for cause in CAUSES]))
        return
    seeds = [int(seed) for seed in options.seeds.split(",")]
    jobs = {Path(options.out) / f"seed-{seed}.json": seed for seed in seeds}
    results = [result for of_seed in run_all(__file__, jobs, options.processes) for result in of_seed]
    for result in results:
        if not right(result):
            print(
                f"wrong: {result['cause']}, seed {result['seed']}: {result['attribution']['verdict']}", file=sys.stderr
            )
    print(confusion(results), figures(results), sep="\n\n")


if __name__ == "__main__":
    main()
