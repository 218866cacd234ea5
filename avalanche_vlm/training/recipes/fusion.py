"""Model fusion: fine-tune freely, mend the weights afterwards."""

from __future__ import annotations

from avalanche_vlm.errors import InputError
from avalanche_vlm.models import VLM
from avalanche_vlm.training.plugins.merging import InterpolationPlugin, TaskVectorMergePlugin
from avalanche_vlm.training.recipes.registry import Plugins, recipe


@recipe("wise-ft", family="fusion")
def wise_ft(model: VLM, *, weight: float = 0.8) -> Plugins:
    """WiSE-FT from task to task: ``0.8`` of what was learned and ``0.2`` of where the task started (Wortsman et al.,
    arXiv 2109.01903, eq. 1; the weight and its use per task are ZSCL's code, arXiv 2303.06628).

    Differs from the paper, which interpolates once, with the pretrained weights. ZSCL's code interpolates the frozen
    logit scale as well, which is the same on both sides.

    :param weight: of what was learned, in [0, 1].
    """
    return [InterpolationPlugin(weight)]


@recipe("magmax", family="fusion")
def magmax(model: VLM, *, method: str = "magmax", scale: float | None = None, seed: int = 0) -> Plugins:
    """MagMax: fine-tune from task to task, and add to the initial weights half of the largest change that each weight
    had at any task's end (Marczak et al., arXiv 2407.06322). Its siblings merge by the mean (``"average"``) or draw
    the task of every weight (``"random"``).

    Scales are those of the authors' code: 0.5 for MagMax, 1 for both siblings. The code trains the image tower alone;
    ``model.freeze("text")`` does that here. It merges at the end of the stream, we after every task. Of two changes of
    equal size the positive one is kept, there the later one.

    :param method: ``"magmax"``, ``"average"`` or ``"random"``.
    :param scale: of the merged task vector; None for the published one.
    :param seed: of ``"random"``.
    """
    if method not in ("magmax", "average", "random"):
        raise InputError(f"recipe magmax merges by magmax, average or random, not {method!r}")
    return [TaskVectorMergePlugin(method, scale, seed=seed)]


@recipe("ties", family="fusion")
def ties(model: VLM, *, scale: float = 0.55, keep: float = 0.2) -> Plugins:
    """TIES-merging of the task vectors of sequential fine-tuning: trim, elect signs, mean of those that agree (Yadav et
    al., arXiv 2306.01708, section 3).

    Keep and scale are those of MagMax's code, which merges a sequence this way. The TIES paper merges models that were
    fine-tuned apart: vectors of a sequence share what was learned before, so their signs agree more often.

    :param scale: of the merged task vector.
    :param keep: share of every vector's elements that survive the trimming, in (0, 1].
    """
    return [TaskVectorMergePlugin("ties", scale, keep)]
