"""Every recipe in several processes and in one: a program that a launcher starts, and what it trains."""

from __future__ import annotations

import json
import random
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from avalanche.training.plugins import SupervisedPlugin
from mini import mini, shallow

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.benchmarks.scenario import VLMBenchmark
from avalanche_vlm.compat.data_sets import source_datasets
from avalanche_vlm.memory.state import WORKING, Stateful
from avalanche_vlm.studies.experiment import run_experiment
from avalanche_vlm.training import distributed, recipes
from avalanche_vlm.training.settings import TrainSettings

BATCH = 8
TRANSFORM = mini().transforms.eval


class Losses(SupervisedPlugin[Any], Stateful, supports_distributed=True):
    """The loss of every step, as everybody has added to it, and which tensors began at zero."""

    states = {"losses": WORKING, "began": WORKING}  # noqa: RUF012
    supports_sharding = True

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []
        self.began: dict[str, bool] = {}

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        for name, tensor in strategy.model.state_dict().items():
            if name not in self.began and torch.is_tensor(tensor):
                self.began[name] = not tensor.any()

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        self.losses.append(float(strategy.loss.detach()))


class Decoded(Sequence[torch.Tensor]):
    """Images as files have them, of which each is decoded when it is read. Counts how often."""

    reads = 0

    def __init__(self, images: torch.Tensor) -> None:
        self._held = images

    def __len__(self) -> int:
        return len(self._held)

    def __getitem__(self, index: Any) -> torch.Tensor:
        Decoded.reads += 1
        return self._held[index]

    def contents_of(self, rows: Sequence[int]) -> list[bytes]:
        """What stands for images where contents are compared, as of files: nothing is decoded."""
        return [self._held[int(row)].numpy().tobytes() for row in rows]


def jittered(picture: torch.Tensor) -> torch.Tensor:
    """A training transform that draws from every global generator."""
    return TRANSFORM(picture) + 0.05 * (torch.randn(()) + random.random() + float(np.random.rand()))


def as_files(benchmark: VLMBenchmark) -> VLMBenchmark:
    """A stream whose images are no tensors in memory."""
    for stream in benchmark.streams.values():
        for experience in stream:
            for source in source_datasets(experience.dataset):
                source.images = Decoded(source.images)
    for of in benchmark.held_out:
        for source in source_datasets(of.dataset):
            source.images = Decoded(source.images)
    object.__setattr__(benchmark.reference, "images", Decoded(benchmark.reference.images))
    return benchmark


def streams(samples: int) -> dict[str, VLMBenchmark]:
    """Two tasks of each kind; those of files are classes, too, with augmentation."""
    sizes = {"n_train": samples, "n_test": 7, "n_held_out": 9, "n_reference": 11}
    return {
        "classes": picturebook.mtil_like(order=["sketches", "night"], **sizes),
        "pairs": picturebook.pairs(domains=("sketch", "night"), **sizes),
        "files": as_files(
            picturebook.mtil_like(
                order=["sketches", "night"], train_transform=jittered, eval_transform=TRANSFORM, **sizes
            )
        ),
    }


def cases() -> list[tuple[str, str]]:
    """Recipes and the kinds of streams that they are for."""
    return [(name, kind) for kind in ("classes", "pairs") for name in recipes.list(kind=kind)]


