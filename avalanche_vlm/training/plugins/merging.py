"""Weights that are mended when a task is over."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from avalanche.training.plugins import SupervisedPlugin

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.accounting import StoredBytes, tensor_bytes
from avalanche_vlm.weights.average import State, interpolate, load, snapshot, update_running_mean
from avalanche_vlm.weights.task_vectors import (
    TiesSums,
    apply,
    elect_ties,
    no_ties,
    task_vector,
    update_magmax,
    update_random_mix,
    update_ties,
)

Merge = Literal["magmax", "average", "random", "ties"]


class InterpolationPlugin(SupervisedPlugin):
    """End every task between where it started and where it came to: ``(1 - weight) start + weight end``, WiSE-FT
    (Wortsman et al., arXiv 2109.01903, eq. 1) applied task by task, as ZSCL's code does (arXiv 2303.06628).

    A plugin that reads weights at a task's end has to stand after this one.

    :param weight: of what was learned, in [0, 1]; 0.8 is the published one.
    :raises InputError: for a weight outside.
    """

    supports_distributed = True

    def __init__(self, weight: float = 0.8) -> None:
        super().__init__()
        if not 0 <= weight <= 1:
            raise InputError(f"the weight of what was learned lies in [0, 1], not {weight}")
        self.weight = weight
        self._start: State = {}

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._start = snapshot(strategy.model.trainable_parameters())

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        trained = strategy.model.trainable_parameters()
        load(trained, interpolate(self._start, trained, self.weight))
        self._start = {}


class TaskVectorMergePlugin(SupervisedPlugin):
    """Fine-tune from task to task, and after each give out the initial weights plus a merge of all task vectors.

    The vector of a task is what the weights have moved from the *initial* ones when it ends. The next task goes on from
    where this one ended, not from the merged weights: sequential fine-tuning with merging, MagMax (Marczak et al.,
    arXiv 2407.06322, section 4). Between tasks the model has the merged weights, so whoever evaluates or saves it then
    gets the merged model.

    - ``"magmax"``: of every weight the largest change, the published scale is 0.5;
    - ``"average"``: the mean of the vectors;
    - ``"random"``: of every weight the change of one task, drawn at random;
    - ``"ties"``: trim, elect signs, mean of those that agree (Yadav et al., arXiv 2306.01708).

    Kept between tasks are the initial weights and those to go on from; the merge itself is read back from the weights
    that were given out, where these are what the plugin left. Only TIES keeps more: two sums, and two counts of half
    their bytes. Statistics of normalisation layers stay those of the last task.

    Another plugin that reads weights as a task starts or when it ends has to stand after this one. Parameters that
    start to train later are taken in with the value that they then have.

    :param method: as above.
    :param scale: of the merged vector.
    :param keep: share of every vector's elements that ``"ties"`` keeps, in (0, 1].
    :param seed: of ``"random"``.
    :raises InputError: for an unknown method, or a number out of its range.
    """

    supports_distributed = False

    def __init__(self, method: Merge = "magmax", scale: float = 0.5, keep: float = 0.2, seed: int = 0) -> None:
        super().__init__()
        if method not in get_args(Merge):
            raise InputError(f"task vectors are merged by {', '.join(get_args(Merge))}, not {method!r}")
        if not math.isfinite(scale) or scale == 0:
            raise InputError(f"the scale of a merged task vector is a number other than 0, not {scale}")
        if not 0 < keep <= 1:
            raise InputError(f"TIES keeps a share of the elements in (0, 1], not {keep}")
        self.method, self.scale, self.keep, self.seed = method, scale, keep, seed
        self._initial: State = {}
        self._fine_tuned: State = {}
        self._sums: TiesSums | None = None
        self._tasks = 0

    @torch.no_grad()
    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        trained = strategy.model.trainable_parameters()
        for name in self._fine_tuned:
            if name not in trained:
                raise InputError(f"{name} trained in an earlier task and does not now: task vectors cannot be merged")
        for name, parameter in trained.items():
            if name not in self._initial:
                self._initial[name] = parameter.detach().clone()
                self._fine_tuned[name] = parameter.detach().clone()
            # What was given out holds the merge: it changes places with what training goes on from.
            given_out = parameter.detach().clone()
            parameter.copy_(self._fine_tuned[name])
            self._fine_tuned[name] = given_out

    @torch.no_grad()
    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        trained = strategy.model.trainable_parameters()
        given_out, self._fine_tuned = self._fine_tuned, snapshot(trained)
        if self.method == "ties":
            self._sums = no_ties(trained) if self._sums is None else self._sums
            update_ties(self._sums, task_vector(self._fine_tuned, self._initial), self.keep)
            load(trained, apply(self._initial, elect_ties(self._sums), self.scale))
        else:
            generator = torch.Generator().manual_seed(self.seed + self._tasks)
            for name, parameter in trained.items():  # one at a time: no third copy of the weights
                vector = {name: self._fine_tuned[name] - self._initial[name]}
                merged = {name: (given_out[name] - self._initial[name]) / self.scale} if self._tasks else vector
                if self._tasks:
                    self._take_in(merged, vector, generator)
                parameter.copy_(self._initial[name] + self.scale * merged[name])
        self._tasks += 1

    def _take_in(self, merged: State, vector: State, generator: torch.Generator) -> None:
        if self.method == "magmax":
            update_magmax(merged, vector)
        elif self.method == "average":
            update_running_mean(merged, vector, self._tasks)
        else:
            update_random_mix(merged, vector, self._tasks, generator)

    def stored(self) -> StoredBytes:
        kept = [*self._initial.values(), *self._fine_tuned.values()]
        if self._sums is not None:
            for part in vars(self._sums).values():
                kept += part.values()
        return StoredBytes(ram=tensor_bytes(kept))
