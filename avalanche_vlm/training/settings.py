"""How every task of a stream is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from avalanche_vlm._numbers import NUMBERS
from avalanche_vlm.benchmarks.label_space import TrainClasses, TrainTemplates
from avalanche_vlm.errors import InputError
from avalanche_vlm.units import brief

EvalTasks = Literal["all", "seen", "last"]

_NUMBERS = (
    *("lr", "epochs", "batch_size", "weight_decay", "warmup", "max_grad_norm"),
    *("label_smoothing", "negatives", "iterations", "num_workers", "eval_every", "accumulate"),
)
_OR_NONE = ("max_grad_norm", "negatives", "iterations")

CHECKPOINT_MINUTES = 10.0
"""Minutes from one checkpoint within an experience to the next where nothing else is asked for."""


@dataclass(frozen=True)
class TrainSettings:
    """How every task is trained: AdamW, a linear warm-up and half a cosine, afresh for each. No number is above what is
    declared of it (:data:`~avalanche_vlm._numbers.NUMBERS`).

    :param lr: peak learning rate of AdamW, above 0.
    :param epochs: number of passes over each task, 1 or more.
    :param iterations: number of iterations of each task, 1 or more, in as many passes as that takes, the last one cut;
        None for as many as ``epochs`` come to.
    :param rates: peak learning rates of tasks by their names, each above 0, where they are others than ``lr``; None for
        none.
    :param batch_size: number of new samples per iteration, 1 or more.
    :param weight_decay: weight decay of AdamW, 0 or more.
    :param warmup: number of iterations in which the learning rate rises to its peak, 0 or more.
    :param max_grad_norm: norm that gradients are clipped to; None clips nothing.
    :param label_smoothing: share of each target that is spread over the classes that compete, at least 0 and below 1.
    :param train_classes: which classes compete for a batch of a class-labelled stream in training: ``"current"``,
        those of the batch's own tasks, or ``"seen"``, all that were met so far, which under the label space ``"task"``
        comes to the same; None takes what the recipe's method needs, and ``"current"`` where it needs neither.
    :param train_templates: which prompts stand for a class in training: those of ``"all"`` templates, averaged, or that
        of the ``"first"`` alone, as in most published protocols. At test all do.
    :param negatives: number of classes, 1 or more, that are drawn in a step to stand for all that compete and are not
        the batch's (:func:`~avalanche_vlm.losses.sampled.sampled_negatives`, an estimate); None takes all.
    :param amp: precision of forward pass and criterion: ``"bf16"`` or ``"fp16"`` for autocast, None for that of the
        weights.
    :param accumulate: number of batches that one step takes together, 1 or more: the loss sees all of their samples,
        and the towers encode one batch at a time.
    :param grad_checkpointing: whether the towers' blocks keep no activations and run once more backward. Decides no
        result.
    :param tf32: whether matrix products of 32-bit numbers on CUDA devices may round their factors to 19 bits.
    :param compile: whether torch compiles the blocks of the towers while they train.
    :param num_workers: number of processes that load data; with 0 the training process does.
    :param eval_tasks: tasks that are evaluated after an experience: ``"all"``, those ``"seen"`` so far, or none but
        after the ``"last"`` experience; before the first and after the last experience all are.
    :param eval_every: number of experiences from one evaluation to the next, 1 or more.
    :raises InputError: if a number is not in its range, there is no such choice of classes, templates or evaluated
        tasks, or negatives are to be drawn with smoothed labels.
    """

    lr: float = 1e-5
    epochs: int = 5
    iterations: int | None = None
    rates: Mapping[str, float] | None = field(default=None, hash=False)
    batch_size: int = 64
    weight_decay: float = 0.0
    warmup: int = 0
    max_grad_norm: float | None = 1.0
    label_smoothing: float = 0.0
    train_classes: TrainClasses | None = None
    train_templates: TrainTemplates = "all"
    negatives: int | None = None
    amp: str | None = None
    accumulate: int = 1
    grad_checkpointing: bool = False
    tf32: bool = False
    compile: bool = False
    num_workers: int = 0
    eval_tasks: EvalTasks = "all"
    eval_every: int = 1

    def __post_init__(self) -> None:
        for name in _NUMBERS:
            value = getattr(self, name)
            if value is not None or name not in _OR_NONE:
                NUMBERS[name].checked(value)
        for task, rate in (self.rates or {}).items():
            NUMBERS["lr"].checked(rate, f"the rate of task {task!r}")
        if self.train_classes not in (None, *get_args(TrainClasses)):
            raise InputError(f"train_classes must be current or seen, not {brief(self.train_classes)}")
        if self.eval_tasks not in get_args(EvalTasks):
            raise InputError(f"eval_tasks must be all, seen or last, not {brief(self.eval_tasks)}")
        if self.train_templates not in get_args(TrainTemplates):
            raise InputError(f"train_templates must be all or first, not {brief(self.train_templates)}")
        if self.negatives is not None and self.label_smoothing:
            raise InputError(
                f"label_smoothing spreads a share over all classes that compete, and with negatives="
                f"{brief(self.negatives)} only some of them are looked at: give one of them"
            )
