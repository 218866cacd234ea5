"""Why a model lost what it lost: interventions, and the verdict on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from avalanche_vlm.errors import InputError
from avalanche_vlm.models import VLM
from avalanche_vlm.studies.attribution.accounts import Account, PairAccount, TaskAccount
from avalanche_vlm.studies.attribution.bootstrap import PairedBootstrap
from avalanche_vlm.studies.attribution.measure import Laboratory
from avalanche_vlm.studies.attribution.pairs import PairPart
from avalanche_vlm.studies.attribution.part import LossPart
from avalanche_vlm.studies.attribution.probe import ProbePairs
from avalanche_vlm.studies.attribution.steps import StepWeights
from avalanche_vlm.studies.attribution.tasks import TaskPart, TaskPictures
from avalanche_vlm.studies.attribution.verdict import Rule, judge


def attribute(
    model: VLM,
    pretrained_state: Mapping[str, torch.Tensor],
    pairs: Dataset | ProbePairs,
    *,
    rule: Rule | None = None,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    score: str = "held-out captions R@1",
) -> dict[str, Any]:
    """Why a trained model finds fewer pairs than the model that it started from.

    What training changed is undone in one way at a time: pairs dealt out anew by the pretrained model, feature spaces
    rotated back, blocks of weights put back, all weights half the way and all the way back. What recovers the lost
    score, and is the most specific to do so, names the cause (see
    :class:`~avalanche_vlm.studies.attribution.verdict.Rule`). Intervals come from resampling the pairs, the same for
    every intervention.

    :param model: the trained model. Its weights are changed meanwhile, and bit for bit what they were afterwards, also
        if something fails.
    :param pretrained_state: a state dict of ``model.clip`` from before training.
    :param pairs: held-out samples ``(ImageText, identity)``, at least 4; with some hundreds the intervals are narrow
        enough to tell causes apart.
    :param rule: what counts as a repair.
    :param draws: number of draws of the bootstrap.
    :param level: level of the bootstrap's intervals, in (0, 1).
    :param seed: seed of the draws and of the halves that maps are fitted on, 0 or more.
    :param score: what to call the score: hit@1 of the pairs, mean of both directions.
    :return: plain JSON types, in points of 100: ``before`` (of the pretrained model, on the pairs as re-matched),
        ``trained`` (as given), ``lost``, ``interventions`` (each with what it ``recovered`` and the ``share`` of what
        was lost; the maps and weights on top of re-matching), ``modules`` (each block alone), ``unexplained`` (what the
        verdict's intervention leaves) and ``verdict``; ``score``, ``before_is`` and the number of ``samples``, and of
        those the ``mismatched`` ones.
    :raises InputError: if there are too few pairs, or the weights do not fit.
    """
    probe = pairs if isinstance(pairs, ProbePairs) else ProbePairs(pairs)
    part = PairPart(model, pretrained_state, probe, seed)
    account = PairAccount(score, part.mismatched, part.chance)
    found = _attributed([part], account, rule or Rule(), PairedBootstrap([len(probe)], draws, level, seed))
    return {**found, "mismatched": part.mismatched}


def attribute_tasks(
    model: VLM,
    steps: StepWeights,
    tests: Sequence[Dataset],
    right: Mapping[tuple[int, int], np.ndarray],
    *,
    rule: Rule | None = None,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    most: int = 2000,
    precision: Callable[[], AbstractContextManager] = nullcontext,
) -> dict[str, Any]:
    """Why a trained model answers earlier tasks worse than it did right after each of them was trained.

    The loss is the performance matrix's: of every task but the last, the score right after its own training less that
    at the end. It is attributed as :func:`attribute` does with pairs, each task against the weights that it was left
    with: feature spaces rotated back, blocks of weights put back, all weights half the way and all the way back. Under
    the label space ``"seen"`` more classes compete at the end: what that costs is told apart, and interventions on
    weights are scored among the classes of then.

    :param model: the trained model, at the end of its stream. Its weights are changed meanwhile, and bit for bit what
        they were afterwards, also if something fails.
    :param steps: weights after every step but the last; step t + 1 has trained task t.
    :param tests: test set of every task, in the order of training: samples ``(image, class id, task label)``.
    :param right: how right each test sample was answered, in {0, 1}, as arrays ``[N]`` by step and task
        (:class:`~avalanche_vlm.evaluation.answers.TaskAnswers` gives them). The step after each earlier task's own
        training is read.
    :param rule: what counts as a repair.
    :param draws: number of draws of the bootstrap.
    :param level: level of the bootstrap's intervals, in (0, 1).
    :param seed: seed of the draws, 0 or more.
    :param most: number of test pictures at most, in equal parts of all tasks, drawn with the seed.
    :param precision: makes the context of precision that the model predicts in.
    :return: plain JSON types with the entries that :func:`attribute` gives, but for ``mismatched``. All figures are
        means over the earlier tasks, and ``before`` is the score right after each task's own training.
    :raises InputError: if there are fewer than two tasks, or the model has no label space.
    """
    if len(tests) < 2 or model.label_space is None:
        raise InputError(
            f"a loss on earlier tasks needs two tasks or more with classes, and there are {len(tests)}"
            if model.label_space is not None
            else "a loss on earlier tasks is attributed on pictures with classes, and the model has no label space"
        )
    pictures = [TaskPictures(test, max(1, most // len(tests)), seed) for test in tests]
    parts = [
        TaskPart(model, steps, task + 1, task, pictures, right[task + 1, task][pictures[task].rows], precision)
        for task in range(len(tests) - 1)
    ]
    bootstrap = PairedBootstrap([len(part) for part in parts], draws, level, seed)
    return _attributed(parts, TaskAccount(model.label_space.visible == "seen"), rule or Rule(), bootstrap)


def _attributed(parts: Sequence[LossPart], account: Account, rule: Rule, bootstrap: PairedBootstrap) -> dict[str, Any]:
    laboratory = Laboratory(parts)
    measured = laboratory.measured
    loss = bootstrap.mean(100 * (measured.reference - measured.trained))
    laboratory.fit_maps()
    laboratory.put_back_each()
    if rule.lost(loss):
        n = len(measured.blocks)
        # Two are tried where they are too many to be a place as well: how far they come is worth knowing.
        laboratory.combine(
            most=max(k for k in (2, 3) if k == 2 or rule.place(k, n)),
            candidates=4,
            enough=lambda score: rule.repaired(bootstrap.mean(100 * (measured.reference - score)), loss),
        )
    laboratory.go_back([0.5])
    return judge(measured, bootstrap, rule, account)
