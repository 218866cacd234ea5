"""How well the samples of a stream find their module."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from avalanche_vlm.benchmarks.reading import ordered_batches
from avalanche_vlm.errors import InputError, naming
from avalanche_vlm.evaluation.rightness import refuse_broken
from avalanche_vlm.models import VLM
from avalanche_vlm.training.data import images_of


class RoutingScores(NamedTuple):
    """Shares of samples, in [0, 1]; NaN where there were none.

    :param accuracy: share of samples whose task has a module that went to that module.
    :param turned_away: share of samples whose task has a module that went to the pretrained model.
    :param out_of_distribution_let_in: share of samples whose task has no module that went to some module.
    """

    accuracy: float
    turned_away: float
    out_of_distribution_let_in: float


@torch.no_grad()
def routing_scores(model: VLM, stream: Iterable[Any], batch_size: int = 256) -> RoutingScores:
    """Route every sample of a stream by its picture alone.

    :param model: model with a pool of modules.
    :param stream: experiences, whose task labels tell which module is theirs.
    :param batch_size: pictures that are routed at a time; the scores do not depend on it.
    :raises InputError: if the model does not choose among modules; :class:`~avalanche_vlm.errors.NotFinite`, naming the
        task, if features are NaN or infinite, of which no router can say anything.
    """
    if model.routed is None:
        raise InputError(f"{model.name} does not choose among modules, so there is no routing to score")
    names = model.routed.pool.names
    known = right = away = unknown = let_in = 0
    with model.evaluating():
        for experience in stream:
            for x, _, labels in ordered_batches(experience.dataset.eval(), batch_size):
                features = F.normalize(model.encode_image_plain(images_of(x).to(model.device)), dim=-1)
                with naming(f"task {experience.current_experience}"):
                    refuse_broken(int((~features.isfinite()).any(1).sum()), len(features), "features")
                for label, task in zip(labels.tolist(), model.routed.route(features), strict=True):
                    own = model.routed.of_label.get(label)
                    known += own in names
                    right += own in names and task == own
                    away += own in names and task is None
                    unknown += own not in names
                    let_in += own not in names and task is not None
    return RoutingScores(_share(right, known), _share(away, known), _share(let_in, unknown))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
