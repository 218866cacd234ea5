"""Regularization by penalties on weights."""

from __future__ import annotations

from dataclasses import replace

from avalanche_vlm.losses.fisher import FisherKind
from avalanche_vlm.models import VLM
from avalanche_vlm.training.plugins import FisherPenaltyPlugin
from avalanche_vlm.training.recipes.declaration import Paper, Plugins
from avalanche_vlm.training.recipes.facts import MAGMAX, WHOLE_TOWERS
from avalanche_vlm.training.recipes.ranges import Count, NonNegative, Seed, Share
from avalanche_vlm.training.recipes.registry import recipe


@recipe(
    "ewc-clip",
    family="CREG",
    summary="weights that old tasks need, by the true Fisher information, stay near",
    paper=["1612.00796", Paper("1805.06370", "one running Fisher")],
    training=[
        replace(
            MAGMAX, note=f"{MAGMAX.note}; weight 1e6 of half the sum, of another importance: see the recipe's docstring"
        )
    ],
    picturebook=WHOLE_TOWERS,
)
def ewc_clip(
    model: VLM,
    *,
    weight: NonNegative = 10_000.0,
    kind: FisherKind = "true",
    samples: Count = 128,
    decay: Share = 1.0,
    seed: Seed = 0,
) -> Plugins:
    """EWC on both towers: weights that past tasks need, by the diagonal Fisher information, stay near where the last
    task left them (Kirkpatrick et al., arXiv 1612.00796, eq. 3; one running Fisher as in arXiv 1805.06370).

    Differs from the paper, which keeps a Fisher and an anchor for every task. The Fisher is the true one, with labels
    drawn from the model, a mean of squared gradients of single samples. The likelihood is that of the zero-shot head,
    whose classes are those that compete. Pretraining has no Fisher here, for its data are not at hand: nothing holds
    the first task.

    MagMax's code (arXiv 2407.06322) publishes 1e6 for the weight of half the sum, on the image tower alone
    (``model.freeze("text")``), and its importance is another: labels are the model's likeliest (``kind="predicted"``);
    what is squared is the gradient of a batch's mean loss, added to those of all batches before it, since they are not
    cleared; the samples are counted with one batch too many; the data come under the training transforms, all of them;
    and after a task old and new importances are halved and added (``decay=0.5`` at half the weight). Such squares grow
    with the number of batches, so its weight says nothing about ours, which was chosen between 100 and 10,000 on a
    picturebook of another seed than the reported ones.

    :param weight: weight of the penalty, 0 or more.
    :param kind: labels of the Fisher: ``"true"``, drawn from the model; ``"empirical"``, the data's; ``"predicted"``,
        the model's likeliest.
    :param samples: samples of every experience from which the Fisher is estimated: one backward pass each.
    :param decay: weight of the earlier tasks' Fisher, from 0 to 1.
    :param seed: seed of the samples and labels, 0 or more.
    """
    return [FisherPenaltyPlugin(weight, kind, samples, decay, seed=seed)]
