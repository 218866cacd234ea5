"""What one experience's training computes: floating-point operations and passes through the image tower."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, ClassVar

import torch
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from avalanche_vlm._ranks import together
from avalanche_vlm._rows import counts_here
from avalanche_vlm.compat.tensors import OperatorMode
from avalanche_vlm.memory.state import TRANSIENT, WORKING, Declared, StateDict
from avalanche_vlm.models import VLM
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.protocol import Strategy

_uncounted = 0
"""How many blocks of :func:`uncounted` we are in."""


@contextmanager
def uncounted() -> Iterator[None]:
    """What is computed within is no part of the training: it is looked at, not paid for."""
    global _uncounted
    _uncounted += 1
    try:
        yield
    finally:
        _uncounted -= 1


class FlopCounter(OperatorMode):
    """Counts matrix products, convolutions and attention while it is active, by torch's formulas: a multiplication and
    an addition are two.

    torch's own ``FlopCounterMode`` tells modules apart by gradient hooks, which fail on parameters that are read
    without gradients, and leaves out the attention that runs on a CPU and the fused one of modules in eval mode.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not _uncounted and (formula := _formulas().get(str(func).rpartition(".")[0])):
            self.total += formula(*args, **kwargs, out_val=out)
        return out


@cache
def _formulas() -> dict[str, Callable[..., int]]:
    """By an operator's name without its overload."""
    return {
        **{str(operator): formula for operator, formula in flop_registry.items()},
        "aten._scaled_dot_product_flash_attention_for_cpu": _attention,
        "aten._scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
        "aten._native_multi_head_attention": _fused_attention,
    }


def _attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _attention_backward(*args: Any, **_: Any) -> int:
    return sdpa_backward_flop_count(*(part.shape for part in args[:4]))


def _fused_attention(query: torch.Tensor, key: Any, value: Any, width: int, heads: int, *_: Any, **__: Any) -> int:
    batch, length = query.shape[:2]
    per_head = (batch, heads, length, width // heads)
    return 8 * batch * length * width**2 + sdpa_flop_count(per_head, per_head, per_head)


def inference_flops(model: VLM, x: Any, task_labels: Any) -> float:
    """Operations per sample of a prediction, after another one: what is encoded once for all is not in it.

    :param model: model that predicts.
    :param x: batch of B samples on the model's device.
    :param task_labels: task labels ``[B]``.
    """
    with model.evaluating():
        model(x, task_labels)
        with FlopCounter() as counter:
            model(x, task_labels)
    return counter.total / len(task_labels)


class PassesPlugin(VLMPlugin, supports_distributed=True, supports_sharding=True):
    """Counts what the training of one experience computes, what surrounds its epochs included.

    Counting operations slows what is counted: of the iterations it sees the first and the second, which stands for
    those after it. Passes are counted throughout, by the tower's type, so that teachers and copies count as well. Put
    it before all other plugins, and call :meth:`close` whatever happens. Of several processes that train together the
    sums count when the experience is over: passes as one process makes them, and operations of all of them.

    :param model: model whose image tower is counted.
    :param experience: number of the experience to watch, from 0 on: memories and teachers have something from the
        second on.
    """

    states: ClassVar[Mapping[str, Declared]] = {
        "_trained": WORKING,
        "_flops": WORKING,
        "samples": WORKING,
        "forwards": WORKING,
        "backwards": WORKING,
        "iterations": WORKING,
        "_counter": TRANSIENT,
    }

    def __init__(self, model: VLM, experience: int = 1) -> None:
        super().__init__()
        self._tower = type(model.tower("image"))
        self._watched, self._trained = experience, 0
        self._counter: FlopCounter | None = None
        self._counting, self._hook = ExitStack(), ExitStack()
        self._flops: dict[str, int] = {}
        self.samples = self.forwards = self.backwards = 0
        """Samples that a plain training of the experience would take in, epoch for epoch, and images that went
        through the tower, with gradients or without."""
        self.iterations = 0

    @property
    def flops_per_sample(self) -> float | None:
        """Operations of the whole experience, by :attr:`samples`; None if none was watched."""
        if not self.samples:
            return None
        around, first = self._flops.get("around", 0), self._flops.get("first", 0)
        return (around + first + self._flops.get("second", 0) * (self.iterations - 1)) / self.samples

    @property
    def extra_forwards(self) -> float | None:
        """Images through the image tower beside one for every sample, which plain fine-tuning takes; below 0 where
        features are computed once."""
        return self.forwards / self.samples - 1 if self.samples else None

    @property
    def extra_backwards(self) -> float | None:
        """Images through the image tower with gradients beside one for every sample."""
        return self.backwards / self.samples - 1 if self.samples else None

    def state_dict(self) -> StateDict:
        if self._counter is not None:  # an experience is about to begin, or to end
            self._flops["around"] = self._flops.get("around", 0) + self._counter.total
            self._counter.total = 0
        return super().state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        if self._counter is not None:
            self._counter.total = 0  # the state has what was computed up to there

    def close(self) -> None:
        """Stop watching."""
        self._counting.close()
        self._hook.close()

    def before_training(self, strategy: Strategy, **kwargs: Any) -> None:
        if self._trained == self._watched:
            self._hook.enter_context(_forward_hook(self._passed))
            self._start()

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        if self._trained == self._watched:
            n = len(strategy.experience.dataset)
            self.samples = strategy.train_epochs * n
            if (most := getattr(strategy, "iterations", None)) is not None:
                batch = strategy.train_mb_size
                passes, rest = divmod(most, math.ceil(n / batch))
                self.samples = passes * n + min(rest * batch, n)

    def before_training_iteration(self, strategy: Strategy, **kwargs: Any) -> None:
        self._stop("around")
        if self._trained == self._watched and self.iterations < 2:
            self._start()

    def after_training_iteration(self, strategy: Strategy, **kwargs: Any) -> None:
        if self._trained == self._watched:
            self.iterations += 1
            self._stop("first" if self.iterations == 1 else "second")

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        self._stop("around")  # where no epoch was trained
        if self._trained == self._watched:
            self._start()
        self._trained += 1

    def after_training(self, strategy: Strategy, **kwargs: Any) -> None:
        self._stop("around")
        if (ranks := together()) is not None and self._trained == self._watched + 1:
            flops = ranks.told(self._flops)
            self._flops = {part: sum(of.get(part, 0) for of in flops) for part in self._flops}
            self.forwards, self.backwards = ranks.sum(torch.tensor([self.forwards, self.backwards])).tolist()
        self.close()

    def _start(self) -> None:
        self._counter = self._counting.enter_context(FlopCounter())

    def _stop(self, part: str) -> None:
        if self._counter is not None:
            self._flops[part] = self._flops.get(part, 0) + self._counter.total
            self._counting.close()
            self._counter = None

    def _passed(self, module: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, self._tower) and inputs and not _uncounted and counts_here():
            self.forwards += len(inputs[0])
            found = output[0] if isinstance(output, tuple) else output
            self.backwards += len(inputs[0]) if found.requires_grad else 0


@contextmanager
def _forward_hook(hook: Callable[..., None]) -> Iterator[None]:
    handle = register_module_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
