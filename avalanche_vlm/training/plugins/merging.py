"""Weights that are mended when a task is over."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch

from avalanche_vlm._on_demand import TensorsOnDemand, pieces
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.state import KEPT, WORKING
from avalanche_vlm.models.modules.bank import named_weights
from avalanche_vlm.models.modules.feature_adapter import FeatureAdapter
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.protocol import Strategy, model_of
from avalanche_vlm.training.sharding import whole_weights
from avalanche_vlm.training.strategies import make_room
from avalanche_vlm.weights.average import State, interpolate, snapshot, update_running_mean
from avalanche_vlm.weights.svd_fusion import svd_fusion
from avalanche_vlm.weights.task_vectors import (
    TiesSums,
    apply,
    elect_sign,
    no_ties,
    task_vector,
    update_magmax,
    update_random_mix,
    update_ties,
)

Merge = Literal["magmax", "average", "random", "ties"]

SCALES: dict[str, float] = {"magmax": 0.5, "average": 1.0, "random": 1.0, "ties": 0.55}
"""What the authors of MagMax multiply each merge of a sequence by (their code; the average there is a sum, times one
over the number of tasks)."""


class InterpolationPlugin(VLMPlugin, supports_distributed=True, supports_sharding=True):
    """End every task between where it started and where it came to: ``(1 - weight) start + weight end``, WiSE-FT
    (Wortsman et al., arXiv 2109.01903, eq. 1) applied task by task, as ZSCL's code does (arXiv 2303.06628).

    While a task trains one copy of what trains is held, between tasks nothing. Statistics of normalisation layers stay
    those of the fine-tuned model. A plugin that reads weights at a task's end has to stand after this one, one that
    changes them there before it.

    :param weight: weight of what was learned, in [0, 1]; 0.8 is the default of ZSCL's code.
    :raises InputError: for a weight outside.
    """

    states: ClassVar = {"_start": KEPT}

    def __init__(self, weight: float = 0.8) -> None:
        super().__init__()
        if not 0 <= weight <= 1:
            raise InputError(f"the weight of what was learned lies in [0, 1], not {weight}")
        self.weight = weight
        self._start: State = {}

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        with whole_weights(strategy):
            self._start = snapshot(model_of(strategy).trainable_parameters())

    @torch.no_grad()
    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        make_room(strategy)
        with whole_weights(strategy):
            weights = dict(named_weights(strategy.model))
            for name, start in self._start.items():
                weights[name].copy_(interpolate({name: start}, weights, self.weight)[name])
        self._start = {}


class TaskVectorMergePlugin(VLMPlugin, supports_distributed=True, supports_sharding=True):
    """Fine-tune from task to task, and after each give out the initial weights plus a merge of all task vectors.

    The vector of a task is what the weights have moved from the *initial* ones, those before the first task, when it
    ends. The next task goes on from where this one ended and not from the merged weights: MagMax's sequential setting
    (Marczak et al., arXiv 2407.06322). Between tasks the model has the merged weights: whoever evaluates or saves it
    then gets the merged model.

    - ``"magmax"``: of every weight the largest change;
    - ``"average"``: the mean of the vectors;
    - ``"random"``: of every weight the change of one task, drawn at random;
    - ``"ties"``: trim, elect signs, mean of those that agree (Yadav et al., arXiv 2306.01708).

    Only what trains is merged and kept. Between tasks that is two copies: the initial weights, and those to go on
    from. While a task trains, the merged weights take the place of the latter, and the merge so far is read back from
    them: ``(merged - initial) / scale``, to the rounding of a weight. Hence weights are not to be edited between tasks.
    ``"ties"`` cannot be read back and keeps two sums and two 16-bit counts beside them: five copies of float32 weights
    between tasks and four while it trains. Merging makes no further ones: it goes through the weights in pieces.

    Differs from the authors' code: it merges once, at the end of the stream, and the whole image tower; here a merged
    model is there after every task. Buffers are not merged (there, those of floating point are): the statistics of
    normalisation layers are those of the fine-tuned model, before and after.

    Fine-tuned weights come back before any plugin sees the start of a task, so that only the order at its end matters:
    a plugin that changes weights there (a running mean) has to stand before this one, one that reads them after it.

    :param method: how the vectors are merged, of the ways above.
    :param scale: what the merged vector is multiplied by, more than 0; None for what is published of the method,
        :data:`SCALES`.
    :param keep: share of every vector's elements that ``"ties"`` keeps, in (0, 1].
    :param seed: seed of the draws of ``"random"``, 0 or more.
    :raises InputError: for an unknown method, or a number out of its range. As a task starts: if other weights train
        than in the first task.
    """

    states: ClassVar = {
        "_generator": WORKING,
        "_initial": KEPT,
        "_other": KEPT,
        "_sums": KEPT,
        "_tasks": WORKING,
        "_given_out": WORKING,
    }

    def __init__(self, method: Merge = "magmax", scale: float | None = None, keep: float = 0.2, seed: int = 0) -> None:
        super().__init__()
        if method not in SCALES:
            raise InputError(f"task vectors are merged by {', '.join(SCALES)}, not {method!r}")
        scale = SCALES[method] if scale is None else scale
        if not (math.isfinite(scale) and scale > 0):
            raise InputError(f"the scale of a merged task vector is a finite number above 0, not {scale}")
        if not 0 < keep <= 1:
            raise InputError(f"TIES keeps a share of the elements in (0, 1], not {keep}")
        self.method, self.scale, self.keep = method, scale, keep
        self._generator = torch.Generator().manual_seed(seed)
        self._initial: State = {}
        # The fine-tuned weights between tasks; while a task trains, the merged ones.
        self._other: State = {}
        self._sums = TiesSums()
        self._tasks = 0
        self._given_out = False

    @torch.no_grad()
    def prepare_parameters(self, strategy: Strategy) -> None:
        # The first callback of a task: all that snapshot the weights in before_training_exp see those that train on.
        if not self._given_out:
            return  # a task that was interrupted and starts again
        for name, weight in self._of_first_task(strategy).items():
            merged = weight.detach().clone()
            weight.copy_(self._other[name])
            self._other[name] = merged
        if self.method == "ties":
            self._other = {}
        self._given_out = False

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        with whole_weights(strategy):
            weights = model_of(strategy).trainable_parameters()
            if not self._initial:
                self._initial = snapshot(weights)
            self._refuse_others(strategy, weights)

    def _refuse_others(self, strategy: Strategy, weights: Mapping[str, torch.Tensor]) -> None:
        other = {n for n, w in weights.items() if n not in self._initial or w.shape != self._initial[n].shape}
        other |= self._initial.keys() - weights.keys()
        if other:
            raise InputError(
                f"task vectors are merged over the weights that trained in the first task, and {min(other)} is new, "
                f"frozen or of another shape at experience {strategy.experience.current_experience}"
            )

    @torch.no_grad()
    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        make_room(strategy)
        with whole_weights(strategy):
            self._merge(self._of_first_task(strategy))
        self._tasks += 1
        self._given_out = True

    def _merge(self, weights: State) -> None:
        """Put the merge in the place of the weights that the task has left, which are kept to go on from."""
        if self.method == "ties":
            self._sums = self._sums if self._tasks else no_ties(self._initial)
            moved = TensorsOnDemand(self._initial, lambda name: weights[name] - self._initial[name])
            update_ties(self._sums, moved, self.keep)
        for name, initial in self._initial.items():
            other = self._other.setdefault(name, torch.empty_like(initial))
            merged = elect_sign(self._sums, name) if self.method == "ties" else initial
            for weight, start, before, elected in pieces(weights[name].detach(), initial, other, merged):
                vector = elected if self.method == "ties" else self._merged(weight, start, before)
                before.copy_(weight)
                weight.copy_(apply({name: start}, {name: vector}, self.scale)[name])

    def _of_first_task(self, strategy: Strategy) -> State:
        # By name and not by requires_grad: a plugin may freeze what it trained as the task ends.
        return {name: p for name, p in named_weights(strategy.model) if name in self._initial}

    def _merged(self, weight: torch.Tensor, start: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """The merge of all vectors so far, this task's among them, of one piece of the weights.

        :param weight: the weights as the task has left them.
        :param start: the initial weights.
        :param before: the merged weights of before; anything in the first task.
        """
        (new,) = task_vector({"": weight}, {"": start}).values()
        if not self._tasks:
            return new
        merged = task_vector({"": before}, {"": start})
        merged[""] /= self.scale
        if self.method == "magmax":
            update_magmax(merged, {"": new})
        elif self.method == "average":
            update_running_mean(merged, {"": new}, self._tasks)
        else:
            update_random_mix(merged, {"": new}, self._tasks, self._generator)
        return merged[""]


class AdapterFusionPlugin(VLMPlugin, supports_distributed=True):
    """Fuse a linear adapter with what it was before the task: RAPF's fusion (Huang et al., arXiv 2407.14143).

    What is fused is the whole map, identity plus W, by :func:`~avalanche_vlm.weights.svd_fusion.svd_fusion`. The first
    task is left as it is, for before it there is nothing but the identity. Statistics that a memory fits at a task's
    end are of the plain tower's features, so the order of the two plugins does not matter.

    :param adapter: the adapter, which must have no bottleneck.
    :param bias: the least share of the new value, in [0, 1].
    :raises InputError: for another adapter or bias.
    """

    states: ClassVar = {"_before": WORKING, "_tasks": WORKING}

    def __init__(self, adapter: FeatureAdapter, bias: float = 0.6) -> None:
        super().__init__()
        if adapter.down is not None:
            raise InputError("an adapter with a bottleneck is not linear and cannot be fused")
        if not 0 <= bias <= 1:
            raise InputError(f"the bias of the fusion lies in [0, 1], not {bias}")
        self.adapter, self.bias = adapter, bias
        self._before: torch.Tensor | None = None
        self._tasks = 0

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        self._before = self.adapter.up.weight.detach().clone() if self._tasks else None

    @torch.no_grad()
    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        if self._before is not None:
            weight = self.adapter.up.weight
            identity = torch.eye(len(weight), device=weight.device, dtype=weight.dtype)
            weight.copy_(svd_fusion(identity + self._before, identity + weight, self.bias) - identity)
        self._before = None
        self._tasks += 1
