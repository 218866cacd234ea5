"""Fusion of whole towers, task by task."""

from __future__ import annotations

from typing import Literal

from avalanche_vlm.models import VLM
from avalanche_vlm.training.plugins.merging import InterpolationPlugin, TaskVectorMergePlugin
from avalanche_vlm.training.recipes.declaration import Paper, Plugins
from avalanche_vlm.training.recipes.facts import FINE_TUNING, MAGMAX, WHOLE_TOWERS
from avalanche_vlm.training.recipes.ranges import Positive, Seed, Share, SomeShare
from avalanche_vlm.training.recipes.registry import recipe


@recipe(
    "wise-ft",
    family="fusion",
    summary="every task ends between its start and what it learned",
    paper=["2109.01903", Paper("2303.06628", "the weight, and its use per task")],
    training=[FINE_TUNING],
    picturebook=WHOLE_TOWERS,
)
def wise_ft(model: VLM, *, weight: Share = 0.8) -> Plugins:
    """WiSE-FT from task to task: ``0.8`` of what was learned and ``0.2`` of where the task started (Wortsman et al.,
    arXiv 2109.01903, eq. 1; the weight and its use per task are ZSCL's code, arXiv 2303.06628).

    Differs from the paper, which interpolates once, with the pretrained weights. ZSCL's code interpolates the frozen
    logit scale as well, which is the same on both sides.

    :param weight: share of what was learned, from 0 to 1.
    """
    return [InterpolationPlugin(weight)]


@recipe(
    "magmax",
    family="fusion",
    summary="the initial weights plus the largest change of each weight over all tasks",
    paper=["2407.06322"],
    training=[MAGMAX],
    picturebook=WHOLE_TOWERS,
)
def magmax(
    model: VLM,
    *,
    method: Literal["magmax", "average", "random"] = "magmax",
    scale: Positive | None = None,
    seed: Seed = 0,
) -> Plugins:
    """MagMax: fine-tune from task to task, and add to the initial weights half of the largest change that each weight
    had at any task's end (Marczak et al., arXiv 2407.06322). Its siblings merge by the mean (``"average"``) or draw the
    task of every weight (``"random"``).

    Scales are those of the authors' code: 0.5 for MagMax, 1 for both siblings. The code trains the image tower alone;
    ``model.freeze("text")`` does that here. It merges at the end of the stream, we after every task. Of two changes of
    equal size the positive one is kept, there the later one.

    :param method: how task vectors are merged: by ``"magmax"``, ``"average"`` or ``"random"``.
    :param scale: scale of the merged task vector; None for the published one.
    :param seed: seed of ``"random"``, 0 or more.
    """
    return [TaskVectorMergePlugin(method, scale, seed=seed)]


@recipe(
    "ties",
    family="fusion",
    summary="the initial weights plus all tasks' changes, trimmed and merged where their signs agree",
    paper=["2306.01708", Paper("2407.06322", "its settings for sequences")],
    training=[MAGMAX],
    picturebook=WHOLE_TOWERS,
)
def ties(model: VLM, *, scale: Positive = 0.55, keep: SomeShare = 0.2) -> Plugins:
    """TIES-merging of the task vectors of sequential fine-tuning: trim, elect signs, mean of those that agree (Yadav et
    al., arXiv 2306.01708, section 3).

    Keep and scale are those of MagMax's code, which merges a sequence this way. There the vector that is trimmed is of
    the whole CLIP, of which the text tower has not moved: its share of 20 % is 35 % of what trains on ViT-B/16, where
    ours is of what trains. The TIES paper merges models that were
    fine-tuned apart: vectors of a sequence share what was learned before, so their signs agree more often.

    :param scale: scale of the merged task vector, above 0.
    :param keep: share of every vector's elements that survive the trimming.
    """
    return [TaskVectorMergePlugin("ties", scale, keep)]
