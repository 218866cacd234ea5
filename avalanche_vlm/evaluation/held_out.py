"""Curves over held-out sets as an Avalanche plugin metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from avalanche.evaluation.metric_results import MetricValue
from torch.utils.data import Subset

from avalanche_vlm.benchmarks.scenario import HeldOutSet
from avalanche_vlm.errors import naming
from avalanche_vlm.evaluation.accumulators import share_of_process
from avalanche_vlm.evaluation.base import VLMMetric
from avalanche_vlm.evaluation.retrieval import retrieval_and_alignment
from avalanche_vlm.evaluation.zero_shot import count_right, encode_set
from avalanche_vlm.memory.state import WORKING, Declared
from avalanche_vlm.models.vlm import VLM
from avalanche_vlm.training.protocol import Strategy, model_of
from avalanche_vlm.training.strategies import autocast_of

KS = (1, 5)
"""The K of the hit@K that held-out captions are scored by."""


class HeldOutScores(VLMMetric):
    """Scores on held-out sets, once per step, when the strategy evaluates.

    Captions give the mean of both directions' hit@1 and hit@5 (and each alone), class-labelled sets the accuracy of the
    model as it predicts, its class head and modules included, among the set's own classes, whatever the recipe
    (:class:`~avalanche_vlm.models.other_classes.OtherClasses`); ties count by expectation. The last evaluation of a
    step counts, as in the matrix. How far apart the modalities are is told by :meth:`alignment`, which is no score. The
    sets are read outside the strategy's loop, in its precision, so they work in Avalanche's own strategies whatever the
    criterion; where several processes train together, each reads its share.

    Emits ``HeldOut/<name>``.

    :param sets: sets to read, for example ``benchmark.held_out``.
    """

    states: ClassVar[Mapping[str, Declared]] = {"_scores": WORKING, "_alignment": WORKING}

    def __init__(self, sets: Sequence[HeldOutSet]) -> None:
        super().__init__()
        self.sets = tuple(sets)
        self._scores: list[dict[str, float] | None] = []
        """By step; None for one without evaluation."""
        self._alignment: list[dict[str, float] | None] = []

    def after_eval(self, strategy: Strategy) -> list[MetricValue] | None:
        # Within training an evaluation may come after every epoch: too often for held-out sets.
        if self.training:
            return None
        scores: dict[str, float] = {}
        alignment: dict[str, float] = {}
        for held_out in self.sets:
            with autocast_of(strategy):
                of_set, apart = read_held_out(model_of(strategy), held_out)
            scores |= of_set
            alignment |= apart
        for rows, row in ((self._scores, scores), (self._alignment, alignment)):
            rows.extend(None for _ in range(len(rows), self.step + 1))
            rows[self.step] = row
        emitted = {**scores, **alignment}
        return [MetricValue(self, f"HeldOut/{name}", value, self.step) for name, value in emitted.items()]

    def result(self) -> dict[str, list[float]]:
        """Name to one value per step, in [0, 1]; NaN for a step without evaluation."""
        return self._curves(self._scores)

    def alignment(self) -> dict[str, list[float]]:
        """Modality gap (in [0, 2]) and paired cosine (in [-1, 1]) of every set of captions, one value per step; NaN
        for a step without evaluation."""
        return self._curves(self._alignment)

    def _curves(self, rows: Sequence[dict[str, float] | None]) -> dict[str, list[float]]:
        names = dict.fromkeys(name for row in rows for name in row or {})
        by_step = [_at(rows, step) or {} for step in range(self.step + 1)]
        return {name: [row.get(name, float("nan")) for row in by_step] for name in names}


def read_held_out(model: VLM, held_out: HeldOutSet) -> tuple[dict[str, float], dict[str, float]]:
    """Scores and alignment of one set.

    :param model: model to evaluate, in eval mode meanwhile.
    :param held_out: set to read.
    :return: scores in [0, 1] by name, and what :meth:`HeldOutScores.alignment` has of the set, empty for one with
        classes.
    :raises InputError: if an answer or a feature is NaN or infinite; the sentence names the set.
    """
    # The set has a length as every map-style data set has one, which torch's type does not say.
    share = Subset(held_out.dataset, share_of_process(len(held_out.dataset)))  # type: ignore[arg-type]
    name = held_out.name
    with naming(f"held-out set {name!r}"):
        if held_out.label_space is not None:
            return {name: count_right(model, share, held_out.label_space).compute()}, {}
        images, texts, ids = encode_set(model, share).compute()
        scores = retrieval_and_alignment(images, texts, ids, ks=KS)
    apart = {f"{name} {what}": scores[what] for what in ("modality gap", "paired cosine")}
    found = {}
    for k in KS:
        both = {way: scores[f"{way}_hit@{k}"] for way in ("image_to_text", "text_to_image")}
        found[f"{name} R@{k}"] = sum(both.values()) / 2
        found |= {f"{name} R@{k} {way.replace('_', ' ')}": value for way, value in both.items()}
    return found, apart


def _at(rows: Sequence[dict[str, float] | None], step: int) -> dict[str, float] | None:
    return rows[step] if step < len(rows) else None
