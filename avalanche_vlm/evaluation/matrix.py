"""The performance matrix as an Avalanche plugin metric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from avalanche.evaluation.metric_results import MetricValue

from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.errors import NotFinite
from avalanche_vlm.evaluation.accumulators import AccuracyCounts, SampleColumns
from avalanche_vlm.evaluation.pair_features import PairFeaturesMetric
from avalanche_vlm.evaluation.retrieval import mean_hit_at_1
from avalanche_vlm.evaluation.rightness import rightness
from avalanche_vlm.evaluation.survey import survey_metrics
from avalanche_vlm.memory.state import TRANSIENT, WORKING, Declared
from avalanche_vlm.training.protocol import Strategy


class PerformanceMatrix(PairFeaturesMetric):
    """Score on every task after every experience, row 0 (the pretrained model) included.

    Cells are kept by stream, step and experience, so that several evaluation streams do not mix, and a row may be
    evaluated in parts or again: the last value counts, so a plugin that changes weights when an experience ends (a mean
    of weights, a merge) wants an evaluation after it. A class-labelled task scores accuracy, an image-text task the
    mean of both directions' hit@1 within the task. All in [0, 1]; ties count by expectation
    (:func:`~avalanche_vlm.evaluation.rightness.rightness`).

    Emits ``Score/<stream>/exp<i>`` when an experience was evaluated. A task with an answer that
    is not a number is refused (:class:`~avalanche_vlm.errors.NotFinite`, with step and task) when all of it was
    answered, and the rows before stay.
    """

    states: ClassVar[Mapping[str, Declared]] = {
        "_cells": WORKING,
        "_counts": TRANSIENT,
        "_pairs": TRANSIENT,
    }

    def __init__(self) -> None:
        super().__init__()
        self._cells: dict[str, list[list[float | None]]] = {}
        """By stream a row per step and in it a score per experience; None where nothing was evaluated."""
        self._counts = AccuracyCounts()
        self._pairs = SampleColumns("images", "texts", "ids")

    def before_eval_exp(self, strategy: Strategy) -> None:
        for accumulator in (self._counts, self._pairs):
            accumulator.reset()
            accumulator.to(strategy.device)

    def after_eval_iteration(self, strategy: Strategy) -> None:
        x, y = strategy.mb_x, strategy.mb_y
        if isinstance(x, ImageText):
            self._pairs.update(*self.pair_features(strategy), y)
        else:
            self._counts.update(rightness(strategy.mb_output, y))

    def _score(self) -> float:
        if not self._pairs.filled:
            return self._counts.compute()
        images, texts, ids = self._pairs.compute()
        return mean_hit_at_1(images, texts, ids)

    def after_eval_exp(self, strategy: Strategy) -> MetricValue:
        experience = strategy.experience
        try:
            score = self._score()
        except NotFinite as error:
            place = getattr(experience, "task_name", experience.current_experience)
            why = (
                "training broke the weights: lower the learning rate, or clip gradients with max_grad_norm"
                if self.row
                else "the weights that training began with are broken"
            )
            raise NotFinite(f"{error} at step {self.row}, task {place}: {why}") from error
        self._pairs.reset()
        stream, task = experience.origin_stream.name, experience.current_experience
        rows = self._cells.setdefault(stream, [])
        rows.extend([] for _ in range(len(rows), self.row + 1))
        cells = rows[self.row]
        cells.extend(None for _ in range(len(cells), task + 1))
        cells[task] = score
        return MetricValue(self, f"Score/{stream}/exp{task}", score, self.row)

    def rows(self, stream: str = "test") -> np.ndarray:
        """``[steps + 1, tasks]`` with NaN where nothing was evaluated; row 0 is the pretrained model.

        :param stream: name of the evaluated stream.
        """
        found = self._cells.get(stream, [])[: self.step + 1]
        matrix = np.full((self.step + 1, max(map(len, found), default=0)), np.nan)
        for row, cells in zip(matrix, found, strict=False):
            row[: len(cells)] = [np.nan if cell is None else cell for cell in cells]
        return matrix

    def survey(self, stream: str = "test") -> dict[str, float]:
        """The survey's metrics of a stream that was trained to its end.

        :param stream: name of the evaluated stream.
        :raises InputError: if there are not as many trained experiences as tasks.
        """
        rows = self.rows(stream)
        return survey_metrics(rows[1:], rows[0])

    def result(self) -> dict[str, np.ndarray]:
        """The rows of every stream."""
        return {stream: self.rows(stream) for stream in self._cells}
