"""What a log shows of a training besides its scores: losses, figures of the stream so far, what is taken for what.

They are metrics for any ``EvaluationPlugin``, and publish what its loggers log; no result has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from avalanche.evaluation.metric_results import AlternativeValues, MetricValue
from matplotlib.figure import Figure as Plot

from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.evaluation.base import VLMMetric
from avalanche_vlm.evaluation.matrix import PerformanceMatrix
from avalanche_vlm.evaluation.survey import survey_metrics
from avalanche_vlm.memory.state import TRANSIENT, WORKING, Declared
from avalanche_vlm.training.finite import sent_to_host
from avalanche_vlm.training.protocol import Strategy

OF_STEPS = ("Train/loss", "Train/learning_rate", "Train/gradient_norm")
"""What is published of every training step."""


class TrackedMetric(VLMMetric):
    """Base of what a log shows: a training that goes on from one without a log has no state for it, and starts it."""

    states: ClassVar[Mapping[str, Declared]] = {}

    def before_training_exp(self, strategy: Strategy) -> Any:
        self.step = strategy.clock.train_exp_counter
        return super().before_training_exp(strategy)

    def before_eval(self, strategy: Strategy) -> None:
        self.step = max(self.step, strategy.clock.train_exp_counter)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state:
            super().load_state_dict(state)


class TrainingCurves(TrackedMetric):
    """Loss, learning rate and norm of the gradient, of every training step.

    Emits ``Train/loss`` (with what plugins add to it), ``Train/learning_rate`` (of the optimizer's first group) and
    ``Train/gradient_norm`` (of all that the optimizer trains, before it is clipped) at the number of the step, which
    counts from 1 over the whole stream.

    An accelerator is not waited for: its numbers are published with the next step, or at the experience's end.
    """

    states: ClassVar[Mapping[str, Declared]] = {"_waiting": WORKING, "_sent": TRANSIENT}

    def __init__(self) -> None:
        super().__init__()
        self._waiting: list[float] = []
        """Number, loss, rate and norm of the step that is not published yet."""
        self._sent: tuple[torch.Tensor, torch.Event, int, float] | None = None
        """The same on its way to the host."""

    def before_update(self, strategy: Strategy) -> list[MetricValue]:
        groups = strategy.optimizer.param_groups
        gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        step, rate = strategy.clock.train_iterations + 1, float(groups[0]["lr"])
        both = torch.stack([of.detach().float().reshape(()).to(strategy.loss.device) for of in (strategy.loss, norm)])
        found = self._published()
        if both.device.type == "cpu":
            self._waiting = _of_step(step, rate, both)
            return [*found, *self._published()]
        self._sent = *sent_to_host(both), step, rate
        return found

    def after_training_exp(self, strategy: Strategy) -> list[MetricValue]:
        super().after_training_exp(strategy)
        return self._published()

    def state_dict(self) -> dict[str, Any]:
        self._arrive()
        return super().state_dict()

    def _arrive(self) -> None:
        if self._sent is not None:
            sent, done, step, rate = self._sent
            done.synchronize()
            self._sent, self._waiting = None, _of_step(step, rate, sent)

    def _published(self) -> list[MetricValue]:
        self._arrive()
        (step, *values), self._waiting = self._waiting or [0], []
        return [MetricValue(self, name, value, int(step)) for name, value in zip(OF_STEPS, values, strict=False)]


def _of_step(step: int, rate: float, both: torch.Tensor) -> list[float]:
    loss, norm = both.tolist()
    return [step, loss, rate, norm]


class SurveyCurves(TrackedMetric):
    """The survey's figures of the stream so far: after j experiences those of its first j tasks, so that the last ones
    are the result's. In an evaluator it stands behind a :class:`~avalanche_vlm.evaluation.matrix.PerformanceMatrix`.

    Emits ``Survey/<stream>/<figure>`` for every figure that there is, and ``Survey/<stream>/mean``, the mean over all
    tasks of the newest row, at the row.

    :param stream: name of the evaluated stream that is trained.
    """

    def __init__(self, stream: str = "test") -> None:
        super().__init__()
        self.stream = stream

    def after_eval(self, strategy: Strategy) -> list[MetricValue]:
        found = []
        for matrix in strategy.evaluator.metrics:
            if isinstance(matrix, PerformanceMatrix) and matrix.row == matrix.step:
                values = figures_so_far(matrix.rows(self.stream))
                named = {f"Survey/{self.stream}/{name}": value for name, value in values.items()}
                found += [MetricValue(self, name, value, matrix.step) for name, value in named.items()]
        return found


def figures_so_far(rows: np.ndarray) -> dict[str, float]:
    """The survey's figures of the tasks that are trained so far, as far as their cells are measured.

    :param rows: scores ``[j + 1, tasks]`` after j of the tasks were trained, row 0 the pretrained model's. Of more
        trainings than tasks nobody knows which was of which task: they have their mean alone.
    :return: figures by name, and as ``mean`` that of the newest row over all tasks.

    >>> figures_so_far(np.array([[0.5, 0.25], [0.75, 0.25]]))
    {'mean': 0.5, 'last': 0.75, 'avg': 0.75}
    """
    trained = min(len(rows) - 1, rows.shape[1])
    found = {"mean": float(rows[-1].mean()) if rows.shape[1] else math.nan}
    if trained == len(rows) - 1 and trained:
        found |= survey_metrics(rows[1 : trained + 1, :trained], rows[0, :trained])
    return {name: value for name, value in found.items() if math.isfinite(value)}


ConfusionPlot = Callable[[np.ndarray, Sequence[str], Sequence[int] | None, int | None], Plot]
"""Draws how often what is taken for what, of counts ``[classes, classes]`` (true ones down), the classes' names, the
answers to each in all, and how many classes there are in all."""


class Confusions(TrackedMetric):
    """Which classes are taken for which, over all tasks of a stream: one picture after every evaluation.

    Emits ``Confusions/<stream>`` at the row: for loggers of pictures a plot, drawn when one asks for it, for others the
    counts as a tensor. Of more than 50 classes it has those with most wrong answers. Image-text tasks have no classes
    and are passed over.

    :param draw: draws the counts; None leaves the tensor alone.
    """

    states: ClassVar[Mapping[str, Declared]] = {"_answers": TRANSIENT, "_counts": TRANSIENT}

    def __init__(self, draw: ConfusionPlot | None = None) -> None:
        super().__init__()
        self._draw = draw
        self._answers: list[torch.Tensor] = []
        self._counts: dict[str, dict[tuple[int, int], int]] = {}

    def before_eval(self, strategy: Strategy) -> None:
        super().before_eval(strategy)
        self._answers, self._counts = [], {}

    def after_eval_iteration(self, strategy: Strategy) -> None:
        logits, y = strategy.mb_output, strategy.mb_y
        if not isinstance(strategy.mb_x, ImageText) and torch.is_tensor(logits) and logits.ndim == 2 and y.ndim == 1:
            self._answers.append(torch.stack([y.to(logits.device), logits.argmax(1)]))

    def after_eval_exp(self, strategy: Strategy) -> None:
        if not self._answers:
            return
        pairs, numbers = np.unique(torch.cat(self._answers, 1).cpu().numpy(), axis=1, return_counts=True)
        self._answers = []
        counts = self._counts.setdefault(strategy.experience.origin_stream.name, {})
        for (true, given), number in zip(pairs.T.tolist(), numbers.tolist(), strict=True):
            counts[true, given] = counts.get((true, given), 0) + number

    def after_eval(self, strategy: Strategy) -> list[MetricValue]:
        found = list(self._pictures(getattr(strategy.model, "label_space", None)))
        self._counts = {}
        return found

    def _pictures(self, space: Any) -> Iterator[MetricValue]:
        for stream, counts in self._counts.items():
            classes, square, answers, of_all = most_confused(counts)
            known = () if space is None else space.class_names
            names = [known[of] if of < len(known) else str(of) for of in classes]
            drawn = DrawnCounts(square, names, self._draw, answers, of_all)
            yield MetricValue(self, f"Confusions/{stream}", drawn, self.row)


def most_confused(
    counts: Mapping[tuple[int, int], int], most: int = 50
) -> tuple[list[int], np.ndarray, list[int], int]:
    """The classes of which most answers are wrong: of many, a square of all would be larger than the memory.

    :param counts: how often (true class, answer) was met.
    :param most: number of classes that are kept.
    :return: the kept classes in their order, their counts ``[classes, classes]``, the answers to each of them, be they
        what they may, and how many classes there are.

    >>> most_confused({(0, 0): 5, (1, 2): 3, (2, 2): 1}, 2)
    ([1, 2], array([[0, 3],
           [0, 1]]), [3, 1], 3)
    """
    wrong: dict[int, int] = {}
    answers: dict[int, int] = {}
    for (true, given), number in counts.items():
        answers[true] = answers.get(true, 0) + number
        for of in (true, given):
            wrong[of] = wrong.get(of, 0) + (number if true != given else 0)
    classes = sorted(sorted(wrong, key=lambda of: (-wrong[of], of))[:most])
    place = {of: at for at, of in enumerate(classes)}
    square = np.zeros((len(classes), len(classes)), dtype=np.int64)
    for (true, given), number in counts.items():
        if true in place and given in place:
            square[place[true], place[given]] = number
    return classes, square, [answers.get(of, 0) for of in classes], len(wrong)


class DrawnCounts(AlternativeValues):
    """Counts of what is taken for what, as a tensor or, where a logger takes figures, as a plot.

    :param counts: ``[classes, classes]``, true classes down.
    :param names: names of the classes.
    :param draw: draws the counts; None has no plot.
    :param answers: the answers to each class in all; None where ``counts`` has them.
    :param classes: number of classes, of which these are the most confused; None where these are all.
    """

    def __init__(
        self,
        counts: np.ndarray,
        names: Sequence[str],
        draw: ConfusionPlot | None = None,
        answers: Sequence[int] | None = None,
        classes: int | None = None,
    ) -> None:
        super().__init__(torch.from_numpy(counts))
        self.counts, self.names, self._drawing = counts, names, draw
        self.answers, self.classes = answers, classes

    @cached_property
    def plot(self) -> Plot | None:
        """The plot, drawn when it is asked for first."""
        return None if self._drawing is None else self._drawing(self.counts, self.names, self.answers, self.classes)

    def best_supported_value(self, *supported_types: type) -> Any:
        """What a logger is given.

        :param supported_types: what it can log.
        """
        if Plot in supported_types and self.plot is not None:
            return self.plot
        return super().best_supported_value(*supported_types)
