"""What every recipe is compared with."""

from __future__ import annotations

from avalanche_vlm.models import VLM
from avalanche_vlm.training.plugins.analytic import NoTrainingPlugin
from avalanche_vlm.training.recipes.declaration import Plugins, Unpublished
from avalanche_vlm.training.recipes.facts import FINE_TUNING, WHOLE_TOWERS
from avalanche_vlm.training.recipes.registry import recipe


@recipe(
    "fine-tune",
    family="none",
    summary="the task loss and nothing else",
    training=[FINE_TUNING],
    picturebook=WHOLE_TOWERS,
)
def fine_tune(model: VLM) -> Plugins:
    """Cross-entropy (or the contrastive loss on pairs) and nothing else: the lower bound of every comparison."""
    return []


@recipe(
    "zero-shot",
    family="none",
    summary="the pretrained model through the whole stream",
    training=[Unpublished("nothing is trained", needed=False)],
)
def zero_shot(model: VLM) -> Plugins:
    """The pretrained model, frozen, through the whole stream: what every method has to beat on what it trains, and may
    not lose on what it does not."""
    return [NoTrainingPlugin(model)]
