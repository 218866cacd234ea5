"""One module for the whole stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from avalanche_vlm.memory.state import IN_MODEL
from avalanche_vlm.models import VLM
from avalanche_vlm.models.modules.pool import ModulePool
from avalanche_vlm.models.modules.site import Site
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.protocol import Strategy


class SharedModulePlugin(VLMPlugin, supports_distributed=True, supports_sharding=True):
    """Freeze the VLM and train one module on every experience in turn: how prompt learning is run on a stream where it
    serves as a baseline.

    There is nothing to choose, so from the first experience on the module works on every sample, in training and at
    prediction, held-out data included: what it forgets, and what it costs in zero-shot, shows. Before, the model is the
    pretrained one.

    :param model: the model that the strategy trains, adapted in place at construction: towers frozen, the module added
        and switched off.
    :param sites: where the module acts, in the model's towers, by ``image.`` or ``text.`` and a name.
    """

    states: ClassVar = {"pool": IN_MODEL}

    def __init__(self, model: VLM, sites: Mapping[str, Site]) -> None:
        super().__init__()
        model.freeze("image", "text", "scale")
        self.pool = ModulePool(sites)
        # At once, so that an optimizer over the model's parameters has it.
        self.pool.add("shared")
        self.pool.activate(None)
        model.train(model.training)

    def prepare_parameters(self, strategy: Strategy) -> None:
        self.pool.activate("shared")
