"""Model fusion: fine-tune freely, mend the weights afterwards."""

from __future__ import annotations

from avalanche_vlm.models import VLM
from avalanche_vlm.training.plugins import InterpolationPlugin, TaskVectorMergePlugin
from avalanche_vlm.training.recipes.registry import Plugins, recipe


@recipe("wise-ft", family="fusion")
def wise_ft(model: VLM, *, weight: float = 0.8) -> Plugins:
    """WiSE-FT from task to task: ``0.8`` of what was learned and ``0.2`` of where the task started (Wortsman et al.,
    arXiv 2109.01903, eq. 1; applied to a stream with this weight in ZSCL's code, arXiv 2303.06628).

    Differs from the paper, which interpolates once, with the pretrained weights.

    :param weight: of what was learned, in [0, 1].
    """
    return [InterpolationPlugin(weight)]


@recipe("magmax", family="fusion")
def magmax(model: VLM, *, method: str = "magmax", scale: float = 0.5, seed: int = 0) -> Plugins:
    """MagMax: sequential fine-tuning, and of every weight the largest change that any task's end shows, halved, on top
    of the initial weights (Marczak et al., arXiv 2407.06322, sections 3 and 4). Its siblings are ``"average"`` and
    ``"random"``.

    Differs from the code, where the scale is searched on held-out data; 0.5 is what it reports. The merge is done after
    every task and not at the end of the stream alone.

    :param method: ``"magmax"``, ``"average"`` or ``"random"``.
    :param scale: of the merged task vector.
    :param seed: of ``"random"``.
    """
    return [TaskVectorMergePlugin(method, scale, seed=seed)]


@recipe("ties", family="fusion")
def ties(model: VLM, *, keep: float = 0.2, scale: float = 0.5) -> Plugins:
    """TIES-merging of the task vectors of sequential fine-tuning: trim, elect signs, mean of those that agree (Yadav et
    al., arXiv 2306.01708, section 3).

    Differs from the paper, which merges models that were fine-tuned apart; vectors of a sequence share what was learned
    before, so their signs agree more often. The scale is MagMax's for merges of a sequence (the paper takes 1 without a
    validation set).

    :param keep: share of every vector's elements that survive the trimming, in (0, 1].
    :param scale: of the merged task vector.
    """
    return [TaskVectorMergePlugin("ties", scale, keep)]
