"""Under which conditions a checkpoint was written, and what of them is another one now."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from typing import Any

import torch

from avalanche_vlm._ranks import found_ranks
from avalanche_vlm._versions import package_versions
from avalanche_vlm.compat.strategies import criterion_of
from avalanche_vlm.training.strategies import VLMMixin

_PACKAGES = ("avalanche-vlm", "avalanche-lib", "torch")
# What is written only where it is something else: a sentence about two trainings names what the other one has.
_UNWRITTEN = {
    "number of batches that a step takes": 1,
    "rounding of factors to TF32": False,
    "compiling of the towers' blocks": False,
    "templates in training": "all",
    "number of processes that train together": 1,
    "sharding of the towers": False,
}


def training_conditions(strategy: Any) -> dict[str, Any]:
    """What of a strategy decides how a training goes on, and is no state: another one would be another training.

    :param strategy: the strategy, between two experiences.
    :return: JSON values by the words in which an error names them.
    """
    iterations = getattr(strategy, "iterations", None)
    found = {
        "strategy": type(strategy).__name__,
        "model": getattr(strategy.model, "name", type(strategy.model).__name__),
        "criterion": type(criterion_of(strategy)).__name__,
        "batch size": strategy.train_mb_size,
        "batch size of evaluations": strategy.eval_mb_size,
        **({"number of epochs": strategy.train_epochs} if iterations is None else {"number of iterations": iterations}),
        "periodic evaluation": strategy.eval_every,
        "optimizer": type(strategy.optimizer).__name__,
        **{f"optimizer's {name}": value for name, value in strategy.optimizer.defaults.items()},
    }
    if isinstance(strategy, VLMMixin):
        found["precision"] = strategy.amp
        found["limit of the gradient's norm"] = strategy.max_grad_norm
        found["keeping of the optimizer's state"] = strategy.keep_optimizer_state
        if strategy.accumulate > 1:
            found["number of batches that a step takes"] = strategy.accumulate
        if torch.backends.cuda.matmul.allow_tf32:
            found["rounding of factors to TF32"] = True
        if strategy.compile:
            found["compiling of the towers' blocks"] = True
        if strategy.negatives is not None:
            found["number of drawn negatives"] = strategy.negatives
    if (templates := getattr(strategy.model, "train_templates", "all")) != "all":
        found["templates in training"] = templates
    return json.loads(json.dumps(found, default=str))


def machine_conditions(strategy: Any) -> dict[str, Any]:
    """What decides the last digits of a training: versions, threads and the kind of machine.

    :param strategy: the strategy, with the device that it trains on.
    :return: JSON values by the words in which a warning names them.
    """
    versions = package_versions()
    found: dict[str, Any] = {f"version of {name}": versions[name].partition("+")[0] for name in _PACKAGES}
    found["number of threads"] = torch.get_num_threads()
    if (ranks := found_ranks()) is not None:
        found["number of processes that train together"] = ranks.size
        if getattr(strategy, "shard", False):
            found["sharding of the towers"] = True
    found["machine"] = platform.machine()
    found["instruction set of the CPU"] = torch.backends.cpu.get_cpu_capability()
    kind = strategy.device.type
    found["device"] = torch.cuda.get_device_name(strategy.device) if kind == "cuda" else kind
    return found


def differences(then: Mapping[str, Any], now: Mapping[str, Any], most: int | None = None) -> str:
    """What differs between two sets of conditions, in words; empty if nothing does.

    :param then: the conditions of a checkpoint.
    :param now: the present ones.
    :param most: number of differences that are told at most; None for all.

    >>> differences({"batch size": 8, "model": "tiny"}, {"batch size": 16, "model": "tiny"})
    'batch size 8, and now 16'
    >>> differences({"number of processes that train together": 2}, {})
    'number of processes that train together 2, and now 1'
    """
    names = [name for name in then if then[name] != now.get(name)]
    names += [name for name in now if name not in then]
    return "; ".join(f"{name} {_said(name, then)}, and now {_said(name, now)}" for name in names[:most])


def _said(name: str, conditions: Mapping[str, Any]) -> str:
    value = conditions.get(name, _UNWRITTEN.get(name))
    return "none" if value is None else str(value)
