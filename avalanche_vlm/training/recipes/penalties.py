"""Cross-modal regularization (CREG) by penalties on weights."""

from __future__ import annotations

from avalanche_vlm.models import VLM
from avalanche_vlm.training.plugins import FisherPenaltyPlugin
from avalanche_vlm.training.recipes.registry import Plugins, recipe


@recipe("ewc-clip", family="CREG")
def ewc_clip(
    model: VLM,
    *,
    weight: float = 10_000.0,
    kind: str = "true",
    samples: int = 128,
    decay: float = 1.0,
    seed: int = 0,
) -> Plugins:
    """EWC on both towers: weights that past tasks need, by the diagonal Fisher information, stay near where the last
    task left them (Kirkpatrick et al., arXiv 1612.00796, eq. 3; one running Fisher as in arXiv 1805.06370).

    Differs from the paper, which keeps a Fisher and an anchor for every task. The Fisher is the true one, with labels
    drawn from the model; much code under the name of EWC takes the empirical one. The likelihood is that of the
    zero-shot head, whose classes are those of the label space. Pretraining has no Fisher here, for its data are not at
    hand: nothing holds the first task. There is no published weight for CLIP that we know of; ours was chosen between
    100 and 10,000 on a picturebook of another seed than the reported ones.

    :param weight: of the penalty.
    :param kind: ``"true"`` or ``"empirical"``.
    :param samples: of every experience, from which the Fisher is estimated: one backward pass each.
    :param decay: of the earlier tasks' Fisher, in [0, 1].
    :param seed: of the samples and labels.
    """
    return [FisherPenaltyPlugin(weight, kind, samples, decay, seed=seed)]
