"""The performance matrix and the held-out curve as Avalanche plugin metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from avalanche.evaluation.metric_results import MetricValue

from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.scenario import HeldOutSet
from avalanche_vlm.evaluation.retrieval import modality_gap, paired_cosine, retrieval_metrics
from avalanche_vlm.evaluation.steps import CountsSteps
from avalanche_vlm.evaluation.survey import survey_metrics
from avalanche_vlm.evaluation.zero_shot import encode_pairs, paired_features, zero_shot_accuracy


class PerformanceMatrix(CountsSteps):
    """Score on every task after every experience, row 0 (the pretrained model) included.

    Cells are keyed by (stream, step, experience), so that several evaluation streams do not mix, and a row may be
    evaluated in parts or again: the last value counts, so a plugin that changes weights when an experience ends (a mean
    of weights, a merge) wants an evaluation after it. A class-labelled task scores accuracy, an image-text task the
    mean of both directions' hit@1 within the task. All in [0, 1].

    Emits ``Score/<stream>/exp<i>`` when an experience was evaluated.
    """

    def __init__(self) -> None:
        super().__init__()
        self._cells: dict[tuple[str, int, int], float] = {}
        self._right = self._total = 0
        self._features: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def before_eval_exp(self, strategy: Any) -> None:
        self._right = self._total = 0
        self._features = []

    def after_eval_iteration(self, strategy: Any) -> None:
        x, y = strategy.mb_x, strategy.mb_y
        if isinstance(x, ImageText):
            self._features.append((*encode_pairs(strategy.model, x), y))
        else:
            self._right += int((strategy.mb_output.argmax(1) == y).sum())
            self._total += len(y)

    def after_eval_exp(self, strategy: Any) -> MetricValue:
        if self._features:
            images, texts, ids = (torch.cat(parts) for parts in zip(*self._features, strict=True))
            scores = retrieval_metrics(images, texts, ids, ids, ks=(1,))
            score = (scores["image_to_text_hit@1"] + scores["text_to_image_hit@1"]) / 2
            self._features = []
        else:
            score = self._right / self._total
        experience = strategy.experience
        stream = experience.origin_stream.name
        self._cells[stream, self.row, experience.current_experience] = score
        return MetricValue(self, f"Score/{stream}/exp{experience.current_experience}", score, self.row)

    def rows(self, stream: str = "test") -> np.ndarray:
        """``[steps + 1, tasks]`` with NaN where nothing was evaluated; row 0 is the pretrained model."""
        cells = {(j, i): v for (s, j, i), v in self._cells.items() if s == stream and j <= self.step}
        shape = (self.step + 1, 1 + max((i for _, i in cells), default=-1))
        matrix = np.full(shape, np.nan)
        for cell, value in cells.items():
            matrix[cell] = value
        return matrix

    def survey(self, stream: str = "test") -> dict[str, float]:
        """The survey's metrics of a stream that was trained to its end.

        :raises InputError: if there are not as many trained experiences as tasks.
        """
        rows = self.rows(stream)
        return survey_metrics(rows[1:], rows[0])

    def result(self) -> dict[str, np.ndarray]:
        """The rows of every stream."""
        return {stream: self.rows(stream) for stream in dict.fromkeys(s for s, _, _ in self._cells)}

    def __str__(self) -> str:
        return "PerformanceMatrix"


class HeldOutScores(CountsSteps):
    """Scores on held-out sets, once per step, when the strategy evaluates.

    Captions give the mean of both directions' hit@1 (and each alone), class-labelled sets their zero-shot accuracy.
    How far apart the modalities are is told by :meth:`alignment`, which is no score. The sets are read outside the
    strategy's loop, so they work in Avalanche's own strategies whatever the criterion.

    Emits ``HeldOut/<name>``.

    :param sets: for example ``benchmark.held_out``.
    """

    def __init__(self, sets: Sequence[HeldOutSet]) -> None:
        super().__init__()
        self.sets = tuple(sets)
        self._values: dict[int, dict[str, float]] = {}
        self._alignment: dict[int, dict[str, float]] = {}

    def after_eval(self, strategy: Any) -> list[MetricValue] | None:
        if self.training or self.step in self._values:
            return None  # within training an evaluation may come after every epoch: too often for held-out sets
        values: dict[str, float] = {}
        alignment: dict[str, float] = {}
        for held_out in self.sets:
            if held_out.label_space is None:
                images, texts, ids = paired_features(strategy.model, held_out.dataset)
                alignment[f"{held_out.name} modality gap"] = modality_gap(images, texts)
                alignment[f"{held_out.name} paired cosine"] = paired_cosine(images, texts)
                scores = retrieval_metrics(images, texts, ids, ids, ks=(1,))
                both = {way: scores[f"{way}_hit@1"] for way in ("image_to_text", "text_to_image")}
                values[f"{held_out.name} R@1"] = sum(both.values()) / 2
                values.update({f"{held_out.name} R@1 {way.replace('_', ' ')}": v for way, v in both.items()})
            else:
                values[held_out.name] = zero_shot_accuracy(strategy.model, held_out.dataset, held_out.label_space)
        self._values[self.step], self._alignment[self.step] = values, alignment
        emitted = {**values, **alignment}
        return [MetricValue(self, f"HeldOut/{name}", value, self.step) for name, value in emitted.items()]

    def result(self) -> dict[str, list[float]]:
        """Name to one value per step, in [0, 1]; NaN for a step without evaluation."""
        return self._curves(self._values)

    def alignment(self) -> dict[str, list[float]]:
        """Modality gap (in [0, 2]) and paired cosine (in [-1, 1]) of every set of captions, likewise."""
        return self._curves(self._alignment)

    def _curves(self, by_step: dict[int, dict[str, float]]) -> dict[str, list[float]]:
        names = dict.fromkeys(name for values in by_step.values() for name in values)
        steps = range(self.step + 1)
        return {name: [by_step.get(step, {}).get(name, float("nan")) for step in steps] for name in names}

    def __str__(self) -> str:
        return "HeldOutScores"
