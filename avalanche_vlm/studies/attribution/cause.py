"""Why a model lost what it lost: interventions, and the verdict on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import Dataset

from avalanche_vlm.models import VLM
from avalanche_vlm.studies.attribution.bootstrap import PairedBootstrap
from avalanche_vlm.studies.attribution.measure import Laboratory
from avalanche_vlm.studies.attribution.probe import ProbePairs
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
    score, and is the most specific to do so, names the cause (see :class:`Rule`). Intervals come from resampling the
    pairs, the same for every intervention.

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
    :return: plain JSON types, in points of 100: ``pretrained`` (on the pairs as re-matched), ``trained`` (as given),
        ``lost``, ``interventions`` (each with what it ``recovered`` and the ``share`` of what was lost; the maps and
        weights on top of re-matching), ``modules`` (each block alone), ``unexplained`` (what the verdict's intervention
        leaves) and ``verdict``.
    :raises InputError: if there are too few pairs, or the weights do not fit.
    """
    rule = rule or Rule()
    probe = pairs if isinstance(pairs, ProbePairs) else ProbePairs(pairs)
    laboratory = Laboratory(model, pretrained_state, probe, seed)
    measured = laboratory.measured
    bootstrap = PairedBootstrap([len(probe)], draws, level, seed)
    loss = bootstrap.mean(100 * (measured.pretrained - measured.trained))
    laboratory.fit_maps()
    laboratory.put_back_each()
    if rule.lost(loss):
        n = len(measured.blocks)
        # Two are tried where they are too many to be a place as well: how far they come is worth knowing.
        laboratory.combine(
            most=max(k for k in (2, 3) if k == 2 or rule.place(k, n)),
            candidates=4,
            enough=lambda score: rule.repaired(bootstrap.mean(100 * (measured.pretrained - score)), loss),
        )
    laboratory.go_back([0.5])
    return {"score": score, **judge(measured, bootstrap, rule, chance=laboratory.chance)}
