"""What is there after many experiences is what is kept, by objects and by bytes: whatever else a task makes is gone."""

from __future__ import annotations

import ctypes
import gc
from collections import Counter
from collections.abc import Iterable
from typing import Any, ClassVar

import pytest
import torch
from mini import shallow
from quick import LESS, slow_but_for_some
from torch import nn

from avalanche_vlm import _memory
from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.evaluation.matrix import PerformanceMatrix
from avalanche_vlm.studies.feasible import resources
from avalanche_vlm.studies.strategy import strategy_of
from avalanche_vlm.training import VLMNaive, recipes
from avalanche_vlm.training.data import rows_of_batches
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.recipes.runnable import settled
from avalanche_vlm.training.settings import TrainSettings
from avalanche_vlm.training.state import training_state

OF_MODULES = (nn.Module, nn.Parameter, torch.UntypedStorage)
SLACK = 40
"""Objects that two experiences leave: what Avalanche notes in an experience when it is trained for the first time."""


@pytest.fixture(scope="module")
def months():
    """Six experiences of the same ten classes, so that neither data nor classes grow."""
    return picturebook.time_incremental(n_experiences=6, n_train=16, n_test=10, n_held_out=8, n_reference=16)


def storages(values: Iterable[Any]) -> int:
    """Bytes of tensors, what they share counted once."""
    tensors = (value for value in values if isinstance(value, torch.Tensor))
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def look(strategy: VLMNaive, plugins: list[Any]) -> tuple[int, int, Counter[type], int]:
    """Bytes of all tensors, and of those that the training would go on from; objects by type, those of modules left
    out, and modules."""
    gc.collect()
    objects = gc.get_objects()
    kept = storages(training_state(strategy.model, plugins, strict=False).values())
    modules = sum(issubclass(type(one), nn.Module) for one in objects)
    kinds = Counter(type(one) for one in objects if not issubclass(type(one), OF_MODULES))
    return storages(one for one in objects if issubclass(type(one), torch.Tensor)), kept, kinds, modules


def looks(name: str, months: Any, further: Iterable[VLMPlugin] = ()) -> list[tuple[int, int, Counter[type], int]]:
    settings = settled(TrainSettings(epochs=1, lr=1e-5), name, "classes")
    model = shallow()
    model.set_label_space(months.label_space)
    model.competing.in_training = settings.train_classes or "current"
    plugins = recipes.build(name, model=model, **resources(name, months), **LESS.get(name, {}))
    for part in model.modules():
        if hasattr(part, "steps"):  # of a router that trains
            part.steps = 20
    strategy = strategy_of(model, "classes", settings, [*plugins, *further], PerformanceMatrix(), device="cpu")
    found = []
    gc.freeze()  # what was there before is not looked at: it takes longer than all else
    try:
        for number, experience in enumerate(months.train_stream, 1):
            strategy.train(experience)
            if number % 2 == 0:
                strategy.eval(months.test_stream[:1])
                found.append(look(strategy, plugins))
    finally:
        gc.unfreeze()
    return found


def check(found: list[tuple[int, int, Counter[type], int]], per_task: int = 0) -> None:
    """What the last two experiences have left: what is kept, and ``per_task`` modules of torch's for each."""
    _, (held, kept, kinds, modules), (held_then, kept_then, kinds_then, modules_then) = found
    assert held_then - held <= kept_then - kept + 4096, "tensors that nobody keeps are there"
    grown = {kind.__name__: n for kind, n in (kinds_then - kinds).items() if n > SLACK}
    # A module of torch's has some ten mappings of its own, and what a class of ours adds.
    assert sum(grown.values()) <= 40 * per_task, f"objects that nobody keeps are there: {grown}"
    assert modules_then - modules == 2 * per_task, "a task has left modules of torch's, and not only what they hold"


@pytest.mark.parametrize("name", slow_but_for_some(recipes.list(kind="classes")))
def test_a_task_leaves_behind_what_is_kept_and_nothing_else(name, months):
    check(looks(name, months), per_task=2 if name == "proof" else 0)  # its projections, of which all work at once


class Leaking(VLMPlugin):
    """Keeps the gradients of every task, and a closure for each parameter."""

    states: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Any] = []

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        self.found += [(p.grad.clone(), lambda p=p: p) for p in strategy.model.parameters() if p.grad is not None]


def test_what_leaks_is_seen(months):
    found = looks("fine-tune", months, [Leaking()])
    with pytest.raises(AssertionError, match="tensors that nobody keeps"):
        check(found)
    (_, kept, *first), (_, kept_then, *last) = found[1:]
    with pytest.raises(AssertionError, match="objects that nobody keeps"):
        check([found[0], (0, kept, *first), (0, kept_then, *last)])


def test_an_evaluator_keeps_no_history(months):
    strategy = strategy_of(shallow(), "classes", TrainSettings(), [], PerformanceMatrix(), device="cpu")
    strategy.model.set_label_space(months.label_space)
    for _ in range(3):
        strategy.eval(months.test_stream[:2])
    assert not strategy.evaluator.all_metric_results


def test_rows_of_batches_lie_in_one_tensor():
    parts = [(torch.arange(4.0).view(2, 2), torch.tensor([1, 2])), (torch.ones(1, 2), torch.tensor([3]))]
    features, y = rows_of_batches(iter(parts), 3)
    assert features.tolist() == [[0, 1], [2, 3], [1, 1]] and y.tolist() == [1, 2, 3]
    assert features.untyped_storage().nbytes() == 3 * 2 * 4


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="another C library")
def test_memory_between_what_is_kept_goes_back_to_the_system():
    size, n = 2**17, 1024  # 64 KiB of every 128 KiB are kept, so that the heap has no free end
    tensors = [torch.ones(size // 8) for _ in range(2 * n)]
    kept = tensors[1::2]
    before = resident()
    del tensors
    _memory.give_back()
    assert before - resident() > n * size // 4 and len(kept) == n
