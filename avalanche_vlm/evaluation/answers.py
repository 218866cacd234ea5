"""Which test samples of every task were answered right at every step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from avalanche.evaluation.metric_results import MetricValue

from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.evaluation.accumulators import SampleColumns
from avalanche_vlm.evaluation.pair_features import PairFeaturesMetric
from avalanche_vlm.evaluation.retrieval import first_hits
from avalanche_vlm.evaluation.rightness import answered, rightness
from avalanche_vlm.memory.state import TRANSIENT, WORKING, Declared
from avalanche_vlm.training.protocol import Strategy


class TaskAnswers(PairFeaturesMetric):
    """The cells of the performance matrix sample by sample, for intervals. Costs no pass over the test samples. Emits
    nothing.

    :param stream: name of the stream whose tasks are read.
    """

    states: ClassVar[Mapping[str, Declared]] = {
        "_right": WORKING,
        "_classes": TRANSIENT,
        "_pairs": TRANSIENT,
    }

    def __init__(self, stream: str = "test") -> None:
        super().__init__()
        self.stream = stream
        self._right: dict[str, torch.Tensor] = {}
        """By step and task, separated by a slash, ``[N]`` in [0, 1]."""
        self._classes = SampleColumns("right")
        self._pairs = SampleColumns("images", "texts", "ids")

    def before_eval_exp(self, strategy: Strategy) -> None:
        for columns in (self._classes, self._pairs):
            columns.reset()
            columns.to(strategy.device)

    def after_eval_iteration(self, strategy: Strategy) -> None:
        x, y = strategy.mb_x, strategy.mb_y
        if isinstance(x, ImageText):
            self._pairs.update(*self.pair_features(strategy), y)
        else:
            self._classes.update(rightness(strategy.mb_output, y))

    def after_eval_exp(self, strategy: Strategy) -> MetricValue | None:
        experience = strategy.experience
        if experience.origin_stream.name == self.stream and (self._classes.filled or self._pairs.filled):
            if self._pairs.filled:
                images, texts, ids = self._pairs.compute()
                right = first_hits(images, texts, ids).double().mean(0)
            else:
                right = answered(*self._classes.compute())
            self._right[f"{self.row}/{experience.current_experience}"] = right.cpu().double()
        self._classes.reset()
        self._pairs.reset()
        return None

    @property
    def right(self) -> dict[tuple[int, int], np.ndarray]:
        """By step and task how right each sample was answered, ``[N]`` in [0, 1], a fraction where scores tie; of pairs
        the mean of both directions, in which an image counts once
        (:func:`~avalanche_vlm.evaluation.retrieval.first_hits`)."""
        found = {}
        for key, right in self._right.items():
            step, task = key.split("/")
            found[int(step), int(task)] = right.numpy()
        return found

    def result(self) -> dict[tuple[int, int], np.ndarray]:
        """:attr:`right`."""
        return self.right
