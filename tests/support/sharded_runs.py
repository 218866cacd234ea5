"""An Avalanche script whose towers are spread over processes, and what it would come to without: a program that a
launcher starts, and what it trains."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from avalanche.training.plugins import EvaluationPlugin
from mini import shallow
from ranks_runs import Losses, on_its_own
from torch import nn

from avalanche_vlm._ranks import leads
from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.compat.sharding import in_parts_of, own_part
from avalanche_vlm.evaluation.matrix import PerformanceMatrix
from avalanche_vlm.memory.state import TRANSIENT, WORKING
from avalanche_vlm.training import VLMNaive, distributed, recipes
from avalanche_vlm.training.checkpoint import CheckpointPlugin, resume
from avalanche_vlm.training.checkpoint.recorder import Recorder

KILLED = 5
"""Iterations of the second task behind which the checkpoints are copied, as if the training were killed there."""

SHARDED = (
    *("fine-tune", "zero-shot", "replay", "tic-cumulative", "text-replay", "latent-replay", "prototype-replay"),
    *("lora", "adapter-per-task", "moe-adapters", "coop", "maple", "s-prompts", "diki", "l2p", "dualprompt"),
    *("coda-prompt", "nusa", "wise-ft", "magmax", "ties"),
)
"""Recipes all of whose plugins say that they go with it."""


class Watch(Losses, supports_distributed=True):
    """Losses, what a process holds when a step is over, and a copy of the checkpoints in the middle."""

    states = {"losses": WORKING, "held": TRANSIENT, "kinds": TRANSIENT, "prompts": WORKING}  # noqa: RUF012

    def __init__(self, checkpoints: Path | None = None, copy: Path | None = None) -> None:
        super().__init__()
        self.held = 0
        self.kinds: set[str] = set()
        self.prompts: list[float] = []
        self._checkpoints, self._copy = checkpoints, copy

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        self.held = sum(storages(strategy).values())
        self.kinds = {"part" if in_parts_of(p) else "whole" for p in strategy.model.parameters()}
        with torch.no_grad():  # from the cache, unless it knows that the tower has trained
            self.prompts.append(float(strategy.model.prompt_features(torch.arange(2)).abs().sum()))

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        here = strategy.clock.train_exp_counter, strategy.clock.train_exp_iterations
        if self._copy is not None and here == (1, KILLED) and leads():
            (recorder,) = (plugin for plugin in strategy.plugins if isinstance(plugin, Recorder))
            recorder.writer.settle()
            shutil.copytree(self._checkpoints, self._copy)


def storages(strategy: Any) -> dict[int, int]:
    """Bytes by where they lie: of everything that model and optimizer have, gradients and moments included."""
    weights = [*strategy.model.parameters(), *(p for g in strategy.optimizer.param_groups for p in g["params"])]
    tensors = [*weights, *(p.grad for p in weights if p.grad is not None)]
    tensors += [t for of in strategy.optimizer.state.values() for t in of.values() if torch.is_tensor(t)]
    own = [own_part(t) if in_parts_of(t) else t for t in tensors]
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in own}


def stream() -> Any:
    sizes = {"n_train": 25, "n_test": 7, "n_held_out": 1, "n_reference": 1}
    return picturebook.mtil_like(order=["sketches", "night"], **sizes)


def made(folder: Path | None = None, copy: Path | None = None, **options: Any) -> tuple[VLMNaive, Watch, Any]:
    """A strategy that replays, with momentum that goes on from task to task, its watch and its metric."""
    torch.manual_seed(0)
    model = shallow()
    for name, parameter in model.tower_parameters("text"):  # of what trains there all is in parts
        parameter.requires_grad_("resblocks" in name)
    watch, matrix = Watch(folder, copy), PerformanceMatrix()
    plugins = [*recipes.build("replay", model=model, batch_size=3, policy="herding"), watch]
    strategy = VLMNaive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=4,
        train_epochs=1,
        plugins=plugins if folder is None else [*plugins, CheckpointPlugin(folder, minutes=0)],
        evaluator=EvaluationPlugin(matrix, loggers=[], strict_checks=False, collect_all=False),
        keep_optimizer_state=True,
        max_grad_norm=0.5,
        **options,
    )
    return strategy, watch, matrix


def trained(benchmark: Any, folder: Path | None = None, copy: Path | None = None, **options: Any) -> dict[str, Any]:
    """What the script comes to, from the checkpoint of a folder if it has one."""
    strategy, watch, matrix = made(folder, copy, **options)
    first = 0 if folder is None else resume(strategy, folder)
    if first == 0:
        strategy.eval(benchmark.test_stream)
    for experience in list(benchmark.train_stream)[first:]:
        strategy.train(experience)
        strategy.eval(benchmark.test_stream)
    plain = all(type(p) is nn.Parameter for p in strategy.model.parameters())
    weights = {n: t.detach().clone() for n, t in strategy.model.state_dict().items() if torch.is_tensor(t)}
    moments = [of["momentum_buffer"].shape == p.shape for p, of in strategy.optimizer.state.items()]
    return {
        "losses": watch.losses,
        "prompts": watch.prompts,
        "weights": weights,
        "matrix": matrix.rows().tolist(),
        "held": watch.held,
        "kinds": sorted(watch.kinds),
        "plain": plain and all(moments),
        "strategy": strategy,
    }


def apart(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """How far two trainings are apart: losses, features of prompts after every step, and all weights."""
    pairs = [(a, b) for told in ("losses", "prompts") for a, b in zip(one[told], other[told], strict=True)]
    weights = [
        float((t - other["weights"][n]).norm() / t.norm().clamp(min=1e-3))
        for n, t in one["weights"].items()
        if t.numel() and t.is_floating_point()
    ]
    return {
        "steps": len(other["losses"]),
        "losses": max(abs(a - b) / abs(a) for a, b in pairs),
        "weights": max(weights),
        "matrix": one["matrix"][-1] == other["matrix"][-1],
    }


def comparisons(home: Path) -> Iterator[dict[str, Any]]:
    benchmark = stream()
    with on_its_own():
        own = Path(home / f"alone-{torch.distributed.get_rank()}")
        alone = trained(benchmark, own / "checkpoints", own / "killed")
    parts = trained(benchmark, home / "checkpoints", home / "killed", shard=True)
    yield {
        "what": "in parts",
        "kinds": parts["kinds"],
        "plain": parts["plain"],
        "held": parts["held"] / alone["held"],
        **apart(alone, parts),
    }
    if torch.distributed.get_rank() == 0:
        parts["strategy"].model.save(home / "saved")
        torch.save(alone["weights"], home / "weights.pt")
    for what, folder, shard in (
        ("parts from parts", home / "killed", True),
        ("whole from parts", home / "killed", False),
        ("parts from one", home / "alone-0" / "killed", True),
    ):
        there = home / what
        if torch.distributed.get_rank() == 0:
            shutil.copytree(folder, there)
        torch.distributed.barrier()
        yield {"what": what, **apart(alone, trained(benchmark, there, shard=shard))}


def main(arguments: list[str]) -> None:
    """Train alone, then together in all the ways, and print how far they are apart, a line each.

    :param arguments: an empty folder.
    """
    torch.set_num_threads(1)
    ranks = distributed.start()
    assert ranks is not None
    for found in comparisons(Path(arguments[0])):
        if ranks.first:
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
