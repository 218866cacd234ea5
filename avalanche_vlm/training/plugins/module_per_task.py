"""One module per task, routed at prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from avalanche_vlm.benchmarks.experiences import task_labels_of
from avalanche_vlm.memory.state import IN_MODEL
from avalanche_vlm.models import VLM
from avalanche_vlm.models.modules.pool import ModulePool
from avalanche_vlm.models.modules.routed import RoutedPool
from avalanche_vlm.models.modules.site import Site
from avalanche_vlm.models.routers import Router
from avalanche_vlm.training.data import experience_features
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.protocol import Strategy

RoutedMaker = Callable[[ModulePool, Any], RoutedPool]


class ModulePerTaskPlugin(VLMPlugin, supports_distributed=True, supports_sharding=True):
    """Freeze the VLM, learn a module per experience, and fit a router that needs no task id.

    A sample that the router places in no known task is answered by the pretrained model itself, so with image modules
    alone every task's prompts and every held-out caption keep their features.

    :param model: the model that the strategy trains, adapted in place at construction: towers frozen, samples routed.
    :param sites: where the modules act, in the model's towers, by ``image.`` or ``text.`` and a name.
    :param router: fitted on the plain tower's features of every experience after it was trained.
    :param route: makes the way of samples through the modules, of the pool and the router.
    :raises InputError: if another method has the model's image path or its class head.
    """

    states: ClassVar = {"pool": IN_MODEL, "router": IN_MODEL}

    def __init__(self, model: VLM, sites: Mapping[str, Site], router: Router, route: RoutedMaker = RoutedPool) -> None:
        super().__init__()
        self.pool = ModulePool(sites)
        self.router = router
        self.routed = route(self.pool, router)
        model.install("routed", self.routed, "modules per task")
        model.freeze("image", "text", "scale")

    @property
    def least_samples(self) -> int:  # type: ignore[override]
        """Fewest training samples of an experience: as many as the router needs, which is fitted when it ends."""
        return getattr(self.router, "least_samples", 1)

    def prepare_parameters(self, strategy: Strategy) -> None:
        name = self.pool.add_next()
        self.routed.of_label |= dict.fromkeys(task_labels_of(strategy.experience), name)

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        assert self.pool.current is not None  # prepare_parameters has added it
        with self.pool.using(None):
            features, y, _ = experience_features(strategy)
        self.routed.learn(self.pool.current, features, y)
