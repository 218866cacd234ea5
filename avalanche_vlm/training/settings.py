"""How every task of a stream is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, get_args

from avalanche_vlm.benchmarks.label_space import TrainClasses, TrainTemplates
from avalanche_vlm.errors import InputError
from avalanche_vlm.units import brief

LARGEST = 1e18
"""Within the range of 64-bit counts and of float32, in which an optimizer steps."""

EvalTasks = Literal["all", "seen", "last"]

_WHOLE = ("epochs", "batch_size", "warmup", "num_workers", "eval_every", "negatives")
_REAL = ("lr", "weight_decay", "label_smoothing", "max_grad_norm")

MOST_WORKERS = 1024
"""More processes than any machine loads data with."""

CHECKPOINT_MINUTES = 10.0
"""Minutes from one checkpoint within an experience to the next where nothing else is asked for."""


@dataclass(frozen=True)
class TrainSettings:
    """How every task is trained: AdamW, a linear warm-up and half a cosine, afresh for each.

    :param lr: peak learning rate of AdamW, above 0.
    :param epochs: number of passes over each task, 1 or more.
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
    :param amp: precision of forward pass and criterion: ``"bf16"`` for autocast, None for that of the weights.
    :param num_workers: number of processes that load data; with 0 the training process does.
    :param eval_tasks: tasks that are evaluated after an experience: ``"all"``, those ``"seen"`` so far, or none but
        after the ``"last"`` experience; before the first and after the last experience all are.
    :param eval_every: number of experiences from one evaluation to the next, 1 or more.
    :raises InputError: if a number is none or not finite, if the rate, the passes or the batch is not positive, another
        is below 0, one is larger than torch can hold, there is no such smoothing or choice of classes or templates, or
        negatives are to be drawn with smoothed labels.
    """

    lr: float = 1e-5
    epochs: int = 5
    batch_size: int = 64
    weight_decay: float = 0.0
    warmup: int = 0
    max_grad_norm: float | None = 1.0
    label_smoothing: float = 0.0
    train_classes: TrainClasses | None = None
    train_templates: TrainTemplates = "all"
    negatives: int | None = None
    amp: str | None = None
    num_workers: int = 0
    eval_tasks: EvalTasks = "all"
    eval_every: int = 1

    def __post_init__(self) -> None:
        for name in (*_WHOLE, *_REAL):
            value: Any = getattr(self, name)
            kind: Any = Integral if name in _WHOLE else Real
            if value is None and name in ("max_grad_norm", "negatives"):
                continue
            if isinstance(value, bool) or not isinstance(value, kind) or not -math.inf < value < math.inf:
                raise InputError(f"{name} is a {'whole' if name in _WHOLE else 'finite'} number, not {brief(value)}")
        for name in ("lr", "epochs", "batch_size", "eval_every"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} must be positive, not {brief(getattr(self, name))}")
        for name in ("weight_decay", "warmup", "num_workers"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be 0 or more, not {brief(getattr(self, name))}")
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"label_smoothing must be 0 or more and below 1, not {brief(self.label_smoothing)}")
        if self.train_classes not in (None, *get_args(TrainClasses)):
            raise InputError(f"train_classes must be current or seen, not {brief(self.train_classes)}")
        if self.eval_tasks not in get_args(EvalTasks):
            raise InputError(f"eval_tasks must be all, seen or last, not {brief(self.eval_tasks)}")
        if self.train_templates not in get_args(TrainTemplates):
            raise InputError(f"train_templates must be all or first, not {brief(self.train_templates)}")
        if self.negatives is not None and self.negatives < 1:
            raise InputError(f"negatives must be 1 or more, or None for all classes, not {brief(self.negatives)}")
        if self.negatives is not None and self.label_smoothing:
            raise InputError(
                f"label_smoothing spreads a share over all classes that compete, and with negatives="
                f"{brief(self.negatives)} only some of them are looked at: give one of them"
            )
        if self.num_workers > MOST_WORKERS:
            raise InputError(f"num_workers is at most {MOST_WORKERS}, not {brief(self.num_workers)}")
        if self.max_grad_norm is not None and self.max_grad_norm <= 0:
            raise InputError(f"max_grad_norm must be positive, not {brief(self.max_grad_norm)}")
        for name in (*_WHOLE, *_REAL):
            if (getattr(self, name) or 0) > LARGEST:
                raise InputError(f"{name} is at most {LARGEST:g}, not {brief(getattr(self, name))}")
