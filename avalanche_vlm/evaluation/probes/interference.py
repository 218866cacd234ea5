"""Shared-module interference: which weights tasks pull at in different directions, and which updates hurt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, get_args

import torch
from avalanche.evaluation.metric_results import MetricValue

from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.base import VLMMetric
from avalanche_vlm.evaluation.blocks import blocks
from avalanche_vlm.evaluation.passes import uncounted
from avalanche_vlm.evaluation.probes.conflict import gradient_cosines, negative_share, weighted_update
from avalanche_vlm.evaluation.probes.curvature import fisher_of
from avalanche_vlm.evaluation.probes.kept import KeptTask, as_tensors, from_tensors, loss_gradients
from avalanche_vlm.losses.fisher import FisherKind, accumulate
from avalanche_vlm.memory.draws import Draws
from avalanche_vlm.memory.rows import whole
from avalanche_vlm.memory.state import KEPT, RAW, TRANSIENT, WORKING, Declared
from avalanche_vlm.models import VLM
from avalanche_vlm.models.modules.bank import named_weights
from avalanche_vlm.training.protocol import Strategy, iterations_of, model_of


class InterferenceProbe(VLMMetric):
    """See where a new task works against earlier ones, block by block.

    **Conflict**: a few times in the training of a task the gradient that the strategy is about to step along (its
    whole loss, with what plugins added to it or made of it) is compared with the gradient of the strategy's criterion
    on samples kept of earlier tasks, at the same weights. The cosine is that of
    :func:`~avalanche_vlm.evaluation.probes.conflict.gradient_cosines`, block by block; a negative one says that the
    step raises the old task's loss.

    **Update**: at a task's end ``sum F (theta - theta_start)^2`` in every block, with F the mean over earlier tasks of
    the Fisher information's diagonal on their kept samples, taken where each of them ended: how much of the movement
    went in directions that they need.

    Old samples are answered as the model predicts, in eval mode, and through their own modules where they are routed.
    Gradients are those of weights that train, the Fisher information that of weights that trained or moved, merged
    changes among them. A block without either is NaN. Weights, their ``.grad``, batch norm's statistics, modes and the
    random state are left alone: training goes on bit by bit as without the probe.

    Costs per task at most ``per_experience * tasks_at_once`` forward and backward passes of ``samples`` samples, and
    at its end one forward and ``draws`` backward passes of them. Keeps the samples (raw data of the stream), one
    Fisher and, while a task is trained, a copy of the towers.

    Emits ``Conflict/<block>`` (mean cosine), ``ConflictShare/<block>`` and ``FisherUpdate/<block>`` after every
    experience from the second on.

    :param samples: number of samples kept of every experience, drawn at random.
    :param per_experience: comparisons in an experience, evenly spread over its iterations; 0 makes none.
    :param interval: number of iterations from one comparison to the next, in the place of ``per_experience``.
    :param tasks_at_once: earlier tasks per comparison, in turn, so that a comparison costs the same however many there
        are; None takes all.
    :param max_tasks: most tasks whose samples are kept, the earliest first to go; None keeps all.
    :param fisher: ``"true"``, labels drawn from the model; ``"empirical"``, those of the data; ``"predicted"``, the
        model's likeliest.
    :param draws: passes of the Fisher's estimate, see :func:`~avalanche_vlm.losses.fisher.sketched_squares`; 0 leaves
        the update out.
    :param seed: seed of samples, labels and signs, 0 or more.
    :raises InputError: for a setting out of its range.
    """

    reads_weights = True

    states: ClassVar[Mapping[str, Declared]] = {
        "_samples": RAW,
        "kept": TRANSIENT,  # what _samples reads and writes
        "fisher": KEPT,
        "_conflicts": WORKING,
        "_updates": WORKING,
        "_blocks": WORKING,
        "_drawn": WORKING,
        "_turn": WORKING,
        "_iteration": WORKING,
        "_start": WORKING,
        "_trains": WORKING,
        "_at": WORKING,
    }

    def __init__(
        self,
        samples: int = 32,
        per_experience: int = 2,
        interval: int | None = None,
        tasks_at_once: int | None = 1,
        max_tasks: int | None = 32,
        fisher: FisherKind = "true",
        draws: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if fisher not in get_args(FisherKind):
            raise InputError(f"the Fisher information is {', '.join(get_args(FisherKind))}, not {fisher!r}")
        self.samples, self.per_experience = whole(samples, 1, "samples"), whole(per_experience, 0, "per_experience")
        self.interval = None if interval is None else whole(interval, 1, "interval")
        self.tasks_at_once = None if tasks_at_once is None else whole(tasks_at_once, 1, "tasks_at_once")
        self.max_tasks = None if max_tasks is None else whole(max_tasks, 1, "max_tasks")
        self.kind: FisherKind = fisher
        self.draws = whole(draws, 0, "draws")
        self.seed = whole(seed, 0, "a seed")
        self.kept: list[KeptTask] = []
        self.fisher: dict[str, torch.Tensor] = {}
        """Sum over the tasks so far."""
        self._conflicts: dict[str, list[dict[str, Any]]] = {}
        self._updates: dict[str, dict[str, float]] = {}
        self._blocks: list[str] = []
        self._start: dict[str, torch.Tensor] = {}
        self._trains: list[str] = []
        self._at: list[int] = []
        self._iteration = self._turn = self._drawn = 0

    @property
    def conflicts(self) -> dict[int, list[dict[str, Any]]]:
        """By step, every comparison: ``iteration``, ``task`` (the step at whose end its samples were kept) and
        ``cosine`` by block."""
        return {int(step): entries for step, entries in self._conflicts.items()}

    @property
    def _samples(self) -> dict[str, torch.Tensor]:
        """:attr:`kept` as tensors."""
        return as_tensors(self.kept)

    @_samples.setter
    def _samples(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.kept = from_tensors(tensors)

    # Training --------------------------------------------------------------------------------------------------------

    def before_training_exp(self, strategy: Strategy) -> None:
        super().before_training_exp(strategy)
        model = model_of(strategy)
        self._blocks = list(dict.fromkeys([*self._blocks, *blocks(model)]))
        self._iteration = 0
        self._trains = []
        self._at = [] if self.interval else _evenly(self.per_experience, _iterations(strategy))
        if self.draws:
            self._start = {name: p.detach().clone() for name, p in _weights(model).items()}

    def after_backward(self, strategy: Strategy) -> None:
        model = model_of(strategy)
        if self._iteration == 0:
            self._trains = [name for name, p in _weights(model).items() if p.requires_grad]
        due = self._iteration % self.interval == 0 if self.interval else self._iteration in self._at
        if due and self.kept and not _overflows(strategy):
            self._compare(strategy, model)
        self._iteration += 1

    def after_training_exp(self, strategy: Strategy) -> list[MetricValue]:
        super().after_training_exp(strategy)
        model = model_of(strategy)
        kept = KeptTask.of(strategy, model, self.step, self.samples, self._generator())
        if self.draws:
            self._weigh(strategy, model, kept)
        self.kept.append(kept)
        if self.max_tasks is not None:
            del self.kept[: -self.max_tasks]
        self._start = {}
        emitted = {f"FisherUpdate/{block}": value for block, value in self._updates.get(str(self.step), {}).items()}
        for block in self._blocks if self._conflicts.get(str(self.step)) else ():
            cosines = self._cosines(self.step, block)
            emitted[f"Conflict/{block}"] = _mean(cosines)
            emitted[f"ConflictShare/{block}"] = negative_share(cosines)
        return [MetricValue(self, name, v, self.step) for name, v in emitted.items() if v == v]

    # Results ---------------------------------------------------------------------------------------------------------

    def result(self) -> dict[str, Any]:
        """``blocks``; ``conflict``, of which ``cosine`` and ``negative share`` have a row per trained experience and a
        column per block, over all comparisons with earlier tasks; ``update``, with the same rows and columns. Plain
        numbers, NaN where nothing can be said, as in the first row."""
        steps, nan = range(1, self.step + 1), float("nan")
        cosines = [[self._cosines(step, block) for block in self._blocks] for step in steps]
        return {
            "blocks": list(self._blocks),
            "conflict": {
                "cosine": [[_mean(of) for of in row] for row in cosines],
                "negative share": [[negative_share(of) for of in row] for row in cosines],
            },
            "update": [[self._updates.get(str(step), {}).get(block, nan) for block in self._blocks] for step in steps],
        }

    def _generator(self) -> torch.Generator:
        """The generator of the next draw."""
        self._drawn += 1
        return Draws(self.seed, self._drawn - 1).next()

    def _cosines(self, step: int, block: str) -> list[float]:
        return [entry["cosine"].get(block, float("nan")) for entry in self._conflicts.get(str(step), [])]

    @uncounted()
    def _compare(self, strategy: Strategy, model: VLM) -> None:
        weights = _weights(model)
        training = {name: p for name, p in weights.items() if p.requires_grad}
        if not training:
            return
        now = {name: p.grad for name, p in training.items()}
        of_block = blocks(model)
        n = len(self.kept) if self.tasks_at_once is None else min(self.tasks_at_once, len(self.kept))
        for _ in range(n):
            task = self.kept[self._turn % len(self.kept)]
            self._turn += 1
            before = loss_gradients(strategy, model, task, training)
            cosine = gradient_cosines(now, before, of_block)
            entry = {"iteration": self._iteration, "task": task.step, "cosine": cosine}
            self._conflicts.setdefault(str(self.step + 1), []).append(entry)

    @uncounted()
    def _weigh(self, strategy: Strategy, model: VLM, kept: KeptTask) -> None:
        """The update under the earlier tasks' Fisher; then this task's joins it."""
        weights = _weights(model)
        moved = {name for name, p in weights.items() if not _same(p, self._start.get(name))}
        if self.kept:
            past = {name: f / (self.step - 1) for name, f in self.fisher.items()}
            after = {name: p.detach() for name, p in weights.items()}
            self._updates[str(self.step)] = weighted_update(self._start, after, past, blocks(model))
        wanted = {name: p for name, p in weights.items() if name in moved.union(self._trains)}
        if wanted:
            new = fisher_of(strategy, model, kept, wanted, self.kind, self.draws, self._generator())
            # A weight that was replaced by one of another shape starts anew, one that is gone is forgotten.
            old = {name: f for name, f in self.fisher.items() if name in weights and f.shape == weights[name].shape}
            self.fisher = accumulate(old, new)


def _weights(model: VLM) -> Mapping[str, torch.Tensor]:
    return {name: p for name, p in named_weights(model.clip) if not name.startswith("logit_")}


def _same(weight: torch.Tensor, before: torch.Tensor | None) -> bool:
    return before is not None and before.shape == weight.shape and torch.equal(weight, before)


def _iterations(strategy: Strategy) -> int:
    """Of an experience; 0 where the loader has no length."""
    try:
        return iterations_of(strategy)
    except TypeError:
        return 0


def _overflows(strategy: Strategy) -> bool:
    """Whether gradients are no numbers, as those of a step in fp16 that will not be taken."""
    grads = (p.grad for p in model_of(strategy).parameters() if p.grad is not None)
    return getattr(strategy, "amp", None) == "fp16" and not all(bool(grad.isfinite().all()) for grad in grads)


def _evenly(n: int, total: int) -> list[int]:
    """The middles of ``n`` equal parts of ``range(total)``."""
    return sorted({int((part + 0.5) * total / n) for part in range(n)}) if total else []


def _mean(values: list[float]) -> float:
    found = [value for value in values if value == value]
    return sum(found) / len(found) if found else float("nan")
