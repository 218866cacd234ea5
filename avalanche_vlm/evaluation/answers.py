"""Which test samples of every task were answered right at every step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from avalanche.evaluation.metric_results import MetricValue

from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.evaluation.retrieval import first_hits
from avalanche_vlm.evaluation.steps import CountsSteps
from avalanche_vlm.evaluation.zero_shot import encode_pairs


class TaskAnswers(CountsSteps):
    """The cells of the performance matrix sample by sample, for intervals. Costs no pass for class-labelled tasks, and
    one more over the test pairs for image-text tasks. Emits nothing.

    :param stream: name of the stream whose tasks are read.
    """

    def __init__(self, stream: str = "test") -> None:
        super().__init__()
        self.stream = stream
        self.right: dict[tuple[int, int], np.ndarray] = {}
        """By step and task, ``[N]`` in [0, 1]: of pairs the mean of both directions."""
        self._parts: list[tuple[torch.Tensor, ...]] = []

    def before_eval_exp(self, strategy: Any) -> None:
        self._parts = []

    def after_eval_iteration(self, strategy: Any) -> None:
        x, y = strategy.mb_x, strategy.mb_y
        pairs = isinstance(x, ImageText)
        self._parts.append((*encode_pairs(strategy.model, x), y) if pairs else (strategy.mb_output.argmax(1) == y,))

    def after_eval_exp(self, strategy: Any) -> MetricValue | None:
        experience = strategy.experience
        if experience.origin_stream.name == self.stream and self._parts:
            columns = [torch.cat(column) for column in zip(*self._parts, strict=True)]
            right = columns[0] if len(columns) == 1 else first_hits(*columns).double().mean(0)
            self.right[self.row, experience.current_experience] = right.cpu().double().numpy()
        self._parts = []
        return None

    def result(self) -> dict[tuple[int, int], np.ndarray]:
        """:attr:`right`."""
        return self.right

    def __str__(self) -> str:
        return "TaskAnswers"
