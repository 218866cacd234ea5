"""Accuracy of every class, and its mean over classes: what unbalanced test sets need besides accuracy over samples."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from avalanche.evaluation.metric_results import MetricValue

from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.evaluation.accumulators import ClassCounts, SampleColumns
from avalanche_vlm.evaluation.base import VLMMetric
from avalanche_vlm.evaluation.rightness import answered, rightness
from avalanche_vlm.memory.state import TRANSIENT, WORKING, Declared
from avalanche_vlm.training.protocol import Strategy


class ClassAccuracies(VLMMetric):
    """Accuracy of every class of a stream's tasks: of the pretrained model, and of the newest row.

    Which classes compete is what the model's label space says, and ties count by expectation, as for accuracy over
    samples: both are of the same predictions. A class without test samples has no accuracy, as in scikit-learn's
    ``balanced_accuracy_score``. Image-text tasks have no classes and are passed over.

    Emits ``BalancedAccuracy/<stream>/exp<i>``, the mean over the classes of an experience.

    :param stream: name of the stream whose tasks are read.
    """

    states: ClassVar[Mapping[str, Declared]] = {"_found": WORKING, "_answers": TRANSIENT}

    def __init__(self, stream: str = "test") -> None:
        super().__init__()
        self.stream = stream
        self._found: dict[str, dict[str, list[list[float]]]] = {}
        """By row and task: of every class with samples its id, its right answers and its samples."""
        self._answers = SampleColumns("right", "y")

    def before_eval_exp(self, strategy: Strategy) -> None:
        self._answers.reset()
        self._answers.to(strategy.device)

    def after_eval_iteration(self, strategy: Strategy) -> None:
        if isinstance(strategy.mb_x, ImageText) or strategy.experience.origin_stream.name != self.stream:
            return
        y = strategy.mb_y
        self._answers.update(rightness(strategy.mb_output, y), y)

    def after_eval_exp(self, strategy: Strategy) -> MetricValue | None:
        if not self._answers.filled:
            return None
        of_samples, ids = self._answers.compute()
        # Both in one tensor, so that an accelerator is waited for once; doubles hold ids exactly.
        answers, y = torch.stack([of_samples, ids.double()]).cpu()
        answers, y = answered(answers), y.long()
        self._answers.reset()
        present, place = torch.unique(y, return_inverse=True)
        counts = ClassCounts(len(present), sync_on_compute=False).to(y.device)
        counts.update(answers, place)
        columns = (of.tolist() for of in (present, *counts.compute()))
        rows = [[c, hits, samples] for c, hits, samples in zip(*columns, strict=True)]
        task = strategy.experience.current_experience
        self._found = {row: of for row, of in self._found.items() if row in ("0", str(self.row))}
        self._found.setdefault(str(self.row), {})[str(task)] = rows
        balanced = statistics.fmean(hits / samples for _, hits, samples in rows)
        return MetricValue(self, f"BalancedAccuracy/{self.stream}/exp{task}", balanced, self.row)

    def accuracies(self, task: int, row: int | None = None) -> dict[int, tuple[float, int]]:
        """Accuracy in [0, 1] and number of test samples by class id.

        :param task: index of the experience in its stream.
        :param row: row of the performance matrix, 0 for the pretrained model; None for the newest.
        """
        found = self._found.get(str(self.step if row is None else row), {}).get(str(task), [])
        return {int(c): (right / total, int(total)) for c, right, total in found}

    def result(self) -> dict[int, dict[int, tuple[float, int]]]:
        """:meth:`accuracies` of the newest row, by task."""
        return {int(task): self.accuracies(int(task)) for task in self._found.get(str(self.step), {})}


def class_records(scores: ClassAccuracies, names: Sequence[str], tasks: int) -> list[list[dict[str, Any]]]:
    """What a result holds of its classes: per task a record of every class with test samples.

    :param scores: metric that was in the evaluator.
    :param names: names of the classes, in the order of their ids.
    :param tasks: number of tasks of the stream.
    :return: records of ``class``, ``samples`` (in the test set), and accuracy in percent of the ``pretrained`` model
        and of the ``last``.
    """
    found = []
    for task in range(tasks):
        before = scores.accuracies(task, 0)
        found.append(
            [
                {
                    "class": names[c],
                    "samples": samples,
                    "pretrained": round(100 * before[c][0], 4) if c in before else None,
                    "last": round(100 * accuracy, 4),
                }
                for c, (accuracy, samples) in scores.accuracies(task).items()
            ]
        )
    return found