SPARED = {"batch_size": BATCH // 2, "accumulate": 2, "grad_checkpointing": True}
"""The same batches, encoded in two parts by blocks that keep no activations."""


def trained(
    name: str, benchmark: VLMBenchmark, epochs: int, spared: bool = False, shard: bool = False
) -> dict[str, Any]:
    """What two tasks of a recipe come to."""
    model = shallow()
    torch.manual_seed(1)
    losses = Losses()
    Decoded.reads = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcome = run_experiment(
            benchmark,
            name,
            model=model,
            settings=TrainSettings(lr=1e-3, epochs=epochs, **(SPARED if spared else {"batch_size": BATCH})),
            plugins=[losses],
            shard=shard,
        )
    weights = {n: t.detach().double() for n, t in outcome.strategy.model.state_dict().items() if torch.is_tensor(t)}
    result = {k: outcome.result[k] for k in ("matrix", "held_out", "metrics", "classes", "costs")}
    ledger = {k: v for k, v in outcome.ledger.items() if "passes" in k}
    return {
        "losses": losses.losses,
        "began": losses.began,
        "weights": weights,
        "result": result,
        "ledger": ledger,
        "reads": Decoded.reads,
    }


def apart(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """How far two trainings are apart: relative differences, the largest of all steps and of all tensors. Of a tensor
    that began at zero nothing is there but what the steps have made of it, which is told beside the others, as
    ``moved``: rounding counts for more there."""
    losses = [abs(a - b) / max(abs(a), 1e-3) for a, b in zip(one["losses"], other["losses"], strict=True)]
    found, worst = {"weights": 0.0, "moved": 0.0}, ""
    for name, tensor in one["weights"].items():
        if tensor.numel() == 0:
            continue
        second = other["weights"][name]
        # What both do not know, or have no bound for.
        gone = ~tensor.isfinite() & ((tensor == second) | (tensor.isnan() & second.isnan()))
        first, second = tensor.masked_fill(gone, 0), second.masked_fill(gone, 0)
        difference = float((first - second).norm() / first.norm().clamp(min=1e-3))
        group = "moved" if one["began"].get(name, True) else "weights"
        if not difference <= max(found.values()):
            worst = name
        found[group] = max(found[group], difference) if difference == difference else difference
    same: dict[str, Any] = {"reads": (one["reads"], other["reads"])}
    same |= {key: one[key] == other[key] for key in ("result", "ledger")}
    same["scores"] = all(one["result"][key] == other["result"][key] for key in ("matrix", "held_out"))
    return {"steps": len(losses), "losses": max(losses, default=0.0), **found, "worst": worst, **same}


def plain(weights: Any, lr: float, **options: Any) -> torch.optim.Optimizer:
    """An optimizer in the place of AdamW, which makes full steps of gradients that are nothing but rounding, such as
    those of the biases of keys."""
    return torch.optim.SGD(weights, lr=20 * lr, momentum=0.9)


@contextmanager
def on_its_own() -> Iterator[None]:
    """Within a block this process knows nothing of the others."""
    there = torch.distributed.is_initialized
    torch.distributed.is_initialized = lambda: False  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.distributed.is_initialized = there  # type: ignore[assignment]


def main(arguments: list[str]) -> None:
    """Train cases alone, then together, and print how far they are apart, a line each.

    :param arguments: training samples of a task, of which the last batch of 8 may have fewer; epochs of a task; and
        cases, each a recipe or recipe/kind, none for all; recipe/kind/parts trains in parts together and as a whole
        alone, recipe/kind/all-parts in parts both times, recipe/kind/ as a whole both times. ``--shard`` among
        them spreads the towers where they are together.
    """
    shard = "--shard" in arguments
    arguments = [word for word in arguments if word != "--shard"]
    samples, epochs, wanted = int(arguments[0]), int(arguments[1]), arguments[2:]
    torch.set_num_threads(1)
    torch.optim.AdamW = plain  # type: ignore[misc]
    of_kind = streams(samples)
    chosen = [(n, k, "") for n, k in cases() if not wanted or f"{n}/{k}" in wanted or n in wanted]
    chosen += [(n, k, how) for case in wanted if case.count("/") == 2 for n, k, how in [case.split("/")]]
    ranks = distributed.start()
    assert ranks is not None
    before: dict[tuple[str, str, str], Any] = {}
    for number, (name, kind, how) in enumerate(chosen):
        if number % ranks.size == 0:
            with on_its_own():
                own = {
                    case: trained(case[0], of_kind[case[1]], epochs, case[2] == "all-parts")
                    for case in chosen[number + ranks.rank :][:1]
                }
            before = {case: found for part in ranks.told(own) for case, found in part.items()}
        alone = before[name, kind, how]
        try:
            found = apart(alone, trained(name, of_kind[kind], epochs, bool(how), shard))
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}"}
            if len(chosen) == 1:
                raise
        if ranks.first:
            print(json.dumps({"recipe": name, "kind": kind, **found}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
